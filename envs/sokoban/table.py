"""How many pushes a state is from solved, for all states that are not far from it.

Boxes are pulled away from the goals, layer by layer, so a state's layer is its exact number of
pushes. Where the player can walk does not matter to it, only in which region the player is.
"""

from __future__ import annotations

from functools import lru_cache

from agentopd.envs.sokoban.geometry import Geometry

_AMPLE = 1_500
"""States after which no more layers are made, once there are states with enough pushes."""
_LIMIT = 20_000
"""States after which none are made at all."""

Room = tuple[int, int]
"""A state as the region the player can walk in and the boxes, both sets of bits."""


class Table:
    """The states of a board by their exact number of pushes from solved.

    Attributes:
        layers: whole layers, in a fixed order.
        regions: for each set of boxes where the player can be, with the number of pushes.
    """

    def __init__(self) -> None:
        self.layers: list[list[Room]] = []
        self.regions: dict[int, list[tuple[int, int]]] = {}

    @property
    def complete(self) -> bool:
        """Whether all states are in it that can be solved."""
        return not self.layers[-1]

    def pushes(self, player: int, boxes: int) -> int | None:
        """The fewest pushes that solve the state; None where it is not in the table, so that they
        are more than there are layers, or none do.
        """
        for region, pushes in self.regions.get(boxes, ()):
            if region >> player & 1:
                return pushes
        return None


def tabulate(room: Geometry, least: int, most: int) -> Table:
    """The states of `room` that `most` pushes solve; of fewer pushes where they are very many, and
    of no fewer than `least` where they are not more than that.
    """
    table = Table()
    layer = _solved(room, table)
    states = len(layer)
    while layer and len(table.layers) <= most:
        if states >= (_AMPLE if len(table.layers) > least else _LIMIT):
            break
        layer = _pulled(room, table)
        table.layers.append(layer)
        states += len(layer)
    return table


def _solved(room: Geometry, table: Table) -> list[Room]:
    """The first layer."""
    goals = room.goal_cells
    layer, rest = [], room.cells & ~goals
    regions = table.regions[goals] = []
    while rest:
        region = room.reach(rest & -rest, goals)
        regions.append((region, 0))
        layer.append((region, goals))
        rest &= ~region
    table.layers.append(layer)
    return layer


def _pulled(room: Geometry, table: Table) -> list[Room]:
    """The states that are a pull away from those of the last layer, and in none before."""
    regions, pulls, number = table.regions, _pulls(room.height, room.width), len(table.layers)
    layer: list[Room] = []
    for region, boxes in table.layers[-1]:
        free, rest = room.cells & ~boxes, boxes
        while rest:
            low = rest & -rest
            rest ^= low
            for stand, back, moved in pulls[low.bit_length() - 1]:
                if not (region & stand and free & back):
                    continue
                after = boxes ^ moved
                known = regions.setdefault(after, [])
                for other, _ in known:
                    if other & back:
                        break
                else:
                    found = room.reach(back, after)
                    known.append((found, number))
                    layer.append((found, after))
    return layer


@lru_cache(maxsize=8)
def _pulls(height: int, width: int) -> list[list[tuple[int, int, int]]]:
    """For each cell the pulls of a box there on a board without walls.

    Each is the cell the player stands on, the cell it ends on, and the boxes' cells that change,
    all three as bits.
    """
    around = Geometry(height, width, frozenset(), frozenset()).neighbours
    return [
        [
            (1 << stand, 1 << around[stand][direction], 1 << box | 1 << stand)
            for direction, stand in enumerate(around[box])
            if stand >= 0 and around[stand][direction] >= 0
        ]
        for box in range(height * width)
    ]
