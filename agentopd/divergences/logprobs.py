"""Arithmetic on log-probabilities, exact where two distributions are equal or lack mass."""

from __future__ import annotations

import math

import torch

# N tokens, K categories (of a whole vocabulary, say); log-probabilities in nats, of p and q


def kl(p_NK: torch.Tensor, q_NK: torch.Tensor) -> torch.Tensor:
    """KL(p || q) of log-probabilities, (N,), differentiable in both.

    Where p has no mass, or none that its dtype can hold, there is no contribution, whatever q is.
    Where q has none and p has, the divergence is infinite.
    """
    return (p_NK.exp() * log_ratio(p_NK, q_NK)).sum(-1)


def entropy(p_NK: torch.Tensor) -> torch.Tensor:
    """Entropy in nats, (N,)."""
    return -(p_NK.exp() * p_NK.masked_fill(p_NK == -math.inf, 0.0)).sum(-1)


def log_ratio(p_NK: torch.Tensor, q_NK: torch.Tensor) -> torch.Tensor:
    """log p - log q, and 0 where p has no mass."""
    empty_NK = p_NK.exp() == 0
    return p_NK.masked_fill(empty_NK, 0.0) - q_NK.masked_fill(empty_NK, 0.0)


def weighted(p_NK: torch.Tensor, values_NK: torch.Tensor) -> torch.Tensor:
    """p times the values, and 0 where p has no mass, whatever the value is there.

    Not to be differentiated: what is infinite there would make the gradient NaN.
    """
    product_NK = p_NK.exp().mul_(values_NK)
    # Zero times an infinite value makes a NaN, which is rare and quickly seen in a sum.
    if product_NK.sum().isnan():
        product_NK.masked_fill_(p_NK.exp() == 0, 0.0)
    return product_NK


def mixture(p_NK: torch.Tensor, q_NK: torch.Tensor, share: float) -> torch.Tensor:
    """log((1 - share) p + share q), which is p to the last bit where p and q are equal.

    NaN where neither has any mass: there no divergence from the mixture looks.
    """
    gap_NK = q_NK - p_NK
    from_p_NK = p_NK + torch.log1p(share * torch.expm1(gap_NK.clamp(max=0.0)))
    from_q_NK = q_NK + torch.log1p((1 - share) * torch.expm1(-gap_NK.clamp(min=0.0)))
    return torch.where(gap_NK <= 0, from_p_NK, from_q_NK)
