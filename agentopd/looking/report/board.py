"""Sokoban boards, drawn.

The drawing carries classes and no colours: the page's style sheet paints it for light and dark.
"""

from __future__ import annotations

import re

from markupsafe import Markup

_CELL = 20
_SYMBOLS = frozenset("#.$*@+_- ")


def split_board(observation: str) -> tuple[str, str, str]:
    """The text before a board, the board's lines, and the text after it.

    A board is three or more lines on end that are made of board symbols, hold walls and one player;
    where there is none, the second part is empty and the first is the whole observation.
    """
    lines = observation.split("\n")
    start = 0
    while start < len(lines):
        stop = start
        while stop < len(lines) and _is_row(lines[stop]):
            stop += 1
        board = "\n".join(lines[start:stop])
        if stop - start >= 3 and len(re.findall(r"[@+]", board)) == 1:
            return "\n".join(lines[:start]), board, "\n".join(lines[stop:])
        start = max(stop, start + 1)
    return observation, "", ""


def draw_board(board: str) -> Markup:
    """The board as an inline SVG, one `class="box"` element a box.

    Args:
        board: rows of `#` wall, `.` goal, `$` box, `*` box on a goal, `@` player, `+` player on
            a goal; `_`, `-` and, right of the row's first wall, a blank are floor.
    """
    rows = [row.rstrip() for row in board.split("\n")]
    height, width = len(rows) * _CELL, max(map(len, rows)) * _CELL
    floors, walls, things = [], [], []
    for r, row in enumerate(rows):
        for c, symbol in enumerate(row):
            x, y = c * _CELL, r * _CELL
            if symbol == "#":
                walls.append(f"M{x} {y}h{_CELL}v{_CELL}h-{_CELL}z")
            elif symbol != " " or "#" in row[:c]:
                floors.append(f"M{x} {y}h{_CELL}v{_CELL}h-{_CELL}z")
                things.append(_thing(symbol, x, y))
    boxes, done = board.count("$") + board.count("*"), board.count("*")
    label = f"Sokoban board, {len(rows)} rows; {done} of {boxes} boxes on a goal"
    box = f"-1 -1 {width + 2} {height + 2}"
    return Markup(
        f'<svg class="board" role="img" aria-label="{label}" viewBox="{box}"'
        f' style="--across:{width // _CELL}"><path class="floor" d="{"".join(floors)}"/>'
        f'<path class="wall" d="{"".join(walls)}"/>{"".join(things)}</svg>'
    )


def _is_row(line: str) -> bool:
    return "#" in line and set(line.rstrip()) <= _SYMBOLS


def _thing(symbol: str, x: int, y: int) -> str:
    """What stands in a cell whose corner is at `x`, `y`."""
    drawn = ""
    if symbol in ".+*":
        half = 9 if symbol == "+" else 5.5  # large enough to be seen behind the player
        tip = f"M{x + 10} {y + 10 - half}"
        drawn += f'<path class="goal" d="{tip}l{half} {half}l-{half} {half}l-{half}-{half}z"/>'
    if symbol in "$*":
        home = " home" if symbol == "*" else ""
        drawn += (
            f'<g class="crate{home}"><rect class="box" x="{x + 2.5}" y="{y + 2.5}" width="15"'
            f' height="15" rx="2"/><path d="M{x + 5} {y + 5}l10 10m0-10l-10 10"/></g>'
        )
    if symbol in "@+":
        drawn += (
            f'<g class="player"><circle cx="{x + 10}" cy="{y + 6.6}" r="3.6"/>'
            f'<path d="M{x + 3.6} {y + 17.6}c0-8.4 12.8-8.4 12.8 0z"/></g>'
        )
    return drawn
