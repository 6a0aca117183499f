"""Weights of tokens: detached, and by default of mean 1 over each episode, to keep the scale.

Of several weights the values are multiplied, and the product is rescaled once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import model_validator

from agentopd.parts import Part
from agentopd.signal.evidence import Evidence, Opinion
from agentopd.signal.tokens import Tokens, mean_by

# N tokens, G groups: the episodes, or the turns, of a micro-batch

Whose = Literal["student", "teacher"]
Per = Literal["turn", "episode"]

# A mean weight below this is a rounding of zero, and nothing to divide by.
_NOTHING = 1e-12


class Weight(Part, family="weight"):
    """How much each token's value counts.

    Args:
        renormalise: rescale to a mean of 1 over each episode. A mixer that multiplies advantages
            by the weights wants them as they are.
    """

    renormalise: bool = True

    mask: ClassVar[bool] = False
    """Whether a weight of zero says that a token must not teach. Then an episode of zeros stays
    one; elsewhere, where there is nothing to tell its tokens apart, all of them count alike."""

    by_place: ClassVar[bool] = False
    """Whether `raw` looks at no model. Then the weights are known before any is asked, and
    gradients take one pass over the vocabulary instead of two."""

    @property
    def needs_ranks(self) -> bool:
        """Whether `raw` reads `Opinion.rank_N`."""
        return False

    @abstractmethod
    def raw(self, evidence: Evidence) -> torch.Tensor:
        """(N,) non-negative weights."""

    @torch.no_grad()
    def of(self, evidence: Evidence) -> torch.Tensor:
        """The weights as they are used where there are no others."""
        return product([(self, self.raw(evidence))], evidence.tokens)


class SpanWeight(Weight):
    """A weight that all tokens of a turn, or of an episode, share.

    Args:
        per: what shares one weight.

    Raises:
        ValueError: one weight an episode, rescaled to a mean of 1 over each episode, is no weight.
    """

    per: Per = "turn"

    @model_validator(mode="after")
    def _says_something(self) -> SpanWeight:
        if self.per == "episode" and self.renormalise:
            raise ValueError(
                f"{self.kind} with per: episode gives all tokens of an episode one weight, and "
                "renormalise: true divides it by itself: every weight would be 1. Set renormalise: "
                "false, or per: turn"
            )
        return self

    def groups(self, tokens: Tokens) -> tuple[torch.Tensor, int]:
        """Which group each token belongs to, (N,), and how many groups there are."""
        return groups(self.per, tokens)


def groups(per: Per, tokens: Tokens) -> tuple[torch.Tensor, int]:
    """Which turn, or episode, each token belongs to, (N,), and how many there are."""
    if per == "turn":
        return tokens.turns.at_N, len(tokens.turns)
    return tokens.lesson_N, tokens.lessons


def opinion(evidence: Evidence, whose: Whose) -> Opinion:
    """What that model says of the tokens."""
    return evidence.student if whose == "student" else evidence.teacher


def product(factors: Sequence[tuple[Weight, torch.Tensor]], tokens: Tokens) -> torch.Tensor:
    """(N,) what several weights, each with its raw values (N,), make of each token together.

    Where the product has nothing to tell an episode's tokens apart, those that no mask removes
    count alike.
    """
    ones_N = torch.ones_like(tokens.behaviour_N)
    rescaled_N, kept_N, plain_N = ones_N, ones_N, ones_N
    for weight, raw_N in factors:
        if not weight.renormalise:
            plain_N = plain_N * raw_N
            continue
        rescaled_N = rescaled_N * raw_N
        kept_N = kept_N * raw_N if weight.mask else kept_N
    group_N, count = tokens.lesson_N, tokens.lessons
    empty_N = relative(kept_N, group_N, count, torch.zeros_like(kept_N))
    return relative(rescaled_N, group_N, count, empty_N) * plain_N


def relative(
    values_N: torch.Tensor, group_N: torch.Tensor, count: int, empty_N: torch.Tensor
) -> torch.Tensor:
    """`values_N` over the mean of their group; `empty_N` where that mean is zero."""
    mean_N = mean_by(values_N, group_N, count)[group_N]
    return torch.where(mean_N > _NOTHING, values_N / mean_N.clamp(min=_NOTHING), empty_N)
