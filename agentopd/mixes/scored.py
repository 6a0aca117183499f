"""Rewards that are scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

import torch
from pydantic import Field

from agentopd.base.types import Lesson, Trajectory
from agentopd.mixes.advantages import Reinforce
from agentopd.mixes.shared import PaidByTeacher, RlOnly
from agentopd.signal.beside import Beside
from agentopd.signal.evidence import Measured
from agentopd.signal.tokens import Tokens, sum_by

# N tokens of a micro-batch, L its lessons, K its turns

_ALIKE = 1e-12
"""Probabilities no further apart are equal but for their rounding."""


@runtime_checkable
class Scoring(Protocol):
    """A unit that scores whole episodes, as rubrics do."""

    def score(self, trajectory: Trajectory) -> float | None:
        """The episode's score; None where nothing can be said of it."""
        ...


@runtime_checkable
class PaysTurns(Protocol):
    """A mix of teachers' scores in which the turns of an episode have rewards of their own."""

    def turn_shares(self, measured: Measured, tokens: Tokens) -> torch.Tensor:
        """(K,) by how much each turn of a step counts of its episode's reward.

        Args:
            measured: what the models say of all taught tokens of the step.
        """
        ...


class RewardReplacement(RlOnly, kind="reward"):
    """The episode's reward becomes a score, of which advantages are made.

    Episodes without a score have no advantage, and no other is measured against them.

    Args:
        score: `teacher`: log q - log p_behaviour of the episode's own tokens, in nats; the models
            are asked twice, before the step and in it. `unit`: what the unit says of the episode,
            sum(v w) / sum(w) over a rubric's criteria (ROPD 2605.07396); then no teacher is asked.
        reduce: of the teacher's tokens over the episode. A sum grows with the episode's length.
        environment: the environment's own reward is added, times this.
    """

    distils = False

    score: Literal["teacher", "unit"] = "teacher"
    reduce: Literal["mean", "sum"] = "mean"
    environment: float = Field(default=0.0, ge=0)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        of = {
            "teacher": f"the episode's {self.reduce} of log q(y) - log mu(y)",
            "unit": "the unit's score",
        }
        beside = f" + {self.environment:g} times the environment's" if self.environment else ""
        return f"R with {of[self.score]}{beside} as the reward"

    @property
    def distil_coefficient(self) -> float:
        """See `Mix.distil_coefficient`: the teacher is asked for the score."""
        return 1.0 if self.score == "teacher" else 0.0

    @property
    def scored_by(self) -> Literal["teacher", "unit"]:
        """See `Mix.scored_by`."""
        return self.score

    def check(self, beside: Beside) -> None:
        """See `Mix.check`."""
        super().check(beside)
        if self.score == "unit" and not beside.scores_episodes:
            raise ValueError(
                f"mix: reward with score: unit takes the episode's reward from the unit, and "
                f"unit: {beside.unit} scores no episodes. Use unit: rubric_span, or "
                "score: teacher"
            )
        _check_baseline(self)

    def scored(self, said: Measured, tokens: Tokens, lessons: Sequence[Lesson]) -> torch.Tensor:
        """See `Mix.scored`."""
        if self.reduce == "mean":
            return super().scored(said, tokens, lessons)
        assert said.teacher is not None
        gap_N = said.teacher.logprob_N - tokens.behaviour_N
        return sum_by(gap_N, tokens.lesson_N, tokens.lessons)

    def rewards(
        self, trajectories: Sequence[Trajectory], scores: Mapping[int, float]
    ) -> dict[int, float]:
        """See `Mix.rewards`."""
        return {
            t.episode: scores[t.episode] + self.environment * t.reward
            for t in trajectories
            if t.episode in scores
        }


class TurnReward(PaidByTeacher, kind="turn_reward"):
    """A turn's reward is its episode's, times how likely the teacher finds the turn (TAMTRL
    2603.21663).

    That is the mean over the turn's tokens of q(y), scaled over all turns of the step so that the
    least likely counts 0 and the likeliest 1; where all are alike, each counts 1. Advantages
    compare all turns of a group's episodes, whatever their depth. Episodes without a lesson take no
    part; the models are asked twice, before the step and in it.
    """

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        scaled = "the turn's mean of q(y), scaled to 0 .. 1 over the step"
        return f"R with the environment's return times {scaled}, as the reward"

    def check(self, beside: Beside) -> None:
        """See `Mix.check`."""
        super().check(beside)
        _check_baseline(self)

    def rewards(
        self, trajectories: Sequence[Trajectory], scores: Mapping[int, float]
    ) -> dict[int, float]:
        """See `Mix.rewards`: the environment's, of the episodes that the teacher was asked of."""
        return {t.episode: t.reward for t in trajectories if t.episode in scores}

    def turn_shares(self, measured: Measured, tokens: Tokens) -> torch.Tensor:
        """See `PaysTurns`."""
        assert measured.teacher is not None
        likely_K = tokens.turns.mean(measured.teacher.logprob_N.double().exp())
        least, most = likely_K.min(), likely_K.max()
        if most - least <= _ALIKE:
            return torch.ones_like(likely_K)
        return (likely_K - least) / (most - least)


def _check_baseline(mix: RlOnly) -> None:
    if isinstance(mix.rl, Reinforce) and mix.rl.baseline == "running":
        raise ValueError(
            f"mix: {mix.kind} with rl.baseline: running would measure scores against the past of "
            "the environment's rewards, which are another quantity. Use baseline: batch"
        )
