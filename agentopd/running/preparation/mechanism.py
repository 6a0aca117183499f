"""Why a distillation teaches or does not: its cause measured in the models, before any step.

A student and its teacher may differ in how they speak and in how they act. Reverse KL cannot bring
about what the student never says; and a teacher that reads the student's own words may go on as the
student would (the flawed prefix of SCOPE 2604.10688). Both are numbers of an untrained model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from agentopd.base.statistics import wilson
from agentopd.base.types import EndReason, Trajectory, View
from agentopd.environment.contract import HELD_OUT_SEED, actions, declared
from agentopd.environment.wrappers import Env
from agentopd.models.encoding import Piece
from agentopd.models.model import LanguageModel, load_model
from agentopd.models.passes import Reading, hidden_at
from agentopd.privilege.base import before_turns, gather
from agentopd.privilege.whispered import Told
from agentopd.probes.search import search_probes
from agentopd.rollout.episode import Task
from agentopd.rollout.failures import refuse_failures
from agentopd.rollout.policies import Rollout
from agentopd.rollout.policies.mixed import ActedRollout
from agentopd.rollout.sampler import Request, answers
from agentopd.rollout.transformers_sampler import TransformersSampler
from agentopd.running.cast import cast_of
from agentopd.running.config import RunConfig
from agentopd.running.evaluate import play_tasks

# T tokens of a context, A tokens that are asked about, V vocabulary

OPENING = 2
"""Tokens of an answer that are its opening: where models of a kind part, they part there."""
_ASKED = 192
"""Turns that are asked about, at most: sooner or later all say the same."""
_BUDGET = 4_096
"""Padded tokens in one forward pass."""
_SEED = 2**31 - 3
"""Of the teacher's sampling; apart from any run's."""


@dataclass(frozen=True)
class Rate:
    """A success rate with Wilson's 95 % interval."""

    success: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, trajectories: Sequence[Trajectory]) -> Rate:
        """That of played episodes."""
        solved = sum(t.success for t in trajectories)
        return cls(solved / max(len(trajectories), 1), wilson(solved, len(trajectories)))


@dataclass(frozen=True)
class Mechanism:
    """An untrained student beside its teacher, on held-out tasks.

    Attributes:
        alone: the student, told nothing.
        told: the teacher acting, told what the sources say; None where it cannot be told in time,
            as with another task's text.
        opening: the geometric mean of the probability that the student gives, told nothing, to the
            first tokens of the teacher's answers: near 1 where it speaks alike, near 0 where it is
            blind to how the teacher speaks.
        own, other: the mean log-probability in nats that the teacher, told, gives to the best
            action behind the student's own thought, and behind its own, at the same turns of the
            student's episodes. Where `own` is far below `other`, the student's words disarm it.
            None where answers hold no closed thought, or there is no oracle.
        asked: turns that these are means over.
        student_search, teacher_search: how richly each of them searches; see `search_probes`.
    """

    alone: Rate
    told: Rate | None = None
    opening: float | None = None
    own: float | None = None
    other: float | None = None
    asked: int = 0
    student_search: dict[str, float] = field(default_factory=dict)
    teacher_search: dict[str, float] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def measure_mechanism(config: RunConfig, episodes: int) -> Mechanism:
    """Measure what a run's student and teacher are to each other before its first step.

    Args:
        episodes: held-out tasks that each of them plays.

    Raises:
        EveryEpisodeFailed: no task could be played.
    """
    config = config.fresh()
    student = load_model(config.student)
    sampler, options = TransformersSampler(student), config.evaluate.options
    played = play_tasks(config.env, student, sampler, config.rollout, episodes, options)
    refuse_failures(played, "played")
    alone = Rate.of(played)
    asked = bool(config.mix.distil_coefficient) and config.teacher.local
    if not asked or not isinstance(config.view, Told):
        return Mechanism(alone, student_search=search_probes(played))
    config.teacher.prepare(student)
    acted = told_episodes(config, student, episodes)
    questions = list(_questions(config, student, played))[:_ASKED]
    thoughts = _thoughts(config, questions)
    teacher = config.teacher.model
    return Mechanism(
        alone=alone,
        told=Rate.of(acted) if acted else None,
        opening=_opening(student, acted),
        own=_mean(_logprobs(teacher, [q.behind(q.own) for q in questions])),
        other=_mean(
            _logprobs(teacher, [q.behind(t) for q, t in zip(questions, thoughts, strict=True)])
        ),
        asked=len(questions),
        student_search=search_probes(played),
        teacher_search=search_probes(acted) if acted else {},
    )


