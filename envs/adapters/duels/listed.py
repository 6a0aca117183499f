"""Legal moves as a game tells them to who is to move."""

from __future__ import annotations

import re
from collections.abc import Sequence

_HEADING = re.compile(
    r"(?:available (?:moves|actions)|valid moves|possible actions|your options"
    r"|remaining (?:hand|money cards))\b[^:\n]*:",
    re.IGNORECASE,
)
_MOVE = re.compile(r"\[([^\[\]\n]+)\]")
_ALWAYS = {
    "IteratedMatchingPennies": ("heads", "tails"),
    "IteratedRockPaperScissors": ("rock", "paper", "scissors"),
}
"""Moves that are legal whenever one is asked for, of games that say so in their rules alone."""
_IN_PART = ("Golf", "SpiteAndMalice")
"""Games whose lists leave out what must be done, or hold moves that change nothing for ever."""


def listed(skill: str, messages: Sequence[str]) -> tuple[str, ...]:
    """The moves behind the last heading that announces them.

    Args:
        skill: the game's name without its version.
        messages: what who is to move was told since the last answer, in order.
    """
    if skill in _ALWAYS:
        return _ALWAYS[skill]
    for message in reversed(messages if skill not in _IN_PART else ()):
        found = [*_HEADING.finditer(message)]
        if found:
            line = message[found[-1].end() :].lstrip().partition("\n")[0]
            moves = (move.strip() for move in _MOVE.findall(line))
            return tuple(dict.fromkeys(m for m in moves if not _is_form(m)))
    return ()


def _is_form(move: str) -> bool:
    """Whether a move has places that are to be filled in, as `bet X`."""
    words = move.split()
    return len(words) > 1 and any(word in ("X", "Y", "N") for word in words[1:])
