"""What is read of single turns: their parts, what the environment states, functions of yours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from agentopd.base.objects import load_object
from agentopd.base.types import Turn

AnswerPart = Literal["turn", "reasoning", "action"]
"""The whole answer of a turn, or one side of the end of its reasoning."""


Fact = bool | int | float | str


def part_of(turn: Turn, part: AnswerPart) -> tuple[int, int]:
    """Where a part of a turn starts and stops in the trajectory's ids."""
    if part == "reasoning":
        return turn.start, turn.act
    return (turn.act if part == "action" else turn.start), turn.stop


def fact_of(turn: Turn, name: str) -> Any:
    """What the environment states under `name` after a turn; None where it states nothing.

    `success` is not looked up among the facts: it reads the episode's outcome.
    """
    return turn.info.get("success") if name == "success" else turn.info.get("facts", {}).get(name)


def named_function(path: str) -> Callable[..., Any]:
    """The function that `package.module:function` names.

    Raises:
        ValueError: it cannot be imported, or is no function.
    """
    found = load_object(path) if ":" in path else None
    if not callable(found):
        raise ValueError(f"{path!r} names no function; write package.module:function")
    return found