def told_episodes(config: RunConfig, student: LanguageModel, episodes: int) -> list[Trajectory]:
    """What the teacher does, told what it is told; in the history that an untold student reads.

    Nothing where it could not play, as when it is told only after the fact.
    """
    for source in config.privilege:
        source.prepare(student.template)
    limits = {name: getattr(config.rollout, name) for name in Rollout.model_fields}
    rollout = ActedRollout(**limits, told=True)
    rollout.prepare(cast_of(config, student, config.teacher))
    plain = [Task(n, n, HELD_OUT_SEED + n) for n in range(episodes)]
    tasks = [replace(task, direction=rollout.direction(task, _SEED, 0)) for task in plain]
    env = config.env.model_copy(
        update={"options": {**config.env.options, **config.evaluate.options}}
    )
    found = rollout.play(env, student, TransformersSampler(student), _SEED, tasks)
    return [] if any(t.end is EndReason.ERROR for t in found) else found


@torch.no_grad()
def _opening(student: LanguageModel, acted: Sequence[Trajectory]) -> float | None:
    """See `Mechanism.opening`."""
    asked = [
        _Asked(t.ids[_begin(t, turn.start) : turn.start], t.ids[turn.start :][:OPENING])
        for t in acted
        for turn in t.turns
    ]
    found = _mean(_logprobs(student, asked))
    return None if found is None else math.exp(found)


@dataclass(frozen=True)
class _Asked:
    """Tokens whose log-probability is wanted, and what stands in front of them."""

    context: np.ndarray
    ids: np.ndarray


@dataclass(frozen=True)
class _Question:
    """A turn of the student's, as the teacher reads it, and the best action there.

    `context` ends where the answer begins; `own` is the student's thought, `form` what stands
    between a thought and an action.
    """

    context: np.ndarray
    own: np.ndarray
    form: np.ndarray
    action: np.ndarray

    def behind(self, thought: np.ndarray) -> _Asked:
        """The best action behind a thought."""
        return _Asked(np.concatenate([self.context, thought, self.form]), self.action)


def _questions(
    config: RunConfig, model: LanguageModel, played: Sequence[Trajectory]
) -> Iterator[_Question]:
    """Of the turns that hold a closed thought, and whose best action is known."""
    env = config.env.build()
    form: str = declared(env, "action_form", "<action>{}</action>")
    views = config.view.build(gather(config.privilege, played), model.template)
    for view in views:
        for turn, info in before_turns(view.trajectory):
            best = _best(env, info)
            if best is None or turn.cut or not turn.start < turn.act < turn.stop:
                continue
            front, action = _encoded(model, form.split("{}")[0], best)
            yield _Question(
                context=_context(view, turn.start),
                own=view.trajectory.ids[turn.start : turn.act],
                form=front,
                action=action,
            )
    env.close()


def _best(env: Env, info: Any) -> str | None:
    plan = actions(env, str(info.get("oracle") or ""))
    return plan[0] if plan else None


def _encoded(model: LanguageModel, front: str, action: str) -> tuple[np.ndarray, np.ndarray]:
    """Ids of what stands before an action, and of the action there."""
    encoded = model.template.encoded([Piece(front + action, 0)], "text")
    begin, stop = encoded.bounds(len(front), len(front) + len(action))
    ids = np.array(encoded.ids, dtype=np.int64)
    return ids[:begin], ids[begin:stop]


def _thoughts(config: RunConfig, questions: Sequence[_Question]) -> list[np.ndarray]:
    """What the teacher thinks by itself at each question, told; cut answers are thoughts whole."""
    teacher, rollout = config.teacher.model, config.rollout
    requests = [
        Request(n, q.context.tolist(), (_SEED, n), rollout.max_turn_tokens, rollout.temperature)
        for n, q in enumerate(questions)
    ]
    said = answers(TransformersSampler(teacher), requests) if requests else []
    length = teacher.template.reasoning_length
    return [np.array(a.ids[: length(a.ids)], dtype=np.int64) for a in said]


@torch.no_grad()
def _logprobs(model: LanguageModel, asked: Sequence[_Asked]) -> list[float]:
    """The log-probability in nats of each one's ids, together."""
    rows = [np.concatenate([a.context, a.ids]) for a in asked]
    readings = [
        Reading(row, np.arange(len(a.context) - 1, len(row) - 1))
        for row, a in zip(rows, asked, strict=True)
    ]
    found = []
    for hidden_AH, a in zip(hidden_at(model, readings, _BUDGET), asked, strict=True):
        logprobs_AV = model.logits(hidden_AH).log_softmax(-1)
        said_A = torch.from_numpy(a.ids).to(logprobs_AV.device)
        found.append(float(logprobs_AV.gather(1, said_A[:, None]).sum()))
    return found


def _begin(trajectory: Trajectory, place: int) -> int:
    """Where the segment of a place begins."""
    return next(start for start, stop in trajectory.segments if start <= place < stop)


def _context(view: View, place: int) -> np.ndarray:
    """What the teacher reads before a token of the student's."""
    pairs = zip(view.trajectory.segments, view.segments, strict=True)
    begin = next(b for (start, stop), (b, _) in pairs if start <= place < stop)
    return view.ids[begin : int(view.position[place])]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
