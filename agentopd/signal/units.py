"""Supervision units: at which granularity the teacher's opinion is measured and credited.

A unit cuts a trajectory into spans. A span's value is the reduction of its tokens' values, and
every token of the span carries it, times the span's weight. Where spans overlap, a token carries
the sum; a token outside every span carries nothing. The aggregator then averages tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field

from agentopd.objects import load_object
from agentopd.parts import Part
from agentopd.signal.aggregate import Normalise
from agentopd.signal.divergences import Divergence
from agentopd.signal.evidence import Evidence, Looked
from agentopd.signal.tokens import Extent, Tokens, mean_by
from agentopd.types import Lesson, Trajectory, Turn

if TYPE_CHECKING:
    from agentopd.config import RunConfig
    from agentopd.model import LanguageModel
    from agentopd.teacher import Teacher

# N tokens of a micro-batch, S spans, P pairs (span, token of the span)

Reduce = Literal["sum", "mean", "last"]
AnswerPart = Literal["turn", "reasoning", "action"]
"""The whole answer of a turn, or one side of the end of its reasoning."""

Fact = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Span:
    """Positions `start <= t < stop` of a trajectory's ids; only the trainable tokens there count.

    `name` says what the span is, for probes and reports; `weight` multiplies its value.
    """

    start: int
    stop: int
    name: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """One verdict and the tokens it paid.

    Attributes:
        criterion: the name of what was judged.
        text: what it asks for, in words.
        weight: of the criterion.
        turn: the turn it was judged in, counted from 0.
        verdict: 1 where the turn meets the criterion, 0 where it does not, between them in doubt.
        start, stop: the tokens that were paid, `start <= t < stop` of the trajectory's ids; none
            where the answer lacks the part that the criterion speaks of.
        paid: what each of them got for it, a weight or a reward, before `Unit.balance`.
    """

    criterion: str
    text: str
    weight: float
    turn: int
    verdict: float
    start: int
    stop: int
    paid: float


class Unit(Part, family="unit"):
    """One granularity.

    A unit may live: it is made ready once (`prepare`), takes note of each step's trajectories
    before their spans are asked for (`learn`), and what it remembers goes into the checkpoint
    through `state`.

    Args:
        reduce: how a span's value is made of its tokens' values.
        normalise: how the aggregator averages tokens, for this and the RL channel.
        budget: what `normalise: fixed` divides by.
    """

    within: ClassVar[Extent] = "episode"
    """A stretch of tokens that no span leaves."""

    reduce: Reduce = "mean"
    normalise: Normalise = "token_mean"
    budget: float = Field(default=1_000.0, gt=0)

    @property
    def linear(self) -> bool:
        """Whether credits are linear in the tokens' values, whatever the models say."""
        return True

    @property
    def averages_over(self) -> Extent | None:
        """The stretch over which `modulation` takes means; None where spans are no such thing."""
        return None

    @property
    def without_means(self) -> str:
        """The same unit with each token's own value in the place of means; empty for none."""
        return ""

    @property
    def looks_at(self) -> frozenset[Looked]:
        """What the unit looks at to cut, to weigh or to judge."""
        return frozenset() if self.linear else frozenset({"teacher"})

    @property
    def credits_values(self) -> bool:
        """Whether credits are made of the tokens' values."""
        return True

    def unread(self) -> dict[str, str]:
        """See `Settings.unread`."""
        return {} if self.normalise == "fixed" else {"budget": "normalise: fixed"}

    @abstractmethod
    def spans(self, trajectory: Trajectory) -> list[Span]:
        """The spans of one trajectory."""

    def credit(
        self, values_N: torch.Tensor, index: SpanIndex, evidence: Evidence | None = None
    ) -> torch.Tensor:
        """What each token carries, (N,), of its own value (N,). Differentiable in `values_N`.

        A unit that is `linear` does not look at the evidence, which may then be missing.
        """
        return index.scatter(index.reduce(values_N, self.reduce), len(values_N))

    def modulation(
        self, weight_N: torch.Tensor, index: SpanIndex, evidence: Evidence | None = None
    ) -> torch.Tensor:
        """(N,) what a mix multiplies advantages by, of each token's weight (N,). A span's tokens
        share their mean, whatever `reduce` says: a sum would multiply by the span's length.
        """
        averaging = self.model_copy(update={"reduce": "mean"})
        return averaging.credit(weight_N, index, evidence)

    def returns(self, divergence: Divergence) -> Literal["loss", "advantage"]:
        """What `credit` gives, when it is given this divergence's values."""
        return divergence.returns

    def balance(self, spans: Sequence[Sequence[Span]]) -> float:
        """A factor on a step's credits, from all its trajectories' spans, to keep the scale."""
        return 1.0

    def payments(self, trajectory: Trajectory) -> list[Payment]:
        """The unit's verdicts, each with the tokens it paid; none of a unit that judges nothing."""
        return []

    def check(self, method: RunConfig) -> None:
        """Look at the rest of the method when the configuration is read.

        Raises:
            ValueError: the unit makes no sense together with it.
        """

    def notices(self, method: RunConfig) -> list[str]:
        """What of the unit changes nothing beside the method's other parts, a sentence each."""
        return []

    def prepare(self, student: LanguageModel, teacher: Teacher) -> None:
        """Get ready before the first step; the teacher is ready where the method asks one.

        Raises:
            ValueError: something the unit needs cannot be loaded or used.
        """

    def learn(self, trajectories: Sequence[Trajectory]) -> None:
        """Take note of a step's trajectories before their spans are asked for."""

    def scalars(self) -> dict[str, float]:
        """Numbers about what it has learnt so far, by name, for the step's line of metrics."""
        return {}

    def state(self) -> dict[str, Any]:
        """What must survive a restart, as JSON."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """The reverse of `state`."""


class TokenUnit(Unit, kind="token"):
    """Every token by itself."""

    @property
    def averages_over(self) -> Extent:
        """See `Unit.averages_over`."""
        return "token"

    def unread(self) -> dict[str, str]:
        """See `Settings.unread`."""
        return {**super().unread(), "reduce": "a unit whose spans have several tokens"}

    def spans(self, trajectory: Trajectory) -> list[Span]:
        """See `Unit.spans`."""
        return [Span(t, t + 1, "token") for t in trajectory.trainable.nonzero()[0].tolist()]

    def credit(
        self, values_N: torch.Tensor, index: SpanIndex, evidence: Evidence | None = None
    ) -> torch.Tensor:
        """See `Unit.credit`: a token of its own carries its own value."""
        return values_N


class TurnUnit(Unit, kind="turn"):
    """Every turn as one decision.

    Args:
        use: `credit` gives each token its turn's reduced value. `weight` leaves each token its own
            value and multiplies it by how far the teacher disagrees with the turn, relative to the
            mean over the episode's turns and detached: its tokens' reduced |value|, a divergence
            or an estimator's advantage, before any weight.
        part: the tokens of the turn that are looked at; the others carry nothing.
    """

    within: ClassVar[Extent] = "turn"

    use: Literal["credit", "weight"] = "credit"
    part: AnswerPart = "turn"

    @property
    def linear(self) -> bool:
        """See `Unit.linear`."""
        return self.use == "credit"

    @property
    def averages_over(self) -> Extent | None:
        """See `Unit.averages_over`."""
        if self.use == "weight":
            return "token"
        return "turn" if self.part == "turn" else None

    @property
    def without_means(self) -> str:
        """See `Unit.without_means`."""
        if self.use == "weight":
            return ""
        return "unit: token" if self.part == "turn" else f"unit: token on the {self.part} alone"

    @property
    def looks_at(self) -> frozenset[Looked]:
        """See `Unit.looks_at`."""
        return frozenset({"divergence"}) if self.use == "weight" else frozenset()

    def spans(self, trajectory: Trajectory) -> list[Span]:
        """See `Unit.spans`."""
        return [Span(*part_of(turn, self.part), self.part) for turn in trajectory.turns]

    def credit(
        self, values_N: torch.Tensor, index: SpanIndex, evidence: Evidence | None = None
    ) -> torch.Tensor:
        """See `Unit.credit`."""
        if self.use == "credit":
            return super().credit(values_N, index)
        assert evidence is not None, "this unit is not linear: it weighs by the evidence"
        size_S = index.reduce(evidence.value_N.abs(), self.reduce)
        mean_S = mean_by(size_S, index.lesson_S, index.lessons)[index.lesson_S]
        # Where every turn agrees with the teacher there is nothing to weigh: turns count alike.
        relative_S = torch.where(
            mean_S > 1e-12, size_S / mean_S.clamp(min=1e-12), torch.ones_like(size_S)
        )
        return values_N * index.scatter(relative_S, len(values_N))

    def modulation(
        self, weight_N: torch.Tensor, index: SpanIndex, evidence: Evidence | None = None
    ) -> torch.Tensor:
        """See `Unit.modulation`; with `use: weight`, `reduce` is that of the disagreement."""
        if self.use == "weight":
            return self.credit(weight_N, index, evidence)
        return super().modulation(weight_N, index, evidence)


class TrajectoryUnit(Unit, kind="trajectory"):
    """The whole episode as one."""

    @property
    def averages_over(self) -> Extent:
        """See `Unit.averages_over`."""
        return "episode"

    @property
    def without_means(self) -> str:
        """See `Unit.without_means`."""
        return "unit: token"

    def spans(self, trajectory: Trajectory) -> list[Span]:
        """See `Unit.spans`."""
        return [Span(0, len(trajectory.ids), "trajectory")]


@dataclass(frozen=True)
class SpanIndex:
    """Which tokens of a micro-batch belong to which span, as pairs sorted by span and token."""

    span_P: torch.Tensor
    token_P: torch.Tensor
    weight_S: torch.Tensor
    lesson_S: torch.Tensor
    lessons: int

    @classmethod
    def of(
        cls, lessons: Sequence[Lesson], spans: Sequence[Sequence[Span]], tokens: Tokens
    ) -> SpanIndex:
        """The index of each lesson's spans over the tokens; spans without a token are left out."""
        span_of: list[int] = []
        token_of: list[torch.Tensor] = []
        weights: list[float] = []
        owners: list[int] = []
        offset = 0
        for number, (lesson, own) in enumerate(zip(lessons, spans, strict=True)):
            places = torch.from_numpy(lesson.trajectory.trainable.nonzero()[0])
            bounds = torch.tensor([(s.start, s.stop) for s in own], dtype=torch.long).reshape(-1, 2)
            first, last = torch.searchsorted(places, bounds.T.contiguous()).tolist()
            for span, a, b in zip(own, first, last, strict=True):
                if b > a:
                    span_of += [len(weights)] * (b - a)
                    token_of.append(torch.arange(a + offset, b + offset))
                    weights.append(span.weight)
                    owners.append(number)
            offset += len(places)
        device = tokens.ids_N.device
        return cls(
            span_P=torch.tensor(span_of, dtype=torch.long, device=device),
            token_P=torch.cat([torch.empty(0, dtype=torch.long), *token_of]).to(device),
            weight_S=torch.tensor(weights, device=device),
            lesson_S=torch.tensor(owners, dtype=torch.long, device=device),
            lessons=len(lessons),
        )

    def reduce(self, values_N: torch.Tensor, how: Reduce) -> torch.Tensor:
        """Each span's value, (S,)."""
        if how == "last":
            last_S = (
                torch.searchsorted(
                    self.span_P,
                    torch.arange(len(self.weight_S), device=self.span_P.device),
                    right=True,
                )
                - 1
            )
            return values_N[self.token_P[last_S]]
        total_S = values_N.new_zeros(len(self.weight_S)).index_add(
            0, self.span_P, values_N[self.token_P]
        )
        if how == "sum":
            return total_S
        return total_S / torch.bincount(self.span_P, minlength=len(self.weight_S)).clamp(min=1)

    def scatter(self, values_S: torch.Tensor, tokens: int) -> torch.Tensor:
        """What each token carries, (N,): the sum over its spans of value times weight."""
        carried_P = (values_S * self.weight_S)[self.span_P]
        return values_S.new_zeros(tokens).index_add(0, self.token_P, carried_P)

    def covered(self, tokens: int) -> torch.Tensor:
        """(N,) whether some span holds the token."""
        nowhere_N = torch.zeros(tokens, dtype=torch.bool, device=self.token_P.device)
        return nowhere_N.index_fill(0, self.token_P, True)


def part_of(turn: Turn, part: AnswerPart) -> tuple[int, int]:
    """Where a part of a turn starts and stops in the trajectory's ids."""
    if part == "reasoning":
        return turn.start, turn.act
    return (turn.act if part == "action" else turn.start), turn.stop


def fact_of(turn: Turn, name: str) -> Any:
    """What the environment states under `name` after a turn; None where it states nothing.

    `success` is not looked up among the facts: it reads the episode's outcome.
    """
    return turn.info.get("success") if name == "success" else turn.info.get("facts", {}).get(name)


def named_function(path: str) -> Callable[..., Any]:
    """The function that `package.module:function` names.

    Raises:
        ValueError: it cannot be imported, or is no function.
    """
    found = load_object(path) if ":" in path else None
    if not callable(found):
        raise ValueError(f"{path!r} names no function; write package.module:function")
    return found
