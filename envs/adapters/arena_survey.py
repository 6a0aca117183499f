"""Which games of TextArena run here with one player or two, how fast, and why others do not."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from agentopd.environment.checks.subject import Caught
from agentopd.envs.adapters.arena import Arena
from agentopd.envs.adapters.arena_library import game_names
from agentopd.envs.adapters.duels.env import Duel

_MOVES = ("1 1", "up", "5", "A C", "red", "1 2 3", "hit", "continue", "a", "1 2 3 4")
"""Some that one game or another takes; a refused move is a step too."""


@dataclass(frozen=True)
class Row:
    """One game: how many resets and steps a second, or the reason why it does not run.

    `garbage` says how many answers of chance it refused, or what one of them did to it. Of a game
    for two, `opponents` are those that can play it without a model.
    """

    name: str
    resets: float = 0.0
    steps: float = 0.0
    limit: int = 0
    garbage: str = ""
    reason: str = ""
    players: int = 1
    opponents: tuple[str, ...] = ()


def survey(answers: Sequence[str], seconds: float = 0.2) -> Iterator[Row]:
    """Every game that TextArena registers, without its own wrappings.

    Args:
        answers: of chance, which every game is given one by one.
        seconds: how long resets, and then steps, are timed; at least one of each.

    Raises:
        ValueError: TextArena is not installed.
    """
    for name in game_names():
        caught, row = Caught(), None
        with caught:
            row = replace(_timed(name, seconds), garbage=withstood(name, answers))
        said = str(caught.error).removeprefix(f"{name} ")
        yield row or (_for_two(name) if "but for two" in said else Row(name, reason=said))


def _for_two(name: str) -> Row:
    """A game for two, and who can play it without a model."""
    limit, opponents, said = 0, list[str](), ""
    for opponent in ("random", "scripted"):
        with Caught() as caught:
            limit = Duel(name, opponent=opponent).turn_limit
            opponents.append(opponent)
        said = said or str(caught.error or "").removeprefix(f"{name} ")
    reason = said if "cannot be played here" in said else ""
    return Row(name, limit=limit, reason=reason, players=2, opponents=tuple(opponents))


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


def withstood(name: str, answers: Sequence[str]) -> str:
    """How many of the answers were refused, or which one raised or ended the episode unread."""
    env = Arena(name, max_turns=len(answers) + 1)
    env.reset(seed=0)
    refused = 0
    for answer in answers:
        step = None
        with Caught() as caught:
            step = env.step(answer)
        if step is None:
            return f"{answer!r} raises {caught.said}"
        _, _, terminated, _, info = step
        refused += not info["action_valid"]
        if terminated and not info["action_valid"]:
            return f"{answer!r} is refused and ends the episode"
        if terminated:
            env.reset(seed=0)
    return f"{refused:,}"


def page(rows: list[Row], answers: int) -> str:
    """The rows as a page in Markdown; `answers` says how many of chance each game was given."""
    run = [row for row in rows if not row.reason and row.players == 1]
    two = [row for row in rows if not row.reason and row.players == 2]
    fail = [row for row in rows if row.reason and "one player" not in row.reason]
    more = [row.name for row in rows if "one player" in row.reason]
    lines = [
        f"Of {len(rows)} games {len(run)} run with one player, {len(two)} with two, {len(more)} "
        f"are for more players, {len(fail)} cannot be played here. A step is an answer, refused or "
        f"not. The last column says how many of {answers:,} answers of chance were refused; one "
        "that raised, or ended the episode although it was refused, would be named there.",
        "",
        "| game | resets a second | steps a second | turns | refused |",
        "|---|---:|---:|---:|---:|",
        *map(_line, run),
        "",
        "| cannot be played here | reason |",
        "|---|---|",
        *(f"| {row.name} | {_short_reason(row.reason)} |" for row in fail),
        "",
        *_pages_of_two(two),
        "",
        f"For more players: {', '.join(more)}.",
    ]
    return "\n".join(lines) + "\n"


def _pages_of_two(rows: Sequence[Row]) -> list[str]:
    """Which games for two there are, by who can play them besides models."""
    heads = {
        "for two, also against random and scripted": ("random", "scripted"),
        "for two, also against random": ("random",),
        "for two, against models alone": (),
    }
    names = {
        head: ", ".join(row.name for row in rows if row.opponents == known)
        for head, known in heads.items()
    }
    return [f"- {head}: {listed}." for head, listed in names.items() if listed]


def _line(row: Row) -> str:
    rates = f"{_short(row.resets)} | {_short(row.steps)}"
    return f"| {row.name} | {rates} | {row.limit} | {_cell(row.garbage)} |"


def _short(rate: float) -> str:
    return f"{rate:.2g}" if rate < 10 else f"{rate:,.0f}"


def _short_reason(reason: str) -> str:
    return _cell(reason.removeprefix("cannot be played here: "))


def _cell(text: str) -> str:
    return text.replace("|", "/")
