"""Units that cut by length alone: the token, the turn, the trajectory."""

from __future__ import annotations

from typing import Literal

import torch

from agentopd.base.types import Trajectory
from agentopd.signal.evidence import Evidence
from agentopd.signal.tokens import mean_by
from agentopd.units.base import Unit
from agentopd.units.facts import AnswerPart, part_of
from agentopd.units.spans import Span, SpanIndex

# N tokens of a micro-batch, S spans


class TokenUnit(Unit, kind="token"):
    """Every token by itself."""

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return "x"

    def spans(self, trajectory: Trajectory) -> list[Span]:
        """See `Unit.spans`."""
        return [Span(t, t + 1, "token") for t in trajectory.trainable.nonzero()[0].tolist()]

    def credit(self, values_N: torch.Tensor, index: SpanIndex, evidence: Evidence) -> torch.Tensor:
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

    use: Literal["credit", "weight"] = "credit"
    part: AnswerPart = "turn"

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        whole = f"the {self.reduce} over the {self.part}"
        if self.use == "credit":
            return f"{whole} of x"
        return f"x times {whole} of |Div or D|, relative to the episode's turns"

    def spans(self, trajectory: Trajectory) -> list[Span]:
        """See `Unit.spans`."""
        return [Span(*part_of(turn, self.part), self.part) for turn in trajectory.turns]

    def credit(self, values_N: torch.Tensor, index: SpanIndex, evidence: Evidence) -> torch.Tensor:
        """See `Unit.credit`."""
        if self.use == "credit":
            return super().credit(values_N, index, evidence)
        size_S = index.reduce(evidence.value_N.abs(), self.reduce)
        mean_S = mean_by(size_S, index.lesson_S, index.lessons)[index.lesson_S]
        # Where every turn agrees with the teacher there is nothing to weigh: turns count alike.
        relative_S = torch.where(
            mean_S > 1e-12, size_S / mean_S.clamp(min=1e-12), torch.ones_like(size_S)
        )
        return values_N * index.scatter(relative_S, len(values_N))

    def modulation(
        self, weight_N: torch.Tensor, index: SpanIndex, evidence: Evidence
    ) -> torch.Tensor:
        """See `Unit.modulation`; with `use: weight`, `reduce` is that of the disagreement."""
        if self.use == "weight":
            return self.credit(weight_N, index, evidence)
        return super().modulation(weight_N, index, evidence)


class TrajectoryUnit(Unit, kind="trajectory"):
    """The whole episode as one."""

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"the {self.reduce} over the episode of x"

    def spans(self, trajectory: Trajectory) -> list[Span]:
        """See `Unit.spans`."""
        return [Span(0, len(trajectory.ids), "trajectory")]
