"""Tokens drawn from logits: tempered, truncated, and the same for the same random numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from agentopd.rollout.sampler import Request
from agentopd.signal.truncation import WHOLE, Truncation

# R rows (conversations), V vocabulary, K the likeliest tokens in order

_LIKELIEST = 256
"""Tokens that are put in order at first: nearly always they hold what is kept."""


def draw(
    logits_RV: torch.Tensor, uniform_R: Sequence[float], requests: Sequence[Request]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample by inverting the cumulative distribution at given uniform numbers.

    Returns:
        The ids (R,) and their log-probabilities (R,), as `Completion` has them.
    """
    return pick(distribution(logits_RV, requests), uniform_R, requests)


def distribution(logits_RV: torch.Tensor, requests: Sequence[Request]) -> torch.Tensor:
    """(R, V) log-probabilities of what may be drawn: tempered, truncated, renormalised; plain at
    temperature 0.
    """
    temperature_R = [request.temperature for request in requests]
    scale_R1 = logits_RV.new_tensor([[t or 1.0] for t in temperature_R])
    logprob_RV = torch.log_softmax(logits_RV / scale_R1, dim=-1)
    truncation_R = [r.truncation if r.temperature else WHOLE for r in requests]
    return _truncated(logprob_RV, truncation_R) if any(truncation_R) else logprob_RV


def pick(
    logprob_RV: torch.Tensor, uniform_R: Sequence[float], requests: Sequence[Request]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample from log-probabilities (R, V); see `draw`."""
    device = logprob_RV.device
    cumulative_RV = logprob_RV.double().exp_().cumsum_(-1)
    # Scaled by the last sum, which rounding keeps from being exactly 1, and kept below it, so that
    # what is found has a probability.
    total_R1 = cumulative_RV[:, -1:]
    below_R1 = torch.nextafter(total_R1, torch.zeros_like(total_R1))
    uniform_R1 = torch.tensor(uniform_R, dtype=torch.float64, device=device)[:, None]
    target_R1 = torch.minimum(uniform_R1 * total_R1, below_R1)
    ids_R1 = torch.searchsorted(cumulative_RV, target_R1, right=True)
    ids_R1.clamp_(max=logprob_RV.shape[1] - 1)  # where logits are no numbers, nothing is found
    if not all(request.temperature for request in requests):
        likeliest_R1 = logprob_RV.argmax(-1, keepdim=True)
        cold_R1 = torch.tensor([[not r.temperature] for r in requests], device=device)
        ids_R1 = torch.where(cold_R1, likeliest_R1, ids_R1)
    return ids_R1.squeeze(1), logprob_RV.gather(1, ids_R1).squeeze(1)


def _truncated(logprob_RV: torch.Tensor, truncation_R: Sequence[Truncation]) -> torch.Tensor:
    """Log-probabilities of what is kept, renormalised; -inf elsewhere."""
    least_R1 = _least_kept(logprob_RV, truncation_R)
    kept_RV = logprob_RV.masked_fill(logprob_RV < least_R1, -math.inf)
    cut_R1 = torch.tensor([[bool(t)] for t in truncation_R], device=logprob_RV.device)
    return torch.where(cut_R1, torch.log_softmax(kept_RV, dim=-1), logprob_RV)


def _least_kept(logprob_RV: torch.Tensor, truncation_R: Sequence[Truncation]) -> torch.Tensor:
    """(R, 1) the smallest log-probability that is kept: equal tokens stay or go together."""
    vocabulary, device = logprob_RV.shape[1], logprob_RV.device
    limits = [min(t.top_k, vocabulary) or vocabulary for t in truncation_R]
    limit_R1 = torch.tensor(limits, device=device)[:, None]
    share_R1 = torch.tensor([[t.top_p] for t in truncation_R], dtype=torch.float64, device=device)
    asked = max((t.top_k for t in truncation_R), default=0)
    width = min(vocabulary, max(_LIKELIEST, asked))
    while True:
        top_RK = logprob_RV.topk(width, dim=-1).values
        within_RK = torch.arange(width, device=device) < limit_R1
        mass_RK = top_RK.double().exp().where(within_RK, 0.0)
        limited_R1 = limit_R1 <= width
        whole_R1 = torch.where(limited_R1, mass_RK.sum(-1, keepdim=True), 1.0)
        sum_RK = mass_RK.cumsum(-1)
        if (limited_R1 | (share_R1 == 1) | (sum_RK[:, -1:] >= share_R1)).all():
            break
        width = min(vocabulary, 8 * width)
    kept_RK = within_RK & (sum_RK - mass_RK < share_R1 * whole_R1)
    last_R1 = kept_RK.sum(-1, keepdim=True).clamp(min=1) - 1
    open_R1 = ~limited_R1 & (share_R1 == 1)
    return top_RK.gather(1, last_R1).masked_fill(open_R1, -math.inf)
