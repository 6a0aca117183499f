"""Grouping sequences into padded batches of few shapes.

Similar lengths go together, up to a budget of padded tokens, and lengths are rounded up: a new
shape for every batch makes allocators and compilers hoard memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

_ROUND = 32


def by_length(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices in batches of at most `budget` padded tokens.

    A sequence longer than the budget is a batch of its own.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i), reverse=True):
        width = _rounded(lengths[batches[-1][0]]) if batches else 0
        if not batches or width * (len(batches[-1]) + 1) > budget:
            batches.append([])
        batches[-1].append(index)
    return batches


def padded(sequences: Sequence[npt.NDArray[np.int64]], device: torch.device) -> torch.Tensor:
    """Ids (B, T), padded on the right with zeros."""
    ids_BT = np.zeros((len(sequences), _rounded(max(map(len, sequences)))), dtype=np.int64)
    for row, sequence in enumerate(sequences):
        ids_BT[row, : len(sequence)] = sequence
    return torch.from_numpy(ids_BT).to(device)


def _rounded(length: int) -> int:
    return -(-length // _ROUND) * _ROUND
