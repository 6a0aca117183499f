"""What every check shares: the environment under test, ways to play it, what is found."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

import gymnasium

from agentopd.base.text import raised
from agentopd.environment.checks.watch import Watch, Watched, short
from agentopd.environment.contract import Info, actions, declared, examples, system_prompt
from agentopd.environment.registry import make

TURNS = 6
"""Turns of an episode that is compared with another."""
PATIENCE = 1_000
"""Turns after which an episode counts as endless."""
_FEW = 5
_STRICT_TURNS = 40
_STRICT_FEW = 10
_LOADING = 4
"""How many calls' time building may take: it may import large packages first."""
_BLIND = 50
"""Turns of an episode that nothing leads to its end."""
_AFTER = 3
"""Turns after success, where the episode goes on."""
GUESSES = ("up", "1", "a", "help")
"""Actions of games that many know."""


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
Choose = Callable[[gymnasium.Env[str, str], int, Info], str | None]
"""The answer to give in a turn, from the environment, its number and the last `info`; or None."""
Way = Literal["oracle", "probe", "unreadable"]


@dataclass(frozen=True)
class Turn:
    """One step of an episode, and the processor time it took in seconds."""

    action: str
    result: Step
    seconds: float


@dataclass(frozen=True)
class Episode:
    """What an episode said."""

    seed: int
    rules: str
    observation: str
    info: Info
    turns: tuple[Turn, ...]

    @property
    def over(self) -> bool:
        """Whether it was played to its end."""
        return bool(self.turns) and bool(self.turns[-1].result[2] or self.turns[-1].result[3])

    @property
    def solved(self) -> bool:
        """Whether some step was a success."""
        return any(turn.result[4]["success"] for turn in self.turns)


