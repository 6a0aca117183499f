"""Resets and steps a second of Sokoban, beside TextArena's and gym-sokoban's, in one run.

    pip install textarena==0.7.4 gym-sokoban==0.0.6 gym==0.26.2
    python tests/benchmarks/sokoban.py [SECONDS [SIDE]]

At each size the three take turns, many, so that a machine that grows slower slows all of them: for
SECONDS of resets in all and at least three. Twenty levels are played to their ends from copies,
five times and for a quarter of SECONDS in all, by random moves that are not blocked: two blocked
ones would end TextArena's episode. A step ends with the observation: text, which in TextArena's
default wrappers holds the whole history; for gym-sokoban, which has none, the image it makes by
default or its smallest. Ours is measured as it comes, where every step searches for the oracle and
for whether the level can still be solved, and with `search_limit=0`. All seconds are of the
processor. SIDE leaves out the boards of other sizes; the larger ones take the others minutes.

Equal sizes are not equal puzzles: ours are asked for at least as many pushes as theirs commonly
take, and the median number of pushes of the best plans stands beside the speed.
"""

from __future__ import annotations

import contextlib
import copy
import io
import random
import statistics
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from typing import Any, Protocol

import numpy as np

import agentopd
from agentopd.envs.sokoban.levels import MOVES, Level, parse_level
from agentopd.envs.sokoban.search import SEARCH_LIMIT, Solver, step

TURNS = 30
ROUNDS, LEAST = 20, 3
COPIES = 5
PLAYED = 20
SIZES = ((6, 1, 2, 2), (6, 3, 2, 4), (8, 4, 8, 9), (8, 5, 8, 8), (10, 4, 20, 11))
"""Side, boxes, and for ours the inner walls and the fewest pushes."""


class Contestant(Protocol):
    """Makes levels and plays them, in one or more forms."""

    name: str
    forms: tuple[str, ...]

    def reset(self, seed: int) -> None:
        """Make the level of a seed, with its first observation."""
        ...

    def level(self) -> Level:
        """The level just made."""
        ...

    def copy(self, form: str) -> Any:
        """The level just made, to be played in this form."""
        ...

    def step(self, env: Any, move: str) -> bool:
        """Play a move and get the observation; whether the episode is over."""
        ...


class Ours:
    name = "agentopd"
    forms: tuple[str, ...] = ("all of info", "search_limit=0")

    def __init__(self, side: int, boxes: int, walls: int, pushes: int) -> None:
        size = {"height": side, "width": side, "boxes": boxes, "inner_walls": walls}
        options = size | {"min_pushes": pushes, "max_moves": 1_000, "max_turns": TURNS}
        self.env: Any = agentopd.make("agentopd/Sokoban-v0", options)

    def reset(self, seed: int) -> None:
        self.env.reset(seed=seed)

    def level(self) -> Level:
        return self.env.unwrapped.level

    def copy(self, form: str) -> Any:
        env = copy.deepcopy(self.env)
        if form == "search_limit=0":
            env.unwrapped.solver = Solver(env.unwrapped.level, 0)
            env.unwrapped.restart()
        return env

    def step(self, env: Any, move: str) -> bool:
        _, _, terminated, truncated, _ = env.step(f"<action>{move}</action>")
        return terminated or truncated


class TextArena:
    name = "textarena"
    forms: tuple[str, ...] = ("default wrappers", "no wrappers")

    def __init__(self, side: int, boxes: int, walls: int, pushes: int) -> None:
        del walls, pushes
        self.options = {"dim_room": (side, side), "num_boxes": boxes, "max_turns": TURNS}
        self.build()

    def build(self) -> None:
        self.env: Any = import_module("textarena").make("Sokoban-v0", **self.options)
        self.core = self.env
        while hasattr(self.core, "env"):
            self.core = self.core.env

    def reset(self, seed: int) -> None:
        # A new one for every episode: its wrappers carry the history over.
        self.build()
        self.env.reset(num_players=1, seed=seed)
        self.env.get_observation()

    def level(self) -> Level:
        return read_level(self.core)

    def copy(self, form: str) -> Any:
        return copy.deepcopy(self.env if form == "default wrappers" else self.core)

    def step(self, env: Any, move: str) -> bool:
        over, _ = env.step(f"[{move}]")
        env.get_observation()
        return over


class GymSokoban:
    name = "gym-sokoban"
    forms: tuple[str, ...] = ("rgb_array", "tiny_rgb_array")

    def __init__(self, side: int, boxes: int, walls: int, pushes: int) -> None:
        del walls, pushes
        module: Any = import_module("gym_sokoban.envs.sokoban_env")
        options = {"max_steps": TURNS, "num_boxes": boxes, "reset": False}
        self.env = module.SokobanEnv((side, side), **options)

    def reset(self, seed: int) -> None:
        del seed  # it has none: its levels come from the global random state
        self.env.reset(render_mode="tiny_rgb_array")

    def level(self) -> Level:
        return read_level(self.env)

    def copy(self, form: str) -> Any:
        env = copy.deepcopy(self.env)
        return lambda move: env.step(1 + MOVES.index(move), form)[2]

    def step(self, env: Any, move: str) -> bool:
        return env(move)


