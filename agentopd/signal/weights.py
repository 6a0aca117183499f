"""Weights of tokens: detached, and by default of mean 1 over each episode, to keep the scale."""

from __future__ import annotations

from abc import abstractmethod

import torch

from agentopd.parts import Part
from agentopd.signal.divergences import entropy
from agentopd.signal.tokens import Tokens, mean_by

# N tokens, V vocabulary


class Weight(Part, family="weight"):
    """How much each token's value counts.

    Args:
        renormalise: rescale to a mean of 1 over each episode.
    """

    renormalise: bool = True

    @abstractmethod
    def raw(
        self, student_NV: torch.Tensor, teacher_NV: torch.Tensor, tokens: Tokens
    ) -> torch.Tensor:
        """(N,) non-negative weights of log-probabilities (N, V)."""

    @torch.no_grad()
    def of(
        self, student_NV: torch.Tensor, teacher_NV: torch.Tensor, tokens: Tokens
    ) -> torch.Tensor:
        """The weights as they are used."""
        raw_N = self.raw(student_NV, teacher_NV, tokens)
        if not self.renormalise:
            return raw_N
        mean_N = mean_by(raw_N, tokens.lesson_N, tokens.lessons)[tokens.lesson_N]
        return torch.where(mean_N > 1e-12, raw_N / mean_N.clamp(min=1e-12), torch.ones_like(raw_N))


class GapGate(Weight, kind="gap_gate"):
    """sigmoid(beta (log q(y) - log p(y))): what the teacher likes better (SDAR 2605.15155)."""

    beta: float = 5.0

    def raw(
        self, student_NV: torch.Tensor, teacher_NV: torch.Tensor, tokens: Tokens
    ) -> torch.Tensor:
        """See `Weight.raw`."""
        at_N1 = tokens.ids_N[:, None]
        return torch.sigmoid(
            self.beta * (teacher_NV.gather(1, at_N1) - student_NV.gather(1, at_N1))
        ).squeeze(1)


class EntropyWeight(Weight, kind="entropy"):
    """The student's entropy: tokens at which it was undecided."""

    def raw(
        self, student_NV: torch.Tensor, teacher_NV: torch.Tensor, tokens: Tokens
    ) -> torch.Tensor:
        """See `Weight.raw`."""
        return entropy(student_NV)
