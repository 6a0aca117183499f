"""An estimator that credits a token with what it leads to."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from agentopd.divergences.estimators import Estimator
from agentopd.signal.surrogate import policy_gradient
from agentopd.signal.tokens import Tokens

# N tokens of a micro-batch, or of a whole step

_FLAT = 1e-5
"""A deviation below this, in nats, is rounding: where models are equal, nothing is whitened."""


class RewardToGo(Estimator, kind="reward_to_go"):
    """k1 with what follows: A_t = sum over s >= t of discount^(s-t) (log q(y_s) - log p(y_s)), over
    the later tokens that the student produced in the same episode.

    With a discount of 1 this is the reverse KL of whole episodes, future states included; with 0 it
    is k1. The importance ratio is each token's own, so off-policy only the token is corrected for,
    not its history nor its future. A token whose weight is zero is no token's future: what a mask
    removes changes nothing before it.

    MiniLLM (2306.08543) takes the mean where this takes the sum, holds log-ratios within bounds,
    whitens, and clips the ratio as PPO does.

    Args:
        discount: of one token.
        per: `remaining_length`: A_t over the number of tokens from t on, so that tokens far from an
            episode's end count no more than the last ones.
        most: how far from 0 a token's log-ratio counts, in nats; without a bound if not given.
        whiten: less the mean of the step's tokens, and over their deviation. Tokens are then
            credited once, by what the student said before the step, also in later passes.
        clip: of the importance ratio, as PPO's (1707.06347); none if not given.
    """

    discount: float = Field(default=1.0, ge=0, le=1)
    per: Literal["remaining_length"] | None = None
    most: float | None = Field(default=None, gt=0)
    whiten: bool = False
    clip: float | None = Field(default=None, gt=0)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        discount = "" if self.discount == 1 else f"{self.discount:g}^(s - t) "
        gap = "(log q(y_s) - log p(y_s))"
        gap = gap if self.most is None else f"clip{gap[:-1]}, -{self.most:g}, {self.most:g})"
        said = f"sum over s >= t of {discount}{gap}"
        said = said if self.per is None else f"({said}) / (the number of tokens from t on)"
        return f"{said}, whitened over the step" if self.whiten else said

    @property
    def ratio_formula(self) -> str:
        """See `Estimator.ratio_formula`."""
        return "r" if self.clip is None else f"clip(r, {1 - self.clip:g}, {1 + self.clip:g})"

    @property
    def needs_step(self) -> bool:
        """See `Estimator.needs_step`."""
        return self.whiten

    @property
    def clipped_at(self) -> float | None:
        """See `Estimator.clipped_at`."""
        return self.clip

    def per_token(
        self, logprob_N: torch.Tensor, teacher_N: torch.Tensor, tokens: Tokens
    ) -> torch.Tensor:
        """See `Estimator.per_token`."""
        gap_N = (teacher_N - logprob_N).detach()
        return gap_N if self.most is None else gap_N.clamp(-self.most, self.most)

    def credited(self, value_N: torch.Tensor, kept_N: torch.Tensor, tokens: Tokens) -> torch.Tensor:
        """See `Estimator.credited`."""
        total_N = _ahead(value_N.masked_fill(~kept_N, 0.0), self.discount, tokens)
        if self.per is None:
            return total_N
        return total_N / _ahead(kept_N.to(value_N.dtype), 1.0, tokens).clamp(min=1)

    def settled(self, value_N: torch.Tensor, kept_N: torch.Tensor) -> torch.Tensor:
        """See `Estimator.settled`."""
        kept = value_N[kept_N]
        if not self.whiten or not len(kept):
            return value_N
        deviation = kept.std(correction=0)
        centred_N = value_N - kept.mean()
        return centred_N / deviation if deviation > _FLAT else torch.zeros_like(value_N)

    def surrogate(
        self, logprob_N: torch.Tensor, behaviour_N: torch.Tensor, advantage_N: torch.Tensor
    ) -> torch.Tensor:
        """See `Estimator.surrogate`."""
        return policy_gradient(logprob_N, behaviour_N, advantage_N, self.clip)


def _ahead(value_N: torch.Tensor, discount: float, tokens: Tokens) -> torch.Tensor:
    """(N,) each token's value and, discounted, those of the tokens behind it in its episode."""
    total_N, ahead = value_N, 1
    # Doubling: after each round a token holds the sum of twice as many.
    while ahead < len(tokens):
        same_N = tokens.lesson_N[ahead:] == tokens.lesson_N[:-ahead]
        further_N = total_N[ahead:].masked_fill(~same_N, 0.0)
        total_N = torch.cat([total_N[:-ahead] + discount**ahead * further_N, total_N[-ahead:]])
        ahead *= 2
    return total_N
