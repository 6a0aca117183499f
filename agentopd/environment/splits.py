"""Splits of tasks: a task's key decides, so that no two splits share a task."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

SHARES: Mapping[str, int] = {"train": 8, "validation": 1, "test": 1}
"""Split -> share, where nothing else is said."""


def split_of(name: str, key: str, shares: Mapping[str, int] = SHARES) -> str:
    """The split of a task, the same in every process.

    Args:
        name: of the environment, so that equal keys of two of them fall independently.
        key: what makes two tasks the same one: a board without its mirror images, for example.
        shares: split -> how many of the sum's parts it gets.

    Raises:
        ValueError: a share is below 1, or there is none.
    """
    if not shares or min(shares.values()) < 1:
        raise ValueError(f"every split needs a share of at least 1; got {dict(shares)}")
    digest = hashlib.sha256(f"{name}/{key}".encode()).hexdigest()
    place = int(digest[:8], 16) % sum(shares.values())
    for split, share in shares.items():
        if place < share:
            return split
        place -= share
    raise AssertionError("the shares add up to their sum")
