"""What the walls and goals of a board decide alone, wherever the player and the boxes stand.

A set of cells is an integer whose bit `c` stands for cell `c`: a whole region grows by one step in
a few machine words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentopd.envs.sokoban.table import Table

_OPPOSITE = (1, 0, 3, 2)

Push = tuple[int, int, int, int]
"""A direction, the cell the player stands on, the cell the box is pushed to, and the set of these
two, which must be clear of boxes.
"""


class Geometry:
    """The cells that are not walls, how the player spreads over them and where boxes can go.

    Cells are numbered row by row; directions are up, down, left, right.
    """

    def __init__(
        self, height: int, width: int, walls: frozenset[int], goals: frozenset[int]
    ) -> None:
        self.floor = frozenset(range(height * width)) - walls
        self.goals = goals
        self.cells = bits(self.floor)
        self.height, self.width = height, width
        self.table: Table | None = None
        """The states that are near to solved, where somebody has made it."""
        # The first cell of every row: ones that stand `width` bits apart.
        first = ((1 << height * width) - 1) // ((1 << width) - 1)
        self._not_first = self.cells & ~first
        self._not_last = self.cells & ~(first << width - 1)

    def reach(self, start: int, boxes: int) -> int:
        """The cells that can be walked to without pushing from `start`, a set of cells."""
        free, width = self.cells & ~boxes, self.width
        not_last, not_first = self._not_last, self._not_first
        region, grown = 0, start
        while grown != region:
            region = grown
            side = (region & not_last) << 1 | (region & not_first) >> 1
            grown = (region | side | region << width | region >> width) & free
        return region

    def distances(self, player: int, boxes: int, wanted: int) -> dict[int, int]:
        """The length of a shortest walk to each of the `wanted` cells that can be reached."""
        free, width = self.cells & ~boxes, self.width
        not_last, not_first = self._not_last, self._not_first
        found: dict[int, int] = {}
        # Searches spend most of their time here.
        length, region, grown = 0, 0, 1 << player
        while grown != region:
            if hit := grown & wanted:
                wanted ^= hit
                while hit:
                    low = hit & -hit
                    found[low.bit_length() - 1] = length
                    hit ^= low
                if not wanted:
                    break
            region = grown
            side = (region & not_last) << 1 | (region & not_first) >> 1
            grown = (region | side | region << width | region >> width) & free
            length += 1
        return found

    def walk(self, player: int, boxes: int, target: int) -> list[int]:
        """The directions of a shortest walk to `target`, which can be reached.

        Of several the one that goes up at the first fork, else down, else left.
        """
        free, width = self.cells & ~boxes, self.width
        not_last, not_first = self._not_last, self._not_first
        waves: list[int] = []
        grown, here = 1 << target, 1 << player
        while not grown & here:
            waves.append(grown)
            side = (grown & not_last) << 1 | (grown & not_first) >> 1
            grown = (grown | side | grown << width | grown >> width) & free
        way = []
        for nearer in reversed(waves):
            for direction, cell in enumerate(self.neighbours[player]):
                if cell >= 0 and nearer >> cell & 1:
                    way.append(direction)
                    player = cell
                    break
        return way

    @cached_property
    def neighbours(self) -> list[tuple[int, int, int, int]]:
        """For each cell the cell in each direction; -1 for a wall or the edge."""
        floor, width = self.floor, self.width
        table = [(-1, -1, -1, -1)] * (self.height * width)
        for cell in floor:
            column = cell % width
            table[cell] = (
                cell - width if cell - width in floor else -1,
                cell + width if cell + width in floor else -1,
                cell - 1 if column > 0 and cell - 1 in floor else -1,
                cell + 1 if column < width - 1 and cell + 1 in floor else -1,
            )
        return table

    @cached_property
    def away(self) -> list[int]:
        """For each cell the pushes a lone box needs to the nearest goal; -1 where none do."""
        neighbours = self.neighbours
        away = [-1] * len(neighbours)
        frontier = sorted(self.goals)
        for goal in frontier:
            away[goal] = 0
        while frontier:
            following = []
            for cell in frontier:
                for opposite in _OPPOSITE:
                    back = neighbours[cell][opposite]
                    if back >= 0 and away[back] < 0 and neighbours[back][opposite] >= 0:
                        away[back] = away[cell] + 1
                        following.append(back)
            frontier = following
        return away

    @cached_property
    def pushes(self) -> Mapping[int, list[Push]]:
        """Cell -> the pushes of a lone box there that leave it able to reach a goal."""
        return _Pushes(self)

    @cached_property
    def goal_cells(self) -> int:
        """The goals as a set of bits."""
        return bits(self.goals)

    @cached_property
    def around(self) -> list[int]:
        """For each cell those beside it."""
        return [bits(cell for cell in near if cell >= 0) for near in self.neighbours]

    @cached_property
    def loose(self) -> list[list[int]]:
        """For each cell the pairs of opposite neighbours along which a lone box could be pushed."""
        away = self.away

        def can_pass(first: int, second: int) -> bool:
            return min(first, second) >= 0 and max(away[first], away[second]) >= 0

        return [
            [1 << a | 1 << b for a, b in ((up, down), (left, right)) if can_pass(a, b)]
            for up, down, left, right in self.neighbours
        ]


class _Pushes(dict[int, list[Push]]):
    """Worked out cell by cell, since most searches come by few."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self._away, self._neighbours = geometry.away, geometry.neighbours

    def __missing__(self, box: int) -> list[Push]:
        ways = self[box] = []
        around = self._neighbours[box]
        for direction, opposite in enumerate(_OPPOSITE):
            target, stand = around[direction], around[opposite]
            if target >= 0 and stand >= 0 and self._away[target] >= 0:
                ways.append((direction, stand, target, 1 << stand | 1 << target))
        return ways


def bits(cells: Iterable[int]) -> int:
    """The set of `cells` as an integer."""
    mask = 0
    for cell in cells:
        mask |= 1 << cell
    return mask


def members(mask: int) -> Iterator[int]:
    """The cells in a set of bits, in ascending order."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
