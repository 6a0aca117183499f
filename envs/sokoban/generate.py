"""Levels by search backwards: choose walls and goals, pull the boxes away layer by layer.

Every level is solvable because it was reached by pulls from a solved board, and its layer is its
exact number of pushes. A level depends on the specification and the seed alone, through a random
generator of its own, so it is the same in every process.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain

from agentopd.envs.sokoban.geometry import members
from agentopd.envs.sokoban.levels import Level
from agentopd.envs.sokoban.search import Plan, Solver
from agentopd.envs.sokoban.table import tabulate

SPLITS: tuple[str, ...] = ("train", "validation", "test")
_ATTEMPTS = 5_000


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

    @cached_property
    def name(self) -> str:
        """What tells it from every other."""
        return repr(self)

    def admits(self, plan: Plan) -> bool:
        """Whether the plan is known and inside the band."""
        return (
            plan.solvable
            and self.min_moves <= len(plan.moves) <= self.max_moves
            and self.min_pushes <= plan.pushes <= self.max_pushes
        )


def split_of(level: Level) -> str:
    """The split a board belongs to: 80 % train, 10 % validation, 10 % test, by `Level.key`."""
    return split_of_key(level.key)


def split_of_key(key: str) -> str:
    """The split of the board with this `Level.key`."""
    bucket = int(key[:8], 16) % 10
    return "train" if bucket < 8 else SPLITS[bucket - 7]


def generate(spec: LevelSpec, seed: int, split: str = "train") -> tuple[Level, Plan]:
    """The level of `seed` in `split`, with its best plan.

    Raises:
        ValueError: no level of that difficulty was found in a few thousand tries.
    """
    rng = random.Random(f"sokoban/{spec.name}/{split}/{seed}")
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
    inner, outer = _inside(height, width)
    walls = outer.union(rng.sample(inner, spec.inner_walls))
    cells = [c for c in inner if c not in walls]
    goals = frozenset(rng.sample(cells, spec.boxes))
    room = Level(height, width, walls, goals, goals, cells[0])
    if room.geometry.reach(1 << room.player, 0) != room.geometry.cells:
        return None
    solved = room.geometry.goal_cells
    table = room.geometry.table = tabulate(room.geometry, spec.min_pushes, spec.max_pushes)
    far = chain.from_iterable(table.layers[spec.min_pushes :])
    candidates = [state for state in far if not state[1] & solved]
    if not candidates:
        return None
    region, boxes = rng.choice(candidates)
    player = rng.choice(list(members(region)))
    return room.started_from(player, frozenset(members(boxes)))


@lru_cache(maxsize=8)
def _inside(height: int, width: int) -> tuple[list[int], frozenset[int]]:
    """The cells inside the outer wall, and those of it."""
    inner = [r * width + c for r in range(1, height - 1) for c in range(1, width - 1)]
    return inner, frozenset(range(height * width)).difference(inner)
