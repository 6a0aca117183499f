"""Exact search on Sokoban states: is it solvable, what is the best plan from here, how far is it.

Plans minimise pushes first and moves second. The search is A* over pushes; between two pushes the
player walks a shortest path. On small boards it is exhaustive, so "cannot be solved" is a proof; on
large ones it gives up after `limit` states and says `UNKNOWN`, never a guess.
"""

from __future__ import annotations

import heapq
import math
from typing import Literal, NamedTuple

from agentopd.envs.sokoban.deadlock import deadlocked
from agentopd.envs.sokoban.geometry import bits
from agentopd.envs.sokoban.levels import DIRECTIONS, MOVES, Level, State

SEARCH_LIMIT = 20_000
"""States a search looks at before it gives up, unless told otherwise."""

_PUSH = 1 << 20
"""What a push costs beside its move: more than all moves of a plan, so that pushes count first."""

Packed = tuple[int, int]
"""A state as the player's cell and the set of the boxes' cells as bits."""


Verdict = Literal["solvable", "unsolvable", "unknown"]
"""What a search can say about a state."""


class Plan(NamedTuple):
    """The best plan from a state: the moves, and how many of them push."""

    verdict: Verdict
    moves: tuple[str, ...] = ()
    pushes: int = 0

    @property
    def cost(self) -> tuple[int, int]:
        """Pushes, then moves: the order in which plans are compared."""
        return self.pushes, len(self.moves)

    @property
    def solvable(self) -> bool:
        """Whether this is a plan."""
        return self.verdict == "solvable"

    def better_than(self, other: Plan) -> bool:
        """Whether both are plans, and this one costs less."""
        both = self.verdict == other.verdict == "solvable"
        return both and (self.pushes, len(self.moves)) < (other.pushes, len(other.moves))


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
        self._followed: State | None = None
        """From where a plan is known whose rest is not noted yet."""
        self._unsearched: tuple[frozenset[int] | None, Plan] = (None, _UNKNOWN)
        """What was said last without a search, which the boxes alone decide."""

    def plan(self, state: State) -> Plan:
        """The best plan from `state`."""
        if not self.limit:
            if self._unsearched[0] is not state[1]:
                self._unsearched = state[1], self.search(state)
            return self._unsearched[1]
        known = self._known.get(state)
        if self._followed is not None and (known is None or known.verdict == "unknown"):
            self._note_rest(self._followed)
            known = self._known.get(state)
        if known is None:
            known = self.search(state)
            self.remember(state, known)
        return known

    def remember(self, state: State, plan: Plan) -> None:
        """Note that `plan` is the best from `state`, and its rest the best from where it leads."""
        if self._followed is not None:
            self._note_rest(self._followed)
        self._known[state] = plan
        # An episode that ends before the first step never needs the rest.
        self._followed = state if plan.moves else None

    def _note_rest(self, state: State) -> None:
        plan = self._known[state]
        pushes, here, self._followed = plan.pushes, state, None
        for index, move in enumerate(plan.moves, 1):
            after = step(self.level, here, DIRECTIONS[move])
            pushes -= after[1] != here[1]
            here = after
            if self._known.get(here, _UNKNOWN).verdict == "unknown":
                self._known[here] = Plan(plan.verdict, plan.moves[index:], pushes)

    def cornered(self, boxes: frozenset[int]) -> bool:
        """Whether a box stands, off its goal, where no pushes could ever bring it to one."""
        away = self.level.geometry.away
        return any(away[box] < 0 for box in boxes)

    def search(self, state: State, most_pushes: int | None = None) -> Plan:
        """The best plan from `state`, neither looked up nor remembered.

        Args:
            most_pushes: give up where it needs more.
        """
        geometry = self.level.geometry
        away, goals = geometry.away, geometry.goal_cells
        bounds = [away[box] for box in state[1]]
        if min(bounds) < 0:
            return _UNSOLVABLE
        if not self.limit:
            return _UNKNOWN if any(bounds) else Plan("solvable")
        start: Packed = (state[0], bits(state[1]))
        table = geometry.table
        total = table.pushes(*start) if table else None
        if total is None and (
            (table and table.complete)
            or any(deadlocked(geometry, start[1], box) for box in state[1])
        ):
            return _UNSOLVABLE
        # A heap entry: the cost so far and the bound on the pushes to come, a counter that breaks
        # ties in a fixed order, the cost so far, the state. The bound never falls by more than the
        # push that lowers it, so the first solved state that leaves the heap is the best.
        heap = [(sum(bounds) * _PUSH, 0, 0, start)]
        parents: dict[Packed, tuple[Packed, int, int]] = {}
        best: dict[Packed, int] = {start: 0}
        counter = 0
        beyond = math.inf if most_pushes is None else (most_pushes + 1) * _PUSH
        while heap:
            estimate, _, cost, here = heapq.heappop(heap)
            if best[here] < cost:
                continue
            boxes = here[1]
            if not boxes & ~goals:
                return Plan("solvable", self._trace(parents, start, here), cost // _PUSH)
            if len(best) > self.limit or estimate >= beyond:
                return _UNKNOWN
            left = None if total is None else total - cost // _PUSH - 1
            for box, direction, stand, target, walked in self._moves_of_boxes(here, left):
                after = (box, boxes ^ (1 << box) | 1 << target)
                reached = cost + _PUSH + walked + 1
                if after in best and best[after] <= reached:
                    continue
                if left is None and deadlocked(geometry, after[1], target):
                    continue
                best[after] = reached
                parents[after] = (here, stand, direction)
                counter += 1
                further = (away[target] - away[box]) * _PUSH
                entry = (estimate + reached - cost + further, counter, reached, after)
                heapq.heappush(heap, entry)
        return _UNSOLVABLE

    def _moves_of_boxes(
        self, state: Packed, left: int | None
    ) -> list[tuple[int, int, int, int, int]]:
        """The useful pushes from `state`: box, direction, stand, target, and the walk's length.

        Of a best plan so many pushes are `left` after this one. One that leads to where more are
        needed is left out, if that is known: it does not change which plan is found.
        """
        player, boxes = state
        geometry = self.level.geometry
        lone, table = geometry.pushes, geometry.table
        pushes = []
        wanted, rest = 0, boxes
        while rest:
            low = rest & -rest
            rest ^= low
            box = low.bit_length() - 1
            for push in lone[box]:
                if boxes & push[3]:
                    continue
                if left is not None and table:
                    needed = table.pushes(box, boxes ^ low | 1 << push[2])
                    if needed is None or needed > left:
                        continue
                pushes.append((box, push))
                wanted |= 1 << push[1]
        walked = geometry.distances(player, boxes, wanted)
        return [(b, d, s, t, walked[s]) for b, (d, s, t, _) in pushes if s in walked]

    def _trace(
        self, parents: dict[Packed, tuple[Packed, int, int]], start: Packed, end: Packed
    ) -> tuple[str, ...]:
        """The moves from `start` to `end`: for each push the walk to it, then the push."""
        legs: list[list[int]] = []
        while end != start:
            end, stand, direction = parents[end]
            legs.append([*self.level.geometry.walk(*end, stand), direction])
        return tuple(MOVES[direction] for leg in reversed(legs) for direction in leg)


_UNSOLVABLE = Plan("unsolvable")
_UNKNOWN = Plan("unknown")


def step(level: Level, state: State, direction: int) -> State:
    """The state after one move; the same state where the move is blocked."""
    player, boxes = state
    neighbours = level.geometry.neighbours
    target = neighbours[player][direction]
    if target < 0:
        return state
    if target not in boxes:
        return target, boxes
    beyond = neighbours[target][direction]
    if beyond < 0 or beyond in boxes:
        return state
    return target, boxes - {target} | {beyond}
