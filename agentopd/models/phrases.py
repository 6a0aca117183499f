"""Phrases: runs of tokens by which one text is found again in another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from agentopd.base.types import View

# T tokens

Phrase = tuple[int, ...]


def phrases(ids: Sequence[int], size: int) -> list[Phrase]:
    """All runs of `size` tokens, in order; none where there are fewer tokens."""
    return list(zip(*(ids[k:] for k in range(size)), strict=False))


def inserted_phrases(view: View, size: int) -> set[Phrase]:
    """All phrases of the text that was inserted into the teacher's context, none of which runs
    across its bounds.
    """
    inserted_T = np.ones(len(view.ids), dtype=np.bool_)
    inserted_T[view.position[view.position >= 0]] = False
    found: set[Phrase] = set()
    for start, stop in runs(inserted_T):
        found.update(phrases(view.ids[start:stop].tolist(), size))
    return found


def runs(chosen_T: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Where each run of chosen tokens starts and stops."""
    edges = np.flatnonzero(np.diff(chosen_T.astype(np.int8), prepend=0, append=0))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]
