"""The decision-point unit: of every episode, the few turns on which something hangs.

Turns are chosen by what the models say of them (where teacher and student disagree, where the
student is undecided), by what the environment states, or by a function of yours.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, model_validator

from agentopd.base.types import Trajectory
from agentopd.signal.evidence import Evidence
from agentopd.signal.tokens import mean_by
from agentopd.units.base import Unit
from agentopd.units.facts import Fact, fact_of, named_function
from agentopd.units.spans import Span, SpanIndex

# N tokens of a micro-batch, S spans (turns), P pairs (turn, token of the turn), L lessons

_KNOWN_BEFOREHAND = ("fact", "function")
_LIMITS = ("share", "most", "threshold")
_SHARE = 0.25


class DecisionPointUnit(Unit, kind="decision_point"):
    """Chosen turns teach; the others count `floor`.

    A turn's score is a mean over its tokens: of |log q(y) - log p(y)| (`disagreement`), of the
    size of its own value, a divergence or an estimator's loss or advantage (`divergence`), or
    of the student's entropy (`entropy`). `entropy_drop` is the entropy of the turn before less that
    of this one: where the student made up its mind; the first turn's is 0. Of equal turns the
    earlier is chosen.

    Args:
        by: what a turn is chosen by. `fact` chooses every turn after which the environment states
            `fact`, or states it to be `want`. `function` calls `package.module:function` with the
            trajectory, for the numbers of the turns, counted from 0.
        share: at most this share of an episode's turns, rounded up. A quarter, where neither
            `share` nor `most` nor `threshold` is given.
        most: at most so many turns an episode.
        threshold: only turns of at least this score, in nats.
        use: `value` leaves each token its own value; `credit` gives it its turn's, as `reduce`
            makes it.
        floor: what a token outside the chosen turns counts.
        renormalise: rescale to a mean of 1 over each episode's tokens. An episode without a chosen
            turn is not rescaled: its tokens count `floor`.
    """

    by: Literal["disagreement", "divergence", "entropy", "entropy_drop", "fact", "function"] = (
        "disagreement"
    )
    share: float | None = Field(default=None, gt=0, le=1)
    most: int | None = Field(default=None, ge=1)
    threshold: float | None = None
    fact: str | None = None
    want: Fact | None = None
    function: str | None = None
    use: Literal["value", "credit"] = "value"
    floor: float = Field(default=0.0, ge=0, le=1)
    renormalise: bool = True

    @model_validator(mode="after")
    def _says_what_it_chooses_by(self) -> DecisionPointUnit:
        for name in _KNOWN_BEFOREHAND:
            if (getattr(self, name) is not None) != (self.by == name):
                raise ValueError(
                    f"by: {name} and the key {name} need each other: give both, as in "
                    f"{{by: {name}, {name}: NAME}}, or neither"
                )
        if self.want is not None and self.fact is None:
            raise ValueError("want is the value of a fact: give by: fact and the fact's name too")
        limits = [name for name in _LIMITS if getattr(self, name) is not None]
        if limits and self.by in _KNOWN_BEFOREHAND:
            raise ValueError(
                f"by: {self.by} gives turns no score that {', '.join(limits)} could rank; leave "
                "out share, most and threshold"
            )
        if self.function is not None:
            named_function(self.function)
        return self

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        value = "x" if self.use == "value" else f"the {self.reduce} over the turn of x"
        return f"{value} in turns chosen by {self.by}, {self.floor:g} of it elsewhere"

    def spans(self, trajectory: Trajectory) -> list[Span]:
        """See `Unit.spans`: a span a turn, named `decision` where the turn is known to be chosen.

        Raises:
            ValueError: the function named a turn that the episode does not have.
        """
        if self.by not in _KNOWN_BEFOREHAND:
            return [Span(turn.start, turn.stop, "turn") for turn in trajectory.turns]
        chosen = self._chosen_beforehand(trajectory)
        return [
            Span(turn.start, turn.stop, "decision", 1.0)
            if turn.index in chosen
            else Span(turn.start, turn.stop, "turn", self.floor)
            for turn in trajectory.turns
        ]

    @torch.no_grad()
    def chosen(self, index: SpanIndex, evidence: Evidence) -> torch.Tensor:
        """(S,) which turns of a micro-batch are chosen by their scores."""
        score_S = self._score(index, evidence)
        chosen_S = torch.zeros_like(score_S, dtype=torch.bool)
        for lesson in range(index.lessons):
            own = (index.lesson_S == lesson).nonzero()[:, 0]
            best = own[score_S[own].argsort(descending=True, stable=True)]
            chosen_S[best[: self._limit(len(own))]] = True
        return chosen_S if self.threshold is None else chosen_S & (score_S >= self.threshold)

    def credit(self, values_N: torch.Tensor, index: SpanIndex, evidence: Evidence) -> torch.Tensor:
        """See `Unit.credit`."""
        # A turn known beforehand has its weight in the index already.
        weight_S = torch.ones_like(index.weight_S)
        chosen_S = index.weight_S == 1.0
        if self.by not in _KNOWN_BEFOREHAND:
            chosen_S = self.chosen(index, evidence)
            weight_S = torch.where(chosen_S, weight_S, weight_S.new_tensor(self.floor))
        if self.renormalise:
            weight_S = weight_S * self._scale(weight_S, chosen_S, index)
        if self.use == "credit":
            return index.scatter(index.reduce(values_N, self.reduce) * weight_S, len(values_N))
        return values_N * index.scatter(weight_S.to(values_N.dtype), len(values_N))

    def _chosen_beforehand(self, trajectory: Trajectory) -> set[int]:
        turns = trajectory.turns
        if self.fact is not None:
            stated = [(turn.index, fact_of(turn, self.fact)) for turn in turns]
            return {i for i, v in stated if v is not None and self.want in (None, v)}
        assert self.function is not None
        found = {int(number) for number in named_function(self.function)(trajectory)}
        if stray := sorted(found - {turn.index for turn in turns}):
            raise ValueError(
                f"{self.function} chose turn {stray[0]} of episode {trajectory.episode}, which has "
                f"{len(turns)} turns; it must return numbers of turns, counted from 0"
            )
        return found

    def _score(self, index: SpanIndex, evidence: Evidence) -> torch.Tensor:
        """(S,) each turn's score."""
        if self.by == "disagreement":
            return index.reduce(evidence.gap_N.abs(), "mean")
        if self.by == "divergence":
            return index.reduce(evidence.value_N.abs(), "mean")
        entropy_S = index.reduce(evidence.student.entropy_N, "mean")
        if self.by == "entropy":
            return entropy_S
        before_S = entropy_S.roll(1)
        first_S = index.lesson_S != index.lesson_S.roll(1)
        first_S[:1] = True
        return torch.where(first_S, torch.zeros_like(entropy_S), before_S - entropy_S)

    def _limit(self, turns: int) -> int:
        """How many of an episode's turns may be chosen."""
        unlimited = self.share is None and self.most is None and self.threshold is None
        share = _SHARE if unlimited else self.share
        most = turns if self.most is None else self.most
        # 0.07 * 100 is 7.000000000000001, of which 7 turns are meant.
        return most if share is None else min(most, math.ceil(share * turns - 1e-9))

    def _scale(
        self, weight_S: torch.Tensor, chosen_S: torch.Tensor, index: SpanIndex
    ) -> torch.Tensor:
        """(S,) what brings the mean weight over each episode's tokens to 1, or 1 without a chosen
        turn.
        """
        lesson_P = index.lesson_S[index.span_P]
        mean_L = mean_by((weight_S * index.weight_S)[index.span_P], lesson_P, index.lessons)
        any_L = mean_by(chosen_S.to(mean_L.dtype), index.lesson_S, index.lessons) > 0
        return torch.where(any_L, 1.0 / mean_L, torch.ones_like(mean_L))[index.lesson_S]
