"""Exact search on Sokoban states: is it solvable, what is the best plan from here, how far is it.

Plans minimise pushes first and moves second. The search is A* over pushes; between two pushes the
player walks a shortest path. On small boards it is exhaustive, so "cannot be solved" is a proof; on
large ones it gives up after `limit` states and says `UNKNOWN`, never a guess.

Inside, a set of cells is an integer whose bit `c` stands for cell `c`: a whole region grows by one
step in a few machine words.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from enum import Enum
from functools import cached_property
from typing import NamedTuple

from agentopd.envs.sokoban.levels import MOVES, Level, State

SEARCH_LIMIT = 20_000
"""States a search looks at before it gives up, unless told otherwise."""

_OPPOSITE = (1, 0, 3, 2)

Packed = tuple[int, int]
"""A state as the player's cell and the set of the boxes' cells as bits."""


class Verdict(Enum):
    """What a search can say about a state."""

    SOLVABLE = "solvable"
    UNSOLVABLE = "unsolvable"
    UNKNOWN = "unknown"


class Plan(NamedTuple):
    """The best plan from a state: the moves, and how many of them push."""

    verdict: Verdict
    moves: tuple[str, ...] = ()
    pushes: int = 0

    @property
    def cost(self) -> tuple[int, int]:
        """Pushes, then moves: the order in which plans are compared."""
        return self.pushes, len(self.moves)


class Floor:
    """The cells of a level that are not walls, and how the player spreads over them."""

    def __init__(self, level: Level) -> None:
        self.cells = bits(level.floor)
        self._width = width = level.width
        # The first cell of every row: ones that stand `width` bits apart.
        first = ((1 << level.height * width) - 1) // ((1 << width) - 1)
        self._not_first = self.cells & ~first
        self._not_last = self.cells & ~(first << width - 1)

    def grow(self, region: int) -> int:
        """`region`, which holds no wall, and the cells beside it; those may be walls."""
        side = (region & self._not_last) << 1 | (region & self._not_first) >> 1
        return region | side | region << self._width | region >> self._width

    def reach(self, player: int, boxes: int) -> int:
        """The cells the player can walk to without pushing."""
        free = self.cells & ~boxes
        region, grown = 0, 1 << player
        while grown != region:
            region = grown
            grown = self.grow(region) & free
        return region

    def distances(self, player: int, boxes: int, wanted: int) -> dict[int, int]:
        """The length of a shortest walk to each of the `wanted` cells that can be reached."""
        free = self.cells & ~boxes
        region, grown, length = 0, 1 << player, 0
        found: dict[int, int] = {}
        while grown != region and wanted:
            hit = grown & wanted
            if hit:
                wanted ^= hit
                for cell in members(hit):
                    found[cell] = length
            region = grown
            grown = self.grow(region) & free
            length += 1
        return found


class Solver:
    """Answers for one level, remembered: the rest of a plan is the plan of the state it leads to.

    Args:
        level: the level.
        limit: states a search looks at before it gives up.
    """

    def __init__(self, level: Level, limit: int = SEARCH_LIMIT) -> None:
        self.level = level
        self.limit = limit
        self._known: dict[State, Plan] = {}

    def plan(self, state: State) -> Plan:
        """The best plan from `state`."""
        if state not in self._known:
            self.remember(state, self.search(state))
        return self._known[state]

    def remember(self, state: State, plan: Plan) -> None:
        """Note that `plan` is the best from `state`, and its rest the best from where it leads."""
        pushes, here = plan.pushes, state
        self._known[state] = plan
        for index, move in enumerate(plan.moves):
            after = step(self.level, here, MOVES.index(move))
            pushes -= after[1] != here[1]
            here = after
            if self._known.get(here, _UNKNOWN).verdict is Verdict.UNKNOWN:
                self._known[here] = Plan(plan.verdict, plan.moves[index + 1 :], pushes)

    def cornered(self, boxes: frozenset[int]) -> bool:
        """Whether a box stands, off its goal, where no pushes could ever bring it to one."""
        return any(self._distance[box] < 0 for box in boxes)

    @cached_property
    def _floor(self) -> Floor:
        return Floor(self.level)

    @cached_property
    def _distance(self) -> list[int]:
        """For each cell the pushes a lone box needs to the nearest goal; -1 where none do."""
        neighbours = self.level.neighbours
        distance = [-1] * len(neighbours)
        frontier = sorted(self.level.goals)
        for goal in frontier:
            distance[goal] = 0
        while frontier:
            following = []
            for cell in frontier:
                for opposite in _OPPOSITE:
                    back = neighbours[cell][opposite]
                    if back >= 0 and distance[back] < 0 and neighbours[back][opposite] >= 0:
                        distance[back] = distance[cell] + 1
                        following.append(back)
            frontier = following
        return distance

    @cached_property
    def _pushes(self) -> dict[int, list[tuple[int, int, int]]]:
        """Cell -> the pushes of a lone box there that leave it able to reach a goal.

        Each is a direction, the cell the player stands on, and the cell the box is pushed to.
        """
        distance = self._distance
        pushes: dict[int, list[tuple[int, int, int]]] = {}
        for box in self.level.floor:
            up, down, left, right = self.level.neighbours[box]
            ways = ((0, down, up), (1, up, down)) if up >= 0 and down >= 0 else ()
            if left >= 0 and right >= 0:
                ways = (*ways, (2, right, left), (3, left, right))
            pushes[box] = [way for way in ways if distance[way[2]] >= 0]
        return pushes

    def search(self, state: State) -> Plan:
        """The best plan from `state`, neither looked up nor remembered."""
        if self.cornered(state[1]):
            return _UNSOLVABLE
        start: Packed = (state[0], bits(state[1]))
        goals = bits(self.level.goals)
        bound = sum(self._distance[box] for box in state[1])
        # A heap entry: pushes so far + bound, moves so far, a counter that breaks ties in a fixed
        # order, pushes so far, state. The bound never falls by more than the push that lowers it,
        # so the first solved state that leaves the heap is the best.
        heap = [(bound, 0, 0, 0, start)]
        parents: dict[Packed, tuple[Packed, int, int]] = {}
        best: dict[Packed, tuple[int, int]] = {start: (0, 0)}
        counter = 0
        while heap:
            estimate, moves, _, pushes, here = heapq.heappop(heap)
            if best[here] < (pushes, moves):
                continue
            boxes = here[1]
            if not boxes & ~goals:
                return Plan(Verdict.SOLVABLE, self._trace(parents, start, here), pushes)
            if len(best) > self.limit:
                return _UNKNOWN
            for box, direction, stand, target, walked in self._moves_of_boxes(here):
                after = (box, boxes ^ (1 << box) | 1 << target)
                cost = (pushes + 1, moves + walked + 1)
                if after in best and best[after] <= cost:
                    continue
                best[after] = cost
                parents[after] = (here, stand, direction)
                counter += 1
                closer = self._distance[box] - self._distance[target]
                heapq.heappush(heap, (estimate + 1 - closer, cost[1], counter, cost[0], after))
        return _UNSOLVABLE

    def _moves_of_boxes(self, state: Packed) -> list[tuple[int, int, int, int, int]]:
        """The useful pushes from `state`: box, direction, stand, target, and the walk's length."""
        player, boxes = state
        pushes = []
        wanted = 0
        for box in members(boxes):
            for direction, stand, target in self._pushes[box]:
                if not (boxes >> stand | boxes >> target) & 1:
                    pushes.append((box, direction, stand, target))
                    wanted |= 1 << stand
        walked = self._floor.distances(player, boxes, wanted)
        return [(*push, walked[push[2]]) for push in pushes if push[2] in walked]

    def _trace(
        self, parents: dict[Packed, tuple[Packed, int, int]], start: Packed, end: Packed
    ) -> tuple[str, ...]:
        """The moves from `start` to `end`: for each push the walk to it, then the push."""
        legs: list[list[int]] = []
        while end != start:
            end, stand, direction = parents[end]
            legs.append([*_walk(self.level, end, stand), direction])
        return tuple(MOVES[direction] for leg in reversed(legs) for direction in leg)


_UNSOLVABLE = Plan(Verdict.UNSOLVABLE)
_UNKNOWN = Plan(Verdict.UNKNOWN)


def step(level: Level, state: State, direction: int) -> State:
    """The state after one move; the same state where the move is blocked."""
    player, boxes = state
    target = level.neighbours[player][direction]
    if target < 0:
        return state
    if target not in boxes:
        return target, boxes
    beyond = level.neighbours[target][direction]
    if beyond < 0 or beyond in boxes:
        return state
    return target, boxes - {target} | {beyond}


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


def _walk(level: Level, state: Packed, goal: int) -> list[int]:
    """The directions of a shortest walk to the reachable cell `goal`.

    Of several the one a breadth-first search in the order up, down, left, right finds first.
    """
    player, boxes = state
    came: dict[int, tuple[int, int]] = {player: (player, -1)}
    queue = [player]
    for cell in queue:
        if cell == goal:
            break
        for direction, neighbour in enumerate(level.neighbours[cell]):
            if neighbour >= 0 and not boxes >> neighbour & 1 and neighbour not in came:
                came[neighbour] = (cell, direction)
                queue.append(neighbour)
    way: list[int] = []
    while goal != player:
        goal, direction = came[goal]
        way.append(direction)
    return way[::-1]
