"""What a method does, by experiment: its gradients on a synthetic step.

No part has to say what it reads and what it is without effect on: two methods that nothing tells
apart here do the same. No model is asked; the teacher's logits, and the student's, by which the
gradient is taken, are those of `agentopd.signal.synthetic`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from agentopd.base.types import Attempt, Lesson, Record
from agentopd.divergences.linear import measure
from agentopd.divergences.question import Question
from agentopd.learning.method import Method
from agentopd.learning.objective import Objective
from agentopd.learning.plan import Plan
from agentopd.learning.survey import Survey
from agentopd.models.head import Head
from agentopd.signal.evidence import Measured
from agentopd.signal.schedules import History
from agentopd.signal.synthetic import Shape, SyntheticStep
from agentopd.signal.tokens import Tokens, acted
from agentopd.units.rubric.stand_ins import without_models

# N tokens of a micro-batch, V vocabulary

_ROUNDING = 3e-6
"""Of a token's gradient: what is computed in float32 on the way differs by no more."""
_PAST: History = tuple(
    {
        "success": n / 8,
        "reward": 0.1 + n / 9,
        "turns": 3.0,
        "invalid": 0.3,
        "cut": 0.1,
        "truncated": 0.2,
        "errors": 0.0,
        "dead_groups": 0.5 - n / 20,
    }
    for n in range(7)
)
_TIMES: tuple[tuple[int, History], ...] = ((0, ()), (len(_PAST), _PAST))
"""The steps that are tried, with what the steps before them were like."""
_RECORDS: dict[int, Attempt] = {
    0: Attempt(number=1, first=1, kind="joined"),
    2: Attempt(number=1, first=1),
    3: Attempt(number=1, first=1, kind="untold"),
    4: Attempt(number=1, first=6),
    5: Attempt(number=0, first=1, kind="foreseen"),
}
"""What some episodes of the first task are, where tasks are attempted again."""


@dataclass(frozen=True)
class Laboratory:
    """The synthetic steps on which a method and its neighbours are tried.

    Attributes:
        step: what all are tried on.
        other: the same under a teacher of another opinion, which was told something else.
        fewer: the same where the teacher was asked of fewer episodes.
        enough: whether they are as large as the method's settings ask for.
    """

    step: SyntheticStep
    other: SyntheticStep
    fewer: SyntheticStep
    enough: bool

    @classmethod
    def of(cls, method: Method) -> Laboratory:
        """Large enough for the numbers that the method's settings count to, where that is cheap."""
        shape = Shape.to_show(method.unit, method.weight)
        known = max(shape.vocabulary, Shape.to_show(method.divergence).vocabulary)
        shape = replace(shape, vocabulary=known)
        step, other = (
            _tried(SyntheticStep.of(shape, teacher), method.rollout.records) for teacher in (0, 1)
        )
        return cls(step, other, step.without(1, 10), shape.enough)

    def trial(self, method: Method) -> Trial:
        """The method, to be tried."""
        return Trial(method, self.step)

    def with_another_teacher(self, method: Method) -> Trial:
        """The same under another teacher, who may also be asked to judge."""
        return Trial(method, self.other, mood=1)

    def with_fewer_lessons(self, method: Method) -> Trial:
        """The same where fewer episodes have a lesson."""
        return Trial(method, self.fewer)


