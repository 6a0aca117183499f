"""Supervision units: at which granularity the teacher's opinion is measured and credited.

A unit cuts a trajectory into spans. A span's value is the reduction of its tokens' values, and
every token of the span carries it, times the span's weight. Where spans overlap, a token carries
the sum; a token outside every span carries nothing. The aggregator then averages tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field

from agentopd.base.parts import Part
from agentopd.base.types import Trajectory
from agentopd.divergences.base import Divergence
from agentopd.signal.aggregate import Normalise
from agentopd.signal.beside import Beside
from agentopd.signal.evidence import Evidence
from agentopd.signal.payments import Payment
from agentopd.units.spans import Reduce, Span, SpanIndex

if TYPE_CHECKING:
    from agentopd.models.model import LanguageModel
    from agentopd.teacher import Teacher

# N tokens of a micro-batch


class Unit(Part, family="unit"):
    """One granularity: `spans`, and the rest is optional.

    A unit of your own says which tokens of an episode belong together; here those of the first, and
    of the second half of its turns:

        class Halves(Unit, kind="halves"):
            late: float = Field(default=0.5, ge=0)

            def spans(self, trajectory: Trajectory) -> list[Span]:
                turns = trajectory.turns
                cut = (len(turns) + 1) // 2
                halves = [(turns[:cut], 1.0), (turns[cut:], self.late)]
                return [
                    Span(half[0].start, half[-1].stop, "half", weight)
                    for half, weight in halves
                    if half
                ]

    A unit may live: it is made ready once (`prepare`), takes note of each step's trajectories
    before their spans are asked for (`learn`), and what it remembers goes into the checkpoint
    through `state`; weights that learn beside the student, through `tensors`.

    Args:
        reduce: how a span's value is made of its tokens' values.
        normalise: how the aggregator averages tokens, for this and the RL channel; `blend` goes
            from the mean over tokens to that over turns, as `schedule.blend` says.
        budget: what `normalise: fixed` divides by.
    """

    reduce: Reduce = "mean"
    normalise: Normalise = "token_mean"
    budget: float = Field(default=1_000.0, gt=0)

    @abstractmethod
    def spans(self, trajectory: Trajectory) -> list[Span]:
        """The spans of one trajectory."""

    def credit(self, values_N: torch.Tensor, index: SpanIndex, evidence: Evidence) -> torch.Tensor:
        """What each token carries, (N,), of its own value (N,). Differentiable in `values_N`.

        A unit that looks at no more of the evidence than tokens, lessons and step spares a pass
        over the vocabulary.
        """
        return index.scatter(index.reduce(values_N, self.reduce), len(values_N))

    def check(self, beside: Beside) -> None:
        """Look at the rest of the method when the configuration is read.

        Raises:
            ValueError: the unit makes no sense together with it.
        """

    def prepare(self, student: LanguageModel, teacher: Teacher) -> None:
        """Get ready before the first step; the teacher is ready where the method asks one.

        Raises:
            ValueError: something the unit needs cannot be loaded or used.
        """

    def learn(self, trajectories: Sequence[Trajectory]) -> None:
        """Take note of a step's trajectories before their spans are asked for."""

    def state(self) -> dict[str, Any]:
        """What must survive a restart, as JSON."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """The reverse of `state`."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights that must survive a restart, which no `prepare` would find again."""
        return {}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """The reverse of `tensors`."""

    def scalars(self) -> dict[str, float]:
        """Numbers about what it has learnt so far, by name, for the step's line of metrics."""
        return {}

    def modulation(
        self, weight_N: torch.Tensor, index: SpanIndex, evidence: Evidence
    ) -> torch.Tensor:
        """(N,) what a mix multiplies advantages by, of each token's weight (N,). A span's tokens
        share their mean, whatever `reduce` says: a sum would multiply by the span's length.
        """
        averaging = self.model_copy(update={"reduce": "mean"})
        return averaging.credit(weight_N, index, evidence)

    def balance(self, spans: Sequence[Sequence[Span]]) -> float:
        """A factor on a step's credits, from all its trajectories' spans, to keep the scale."""
        return 1.0

    def returns(self, divergence: Divergence) -> Literal["loss", "advantage"]:
        """What `credit` gives, when it is given this divergence's values."""
        return divergence.returns

    @property
    def score_formula(self) -> str:
        """What it scores a whole episode by, where it does, for the equation of a method; see
        `Part.formula`.
        """
        return "the score"

    def payments(self, trajectory: Trajectory) -> list[Payment]:
        """The verdicts of a unit that judges, each with the tokens it paid."""
        return []
