"""What an advantage is differentiated as."""

from __future__ import annotations

from typing import Literal

import torch

# N tokens


def policy_gradient(
    logprob_N: torch.Tensor,
    behaviour_N: torch.Tensor,
    advantage_N: torch.Tensor,
    clip: float | None,
    clip_high: float | None = None,
) -> torch.Tensor:
    """(N,) surrogate losses whose gradient is `-ratio * advantage * grad log p`.

    The advantage is a number: nothing is differentiated through it. With `clip`, PPO's pessimistic
    bound (1707.06347); `clip_high` sets the bound above 1 apart from the one below (DAPO
    2503.14476).
    """
    advantage_N = advantage_N.detach()
    ratio_N = (logprob_N - behaviour_N).exp()
    plain_N = ratio_N * advantage_N
    if clip is None:
        return -plain_N
    high = clip if clip_high is None else clip_high
    return -torch.minimum(plain_N, ratio_N.clamp(1 - clip, 1 + high) * advantage_N)


def windowed_gradient(
    logprob_N: torch.Tensor,
    behaviour_N: torch.Tensor,
    advantage_N: torch.Tensor,
    window: tuple[float, float],
) -> torch.Tensor:
    """(N,) the same, but that the ratio is a number, and 0 outside of the window, ends included
    (MOPD 2601.02780).
    """
    ratio_N = (logprob_N - behaviour_N).exp().detach()
    inside_N = (ratio_N >= window[0]) & (ratio_N <= window[1])
    return -torch.where(inside_N, ratio_N, 0.0) * advantage_N.detach() * logprob_N


def reference_kl(
    logprob_N: torch.Tensor,
    reference_N: torch.Tensor,
    behaviour_N: torch.Tensor,
    estimator: Literal["k3", "rho_k3"],
) -> torch.Tensor:
    """(N,) estimates, never negative, of the divergence of student and reference, to differentiate;
    see `Advantage.kl_estimator`.
    """
    k3_N = _k3(reference_N.detach() - logprob_N)
    return k3_N if estimator == "k3" else (logprob_N - behaviour_N).exp() * k3_N


def sampled_forward_kl(logprob_N: torch.Tensor, sampled_N: torch.Tensor) -> torch.Tensor:
    """(N,) estimates, never negative, of KL(q || p) at tokens that q has sampled, to differentiate.

    On average over q their gradient is that of -log p, with less variance: none where q is p.

    Args:
        sampled_N: log q, of which nothing is differentiated.
    """
    return _k3(logprob_N - sampled_N.detach())


def _k3(gap_N: torch.Tensor) -> torch.Tensor:
    """(N,) exp(x) - 1 - x."""
    return gap_N.expm1() - gap_N
