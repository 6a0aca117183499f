"""Arithmetic on log-probabilities, exact where two distributions are equal or lack mass."""

from __future__ import annotations

import math

import torch

_FAR = 20.0
"""Nats by which the other side is so much likelier that it is as good as the whole mixture."""

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


def above_mixture(p_NK: torch.Tensor, q_NK: torch.Tensor, share: float) -> torch.Tensor:
    """log p - log m of the mixture m = (1 - share) p + share q, differentiable in both.

    Made of the gap between p and q, not as a difference of two logarithms, so that it is precise
    where the share or the gap is small, and 0 to the last bit where p and q are equal. Where p has
    no mass it is minus infinity or, where q has none either, NaN: there no divergence looks.
    """
    gap_NK = q_NK - p_NK
    near_NK = -torch.log1p(share * torch.expm1(gap_NK.clamp(max=_FAR)))
    # Here q alone makes the mixture, or nearly.
    beyond_NK = gap_NK.clamp(min=_FAR)
    far_NK = -beyond_NK - torch.log1p((1 - share) * torch.expm1(-beyond_NK))
    return torch.where(gap_NK > _FAR, far_NK, near_NK)


def relative_difference(p_NK: torch.Tensor, q_NK: torch.Tensor, share: float) -> torch.Tensor:
    """(p - q) / m of the mixture m = (1 - share) p + share q, precise where p and q are close.

    NaN where neither has any mass.
    """
    gap_NK = q_NK - p_NK
    over_p_NK = torch.expm1(gap_NK.clamp(max=0.0))
    over_q_NK = torch.expm1(-gap_NK.clamp(min=0.0))
    more_NK = -over_p_NK / (1 + share * over_p_NK)
    less_NK = over_q_NK / (1 + (1 - share) * over_q_NK)
    return torch.where(gap_NK <= 0, more_NK, less_NK)


def bend(y_NK: torch.Tensor, log1p_NK: torch.Tensor) -> torch.Tensor:
    """log(1 + y) - y, precise where y is small; elsewhere as precise as the given logarithm."""
    # With s = y / (2 + y), log(1 + y) = 2 (s + s^3 / 3 + s^5 / 5 + ...), and 2 s - y = -y s.
    s_NK = y_NK.clamp(-0.5, 0.5) / (2 + y_NK.clamp(-0.5, 0.5))
    square_NK = s_NK.square()
    series_NK = torch.zeros_like(s_NK)
    for power in range(15, 1, -2):
        series_NK = 2 / power + square_NK * series_NK
    near_NK = s_NK * (square_NK * series_NK - y_NK)
    return torch.where(y_NK.abs() < 0.5, near_NK, log1p_NK - y_NK)