@dataclass
class _Kept:
    """Environments that are used again, once `proven` says that they may be."""

    proven: bool = False
    idle: list[gymnasium.Env[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Subject:
    """The environment under test."""

    spec: str
    options: Mapping[str, Any]
    seeds: int
    strict: bool
    watch: Watch
    _played: dict[tuple[Way, int], Episode] = field(default_factory=dict)
    _kept: _Kept = field(default_factory=_Kept)

    @contextmanager
    def opened(self, **more: Any) -> Iterator[gymnasium.Env[str, str]]:
        """A fresh instance, closed at the end: it may hold the only place there is on a server. Of
        one that is known to be reusable, any that is idle.

        Args:
            more: stands in place of the options.
        """
        again = self._kept.proven and not more
        env = self._kept.idle.pop() if again and self._kept.idle else self._built(more)
        with ExitStack() as failing:
            # What goes wrong in between says more than what then goes wrong in closing.
            failing.callback(self._dropped, env)
            yield env
            failing.pop_all()
        if again:
            self._kept.idle.append(env)
        else:
            env.close()

    def reuse(self) -> None:
        """Whatever is opened from here on may have been played before."""
        self._kept.proven = True

    def close(self) -> None:
        """Close what is idle."""
        while self._kept.idle:
            self._kept.idle.pop().close()

    def _built(self, more: Mapping[str, Any]) -> gymnasium.Env[str, str]:
        self.watch.begin(f"building {self.spec}", seconds=_LOADING * self.watch.seconds)
        try:
            return Watched(make(self.spec, {**self.options, **more}), self.watch)
        finally:
            self.watch.end()

    def _dropped(self, env: gymnasium.Env[str, str]) -> None:
        call = self.watch.last
        with Caught():
            env.close()
        self.watch.last = call

    @property
    def few(self) -> range:
        """Seeds for the checks that play several episodes of each."""
        return range(min(self.seeds, _STRICT_FEW if self.strict else _FEW))

    @property
    def turns(self) -> int:
        """Turns of an episode that is compared with another."""
        return _STRICT_TURNS if self.strict else TURNS

    def played(self, way: Way, seed: int) -> Episode:
        """The episode of `seed`, played once for all checks."""
        if (way, seed) not in self._played:
            self._played[way, seed] = self._play(way, seed)
        return self._played[way, seed]

    def followed(self) -> list[Episode]:
        """The episodes of all seeds, played by the oracle."""
        return [self.played("oracle", seed) for seed in range(self.seeds)]

    def _play(self, way: Way, seed: int) -> Episode:
        with self.opened() as env:
            return self._play_in(env, way, seed)

    def _play_in(self, env: gymnasium.Env[str, str], way: Way, seed: int) -> Episode:
        observation, info = env.reset(seed=seed)
        shown = (text for pair in examples(env) for text in pair)
        rules = "\n".join((system_prompt(env), *shown))
        if way == "probe":
            choose, bound = probe, self.turns
        elif way == "unreadable":
            choose, bound = unreadable, PATIENCE
        else:
            blind = _BLIND if seed in self.few else self.turns
            choose, bound = Following(), PATIENCE if plan_of(env, info) else blind
        turns, began = list[Turn](), time.process_time()
        for action, result in steps(env, info, choose, bound):
            turns.append(Turn(action, result, time.process_time() - began))
            began = time.process_time()
        return Episode(seed, rules, observation, info, tuple(turns))


@dataclass
class Caught:
    """Keeps what the environment's own code raised: a check reports it and goes on."""

    error: Exception | SystemExit | None = field(default=None, init=False)

    def __enter__(self) -> Caught:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> bool:
        self.error = error if isinstance(error, Exception | SystemExit) else None
        return self.error is not None

    @property
    def said(self) -> str:
        """The error, and the line that raised it."""
        assert self.error is not None
        return said(self.error)


def said(error: BaseException) -> str:
    """An error, and the line that raised it, where that is not the call itself."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    folder, name = os.path.split(where.filename)
    line = "" if folder == os.path.dirname(__file__) else f" ({name}, line {where.lineno})"
    return f"{raised(error)}{line}"


def steps(
    env: gymnasium.Env[str, str], info: Info, choose: Choose, bound: int
) -> Iterator[tuple[str, Step]]:
    """Actions and results from the reset that gave `info`, to the end or `bound` turns."""
    for turn in range(bound):
        action = choose(env, turn, info)
        if action is None:
            return
        result = env.step(action)
        yield action, result
        if result[2] or result[3]:
            return
        info = result[4]


def by_oracle(env: gymnasium.Env[str, str], turn: int, info: Info) -> str:
    """The first action of the oracle; a guess where there is no oracle."""
    planned = plan_of(env, info)
    return as_action(env, planned[0] if planned else GUESSES[turn % len(GUESSES)])


def probe(env: gymnasium.Env[str, str], turn: int, info: Info) -> str:
    """By the oracle and unreadable in turns, to see both ways through `step`."""
    return "" if turn % 2 else by_oracle(env, turn, info)


def unreadable(env: gymnasium.Env[str, str], turn: int, info: Info) -> str:
    """Nothing, each turn."""
    return ""


class Following:
    """The first action of each oracle until success, then a few unreadable answers.

    A step without an oracle goes on with the rest of the last one; where there never was one, it
    is guessed.
    """

    def __init__(self) -> None:
        self._plan: list[str] = []
        self._after = 0
        self._blind = False

    def __call__(self, env: gymnasium.Env[str, str], turn: int, info: Info) -> str | None:
        """See `Choose`."""
        if self._after or (turn and info["success"]):
            self._after += 1
            return "" if self._after <= _AFTER else None
        self._plan = plan_of(env, info) or self._plan[1:]
        self._blind = self._blind or not (turn or self._plan)
        if self._blind:
            return by_oracle(env, turn, info)
        return as_action(env, self._plan[0]) if self._plan else None


def as_action(env: gymnasium.Env[str, str], text: str) -> str:
    """`text` as a model would give it to `env`."""
    return declared(env, "action_form", "<action>{}</action>").replace("{}", text)


def plan_of(env: gymnasium.Env[str, str], info: Info) -> list[str]:
    """The actions of the oracle; none where there is no oracle."""
    plan = info.get("oracle")
    return actions(env, plan) if isinstance(plan, str) else []


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
