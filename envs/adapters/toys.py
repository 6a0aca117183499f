"""Gymnasium's toy texts in words: `agentopd.make("toy:Taxi-v4")`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium

from agentopd.envs.adapters.textualize import Describe, Textualize, gained
from agentopd.envs.puzzle import Prompt, check_choice

_ANSWER = """
You may think first inside <think></think>. End your answer with one action inside \
<action></action>, one of: {actions}."""
_CORNERS = ("red", "green", "yellow", "blue")
_TAXI_MAP = """
The city from above; a taxi passes : but not |. R, G, Y and B are red, green, yellow and blue.
+---------+
|R: | : :G|
| : | : : |
| : : : : |
| | : | : |
|Y| : |B: |
+---------+"""


@dataclass(frozen=True)
class Toy:
    """The words of one toy."""

    brief: str
    actions: Mapping[str, int]
    describe: Describe
    rules: str = ""
    """What the full prompt says beyond the brief one."""
    guide: str = ""
    success: Callable[[float], bool] = gained
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the toy, where other ones than Gymnasium's are the default."""


def _always(reward: float) -> bool:
    """Of a toy that ends well only."""
    return True


def _cell(place: int, width: int) -> str:
    return f"row {place // width + 1}, column {place % width + 1}"


def _taxi(env: gymnasium.Env[Any, Any], state: int) -> str:
    taxi: Any = env.unwrapped
    row, column, passenger, goal = taxi.decode(state)

    def place(corner: int) -> str:
        at = taxi.locs[corner]
        return f"at {_CORNERS[corner]} ({_cell(at[0] * 5 + at[1], 5)})"

    rider = "in the taxi" if passenger == len(_CORNERS) else place(passenger)
    here = _cell(row * 5 + column, 5)
    return f"Taxi: {here}. Passenger: {rider}. Destination: {place(goal)}."


def _cliff(env: gymnasium.Env[Any, Any], state: int) -> str:
    return f"You: {_cell(int(state), 12)}. Goal: row 4, column 12. Cliff: row 4, columns 2 to 11."


def _lake(env: gymnasium.Env[Any, Any], state: int) -> str:
    rows = [b"".join(row).decode() for row in env.unwrapped.desc]  # type: ignore[attr-defined]
    return "\n".join((f"You: {_cell(int(state), len(rows[0]))}.", *rows))


def _hands(env: gymnasium.Env[Any, Any], seen: tuple[int, int, int]) -> str:
    own, dealer, ace = (int(number) for number in seen)
    usable = "with" if ace else "without"
    return f"You have {own}, {usable} a usable ace. The dealer shows {dealer}."


TOYS: Mapping[str, Toy] = {
    "Taxi-v4": Toy(
        "Taxi: pick the passenger up and drop them off at the destination.",
        {"south": 0, "north": 1, "east": 2, "west": 3, "pickup": 4, "dropoff": 5},
        _taxi,
        rules=_TAXI_MAP,
        guide="Drive to the passenger, pickup, drive to the destination, dropoff; mind the walls.",
    ),
    "CliffWalking-v1": Toy(
        "Walk to the goal; a step into the cliff sets you back to the start.",
        {"up": 0, "right": 1, "down": 2, "left": 3},
        _cliff,
        guide="Up one row, along the cliff, then down to the goal.",
        success=_always,
    ),
    "FrozenLake-v1": Toy(
        "Cross the lake from S to G over the ice F; a step into a hole H loses.",
        {"left": 0, "down": 1, "right": 2, "up": 3},
        _lake,
        guide="Go towards the goal, around the holes, and not back.",
        options={"is_slippery": False},
    ),
    "Blackjack-v1": Toy(
        "Blackjack: come closer to 21 than the dealer, and not above.",
        {"stick": 0, "hit": 1},
        _hands,
        guide="Below 12 hit; from 17 stick; in between hit if the dealer shows 7 or more, or 1.",
    ),
}
"""The toys that have words."""


def build(
    name: str, *, prompt: Prompt = "full", max_turns: int | None = None, **options: Any
) -> Textualize:
    """The environment of `toy:NAME`.

    Of tabular toys the oracle is exact; where chance has a say (`is_slippery`, `is_rainy`), it is
    the best next action, which may fail. FrozenLake is not slippery unless asked for.

    Args:
        name: one of `TOYS`.
        prompt: with the rules and the form of answers, or one line.
        max_turns: answers before the episode is truncated; the toy's time limit, or 100.
        options: the toy's own.

    Raises:
        ValueError: there is no such toy, or an option has no such value.
    """
    check_choice("prompt", prompt, ("full", "brief"))
    if name not in TOYS:
        raise ValueError(
            f"there are no words for {name!r}, only for {', '.join(TOYS)}: write your own with "
            "agentopd.envs.adapters.textualize.Textualize"
        )
    toy = TOYS[name]
    # Without Gymnasium's time limit, which does not count answers that cannot be read.
    env = gymnasium.make(
        name, max_episode_steps=-1, disable_env_checker=True, **{**toy.options, **options}
    )
    limit = gymnasium.spec(name).max_episode_steps if max_turns is None else max_turns
    return Textualize(
        env,
        actions=toy.actions,
        describe=toy.describe,
        rules=toy.brief + (toy.rules + _ANSWER if prompt == "full" else ""),
        guide=toy.guide,
        max_turns=limit,
        success=toy.success,
    )
