"""Grouping sequences into batches in which hardly anything is padding.

Sequences of about one length go together, so attention stays plain causal attention, which is right
for every architecture and needs no mask, and padding is a few percent all the same. Lengths are
rounded up: a new shape for every batch makes allocators and compilers hoard memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

_ROUND = 16
_CALL = 64
"""A call of the model costs about as much as so many tokens more in another call: it reads all
weights, and backwards writes a gradient for each."""


def by_length(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices in batches, a call of the model each, of at most `budget` padded tokens.

    A sequence longer than the budget is a batch of its own. Of all ways to cut the sequences, in
    the order of their lengths, this is the cheapest: in padded tokens and `_CALL` more a batch.
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i), reverse=True)
    cheapest, begins = [0], [0]
    for stop in range(1, len(order) + 1):
        found = []
        for start in range(stop - 1, -1, -1):
            size = _rounded(lengths[order[start]]) * (stop - start)
            if size > budget and stop - start > 1:
                break
            found.append((cheapest[start] + size + _CALL, start))
        cost, start = min(found)
        cheapest.append(cost)
        begins.append(start)
    batches, stop = list[list[int]](), len(order)
    while stop:
        batches.append(order[begins[stop] : stop])
        stop = begins[stop]
    return batches[::-1]


def together(groups: Sequence[Sequence[int]], budget: int) -> list[list[int]]:
    """Indices of groups of sequences, by the sequences' lengths, in batches whose calls (see
    `by_length`) have at most `budget` padded tokens together.

    A group that is larger is a batch of its own.
    """
    order = sorted(range(len(groups)), key=lambda i: (max(groups[i]), i), reverse=True)
    batches: list[list[int]] = []
    held: list[int] = []
    for index in order:
        grown = [*held, *groups[index]]
        if not batches or padded_tokens(grown, budget) > budget:
            batches.append([])
            grown = [*groups[index]]
        batches[-1].append(index)
        held = grown
    return batches


def padded_tokens(lengths: Sequence[int], budget: int) -> int:
    """How many tokens the calls of `by_length` have together, padding included."""
    calls = by_length(lengths, budget)
    return sum(_rounded(max(lengths[i] for i in call)) * len(call) for call in calls)


def padded(sequences: Sequence[npt.NDArray[np.int64]], device: torch.device) -> torch.Tensor:
    """Ids (B, T), padded on the right with zeros."""
    ids_BT = np.zeros((len(sequences), _rounded(max(map(len, sequences)))), dtype=np.int64)
    for row, sequence in enumerate(sequences):
        ids_BT[row, : len(sequence)] = sequence
    return torch.from_numpy(ids_BT).to(device)


def _rounded(length: int) -> int:
    return -(-length // _ROUND) * _ROUND
