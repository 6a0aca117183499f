"""What a run has made of its student, beside success: how it speaks, and what moved in it.

What no unit supervises may move all the same, privileged phrases may come along, and tasks that
come again and again may be learnt by heart. Each is a number of the student after its last step,
beside that of the student before its first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agentopd.base.types import Trajectory
from agentopd.models.model import LanguageModel, load_model
from agentopd.models.passes import hidden_before
from agentopd.privilege.whispered import Told
from agentopd.rollout.failures import refuse_failures
from agentopd.rollout.pool import Task
from agentopd.rollout.transformers_sampler import TransformersSampler
from agentopd.running.checkpoint import latest, student_folder
from agentopd.running.config import RunConfig
from agentopd.running.evaluate import play_tasks
from agentopd.running.preparation.mechanism import OPENING, Rate, told_episodes

# N tokens of the student's answers, H hidden size, V vocabulary, R rows of a tile

_SEED = 2**31 - 5
"""Of the sampling; apart from any run's and any evaluation's."""
_BUDGET = 4_096
"""Padded tokens in one forward pass."""
_ROWS = 1_024
"""Tokens whose distributions are there at a time."""


@dataclass(frozen=True)
class Conduct:
    """A student, told nothing, at temperature and limits of its run.

    Attributes:
        held_out: success on held-out tasks.
        trained: success on tasks of the run's own training.
        thought: tokens of a thought, on average over held-out tasks; a cut answer that closes none
            is a thought whole.
        cut: the share of answers there that hit the limit of tokens.
        claims: the share of answers there that begin as most of its told teacher's do; None where
            the teacher cannot act, told in time.
    """

    held_out: Rate
    trained: Rate
    thought: float
    cut: float
    claims: float | None


@dataclass(frozen=True)
class Change:
    """A student before a run and after it.

    Attributes:
        kl_thought, kl_action: the mean KL of the student after from the student before, in nats a
            token, on the thoughts and on the rest of the answers that it gives after; None without
            such tokens.
    """

    before: Conduct
    after: Conduct
    kl_thought: float | None
    kl_action: float | None

    def described(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class Start:
    """A run's student before its first step.

    Attributes:
        tasks: of its training.
        opening: the tokens that most answers of its told teacher begin with.
    """

    model: LanguageModel
    tasks: Sequence[Task]
    opening: tuple[int, ...] | None
    conduct: Conduct

    @classmethod
    def of(cls, config: RunConfig, episodes: int) -> Start:
        """That of a run; see `measure_change`."""
        config = config.fresh()
        model, tasks = load_model(config.student), _tasks(config, episodes)
        opening = _opening(config, model, episodes)
        conduct, _ = _conduct(config, model, episodes, tasks, opening)
        return cls(model, tasks, opening, conduct)


def measure_change(
    config: RunConfig, out: Path, episodes: int, start: Start | None = None
) -> Change | None:
    """Look at what a run has left in its folder.

    Args:
        episodes: held-out tasks, and at most as many of the training's.
        start: what the run began with, where that is known.

    Returns:
        None where the folder holds no checkpoint.

    Raises:
        ValueError: the checkpoint is damaged.
        EveryEpisodeFailed: no task could be played.
    """
    checkpoint = latest(out / "checkpoints")
    if checkpoint is None:
        return None
    start = start or Start.of(config, episodes)
    settings = config.student.model_copy(update={"path": str(student_folder(checkpoint))})
    end = load_model(settings)
    after, played = _conduct(config.fresh(), end, episodes, start.tasks, start.opening)
    kl_N, thought_N = _kl(end, start.model, played), _thoughts(played)
    return Change(start.conduct, after, _mean(kl_N[thought_N]), _mean(kl_N[~thought_N]))


def _conduct(
    config: RunConfig,
    model: LanguageModel,
    episodes: int,
    tasks: Sequence[Task],
    opening: tuple[int, ...] | None,
) -> tuple[Conduct, list[Trajectory]]:
    """How a student acts, and what it played of held-out tasks."""
    sampler, options = TransformersSampler(model), config.evaluate.options
    played = play_tasks(config.env, model, sampler, config.rollout, episodes, options)
    refuse_failures(played, "played")
    known = config.rollout.pool(config.env, model, _SEED).play(list(tasks), sampler)
    turns = [(t, turn) for t in played for turn in t.turns]
    lengths = [(turn.stop if turn.cut and turn.act == turn.start else turn.act) - turn.start
               for _, turn in turns]  # fmt: skip
    openings = [tuple(t.ids[turn.start : turn.start + OPENING].tolist()) for t, turn in turns]
    found = Conduct(
        held_out=Rate.of(played),
        trained=Rate.of(known),
        thought=float(np.mean(lengths)),
        cut=float(np.mean([turn.cut for _, turn in turns])),
        claims=None if opening is None else float(np.mean([o == opening for o in openings])),
    )
    return found, played


def _opening(config: RunConfig, start: LanguageModel, episodes: int) -> tuple[int, ...] | None:
    """The tokens that most answers of the told teacher begin with."""
    asked = bool(config.mix.distil_coefficient) and config.teacher.local
    if not asked or not isinstance(config.view, Told):
        return None
    config.teacher.prepare(start)
    openings = Counter(
        tuple(t.ids[turn.start : turn.start + OPENING].tolist())
        for t in told_episodes(config, start, episodes)
        for turn in t.turns
    )
    return openings.most_common(1)[0][0] if openings else None


def _tasks(config: RunConfig, most: int) -> list[Task]:
    """Tasks that the run was trained on, an episode each."""
    seeds = {
        task.seed: None
        for step in range(config.steps)
        for task in config.rollout.schedule(config.seed, step)
    }
    return [Task(n, n, seed) for n, seed in enumerate(list(seeds)[:most])]


@torch.no_grad()
def _kl(model: LanguageModel, other: LanguageModel, played: Sequence[Trajectory]) -> torch.Tensor:
    """(N,) the KL of one from the other at each token of a model's answers, in nats."""
    known = list(played)
    sides = [hidden_before(m, known, _BUDGET, False) for m in (model, other)]
    pieces = []
    for own_RH, other_RH in zip(*(side.split(_ROWS) for side in sides), strict=True):
        own_RV = model.logits(own_RH).float().log_softmax(-1)
        other_RV = other.logits(other_RH).float().log_softmax(-1)
        pieces.append((own_RV.exp() * (own_RV - other_RV)).sum(-1).cpu())
    return torch.cat(pieces)


def _thoughts(played: Sequence[Trajectory]) -> torch.Tensor:
    """(N,) which of the students' tokens belong to thoughts."""
    found = []
    for trajectory in played:
        thought_T = np.zeros(len(trajectory.ids), dtype=np.bool_)
        for turn in trajectory.turns:
            thought_T[turn.start : turn.act] = True
        found.append(thought_T[trajectory.trainable])
    return torch.from_numpy(np.concatenate(found))


def _mean(value_N: torch.Tensor) -> float | None:
    return float(value_N.mean()) if len(value_N) else None
