"""Collections of levels: read once a process, chosen among by split, size and difficulty.

What a board shows decides first: it costs nothing. How hard a level is only a search can tell, so
a search is made of those alone that are about to be played, and remembered.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from agentopd.envs.puzzle import check_number
from agentopd.envs.sokoban.generate import split_of_key
from agentopd.envs.sokoban.levels import Level, board_key, level_files, parse_level, read_boards
from agentopd.envs.sokoban.search import Plan, Solver

SEARCHED_WHOLE = 200
"""Levels of a collection that is searched whole for those of a difficulty band."""
_TRIES = 5_000
"""Levels of a larger one that are searched for one of a band, until it is given up."""
_REMEMBERED = 100_000
"""Plans that are kept in a process."""

_BAND = ("min_pushes", "max_pushes", "min_moves", "max_moves")
_SHAPE = ("height", "width", "boxes", "inner_walls")


@dataclass(frozen=True)
class Wanted:
    """What a level must be to be played: the fields of `LevelSpec`, None where nothing is asked.

    `inner_walls` counts the walls that are not on the edge. Pushes and moves are the best plan's.

    Raises:
        ValueError: one is below 0, or a least number above its greatest.
    """

    height: int | None = None
    width: int | None = None
    boxes: int | None = None
    inner_walls: int | None = None
    min_pushes: int | None = None
    max_pushes: int | None = None
    min_moves: int | None = None
    max_moves: int | None = None

    def __post_init__(self) -> None:
        for name, value in self.given.items():
            check_number(name, value, 0)
        for what in ("pushes", "moves"):
            least, most = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            if None not in (least, most) and least > most:
                raise ValueError(f"no plan lies between min_{what}={least} and max_{what}={most}")

    @cached_property
    def given(self) -> Mapping[str, int]:
        """What is asked."""
        named = {name: getattr(self, name) for name in (*_SHAPE, *_BAND)}
        return {name: value for name, value in named.items() if value is not None}

    @property
    def banded(self) -> bool:
        """Whether the plan has a say."""
        return any(name in self.given for name in _BAND)

    @property
    def most_pushes(self) -> int | None:
        """More pushes than this no plan has that is wanted: every push is a move."""
        limits = (self.max_pushes, self.max_moves)
        return min((limit for limit in limits if limit is not None), default=None)

    def shows(self, board: str) -> bool:
        """Whether what can be seen of a board is as wanted."""
        width = board.index("\n") if "\n" in board else len(board)
        rows = board.split("\n")
        shape = (
            len(rows),
            width,
            board.count("$") + board.count("*"),
            sum(row[1:-1].count("#") for row in rows[1:-1]),
        )
        return all(
            self.given.get(name, value) == value for name, value in zip(_SHAPE, shape, strict=True)
        )

    def admits(self, plan: Plan) -> bool:
        """Whether a plan is known and inside the band."""
        moves, pushes, given = len(plan.moves), plan.pushes, self.given
        return (
            plan.solvable
            and given.get("min_moves", moves) <= moves <= given.get("max_moves", moves)
            and given.get("min_pushes", pushes) <= pushes <= given.get("max_pushes", pushes)
        )

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.given.items())


@dataclass(frozen=True)
class Collection:
    """The levels of a file or folder that are wanted, as boards: parsed when they are played."""

    path: str
    boards: tuple[str, ...]
    wanted: Wanted
    search_limit: int

    def __len__(self) -> int:
        """Levels that may be played; how hard they are has no say yet."""
        return len(self.boards)

    def draw(self, number: int) -> tuple[int, Level, Plan | None]:
        """The level of seed `number`: its place among the boards, itself, its plan if it is known.

        Without a band, and in small collections, the levels are played in order, over and over;
        of large ones with a band the first of a random order of the seed's own.

        Raises:
            ValueError: none of those tried lies in the band.
        """
        if not self.wanted.banded:
            place = number % len(self)
            return place, parse_level(self.boards[place]), None
        if len(self) <= SEARCHED_WHOLE:
            tried = range(len(self))
            found = [place for place in tried if self._plan(place) is not None]
            place = found[number % len(found)] if found else None
        else:
            rng = random.Random(f"sokoban/collection/{number}")
            tried = rng.sample(range(len(self)), min(_TRIES, len(self)))
            place = next((n for n in tried if self._plan(n) is not None), None)
        if place is None:
            raise ValueError(
                f"none of {len(tried)} levels of {self.path} has a plan with {self.wanted}: widen "
                "the band, or raise search_limit where plans are long"
            )
        return place, parse_level(self.boards[place]), self._plan(place)

    def _plan(self, place: int) -> Plan | None:
        """The best plan of a level, if it lies in the band."""
        plan = _best(self.boards[place], self.search_limit, self.wanted.most_pushes)
        return plan if self.wanted.admits(plan) else None


def open_collection(path: str, split: str | None, wanted: Wanted, search_limit: int) -> Collection:
    """The levels of `path` that are wanted, of `split` if one is named.

    Raises:
        ValueError: there are no levels, or none that is wanted; or a band is asked for and nothing
            is to be searched.
    """
    if wanted.banded and not search_limit:
        raise ValueError(
            f"{wanted} asks for a level's plan, and search_limit=0 looks for none: raise it"
        )
    shape = Wanted(**{name: n for name, n in wanted.given.items() if name in _SHAPE})
    boards = _chosen(path, _version(path), split, shape)
    return Collection(path, boards, wanted, search_limit)


def _version(path: str) -> tuple[tuple[str, int, int], ...]:
    """What changes when the files do: their names, sizes and times."""
    files = [file for file in level_files(Path(path)) if file.is_file()]
    stats = [(str(file), file.stat()) for file in files]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


@lru_cache(maxsize=2)
def _read(path: str, version: tuple[tuple[str, int, int], ...]) -> tuple[str, ...]:
    """All boards: every episode has an environment of its own, and reading costs seconds."""
    del version
    return tuple(read_boards(path))


@lru_cache(maxsize=8)
def _chosen(
    path: str, version: tuple[tuple[str, int, int], ...], split: str | None, shape: Wanted
) -> tuple[str, ...]:
    boards = _read(path, version)
    seen = tuple(board for board in boards if shape.shows(board)) if shape.given else boards
    if not seen:
        raise ValueError(f"none of the {len(boards)} levels of {path} has {shape}")
    if split is None:
        return seen
    chosen = tuple(board for board in seen if split_of_key(board_key(board)) == split)
    if not chosen:
        raise ValueError(
            f"none of the {len(seen)} levels of {path}{f' with {shape}' if shape.given else ''} "
            f"falls into the split {split!r}: bring more levels, or name no split to play them all"
        )
    return chosen


@lru_cache(maxsize=_REMEMBERED)
def _best(board: str, limit: int, most_pushes: int | None) -> Plan:
    """The best plan of a board; none where it takes more than `most_pushes`."""
    level = parse_level(board)
    return Solver(level, limit).search(level.start, most_pushes)
