"""What every check shares: the environment under test, ways to play it, what is found."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

import gymnasium

from agentopd.env import Info, actions, declared, make

TURNS = 6
"""Turns of an episode that is compared with another."""
PATIENCE = 1_000
"""Turns after which an episode counts as endless."""
_FEW = 5
_GUESSES = ("up", "1", "a", "help")


@dataclass(frozen=True)
class Finding:
    """One thing found: an `error` breaks training, a `warning` wastes some of it, a `note` informs.

    `name` is short and stable; `message` says what is wrong and what to change.
    """

    level: Literal["error", "warning", "note"]
    name: str
    message: str


Findings = Iterator[Finding]
Step = tuple[Any, Any, Any, Any, Info]
Choose = Callable[[gymnasium.Env[str, str], int, Info], str]
"""The answer to give in a turn, from the environment, its number and the last `info`."""


@dataclass(frozen=True)
class Subject:
    """The environment under test."""

    spec: str
    options: Mapping[str, Any]
    seeds: int
    _built: list[gymnasium.Env[str, str]] = field(default_factory=list)

    def build(self) -> gymnasium.Env[str, str]:
        """A fresh instance."""
        self._built.append(make(self.spec, self.options))
        return self._built[-1]

    def close(self) -> None:
        """Close every instance: one may hold a place on a server."""
        while self._built:
            self._built.pop().close()

    @property
    def few(self) -> range:
        """Seeds for the checks that play several episodes of each."""
        return range(min(self.seeds, _FEW))


@dataclass
class Caught:
    """Keeps what the environment's own code raised: a check reports it and goes on."""

    error: Exception | None = field(default=None, init=False)

    def __enter__(self) -> Caught:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> bool:
        self.error = error if isinstance(error, Exception) else None
        return self.error is not None

    @property
    def said(self) -> str:
        """The error, and the line that raised it."""
        assert self.error is not None
        where = traceback.extract_tb(self.error.__traceback__)[-1]
        name = os.path.basename(where.filename)
        return f"{type(self.error).__name__}: {self.error} ({name}, line {where.lineno})"


def steps(
    env: gymnasium.Env[str, str], info: Info, choose: Choose, bound: int
) -> Iterator[tuple[str, Step]]:
    """Actions and results from the reset that gave `info`, to the end or `bound` turns."""
    for turn in range(bound):
        action = choose(env, turn, info)
        result = env.step(action)
        yield action, result
        if result[2] or result[3]:
            return
        info = result[4]


def by_oracle(env: gymnasium.Env[str, str], turn: int, info: Info) -> str:
    """The first action of the oracle; a guess where there is no oracle."""
    planned = plan_of(env, info)
    return as_action(env, planned[0] if planned else _GUESSES[turn % len(_GUESSES)])


def probe(env: gymnasium.Env[str, str], turn: int, info: Info) -> str:
    """By the oracle and unreadable in turns, to see both ways through `step`."""
    return "" if turn % 2 else by_oracle(env, turn, info)


def as_action(env: gymnasium.Env[str, str], text: str) -> str:
    """`text` as a model would give it to `env`."""
    return declared(env, "action_form", "<action>{}</action>").replace("{}", text)


def plan_of(env: gymnasium.Env[str, str], info: Info) -> list[str]:
    """The actions of the oracle; none where there is no oracle."""
    plan = info.get("oracle")
    return actions(env, plan) if isinstance(plan, str) else []


def turn_limit(env: gymnasium.Env[str, str]) -> int | None:
    """The number of turns the environment declares, or was registered with."""
    limits = (declared(env, "max_turns", None), env.spec and env.spec.max_episode_steps)
    return next((limit for limit in limits if limit), None)


def attempt(env: gymnasium.Env[str, str], action: str) -> tuple[Any, Finding | None]:
    """What `step` returned, or what is wrong with it if it raised."""
    result = None
    with Caught() as caught:
        result = env.step(action)
    if not caught.error:
        return result, None
    message = (
        f"step({short(action)}) raised {caught.said}; an action that cannot be read costs a turn: "
        'set info["action_valid"] to False and say in the observation what is wrong'
    )
    return result, Finding("error", "action-raises", message)


def short(value: Any) -> str:
    """`value` for a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
