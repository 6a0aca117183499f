"""Rubric spans: criteria, judged from the environment's facts, that pay exactly their own tokens.

A criterion speaks of some turns and of a part of each: the whole answer, its reasoning or its
action. A judge reads the facts of the turn. A turn without the fact is not judged, and the
criterion does not speak of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from agentopd.parts import Settings
from agentopd.signal.divergences import Divergence
from agentopd.signal.units import Span, SpanIndex, Unit
from agentopd.types import Trajectory, Turn


class Criterion(Settings):
    """One named criterion.

    Args:
        fact: the key of `facts` it is judged by; `success` reads the episode's outcome.
        want: the value that satisfies it.
        weight: how much it counts.
        turns: every turn, or the last one only.
        part: the tokens it speaks of.
    """

    name: str
    fact: str
    want: bool | int | float | str = True
    weight: float = Field(default=1.0, ge=0)
    turns: Literal["every", "last"] = "every"
    part: Literal["turn", "reasoning", "action"] = "turn"

    def verdict(self, turn: Turn) -> bool | None:
        """Whether the turn satisfies it; None where the fact is missing."""
        facts: Mapping[str, Any] = turn.info.get("facts", {})
        value = turn.info.get("success") if self.fact == "success" else facts.get(self.fact)
        return None if value is None else value == self.want


_FLOOR = "floor"
_DEFAULT = (
    Criterion(name="moves closer", fact="moves_closer", weight=1.0),
    Criterion(name="keeps the level solvable", fact="keeps_solvable", weight=2.0),
    Criterion(name="well-formed action", fact="well_formed", weight=1.0, part="action"),
    Criterion(name="solved", fact="success", weight=1.0, turns="last"),
)


class RubricSpanUnit(Unit, kind="rubric_span"):
    """A span for each criterion and turn it speaks of.

    `use: weight` sends the teacher where the agent failed: a token counts `floor` plus the weights
    of the criteria its turn violates, rescaled so that the step's tokens count 1 on average.
    `use: reward` gives, in place of the teacher's value, the verdict as a reward of 1 or -1 times
    the weight, to exactly the tokens of the span.

    Args:
        floor: what a token counts where every criterion is satisfied.
    """

    criteria: tuple[Criterion, ...] = _DEFAULT
    use: Literal["weight", "reward"] = "weight"
    floor: float = Field(default=0.25, ge=0)

    @model_validator(mode="after")
    def _names_tell_apart(self) -> RubricSpanUnit:
        names = [criterion.name for criterion in self.criteria]
        if len({*names, _FLOOR}) <= len(names):
            raise ValueError(
                f"the criteria are called {', '.join(names)}: reports and probes tell them apart "
                f"by name, so give each its own, and none the name {_FLOOR!r}"
            )
        return self

    def spans(self, trajectory: Trajectory) -> list[Span]:
        """See `Unit.spans`; a span's weight is what the verdict makes of the criterion's."""
        found = (
            [Span(t.start, t.stop, _FLOOR, self.floor) for t in trajectory.turns]
            if self.use == "weight"
            else []
        )
        for criterion in self.criteria:
            turns = trajectory.turns if criterion.turns == "every" else trajectory.turns[-1:]
            for turn in turns:
                verdict = criterion.verdict(turn)
                if verdict is not None:
                    start, stop = part_of(turn, criterion.part)
                    found.append(Span(start, stop, criterion.name, self._paid(criterion, verdict)))
        return found

    def credit(self, values_N: torch.Tensor, index: SpanIndex) -> torch.Tensor:
        """See `Unit.credit`."""
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

    def _paid(self, criterion: Criterion, verdict: bool) -> float:
        if self.use == "reward":
            return criterion.weight * (1.0 if verdict else -1.0)
        return 0.0 if verdict else criterion.weight


def part_of(turn: Turn, part: Literal["turn", "reasoning", "action"]) -> tuple[int, int]:
    """Where a part of a turn starts and stops in the trajectory's ids."""
    if part == "reasoning":
        return turn.start, turn.act
    return (turn.act if part == "action" else turn.start), turn.stop
