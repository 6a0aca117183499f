"""What of a model's reply is told: texts, texts by turn, JSON. What cannot be read is nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from agentopd.base.types import Trajectory

_TURN = re.compile(r"^[\s>*_#-]*(?:turn\s*)?(\d{1,4})\s*[*_]*\s*[:.)\-–—]\s*(.+)$", re.IGNORECASE)
_NOTHING = frozenset({"", "none", "nothing", "n/a", "na", "-", "null", "ok", "fine"})


def as_text(reply: str) -> str:
    """The whole reply; empty where it says that there is nothing to say."""
    return "" if is_nothing(reply) else reply.strip()


def is_nothing(text: str) -> bool:
    """Whether it says that there is nothing to say."""
    return text.strip().strip("*_`\"'.()[]").lower() in _NOTHING


def gives_away(text: str, trajectory: Trajectory) -> bool:
    """Whether it holds the whole solution of a trajectory's task, where there is one."""
    solution = " ".join(str(trajectory.prompt.get("reference") or "").split())
    return bool(solution) and solution in " ".join(text.split())


def by_turn(reply: str, turns: int) -> dict[int, str]:
    """The texts of lines such as `Turn 3: ...`, by the turn counted from 0.

    Lines of turns that there are not, and that say nothing, are left out; of two lines of one turn
    the first stays.
    """
    found: dict[int, str] = {}
    for line in reply.splitlines():
        if not (read := _TURN.match(line)):
            continue
        turn, text = int(read[1]) - 1, read[2].strip().strip("*_` ")
        if 0 <= turn < turns and not is_nothing(text):
            found.setdefault(turn, text)
    return found


def as_object(reply: str) -> Mapping[str, Any] | None:
    """The first JSON object in a reply; None where there is none."""
    decoder, start = json.JSONDecoder(), reply.find("{")
    while start >= 0:
        try:
            found, _ = decoder.raw_decode(reply, start)
        except (ValueError, RecursionError):  # a model wrote it
            found = None
        if isinstance(found, dict):
            return found
        start = reply.find("{", start + 1)
    return None


def line_of(found: Mapping[str, Any], key: str) -> str:
    """A text of an object, on one line; empty where there is none."""
    value = found.get(key)
    text = " ".join(value.split()) if isinstance(value, str) else ""
    return "" if is_nothing(text) else text
