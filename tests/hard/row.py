"""A line of the table: what was tried how often, what came of it, and the bound it must keep."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One bar.

    Attributes:
        part: of the toolkit.
        tried: what was done, in words, with how many of it.
        found: the worst that came of it.
        bound: what it must stay below or be equal to, in words.
        held: whether it does.
    """

    part: str
    tried: str
    found: str
    bound: str
    held: bool
