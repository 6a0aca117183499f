"""Sampling cut off at the unlikely end, and what that does to importance ratios.

With p the student, S the tokens that are kept and Z = p(S), tokens come from mu = p / Z on S. So
p / mu is Z at every token that can be sampled: an importance ratio of at most 1, and of `top_p` at
least where no `top_k` is set. Weighted by it, an average over samples is the sum over S as the
student weighs it; what lies outside is never sampled, and no ratio brings it back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

# N tokens


@dataclass(frozen=True)
class Truncation:
    """Which tokens may be sampled: first the `top_k` likeliest, then of these, renormalised, the
    fewest that hold a share of `top_p`.

    Attributes:
        top_p: 1 keeps all.
        top_k: 0 keeps all.
    """

    top_p: float = 1.0
    top_k: int = 0

    def __bool__(self) -> bool:
        """Whether anything is cut off."""
        return self.top_p < 1 or self.top_k > 0

    @property
    def least(self) -> float:
        """The least share of the student's probability that is kept, whatever the student."""
        return 0.0 if self.top_k else self.top_p

    def unexplained(self, logprob_N: torch.Tensor, behaviour_N: torch.Tensor) -> torch.Tensor:
        """(N,) nats by which the student's log-probabilities and those that were sampled from
        differ, beyond what is due to truncation: that log p - log mu lies between log Z's bounds.
        """
        gap_N = logprob_N - behaviour_N
        if not self:
            return gap_N.abs()
        bound = math.log(self.least) if self.least else -math.inf
        return torch.maximum(gap_N, bound - gap_N).clamp(min=0.0)


WHOLE = Truncation()
"""Everything may be sampled."""
