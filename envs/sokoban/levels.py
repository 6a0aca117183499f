"""Sokoban levels in the standard text format, and the board geometry that never changes.

Symbols: `#` wall, `.` goal, `$` box, `*` box on goal, `@` player, `+` player on goal; floor is a
space, `-` or `_` when read and `_` when written, because a run of spaces is where tokenizers
disagree most. Run-length encoded rows are read too, `4#|#@$.#|4#`: a number repeats the symbol
behind it, `|` ends a row. Cells are numbered row by row, so a state is `(player, boxes)` with small
integers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from agentopd.envs.sokoban.geometry import Geometry

MOVES: tuple[str, ...] = ("up", "down", "left", "right")
DIRECTIONS = {move: direction for direction, move in enumerate(MOVES)}
"""Each move's number, by which cells list their neighbours."""
_SYMBOLS = frozenset("#.$*@+ -_")
_WALL, _GOAL, _BOX, _BOX_ON_GOAL, _PLAYER, _PLAYER_ON_GOAL = b"#.$*@+"
_ENCODED = re.compile(r"(?:(?:\d{1,3})?[#.$*@+ _-]|\|)+")
"""Rows in which a number says how often the next symbol stands there; `|` ends a row."""
_RUN = re.compile(r"(\d*)([^\d|])")
_AS_FLOOR = str.maketrans(" -", "__")
_WRITTEN = frozenset("#.$*@+_\n")
_SUFFIXES = (".txt", ".xsb", ".sok")

State = tuple[int, frozenset[int]]
"""The player's cell and the boxes' cells."""


class LevelError(ValueError):
    """A level's text cannot be played; the message names the line or what is missing."""


