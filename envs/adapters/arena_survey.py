"""Which games of TextArena run here with one player, how fast, and why the others do not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from agentopd.checks.subject import Caught
from agentopd.envs.adapters.arena import Arena, game_names

_MOVES = ("1 1", "up", "5", "A C", "red", "1 2 3", "hit", "continue", "a", "1 2 3 4")
"""Some that one game or another takes; a refused move is a step too."""


@dataclass(frozen=True)
class Row:
    """One game: how many resets and steps a second, or the reason why it does not run."""

    name: str
    resets: float = 0.0
    steps: float = 0.0
    limit: int = 0
    reason: str = ""


def survey(seconds: float = 0.2) -> Iterator[Row]:
    """Every game that TextArena registers, without its own wrappings.

    Args:
        seconds: how long resets, and then steps, are timed; at least one of each.

    Raises:
        ValueError: TextArena is not installed.
    """
    for name in game_names():
        caught, row = Caught(), None
        with caught:
            row = _timed(name, seconds)
        yield row or Row(name, reason=str(caught.error).removeprefix(f"{name} "))


def _timed(name: str, seconds: float) -> Row:
    env = Arena(name)
    env.reset(seed=0)
    start, resets = time.perf_counter(), 0
    while not resets or time.perf_counter() - start < seconds:
        resets += 1
        env.reset(seed=resets)
    a_reset = (time.perf_counter() - start) / resets
    taken, steps, over, began = 0.0, 0, False, time.perf_counter()
    # A game that ends at once would spend the time on resets.
    while not steps or (taken < seconds and time.perf_counter() - began < 2 * seconds):
        if over:
            env.reset(seed=steps)
        start = time.perf_counter()
        _, _, terminated, truncated, _ = env.step(f"<action>{_MOVES[steps % len(_MOVES)]}</action>")
        taken += time.perf_counter() - start
        steps, over = steps + 1, terminated or truncated
    return Row(name, 1 / a_reset, steps / taken, env.turn_limit)


def page(rows: list[Row]) -> str:
    """The rows as a page in Markdown."""
    run = [row for row in rows if not row.reason]
    fail = [row for row in rows if row.reason and "one player" not in row.reason]
    more = [row.name for row in rows if "one player" in row.reason]
    lines = [
        f"Of {len(rows)} games {len(run)} run with one player, {len(more)} are for more players, "
        f"{len(fail)} cannot be played here. A step is an answer, refused or not.",
        "",
        "| game | resets a second | steps a second | turns |",
        "|---|---:|---:|---:|",
        *(f"| {r.name} | {_short(r.resets)} | {_short(r.steps)} | {r.limit} |" for r in run),
        "",
        "| cannot be played here | reason |",
        "|---|---|",
        *(f"| {row.name} | {_short_reason(row.reason)} |" for row in fail),
        "",
        f"For more players: {', '.join(more)}.",
    ]
    return "\n".join(lines) + "\n"


def _short(rate: float) -> str:
    return f"{rate:.2g}" if rate < 10 else f"{rate:,.0f}"


def _short_reason(reason: str) -> str:
    return reason.removeprefix("cannot be played here: ").replace("|", "/")
