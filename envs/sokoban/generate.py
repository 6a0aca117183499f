"""Levels by search backwards: choose walls and goals, pull the boxes away layer by layer.

Every level is solvable because it was reached by pulls from a solved board, and its layer is its
exact number of pushes. A level depends on the specification and the seed alone, through a random
generator of its own, so it is the same in every process.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

from agentopd.envs.sokoban.geometry import Geometry, bits, members
from agentopd.envs.sokoban.levels import Level
from agentopd.envs.sokoban.search import Plan, Solver

SPLITS: tuple[str, ...] = ("train", "validation", "test")
_ATTEMPTS = 5_000
_AMPLE = 1_500
"""States after which a search backwards ends, once it has states with enough pushes."""
_LIMIT = 20_000
"""States after which it ends without."""

_Room = tuple[int, int]
"""A state as the region the player can walk in and the boxes, both sets of bits."""


@dataclass(frozen=True)
class LevelSpec:
    """What a generated level must be: its size, its content and its difficulty band.

    `height` and `width` count the outer wall. Pushes and moves are those of the best plan.
    """

    height: int = 6
    width: int = 6
    boxes: int = 1
    inner_walls: int = 2
    min_pushes: int = 1
    max_pushes: int = 1_000
    min_moves: int = 3
    max_moves: int = 10

    def __post_init__(self) -> None:
        floor = (self.height - 2) * (self.width - 2) - self.inner_walls
        if min(self.height, self.width) < 4 or self.boxes < 1 or self.inner_walls < 0:
            raise ValueError(
                "a Sokoban board needs height and width of at least 4, at least one box and no "
                f"negative inner_walls; got {self.height}x{self.width}, {self.boxes} boxes, "
                f"{self.inner_walls} inner walls"
            )
        if floor < 2 * self.boxes + 1:
            raise ValueError(
                f"{self.boxes} boxes, their goals and the player do not fit on {floor} floor "
                "cells: enlarge the board or lower boxes or inner_walls"
            )
        if self.min_pushes > self.max_pushes or self.min_moves > self.max_moves:
            raise ValueError(
                "a difficulty band needs min_pushes <= max_pushes and min_moves <= max_moves; got "
                f"pushes {self.min_pushes}-{self.max_pushes}, "
                f"moves {self.min_moves}-{self.max_moves}"
            )

    def admits(self, plan: Plan) -> bool:
        """Whether the plan is known and inside the band."""
        return (
            plan.solvable
            and self.min_moves <= len(plan.moves) <= self.max_moves
            and self.min_pushes <= plan.pushes <= self.max_pushes
        )


def split_of(level: Level) -> str:
    """The split a board belongs to: 80 % train, 10 % validation, 10 % test, by `Level.key`."""
    bucket = int(level.key[:8], 16) % 10
    return "train" if bucket < 8 else SPLITS[bucket - 7]


def generate(spec: LevelSpec, seed: int, split: str = "train") -> tuple[Level, Plan]:
    """The level of `seed` in `split`, with its best plan.

    Raises:
        ValueError: no level of that difficulty was found in a few thousand tries.
    """
    rng = random.Random(f"sokoban/{spec}/{split}/{seed}")
    for _ in range(_ATTEMPTS):
        level = _propose(spec, rng)
        if level is None or split_of(level) != split:
            continue
        plan = Solver(level).search(level.start)
        if spec.admits(plan):
            return level, plan
    raise ValueError(
        f"no {spec.height}x{spec.width} level with {spec.boxes} boxes has a plan inside the band "
        f"{spec}: widen min/max pushes or moves"
    )


def _propose(spec: LevelSpec, rng: random.Random) -> Level | None:
    """A random level whose pushes lie in the band, or None if this room has no such state."""
    height, width = spec.height, spec.width
    inner = [r * width + c for r in range(1, height - 1) for c in range(1, width - 1)]
    walls = frozenset(range(height * width)).difference(inner)
    walls |= frozenset(rng.sample(inner, spec.inner_walls))
    cells = [c for c in inner if c not in walls]
    goals = frozenset(rng.sample(cells, spec.boxes))
    room = Level(height, width, walls, goals, goals, cells[0])
    if room.geometry.reach(1 << room.player, 0) != room.geometry.cells:
        return None
    solved = bits(goals)
    layers = _pull_layers(room.geometry, spec)
    far = chain.from_iterable(layers[spec.min_pushes :])
    candidates = [state for state in far if not state[1] & solved]
    if not candidates:
        return None
    region, boxes = rng.choice(candidates)
    player = rng.choice(list(members(region)))
    return room.started_from(player, frozenset(members(boxes)))


def _pull_layers(room: Geometry, spec: LevelSpec) -> list[list[_Room]]:
    """States by exact number of pushes from solved, in a fixed order.

    As many whole layers as make the most pushes; fewer where the states run out or are very many.
    """
    regions: dict[int, tuple[int, ...]] = {}
    pulls = _pulls(spec.height, spec.width)
    goals = bits(room.goals)
    layer: list[_Room] = []
    rest = room.cells & ~goals
    while rest:
        region = _region(room, regions, rest & -rest, goals)
        layer.append((region, goals))
        rest &= ~region
    layers = [layer]
    seen = set(layer)
    while layer and len(layers) <= spec.max_pushes:
        if len(seen) >= (_AMPLE if len(layers) > spec.min_pushes else _LIMIT):
            break
        layer = []
        for region, boxes in layers[-1]:
            free = room.cells & ~boxes
            for box in members(boxes):
                for stand, back, moved in pulls[box]:
                    if not (region & stand and free & back):
                        continue
                    after = boxes ^ moved
                    state = (_region(room, regions, back, after), after)
                    if state not in seen:
                        seen.add(state)
                        layer.append(state)
        layers.append(layer)
    return layers


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


def _region(room: Geometry, regions: dict[int, tuple[int, ...]], player: int, boxes: int) -> int:
    """The region of the player, a bit; `regions` remembers those of each set of boxes."""
    known = regions.get(boxes, ())
    for region in known:
        if region & player:
            return region
    region = room.reach(player, boxes)
    regions[boxes] = (*known, region)
    return region