@dataclass(frozen=True)
class Trial:
    """One method on a synthetic step. Gradients are made when they are asked for, once."""

    method: Method
    step: SyntheticStep
    mood: int = 0
    _made: list[torch.Tensor | None] = field(default_factory=list)

    def differs(self, other: Trial) -> bool | None:
        """Whether the two have different gradients; None where there is no telling, because one of
        them cannot be tried, or learns nothing at all here.
        """
        mine, theirs = self.gradients(), other.gradients()
        moved = False
        for one_NV, other_NV in zip(mine, theirs, strict=False):
            if one_NV is None or other_NV is None:
                return None
            if one_NV.shape != other_NV.shape or _away(one_NV, other_NV):
                return True
            moved = moved or bool(one_NV.abs().max() > 0)
        return False if moved else None

    def gradients(self) -> Iterator[torch.Tensor | None]:
        """(N, V) by the student's logits, of each time and its micro-batches; ends with None where
        a part cannot be tried.
        """
        yield from self._made
        while len(self._made) < len(_TIMES) and all(x is not None for x in self._made):
            self._made.append(self._attempted(*_TIMES[len(self._made)]))
            yield self._made[-1]

    def _attempted(self, time: int, history: History) -> torch.Tensor | None:
        try:
            # A part that draws must not disturb the run's own luck.
            with torch.random.fork_rng(devices=[]):
                return self._gradient(time, history)
        except Exception:
            # Parts are foreign code, which may need a model or an environment's own words: of what
            # cannot be tried, nothing is said.
            return None

    @cached_property
    def _alive(self) -> Method:
        """The method with parts of its own, which live through this trial alone."""
        method = self.method
        lived = {
            "unit": without_models(method.unit, self.mood),
            "weight": without_models(method.weight),
            "divergence": without_models(method.divergence),
            "mix": without_models(method.mix),
        }
        return method.model_copy(update=lived)

    def _gradient(self, time: int, history: History) -> torch.Tensor:
        """(N, V) of one step, of all episodes in their order, whichever of them are taught."""
        method, objective = self._alive, Objective(self._alive)
        lessons = self.step.lessons
        taught = [x for x in self.step.taught if method.mix.distil_coefficient]
        episodes = {x.trajectory.episode for x in taught}
        chosen = method.mix.chosen([x.trajectory for x in lessons])
        untaught = [
            Lesson(trajectory=t) for t in chosen if t.trainable.any() and t.episode not in episodes
        ]
        method.unit.learn([x.trajectory for x in (*taught, *untaught)])
        survey = None
        if surveyed := objective.surveyed(taught, untaught, time):
            asked = method.divergence_at(time, history)
            measured, _, _ = self._measured(surveyed, method, asked)
            survey = Survey.of(surveyed, measured)
        plan = Plan.of(method, taught, untaught, time, history, survey)
        found: dict[int, torch.Tensor] = {}
        for batch in filter(None, (taught, untaught)):
            measured, tokens, logits_NV = self._measured(batch, method, plan.divergence, live=True)
            terms = objective.terms(measured, tokens, batch, plan)
            rows = [int(x.trajectory.trainable.sum()) for x in batch]
            parts = _by_logits(terms, logits_NV).split(rows)
            found |= {x.trajectory.episode: part for x, part in zip(batch, parts, strict=True)}
        nothing = {e: torch.zeros_like(own_NV) for e, own_NV in self.step.student_NV.items()}
        return torch.cat([(nothing | found)[x.trajectory.episode] for x in lessons])

    def _measured(
        self, batch: Sequence[Lesson], method: Method, divergence: Any, live: bool = False
    ) -> tuple[Measured, Tokens, torch.Tensor]:
        """What the models say of a micro-batch, and the logits to differentiate by."""
        tokens = Tokens.of(batch, torch.device("cpu"))
        own_NV, reference_NV = (
            torch.cat([logits[x.trajectory.episode] for x in batch])
            for logits in (self.step.student_NV, self.step.reference_NV)
        )
        told = [x.hidden_NH for x in batch if x.hidden_NH is not None]
        one_VV = torch.eye(own_NV.shape[1], dtype=own_NV.dtype)
        logits_NV = own_NV.clone().requires_grad_(live)
        question = Question(
            ids_N=tokens.ids_N,
            divergence=divergence if told and not divergence.sampled else None,
            ranks=True,
            acted_N=acted(batch, tokens.ids_N.device),
        )
        measured = measure(
            question,
            Head(logits_NV, one_VV),
            Head(torch.cat(told), one_VV) if told else None,
            Head(reference_NV, one_VV),
        )
        return measured, tokens, logits_NV


def _tried(step: SyntheticStep, records: Collection[Record]) -> SyntheticStep:
    """The step as attempts; the same where tasks are attempted once."""
    if not records:
        return step
    lessons = list[Lesson]()
    for lesson in step.lessons:
        own = lesson.trajectory
        mark = _RECORDS.get(own.episode)
        if mark is None or mark.kind not in records:
            mark = Attempt(number=0, first=own.episode)
        told = own.trainable if mark.kind == "untold" else own.told
        lessons.append(replace(lesson, trajectory=replace(own, attempt=mark, told=told)))
    return replace(step, lessons=lessons)


def _by_logits(terms: Mapping[str, torch.Tensor], logits_NV: torch.Tensor) -> torch.Tensor:
    """(N, V) the gradient of the terms' sum; zero of those that do not depend on the student."""
    live = [term for term in terms.values() if term.requires_grad]
    if not live:
        return torch.zeros_like(logits_NV)
    (found_NV,) = torch.autograd.grad(sum(live[1:], live[0]), logits_NV, allow_unused=True)
    return torch.zeros_like(logits_NV) if found_NV is None else found_NV


def _away(one_NV: torch.Tensor, other_NV: torch.Tensor) -> bool:
    """Whether two gradients are more than a rounding apart at some token; what is no number is."""
    size_N = torch.linalg.vector_norm(one_NV, dim=-1)
    apart_N = torch.linalg.vector_norm(one_NV - other_NV, dim=-1)
    return not bool((apart_N <= _ROUNDING * size_N + 1e-13 * size_N.max()).all())