def read_level(env: Any) -> Level:
    """The board of one of the others, which write it in the same numbers."""
    symbols = {0: "#", 1: "_", 2: ".", 3: "*", 4: "$", 5: "@"}
    rows = []
    for cells, below in zip(env.room_state, env.room_fixed, strict=True):
        pairs = zip(cells, below, strict=True)
        rows.append("".join("+" if (c, b) == (5, 2) else symbols[int(c)] for c, b in pairs))
    return parse_level("\n".join(rows))


class Clock:
    """Counts of things done and the processor's seconds they took."""

    def __init__(self) -> None:
        self.count, self.seconds, self.longest = 0, 0.0, 0.0

    @contextlib.contextmanager
    def counting(self, things: int = 1) -> Iterator[None]:
        """Count the time spent inside for so many things."""
        began = time.process_time()
        yield
        spent = time.process_time() - began
        self.count, self.seconds = self.count + things, self.seconds + spent
        self.longest = max(self.longest, spent)

    @property
    def rate(self) -> float:
        return self.count / self.seconds


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    side = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    warnings.simplefilter("ignore")
    random.seed(0)
    np.random.seed(0)
    heads = ("resets/s", "ours is", "longest", "steps/s", "ours is", "unsearched", "pushes")
    print(f"{'':34}" + "".join(f"{head:>11}" for head in heads))
    for size in (size for size in SIZES if side in (0, size[0])):
        # gym announces its end on one stream, gym-sokoban its retries on the other.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            everyone: list[Contestant] = [Ours(*size), TextArena(*size), GymSokoban(*size)]
            measured = measure(everyone, seconds)
        report(size, everyone, *measured)


def measure(
    everyone: list[Contestant], seconds: float
) -> tuple[dict[str, Clock], dict[str, Clock], dict[str, list[int]]]:
    """Clocks of the resets and of the steps, and the pushes of the levels."""
    resets: dict[str, Clock] = defaultdict(Clock)
    steps: dict[str, Clock] = defaultdict(Clock)
    pushes: dict[str, list[int]] = defaultdict(list)
    for part in range(1, ROUNDS + 1):
        for one in everyone:
            clock = resets[one.name]
            while clock.count < min(part, LEAST) or clock.seconds < seconds * part / ROUNDS:
                seed = clock.count
                with clock.counting():
                    one.reset(seed)
                if len(pushes[one.name]) < PLAYED * part / ROUNDS:
                    level = one.level()
                    plan = Solver(level, 10 * SEARCH_LIMIT).plan(level.start)
                    pushes[one.name].append(plan.pushes)
                    share = seconds / 4 * len(pushes[one.name]) / PLAYED
                    for form in one.forms:
                        play(one, form, seed, steps[f"{one.name}, {form}"], share)
    return resets, steps, pushes


def play(one: Contestant, form: str, seed: int, clock: Clock, seconds: float) -> None:
    """Play the level just made to its end some times, and until the clock has so many seconds."""
    rng = random.Random(seed)
    level = one.level()
    played = 0
    while played < COPIES or clock.seconds < seconds:
        played += 1
        moves = draw_moves(level, rng)
        env, over = one.copy(form), False
        with clock.counting(len(moves)):
            for move in moves:
                over = one.step(env, move)
        # TextArena counts one turn more.
        assert over or (len(moves) == TURNS and one.name == "textarena"), one.name


def draw_moves(level: Level, rng: random.Random) -> list[str]:
    """Random moves that are not blocked, until the level is solved or the turns are used up."""
    state, moves = level.start, []
    while len(moves) < TURNS and not state[1] <= level.goals:
        ways = [(move, step(level, state, way)) for way, move in enumerate(MOVES)]
        move, state = rng.choice([way for way in ways if way[1] != state])
        moves.append(move)
    return moves


def report(
    size: tuple[int, ...],
    everyone: list[Contestant],
    resets: dict[str, Clock],
    steps: dict[str, Clock],
    pushes: dict[str, list[int]],
) -> None:
    """Print a size: a line for every form, with how many times as fast ours is."""
    print(f"{size[0]}x{size[0]}, boxes: {size[1]}")
    full, bare = (steps[f"agentopd, {form}"].rate for form in Ours.forms)
    for one in everyone:
        clock = resets[one.name]
        for form in one.forms:
            name = f"{one.name}, {form}"
            rate = steps[name].rate
            print(
                f"  {name:32}{clock.rate:11.2f}{resets['agentopd'].rate / clock.rate:11.1f}"
                f"{clock.longest:11.3f}{rate:11.0f}{full / rate:11.1f}{bare / rate:11.1f}"
                f"{statistics.median(pushes[one.name]):11.1f}"
            )


if __name__ == "__main__":
    main()
