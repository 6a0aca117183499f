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
from agentopd.signal.evidence import Evidence, Opinion
from agentopd.signal.tokens import Tokens, mean_by

# N tokens, G groups: the episodes, or the turns, of a micro-batch

Whose = Literal["student", "teacher"]
Per = Literal["turn", "episode"]
Renormalise = Literal["episode", "step", False]
"""What a weight's mean is brought to 1 over; `off`, which YAML reads as false, for nothing."""

# A mean weight below this is a rounding of zero, and nothing to divide by.
_NOTHING = 1e-12


class Weight(Part, family="weight"):
    """How much each token's value counts: `raw`, and the rest is optional.

    A weight of your own says a number of each token, of what is known of it; here 1 in the first
    turns, and less in the others:

        class FirstTurns(Weight, kind="first_turns"):
            turns: int = Field(default=2, ge=1)
            rest: float = Field(default=0.5, ge=0)

            def raw(self, evidence: Evidence) -> torch.Tensor:
                tokens = evidence.tokens
                early_N = tokens.turn_N < self.turns
                return torch.where(early_N, 1.0, self.rest).to(tokens.behaviour_N.dtype)

    One that looks at `evidence.tokens`, `evidence.lessons` and `evidence.step` alone, as this does,
    is made before any model is asked, which spares a pass over the vocabulary.

    Args:
        renormalise: rescale to a mean of 1 over the tokens of each `episode`, so that an episode's
            tokens are told apart and episodes are not; or over all taught tokens of the `step`; or
            not at all (`off`). A mixer that multiplies advantages by the weights wants them as they
            are.
    """

    reads_behaviour: ClassVar[bool] = False
    """Whether it looks at the probability with which somebody has drawn a token."""

    renormalise: Renormalise = "episode"

    @abstractmethod
    def raw(self, evidence: Evidence) -> torch.Tensor:
        """(N,) non-negative weights; nothing of them is differentiated."""

    @property
    def mask(self) -> bool:
        """Whether a weight of zero says that a token must not teach. Then an episode of zeros stays
        one; elsewhere, where there is nothing to tell its tokens apart, all of them count alike.
        """
        return False

    @torch.no_grad()
    def of(self, evidence: Evidence) -> torch.Tensor:
        """The weights as they are used where there are no others; with `needs_step`, the evidence
        must be of the whole step.
        """
        return product([(self, self.raw(evidence))], evidence.tokens)

    @property
    def needs_step(self) -> bool:
        """Whether an episode's weights depend on the step's others. Then `raw` is given all taught
        episodes at once, of which the models are asked before the step: another pass of each.
        """
        return self.renormalise == "step"

    @property
    def needs_ranks(self) -> bool:
        """Whether `raw` reads `Opinion.rank_N`, which is counted for those alone that ask."""
        return False

    @property
    def looks_further(self) -> bool:
        """Whether `raw` reads more of the teacher than its log-probability of the sampled token:
        its entropy, its likeliest token, ranks.
        """
        return self.needs_ranks


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
