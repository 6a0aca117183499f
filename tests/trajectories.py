"""Hand-made trajectories, and their tokens and spans as the learner sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from agentopd.base.types import EndReason, Lesson, Owner, Trajectory, Turn
from agentopd.signal.evidence import Evidence, Opinion
from agentopd.signal.tokens import Tokens
from agentopd.units.base import Unit
from agentopd.units.spans import SpanIndex

TEMPLATE_ID = 1
CPU = torch.device("cpu")


def played(
    *answers: Sequence[int],
    observed: int = 2,
    reasoning: int = 0,
    rewards: Sequence[float] = (),
    infos: Sequence[Mapping[str, Any]] = (),
    logprob: float = -1.0,
    episode: int = 0,
    task: int = 0,
    end: EndReason = EndReason.TERMINATED,
) -> Trajectory:
    """An episode whose turns show `observed` template tokens and are answered with `answers`.

    Args:
        reasoning: how many of each answer's tokens are its reasoning.
        rewards, infos: of each turn; 0 and empty where they run out.
        logprob: behaviour log-probability of every sampled token.
    """
    ids: list[int] = []
    turn_of: list[int] = []
    owner: list[int] = []
    turns: list[Turn] = []
    for index, answer in enumerate(answers):
        start = len(ids) + observed
        ids += [TEMPLATE_ID] * observed + list(answer)
        turn_of += [index] * (observed + len(answer))
        owner += [Owner.TEMPLATE] * observed + [Owner.STUDENT] * len(answer)
        turns.append(
            Turn(
                index=index,
                observation="",
                action="",
                start=start,
                act=start + reasoning,
                stop=len(ids),
                cut=False,
                reward=rewards[index] if index < len(rewards) else 0.0,
                info=infos[index] if index < len(infos) else {},
            )
        )
    sampled = np.array(owner, dtype=np.uint8) != Owner.TEMPLATE
    return Trajectory(
        ids=np.array(ids, dtype=np.int64),
        turn=np.array(turn_of, dtype=np.int32),
        trainable=sampled,
        owner=np.array(owner, dtype=np.uint8),
        logprob=np.where(sampled, logprob, np.nan).astype(np.float32),
        messages=(),
        turns=tuple(turns),
        segments=((0, len(ids)),),
        env="hand-made",
        episode=episode,
        task=task,
        seed=task,
        end=end,
    )


def lessons_of(*trajectories: Trajectory) -> list[Lesson]:
    """A lesson each, of which nothing but the trajectory is known."""
    return [Lesson(trajectory=trajectory) for trajectory in trajectories]


def tokens_of(*trajectories: Trajectory) -> Tokens:
    """The trainable tokens of one micro-batch."""
    return Tokens.of(lessons_of(*trajectories), CPU)


def index_of(unit: Unit, *trajectories: Trajectory) -> SpanIndex:
    """The spans that `unit` cuts one micro-batch into."""
    spans = [unit.spans(trajectory) for trajectory in trajectories]
    return SpanIndex.of(lessons_of(*trajectories), spans, tokens_of(*trajectories))


def credited(unit: Unit, values: Sequence[float], *trajectories: Trajectory) -> list[float]:
    """What each token carries when the tokens' own values are `values`, before any weight."""
    values_N, said = torch.tensor(values), opinion_of([0.5] * len(values))
    evidence = replace(evidence_of(said, said, *trajectories), value_N=values_N)
    return unit.credit(values_N, index_of(unit, *trajectories), evidence).tolist()


def opinion_of(
    probabilities: Sequence[float],
    entropies: Sequence[float] = (),
    tops: Sequence[float] = (),
    ranks: Sequence[int] = (),
) -> Opinion:
    """What a model says that gives the sampled tokens these probabilities, in float64.

    Args:
        entropies: of its distributions; 0 if not given.
        tops: probabilities of the likeliest tokens; 1 if not given.
        ranks: how many tokens are likelier than the sampled ones; unknown if not given.
    """
    n = len(probabilities)
    return Opinion(
        logprob_N=torch.tensor(probabilities, dtype=torch.float64).log(),
        entropy_N=torch.tensor(entropies or [0.0] * n, dtype=torch.float64),
        top_N=torch.tensor(tops or [1.0] * n, dtype=torch.float64).log(),
        rank_N=torch.tensor(ranks) if ranks else None,
    )


def evidence_of(
    student: Opinion,
    teacher: Opinion,
    *lessons: Lesson | Trajectory,
    values: Sequence[float] = (),
    advantages: Sequence[float] = (),
    success: Sequence[float] = (),
    routes: Sequence[float] = (),
    step: int = 0,
) -> Evidence:
    """What a weight sees of one micro-batch.

    Args:
        values: of each token; 0 if not given.
        advantages, success: of each lesson; 0 if not given.
        routes: of each lesson; 1 if not given.
    """
    batch = [x if isinstance(x, Lesson) else Lesson(trajectory=x) for x in lessons]
    tokens = Tokens.of(batch, CPU)
    advantage_L = torch.tensor(advantages or [0.0] * len(batch), dtype=torch.float64)
    return Evidence(
        student=student,
        teacher=teacher,
        tokens=tokens,
        lessons=batch,
        value_N=torch.tensor(values or [0.0] * len(tokens), dtype=torch.float64),
        advantage_N=advantage_L[tokens.lesson_N],
        success_L=torch.tensor(success or [0.0] * len(batch), dtype=torch.float64),
        route_L=torch.tensor(routes or [1.0] * len(batch), dtype=torch.float64),
        step=step,
    )
