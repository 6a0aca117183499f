"""Rubric spans: criteria that pay exactly the tokens they speak of.

A criterion speaks of some turns and of a part of each: the whole answer, its reasoning or its
action. A verifier judges every such turn: it reads the environment's facts, asks a model or calls a
function. Of a turn that it cannot judge, the criterion does not speak.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field, PrivateAttr, SerializeAsAny, model_validator

from agentopd.base.types import Trajectory, Turn
from agentopd.divergences.base import Divergence
from agentopd.signal.beside import Beside
from agentopd.signal.evidence import Evidence
from agentopd.signal.payments import Payment
from agentopd.units.base import Unit
from agentopd.units.facts import part_of
from agentopd.units.rubric.criteria import Criterion
from agentopd.units.rubric.induction import RubricWriter
from agentopd.units.rubric.judges import Case, Verifier
from agentopd.units.spans import Span, SpanIndex

if TYPE_CHECKING:
    from agentopd.models.model import LanguageModel
    from agentopd.teacher import Teacher

# N tokens of a micro-batch

_FLOOR = "floor"
_DEFAULT = (
    Criterion(name="moves closer", fact="moves_closer", weight=1.0),
    Criterion(name="keeps the level solvable", fact="keeps_solvable", weight=2.0),
    Criterion(name="well-formed action", fact="well_formed", weight=1.0, part="action"),
    Criterion(name="solved", fact="success", weight=1.0, turns="last"),
)

_Judged = list[tuple[Criterion, Turn, float]]


class RubricSpanUnit(Unit, kind="rubric_span"):
    """A span for each criterion and turn it speaks of.

    `use: weight` sends the teacher where the agent failed: a token counts `floor` plus the weights
    of the criteria its turn violates, rescaled so that the step's tokens count 1 on average.
    `use: credit` does the same to spans: each carries its own reduced value, times the weight.
    `use: reward` gives, in place of the teacher's value, the verdict as a reward between -1 and 1
    times the weight, to exactly the tokens of the span.

    Args:
        criteria: those written by hand. If not given, four for Sokoban, or none with `induce`.
        judge: judges the criteria that name neither a fact nor a verifier.
        induce: writes more criteria, from solved and failed episodes.
        floor: what a token counts where every criterion is satisfied.
    """

    criteria: tuple[Criterion, ...] = _DEFAULT
    judge: SerializeAsAny[Verifier] | None = None
    induce: SerializeAsAny[RubricWriter] | None = None
    use: Literal["weight", "credit", "reward"] = "weight"
    floor: float = Field(default=0.25, ge=0)
    # The step's trajectories are kept beside their verdicts, so that no id is used twice.
    _judged: dict[int, tuple[Trajectory, _Judged]] = PrivateAttr(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _induced_alone(cls, value: Any) -> Any:
        induced = isinstance(value, Mapping) and value.get("induce") is not None
        return {"criteria": (), **value} if induced else value

    @model_validator(mode="after")
    def _can_be_judged(self) -> RubricSpanUnit:
        names = [criterion.name for criterion in self.criteria]
        if len({*names, _FLOOR}) <= len(names):
            raise ValueError(
                f"the criteria are called {', '.join(names)}: reports and probes tell them apart "
                f"by name, so give each its own, and none the name {_FLOOR!r}"
            )
        for criterion in self.criteria:
            self._verifier(criterion)
        self._check_induced()
        return self

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        if self.use == "reward":
            return "the verdicts on the token's turn, -1 to 1 times their criteria's weights, for x"
        value = "x" if self.use == "weight" else f"the {self.reduce} over the span of x"
        return (
            f"{value} times ({self.floor:g} + the weights of the criteria that its turn violates)"
        )

    @property
    def score_formula(self) -> str:
        """See `Unit.score_formula`."""
        return "the sum over criteria of weight times verdict / the sum of weights"

    @property
    def rubric(self) -> tuple[Criterion, ...]:
        """The criteria of all tasks as they are now; of two that share a name, the one written by
        hand.
        """
        return self._with(self.induce.criteria if self.induce else ())

    def rubric_of(self, trajectory: Trajectory) -> tuple[Criterion, ...]:
        """The criteria of an episode's task as they are now."""
        return self._with(self.induce.criteria_of(trajectory) if self.induce else ())

    def spans(self, trajectory: Trajectory) -> list[Span]:
        """See `Unit.spans`; a span's weight is what the verdict makes of the criterion's."""
        floors = [Span(t.start, t.stop, _FLOOR, self.floor) for t in trajectory.turns]
        return ([] if self.use == "reward" else floors) + [
            Span(p.start, p.stop, p.criterion, p.paid) for p in self.payments(trajectory)
        ]

    def credit(self, values_N: torch.Tensor, index: SpanIndex, evidence: Evidence) -> torch.Tensor:
        """See `Unit.credit`."""
        if self.use == "credit":
            return super().credit(values_N, index, evidence)
        weights_N = index.scatter(values_N.new_ones(len(index.weight_S)), len(values_N))
        return weights_N if self.use == "reward" else values_N * weights_N

    def returns(self, divergence: Divergence) -> Literal["loss", "advantage"]:
        """See `Unit.returns`: a verdict paid as a reward is an advantage in any case."""
        return "advantage" if self.use == "reward" else divergence.returns

    def balance(self, spans: Sequence[Sequence[Span]]) -> float:
        """See `Unit.balance`: rescales weights to a mean of 1 over the step's tokens."""
        if self.use == "reward":
            return 1.0
        floor_spans = [s for own in spans for s in own if s.name == _FLOOR]
        tokens = sum(s.stop - s.start for s in floor_spans)
        total = sum((s.stop - s.start) * s.weight for own in spans for s in own)
        return tokens / total if total else 1.0

    def score(self, trajectory: Trajectory) -> float | None:
        """sum(w v) / sum(w) over the criteria that were judged (ROPD 2605.07396).

        A criterion's v is the mean of its verdicts over the turns it speaks of. None where nothing
        that counts was judged.
        """
        verdicts: dict[str, list[float]] = {}
        weight: dict[str, float] = {}
        for criterion, _, verdict in self._verdicts(trajectory):
            verdicts.setdefault(criterion.name, []).append(verdict)
            weight[criterion.name] = criterion.weight
        total = sum(weight.values())
        met = sum(weight[name] * sum(own) / len(own) for name, own in verdicts.items())
        return met / total if total else None

    def payments(self, trajectory: Trajectory) -> list[Payment]:
        """See `Unit.payments`: one for each criterion and turn that was judged."""
        found = []
        for criterion, turn, verdict in self._verdicts(trajectory):
            start, stop = part_of(turn, criterion.part)
            found.append(
                Payment(
                    criterion=criterion.name,
                    text=criterion.text or criterion.name,
                    weight=criterion.weight,
                    turn=turn.index,
                    verdict=verdict,
                    start=start,
                    stop=stop,
                    paid=self._paid(criterion, verdict),
                )
            )
        return found

    def check(self, beside: Beside) -> None:
        """See `Unit.check`."""
        if self.use == "reward" and beside.weights:
            kinds = ", ".join(beside.weights)
            raise ValueError(
                f"unit: rubric_span with use: reward pays verdicts in place of the teacher's "
                f"values, so weight: {kinds} would have nothing to weigh. Leave weight empty, or "
                "set unit.use to weight or credit"
            )
        for verifier in self._verifiers():
            verifier.check(beside)
        if self.induce:
            self.induce.check(beside)

    def prepare(self, student: LanguageModel, teacher: Teacher) -> None:
        """See `Unit.prepare`."""
        for verifier in self._verifiers():
            verifier.prepare(student, teacher)
        if self.induce:
            self.induce.prepare(student, teacher, self.judge)

    def learn(self, trajectories: Sequence[Trajectory]) -> None:
        """See `Unit.learn`: new criteria are written when it is time, and all episodes are judged
        at once.
        """
        if self.induce:
            self.induce.learn(trajectories)
        judged = self._judge(trajectories)
        self._judged = {id(t): (t, own) for t, own in zip(trajectories, judged, strict=True)}

    def scalars(self) -> dict[str, float]:
        """See `Unit.scalars`."""
        return self.induce.scalars() if self.induce else {}

    def state(self) -> dict[str, Any]:
        """See `Unit.state`."""
        return self.induce.state() if self.induce else {}

    def restore(self, state: dict[str, Any]) -> None:
        """See `Unit.restore`."""
        if self.induce and state:
            self.induce.restore(state)

    def _check_induced(self) -> None:
        writer, judge = self.induce, self.judge
        if writer is None or not writer.in_words or (judge is not None and judge.in_words):
            return
        name = writer.kind or type(writer).__name__
        lacking = (
            f"a judge of kind {judge.kind} does not read questions" if judge else "nobody judges"
        )
        raise ValueError(
            f"induce: {name} writes criteria as questions in words, and {lacking}: set a judge "
            f"that is a model, as in {{kind: rubric_span, induce: {name}, judge: {{kind: model}}}}"
        )

    def _paid(self, criterion: Criterion, verdict: float) -> float:
        if self.use == "reward":
            return criterion.weight * (2.0 * verdict - 1.0)
        return criterion.weight * (1.0 - verdict)

    def _verdicts(self, trajectory: Trajectory) -> _Judged:
        """What was judged of a trajectory; one that `learn` has not seen is judged now."""
        known = self._judged.get(id(trajectory))
        return known[1] if known else self._judge([trajectory])[0]

    def _judge(self, trajectories: Sequence[Trajectory]) -> list[_Judged]:
        """The verdicts of each trajectory; every verifier is asked once, for all of its cases."""
        asked = [
            (number, criterion, turn)
            for number, trajectory in enumerate(trajectories)
            for criterion in self.rubric_of(trajectory)
            for turn in criterion.turns_of(trajectory)
        ]
        by_verifier: dict[int, tuple[Verifier, list[int]]] = {}
        for place, (_, criterion, _) in enumerate(asked):
            verifier = self._verifier(criterion)
            by_verifier.setdefault(id(verifier), (verifier, []))[1].append(place)
        verdicts: list[float | None] = [None] * len(asked)
        for verifier, places in by_verifier.values():
            chosen = [asked[place] for place in places]
            cases = [Case(trajectories[n], turn, c.text or c.name, c.part) for n, c, turn in chosen]
            for place, verdict in zip(places, verifier.verdicts(cases), strict=True):
                verdicts[place] = verdict
        found: list[_Judged] = [[] for _ in trajectories]
        for (number, criterion, turn), verdict in zip(asked, verdicts, strict=True):
            if verdict is not None:
                found[number].append((criterion, turn, verdict))
        return found

    def _with(self, induced: Sequence[Criterion]) -> tuple[Criterion, ...]:
        names = {criterion.name for criterion in self.criteria}
        return (*self.criteria, *(c for c in induced if c.name not in names))

    def _verifier(self, criterion: Criterion) -> Verifier:
        found = criterion.own_verifier or self.judge
        if found is None:
            raise ValueError(
                f"nobody judges the criterion {criterion.name!r}: give it a fact or a verifier, or "
                "the rubric a judge, as in {kind: rubric_span, judge: {kind: model}}"
            )
        return found

    def _verifiers(self) -> list[Verifier]:
        """Everyone who judges, once each."""
        named = [criterion.own_verifier for criterion in self.criteria]
        return list({id(v): v for v in (*named, self.judge) if v is not None}.values())
