"""What a position of a game for two is worth: to the end, or as far as a search looks.

Scores are whole numbers for who is to move: `WON` less the moves until a win, the same below zero
until a loss, 0 for a draw, and between -`HOPE` and `HOPE` where the search stops before the end.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache

WON = 1_000
HOPE = 100


class Position(ABC):
    """Where a game stands, as who is to move sees it; equal ones are the same, whoever moves."""

    depth: int | None = None
    """How many moves a search looks ahead; None to the end."""

    @abstractmethod
    def moves(self) -> tuple[str, ...]:
        """The legal moves, each as an action holds it; none where the game is over."""

    @abstractmethod
    def after(self, move: str) -> Position:
        """The position after one of them, as the other player sees it."""

    @abstractmethod
    def result(self) -> int | None:
        """Of who is to move: 1 has won, 0 a draw, -1 has lost; None where the game goes on."""

    def theory(self) -> int | None:
        """The score of a position that goes on, where it is known without search."""
        return None

    def promise(self) -> int:
        """What is hoped of a position that goes on, between -`HOPE` and `HOPE`."""
        return 0


def scores(position: Position, depth: int | None) -> dict[str, int]:
    """The score of each legal move.

    Args:
        depth: how many moves are looked ahead, that one included; None to the end.
    """
    if depth is None:
        return {move: _older(-_exact(position.after(move))) for move in position.moves()}
    return {
        move: _older(-_searched(position.after(move), depth - 1, -math.inf, math.inf))
        for move in position.moves()
    }


def best(position: Position, found: Mapping[str, int], exact: bool) -> list[str]:
    """The moves of the highest score; of these, those first that leave the other player more ways
    to go wrong.

    Args:
        found: the scores of all moves.
        exact: whether they are those of a search to the end: then the replies are looked at too.
    """
    most = max(found.values())
    equal = [move for move, score in found.items() if score == most]
    if len(equal) == 1 or not exact:
        return equal
    return sorted(equal, key=lambda move: -_pitfalls(position.after(move)))


def _pitfalls(position: Position) -> float:
    """The share of the replies that are worse than the best one."""
    found = scores(position, None)
    return sum(score < max(found.values()) for score in found.values()) / max(1, len(found))


def _older(score: float) -> int:
    """A score seen from one move earlier: an end is one move farther away."""
    whole = int(score)
    return whole - (whole > HOPE) + (whole < -HOPE)


@lru_cache(maxsize=2**17)
def _exact(position: Position) -> int:
    """The score with best play to the end."""
    over = position.result()
    if over is not None:
        return WON * over
    if (known := position.theory()) is not None:
        return known
    return max(_older(-_exact(position.after(move))) for move in position.moves())


def _searched(position: Position, depth: int, low: float, high: float) -> int:
    """The score as far as it lies between `low` and `high`, by alpha and beta."""
    over = position.result()
    if over is not None:
        return WON * over
    if depth == 0:
        return position.promise()
    most = -WON
    for move in position.moves():
        # A reply's score grows by a move on its way up: the window is as much wider.
        found = _older(-_searched(position.after(move), depth - 1, -high - 1, -low + 1))
        most = max(most, found)
        low = max(low, found)
        if low >= high:
            break
    return most
