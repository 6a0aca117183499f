"""The one place where tokens are averaged, for the distillation and the RL channel alike.

A coefficient between two channels means nothing without the normalisation of each, so both use this
and the run records which. Factors are made of the whole step's counts: how the step is cut into
micro-batches changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from agentopd.base.types import Lesson
from agentopd.signal.tokens import Tokens

Normalise = Literal["token_mean", "turn_mean", "blend", "sequence_mean", "sequence_sum", "fixed"]

IN_WORDS: dict[Normalise, str] = {
    "token_mean": "the mean over tokens",
    "turn_mean": "the mean over turns of the mean over a turn's tokens",
    "blend": "the mean over tokens, turning into that over turns as schedule.blend says",
    "sequence_mean": "the mean over episodes of the mean over an episode's tokens",
    "sequence_sum": "the mean over episodes of the sum over an episode's tokens",
    "fixed": "the sum over tokens, over a fixed budget",
}


@dataclass(frozen=True)
class Aggregator:
    """Turns values of tokens into one number: a sum in which token `t` counts with a factor.

    token_mean: 1 / tokens. turn_mean: the mean over turns of the mean over a turn's tokens. blend:
    the sum of both, the latter with its `share`, the former with the rest (TurnOPD 2607.05804).
    sequence_mean: the mean over episodes of the mean over an episode's tokens. sequence_sum: the
    mean over episodes of the sum over an episode's tokens, in which long episodes count more.
    fixed: 1 / budget, whatever the step holds.
    """

    normalise: Normalise
    tokens: int
    turns: int
    sequences: int
    budget: float = 1.0
    share: float = 1.0

    @classmethod
    def of(
        cls, lessons: Sequence[Lesson], normalise: Normalise, budget: float, share: float = 1.0
    ) -> Aggregator:
        """The counts of all lessons that take part."""
        trajectories = [
            lesson.trajectory for lesson in lessons if lesson.trajectory.trainable.any()
        ]
        return cls(
            normalise=normalise,
            tokens=sum(int(t.trainable.sum()) for t in trajectories),
            turns=sum(len(np.unique(t.turn[t.trainable])) for t in trajectories),
            sequences=len(trajectories),
            budget=budget,
            share=share,
        )

    def factor(self, tokens: Tokens) -> torch.Tensor:
        """(N,) how much each token of a micro-batch counts."""
        if self.normalise == "blend":
            by_token = replace(self, normalise="token_mean").factor(tokens)
            by_turn = replace(self, normalise="turn_mean").factor(tokens)
            return (1 - self.share) * by_token + self.share * by_turn
        one_N = torch.ones(len(tokens), device=tokens.ids_N.device)
        if self.normalise == "token_mean":
            return one_N / self.tokens
        if self.normalise == "fixed":
            return one_N / self.budget
        if self.normalise == "sequence_sum":
            return one_N / self.sequences
        group_N = tokens.lesson_N
        if self.normalise == "turn_mean":
            group_N = tokens.lesson_N * (int(tokens.turn_N.max()) + 1) + tokens.turn_N
        share_N = one_N / torch.bincount(group_N)[group_N]
        return share_N / (self.turns if self.normalise == "turn_mean" else self.sequences)


def check_blend(normalise: Normalise, scheduled: bool) -> None:
    """Whether tokens give way to turns, and a schedule says how.

    Raises:
        ValueError: one of the two is not there.
    """
    if (normalise == "blend") != scheduled:
        raise ValueError(
            "unit.normalise: blend averages over tokens and over turns, the latter with the share "
            "that schedule.blend says, and one of the two is not there: set both, as in "
            "schedule.blend={kind: linear, start: 0, stop: 1, steps: 8}, or neither"
        )


def check_shares(least: float, most: float) -> None:
    """Whether what `schedule.blend` comes to are shares.

    Raises:
        ValueError: they are not.
    """
    if least < 0 or most > 1:
        raise ValueError(
            f"schedule.blend goes from {least:g} to {most:g}, and it is a share: let it stay "
            "from 0, the mean over tokens, to 1, that over turns"
        )
