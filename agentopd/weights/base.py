"""Weights of tokens: detached, and by default of mean 1 over each episode, to keep the scale.

Of several weights the values are multiplied, and the product is rescaled once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import model_validator

from agentopd.base.parts import Part
from agentopd.signal.evidence import Evidence, Looked, Opinion
from agentopd.signal.tokens import Extent, Tokens, mean_by

# N tokens, G groups: the episodes, or the turns, of a micro-batch

Whose = Literal["student", "teacher"]
Per = Literal["turn", "episode"]
Renormalise = Literal["episode", "step", False]
"""What a weight's mean is brought to 1 over; `off`, which YAML reads as false, for nothing."""

# A mean weight below this is a rounding of zero, and nothing to divide by.
_NOTHING = 1e-12


class Weight(Part, family="weight"):
    """How much each token's value counts.

    Args:
        renormalise: rescale to a mean of 1 over the tokens of each `episode`, so that an episode's
            tokens are told apart and episodes are not; or over all taught tokens of the `step`; or
            not at all (`off`). A mixer that multiplies advantages by the weights wants them as they
            are.
    """

    renormalise: Renormalise = "episode"

    by_place: ClassVar[bool] = False
    """Whether `raw` looks at no model. Then the weights are known before any is asked, and
    gradients take one pass over the vocabulary instead of two."""

    @property
    def mask(self) -> bool:
        """Whether a weight of zero says that a token must not teach. Then an episode of zeros stays
        one; elsewhere, where there is nothing to tell its tokens apart, all of them count alike.
        """
        return False

    @property
    def needs_ranks(self) -> bool:
        """Whether `raw` reads `Opinion.rank_N`."""
        return False

    @property
    def looks_at(self) -> frozenset[Looked]:
        """What `raw` looks at. Where a weight that looks at advantages meets none, it must say the
        same whatever the teacher says.
        """
        return frozenset() if self.by_place else frozenset({"teacher"})

    @property
    def says_nothing(self) -> bool:
        """Whether every weight is 1, whatever is said of the tokens."""
        return False

    @property
    def shared_by(self) -> Extent:
        """The widest stretch all of whose tokens have one weight, whatever is said of them."""
        return "token"

    @property
    def balanced_over(self) -> Extent | None:
        """The narrowest stretch over which weights average to 1, whatever is said of the tokens."""
        return "episode" if self.renormalise == "episode" and not self.mask else None

    @property
    def needs_step(self) -> bool:
        """Whether an episode's weights depend on the step's others. Then `raw` is given all taught
        episodes at once, of which the models are asked before the step: another pass of each.
        """
        return self.renormalise == "step"

    @abstractmethod
    def raw(self, evidence: Evidence) -> torch.Tensor:
        """(N,) non-negative weights."""

    @torch.no_grad()
    def of(self, evidence: Evidence) -> torch.Tensor:
        """The weights as they are used where there are no others; with `needs_step`, the evidence
        must be of the whole step.
        """
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
        if self.per == "episode" and self.renormalise == "episode":
            raise ValueError(
                f"{self.kind} with per: episode gives all tokens of an episode one weight, and "
                "renormalise: episode divides it by itself: every weight would be 1. Set "
                "renormalise: off or step, or per: turn"
            )
        return self

    @property
    def shared_by(self) -> Extent:
        """See `Weight.shared_by`."""
        return self.per

    def groups(self, tokens: Tokens) -> tuple[torch.Tensor, int]:
        """Which group each token belongs to, (N,), and how many groups there are."""
        return groups(self.per, tokens)


class TurnWeight(Weight):
    """A weight that all tokens of a turn share."""

    @property
    def shared_by(self) -> Extent:
        """See `Weight.shared_by`."""
        return "turn"


def groups(per: Per, tokens: Tokens) -> tuple[torch.Tensor, int]:
    """Which turn, or episode, each token belongs to, (N,), and how many there are."""
    if per == "turn":
        return tokens.turns.at_N, len(tokens.turns)
    return tokens.lesson_N, tokens.lessons


def looking_at(whose: Whose) -> frozenset[Looked]:
    """What a weight looks at that asks that model alone; see `Weight.looks_at`."""
    return frozenset({"teacher"}) if whose == "teacher" else frozenset()


def opinion(evidence: Evidence, whose: Whose) -> Opinion:
    """What that model says of the tokens."""
    return evidence.student if whose == "student" else evidence.teacher


def product(factors: Sequence[tuple[Weight, torch.Tensor]], tokens: Tokens) -> torch.Tensor:
    """(N,) what several weights, each with its raw values (N,), make of each token together.

    The product of those that are rescaled over an episode is rescaled first; then that of all but
    those that are not rescaled, over the step, of which `tokens` must then be all. Where a product
    has nothing to tell tokens apart, those that no mask removes count alike.
    """
    weight_N = kept_N = torch.ones_like(tokens.behaviour_N)
    scopes: tuple[Renormalise, ...] = ("episode", "step", False)
    for scope in scopes:
        chosen = [(weight, raw_N) for weight, raw_N in factors if weight.renormalise == scope]
        for weight, raw_N in chosen:
            weight_N = weight_N * raw_N
            kept_N = kept_N * raw_N if weight.mask else kept_N
        if chosen and scope:
            whole = torch.zeros_like(tokens.lesson_N), 1
            group_N, count = (tokens.lesson_N, tokens.lessons) if scope == "episode" else whole
            empty_N = relative(kept_N, group_N, count, torch.zeros_like(kept_N))
            weight_N = relative(weight_N, group_N, count, empty_N)
    return weight_N


def relative(
    values_N: torch.Tensor, group_N: torch.Tensor, count: int, empty_N: torch.Tensor
) -> torch.Tensor:
    """`values_N` over the mean of their group; `empty_N` where that mean is zero."""
    mean_N = mean_by(values_N, group_N, count)[group_N]
    return torch.where(mean_N > _NOTHING, values_N / mean_N.clamp(min=_NOTHING), empty_N)
