"""Hidden states of many sequences at the places that are asked for, in bounded memory; and what a
model says of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.checkpoint import checkpoint

from agentopd.base.types import Trajectory
from agentopd.models.batching import by_length, padded, padded_tokens
from agentopd.models.model import LanguageModel
from agentopd.models.recompute import recomputed_layers

# B sequences of a call, T tokens, N places, R places of a tile, H hidden size, V vocabulary

_TILE = 2**24
"""Logits that are there at a time."""


@dataclass(frozen=True)
class Reading:
    """A sequence, and the places in it whose hidden states are wanted."""

    ids_T: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]


def hidden_at(
    model: LanguageModel, readings: Sequence[Reading], budget: int, recompute: bool = False
) -> list[torch.Tensor]:
    """Last hidden states (N, H) of each sequence at its places.

    Args:
        budget: padded tokens of a call. Of sequences that have more together, no activations are
            kept for the backward pass, which makes them again, one call at a time.
        recompute: keep the layers' inputs alone for the backward pass.
    """
    lengths = [len(reading.ids_T) for reading in readings]
    again = torch.is_grad_enabled() and padded_tokens(lengths, budget) > budget
    found: list[torch.Tensor | None] = [None] * len(readings)
    for call in by_length(lengths, budget):
        run = partial(_call, model, [readings[i] for i in call], recompute)
        several = again and len(call) < len(readings)
        hidden_NH = (
            checkpoint(run, use_reentrant=False, preserve_rng_state=False) if several else run()
        )
        assert isinstance(hidden_NH, torch.Tensor)
        parts = hidden_NH.split([len(readings[i].places) for i in call])
        for i, part in zip(call, parts, strict=True):
            found[i] = part
    return [part for part in found if part is not None]


def hidden_before(
    model: LanguageModel, trajectories: Sequence[Trajectory], budget: int, recompute: bool = False
) -> torch.Tensor:
    """Last hidden states (N, H) before each trainable token, in the student's context; for
    `budget` and `recompute` see `hidden_at`.
    """
    readings = [
        Reading(t.ids[start:stop], t.trainable[start:stop].nonzero()[0] - 1)
        for t in trajectories
        for start, stop in t.segments
        if t.trainable[start:stop].any()
    ]
    return torch.cat(hidden_at(model, readings, budget, recompute))


@torch.no_grad()
def logprobs_before(
    model: LanguageModel, trajectories: Sequence[Trajectory], budget: int, temperature: float
) -> list[npt.NDArray[np.float32]]:
    """(N,) of each trajectory, which has some: log-probabilities in nats of its trainable tokens,
    as the model says in the student's context; for `budget` see `hidden_at`.
    """
    hidden_NH = hidden_before(model, trajectories, budget)
    ids = [torch.from_numpy(t.ids[t.trainable]) for t in trajectories]
    ids_N = torch.cat(ids).to(hidden_NH.device)
    rows = max(_TILE // model.vocabulary, 1)
    make, found = model.head(hidden_NH).logits(min(rows, len(ids_N))), list[torch.Tensor]()
    for start in range(0, len(ids_N), rows):
        part = slice(start, min(start + rows, len(ids_N)))
        logits_RV = make(part).div_(temperature)
        own_R = logits_RV.gather(1, ids_N[part, None]).squeeze(1)
        found.append(own_R - logits_RV.logsumexp(-1))
    said = torch.cat(found).float().cpu().split([len(x) for x in ids])
    return [own_N.numpy() for own_N in said]


@torch.inference_mode()
def logprobs_of(model: LanguageModel, ids: Sequence[int]) -> torch.Tensor:
    """(T - 1,) float64, on the CPU: log-probabilities of one sequence's ids, from the second on, by
    a plain forward pass.
    """
    ids_1T = torch.tensor([list(ids)], device=model.device)
    logits_TV = model.logits(model.hidden(ids_1T)[0, :-1])
    logprob_TV = torch.log_softmax(logits_TV, -1)
    return logprob_TV.gather(1, ids_1T[0, 1:, None]).squeeze(1).double().cpu()


@torch.no_grad()
def trained_logprobs(model: LanguageModel, trajectory: Trajectory) -> torch.Tensor:
    """(N,) what a model gives the tokens of one episode that are learnt from, at temperature 1."""
    hidden_NH = hidden_before(model, [trajectory], budget=1)
    ids_N = torch.from_numpy(trajectory.ids[trajectory.trainable]).to(hidden_NH.device)
    logprob_NV = torch.log_softmax(model.logits(hidden_NH).float(), -1)
    return logprob_NV.gather(1, ids_N[:, None]).squeeze(1)


def _call(model: LanguageModel, readings: Sequence[Reading], recompute: bool) -> torch.Tensor:
    keeping = recompute and torch.is_grad_enabled()
    with recomputed_layers(model.body) if keeping else nullcontext():
        hidden_BTH = model.hidden(padded([r.ids_T for r in readings], model.device))
    row_N = np.repeat(np.arange(len(readings)), [len(r.places) for r in readings])
    place_N = np.concatenate([r.places for r in readings])
    rows_N, places_N = (torch.from_numpy(x).to(hidden_BTH.device) for x in (row_N, place_N))
    return hidden_BTH[rows_N, places_N]