@dataclass(frozen=True)
class Level:
    """Walls, goals and a starting state on a `height` x `width` grid."""

    height: int
    width: int
    walls: frozenset[int]
    goals: frozenset[int]
    boxes: frozenset[int]
    player: int

    def __deepcopy__(self, memo: dict[int, Any]) -> Level:
        """Itself: it never changes, and a copy would cost more than the rest of an environment."""
        return self

    @property
    def start(self) -> State:
        """The state an episode begins in."""
        return self.player, self.boxes

    @cached_property
    def geometry(self) -> Geometry:
        """What the walls and goals decide alone."""
        return Geometry(self.height, self.width, self.walls, self.goals)

    def started_from(self, player: int, boxes: frozenset[int]) -> Level:
        """The same walls and goals with another start; what is known of the cells is kept."""
        level = Level(self.height, self.width, self.walls, self.goals, boxes, player)
        level.__dict__["geometry"] = self.geometry
        return level

    def render(self, state: State | None = None) -> str:
        """The board as text, one line a row, in the standard symbols."""
        player, boxes = state or self.start
        width, goals = self.width, self.goals
        symbols = bytearray(self._empty_board)
        for box in boxes:
            symbols[box + box // width] = _BOX_ON_GOAL if box in goals else _BOX
        symbols[player + player // width] = _PLAYER_ON_GOAL if player in goals else _PLAYER
        return symbols.decode()

    @cached_property
    def _empty_board(self) -> bytes:
        # Every row before a cell ends in a line break.
        width = self.width
        symbols = bytearray((b"_" * width + b"\n") * self.height)
        for wall in self.walls:
            symbols[wall + wall // width] = _WALL
        for goal in self.goals:
            symbols[goal + goal // width] = _GOAL
        return bytes(symbols[:-1])

    @cached_property
    def key(self) -> str:
        """A hash that is equal for the eight rotations and reflections of one board.

        Splits are made by it, so that a mirrored training level never turns up in the test set.
        """
        return board_key(self.render())


def board_key(board: str) -> str:
    """The `Level.key` of a board as `Level.render` writes it."""
    rows = board.split("\n")
    line = len(rows[0]) + 1
    columns = [board[c::line] for c in range(line - 1)]
    images = ["\n".join(lines) for lines in (rows, rows[::-1], columns, columns[::-1])]
    # Every image read backwards is that image turned by half.
    images += [image[::-1] for image in images]
    return hashlib.sha256(min(images).encode()).hexdigest()[:16]


def parse_level(text: str) -> Level:
    """Read one level in the standard text format, or run-length encoded.

    Raises:
        LevelError: an unknown symbol, no player or two, no box, or fewer goals than boxes.
    """
    lines = [_decoded(line) for line in text.strip("\n").split("\n")]
    rows = [row.rstrip() for line in lines for row in line.split("\n")]
    width = max(map(len, rows))
    found: dict[str, set[int]] = {symbol: set() for symbol in _SYMBOLS}
    for r, row in enumerate(rows):
        for c, symbol in enumerate(row.ljust(width)):
            if symbol not in _SYMBOLS:
                raise LevelError(
                    f"line {r + 1}, column {c + 1} of the level holds {symbol!r}; allowed are "
                    "# . $ * @ + and space, - or _ for floor, numbers before them and | between "
                    "rows; groups in parentheses are not read, write their symbols out"
                )
            found[symbol].add(r * width + c)
    players = found["@"] | found["+"]
    goals = found["."] | found["*"] | found["+"]
    boxes = found["$"] | found["*"]
    if len(players) != 1:
        raise LevelError(
            f"a level has exactly one player (@ or +); this one has {len(players)}: "
            + (f"keep the one on line {min(players) // width + 1}" if players else "add one")
        )
    if not boxes or len(goals) < len(boxes):
        raise LevelError(
            f"a level has at least one box and a goal for each; this one has {len(boxes)} boxes "
            f"($ or *) and {len(goals)} goals (. * or +)"
        )
    walls = frozenset(found["#"])
    return Level(len(rows), width, walls, frozenset(goals), frozenset(boxes), players.pop())


def read_levels(path: str | Path) -> list[Level]:
    """All levels of a file, or of every `.txt`, `.xsb` and `.sok` file of a folder.

    Raises:
        LevelError: see `read_boards`.
    """
    return [parse_level(board) for board in read_boards(path)]


def read_boards(path: str | Path) -> list[str]:
    """The boards of all levels, as `Level.render` writes them: a few bytes a cell.

    A level is a run of lines made of board symbols that hold a `#`; every other line (titles,
    authors, comments) separates. Run-length encoded lines count if they are walled at both ends.

    Raises:
        LevelError: nothing is there, or a level cannot be read; the message names the file and the
            line the level begins on.
    """
    path = Path(path)
    boards: list[str] = []
    for file in level_files(path):
        if not file.is_file():
            raise LevelError(f"no level file at {file}: give an existing file or folder")
        for number, block in _blocks(file):
            try:
                boards.append(_board(block))
            except LevelError as error:
                raise LevelError(f"{file}, level at line {number}: {error}") from error
    if not boards:
        raise LevelError(
            f"{path} holds no level; a level is made of the symbols # . $ * @ + and floor"
            + (f", in a file that ends in {', '.join(_SUFFIXES)}" if path.is_dir() else "")
        )
    return boards


def level_files(path: Path) -> list[Path]:
    """The files of a folder that may hold levels, or the file itself."""
    if not path.is_dir():
        return [path]
    return sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())


def _board(block: list[str]) -> str:
    """The board of a level's lines.

    Raises:
        LevelError: see `parse_level`.
    """
    rows = [row.rstrip().translate(_AS_FLOOR) for row in block]
    width = max(map(len, rows))
    board = "\n".join(row.ljust(width, "_") for row in rows)
    # What counting finds in order is so: a hundred thousand levels are read in seconds.
    count = board.count
    boxes, on_goal = count("$") + count("*"), count("+")
    goals = count(".") + count("*") + on_goal
    if count("@") + on_goal == 1 and 0 < boxes <= goals and set(board) <= _WRITTEN:
        return board
    return parse_level("\n".join(block)).render()


def _blocks(file: Path) -> Iterator[tuple[int, list[str]]]:
    """The runs of board lines in `file`, each with the number of its first line.

    A line that stands in a run and is walled at both ends belongs to the level even where it holds
    an unknown symbol: taken for a title it would cut the level in two and hide the mistake.
    """
    block: list[str] = []
    # Old collections name their authors in one of many encodings; boards are ASCII in all of them.
    lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    for number, line in enumerate([*lines, ""], 1):
        if ("#" in line and set(line.rstrip()) <= _SYMBOLS) or _walled(line, bool(block)):
            block.append(line)
        elif block:
            yield number - len(block), block
            block = []


def _walled(line: str, inside: bool) -> bool:
    """Whether a line that is not made of board symbols alone is a level's, `inside` a run or not.

    Titles such as "#1" and "2 #" are no rows.
    """
    if not inside and not _ENCODED.fullmatch(line.rstrip()):
        return False
    bare = _decoded(line).strip(" -_\n")
    return len(bare) > 1 and bare[0] == bare[-1] == "#"


def _decoded(line: str) -> str:
    """The rows of a run-length encoded line; any other line as it is."""
    if not _ENCODED.fullmatch(line):
        return line
    rows = line.strip("|").split("|")
    return "\n".join(
        "".join(symbol * int(count or 1) for count, symbol in _RUN.findall(row)) for row in rows
    )
