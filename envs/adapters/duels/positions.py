"""Positions of small games for two: lines of three, piles, lines of four."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from math import prod
from operator import xor

from agentopd.envs.adapters.duels.search import HOPE, WON, Position

_SEARCHED = 2_000
"""Positions of piles that are looked at one by one."""

_LINES = (
    *((row, row + 1, row + 2) for row in (0, 3, 6)),
    *((column, column + 3, column + 6) for column in range(3)),
    (0, 4, 8),
    (2, 4, 6),
)


def _line(cells: str) -> bool:
    """Whether three equal marks stand in a line of nine cells."""
    return any(cells[a] != "." and cells[a] == cells[b] == cells[c] for a, b, c in _LINES)


@dataclass(frozen=True)
class Noughts(Position):
    """Tic-tac-toe: nine cells, `.` empty, and whose mark is set next."""

    cells: str
    mark: str

    def moves(self) -> tuple[str, ...]:
        """See `Position.moves`."""
        free = (str(cell) for cell, mark in enumerate(self.cells) if mark == ".")
        return () if _line(self.cells) else tuple(free)

    def after(self, move: str) -> Noughts:
        """See `Position.after`."""
        cell = int(move)
        cells = f"{self.cells[:cell]}{self.mark}{self.cells[cell + 1 :]}"
        return Noughts(cells, "O" if self.mark == "X" else "X")

    def result(self) -> int | None:
        """See `Position.result`: a line is of who moved last."""
        return -1 if _line(self.cells) else None if "." in self.cells else 0


@dataclass(frozen=True)
class WildNoughts(Position):
    """Tic-tac-toe in which either mark may be set; whoever ends a line wins."""

    cells: str

    def moves(self) -> tuple[str, ...]:
        """See `Position.moves`."""
        if _line(self.cells):
            return ()
        free = [cell for cell, mark in enumerate(self.cells) if mark == "."]
        return tuple(f"{mark} {cell}" for cell in free for mark in "XO")

    def after(self, move: str) -> WildNoughts:
        """See `Position.after`."""
        mark, cell = move[0], int(move[1:])
        return WildNoughts(f"{self.cells[:cell]}{mark}{self.cells[cell + 1 :]}")

    def result(self) -> int | None:
        """See `Position.result`."""
        return -1 if _line(self.cells) else None if "." in self.cells else 0


@dataclass(frozen=True)
class Piles(Position):
    """Nim: whoever takes the last object wins."""

    piles: tuple[int, ...]

    def moves(self) -> tuple[str, ...]:
        """See `Position.moves`."""
        taken = ((pile, n) for pile, size in enumerate(self.piles) for n in range(1, size + 1))
        return tuple(f"{pile} {count}" for pile, count in taken)

    def after(self, move: str) -> Piles:
        """See `Position.after`."""
        pile, count = map(int, move.split())
        return Piles(tuple(size - count * (n == pile) for n, size in enumerate(self.piles)))

    def result(self) -> int | None:
        """See `Position.result`."""
        return None if any(self.piles) else -1

    def theory(self) -> int | None:
        """See `Position.theory`: piles too large to be searched are lost where their sum without
        carry is 0 (Bouton, 1901), after as many moves as there are objects at most.
        """
        if prod(size + 1 for size in self.piles) <= _SEARCHED:
            return None
        won = reduce(xor, self.piles) != 0
        return (WON - min(sum(self.piles), WON - HOPE - 1)) * (1 if won else -1)


@dataclass(frozen=True)
class Discs(Position):
    """Connect four: whose move it is, and whose it is not, as sets of bits.

    A column has a bit more than rows, which stays empty: so lines do not run over edges.
    """

    own: int
    other: int
    rows: int
    columns: int

    @classmethod
    def of(cls, board: Sequence[Sequence[str]], own: str) -> Discs:
        """The position of a board whose first row is the highest, `.` empty."""
        rows, columns = len(board), len(board[0])
        sides = [0, 0]
        for row, line in enumerate(board):
            for column, disc in enumerate(line):
                if disc != ".":
                    sides[disc != own] |= 1 << (column * (rows + 1) + rows - 1 - row)
        return cls(sides[0], sides[1], rows, columns)

    def moves(self) -> tuple[str, ...]:
        """See `Position.moves`; those in the middle first, which are better as a rule."""
        if _four(self.other, self.rows + 1):
            return ()
        return tuple(str(c) for c in _from_middle(self.columns) if not self._taken & self._top(c))

    def after(self, move: str) -> Discs:
        """See `Position.after`."""
        column = int(move)
        bottom = 1 << (column * (self.rows + 1))
        free = (self._taken + bottom) & ~self._taken & (bottom * ((1 << self.rows) - 1))
        return Discs(self.other, self.own | free, self.rows, self.columns)

    def result(self) -> int | None:
        """See `Position.result`."""
        if _four(self.other, self.rows + 1):
            return -1
        full = all(self._taken & self._top(column) for column in range(self.columns))
        return 0 if full else None

    def promise(self) -> int:
        """See `Position.promise`: threes with room, pairs with room."""
        free = ~self._taken & _board(self.rows, self.columns)
        height = self.rows + 1
        return _open(self.own, free, height) - _open(self.other, free, height)

    @property
    def _taken(self) -> int:
        return self.own | self.other

    def _top(self, column: int) -> int:
        return 1 << (column * (self.rows + 1) + self.rows - 1)


def _four(discs: int, height: int) -> bool:
    """Whether four of the bits lie in a line."""
    for step in (1, height - 1, height, height + 1):
        pairs = discs & (discs >> step)
        if pairs & (pairs >> 2 * step):
            return True
    return False


def _open(discs: int, free: int, height: int) -> int:
    """What lines of `discs` with room in front promise; at most 90."""
    found = 0
    for step in (1, height - 1, height, height + 1):
        pairs = discs & (discs >> step)
        threes = pairs & (discs >> 2 * step)
        found += 6 * ((threes & (free >> 3 * step)).bit_count())
        found += 6 * ((threes & (free << step)).bit_count())
        found += (pairs & (free >> 2 * step)).bit_count()
    return min(found, 45)


@lru_cache(maxsize=8)
def _board(rows: int, columns: int) -> int:
    """All cells."""
    column = (1 << rows) - 1
    return sum(column << (number * (rows + 1)) for number in range(columns))


@lru_cache(maxsize=8)
def _from_middle(columns: int) -> tuple[int, ...]:
    """The columns, those in the middle first."""
    return tuple(sorted(range(columns), key=lambda column: abs(2 * column - columns + 1)))
