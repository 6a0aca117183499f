"""Environments that are dear to start, kept from one episode to the next.

An environment behind which a server or a virtual machine is started says `metadata["reusable"] =
True` if a reset makes it new; `agentopd check-env` compares one that was used with fresh ones. Then
an episode that has ended well gives it to the next, and starts are paid once a run. What an episode
failed in, or was broken off in, is closed: nobody knows what a failure leaves behind.

`metadata["places"]` is how many of an environment may be there at once, where a server has no more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from threading import Event
from typing import Any, Generic, TypeVar

import gymnasium
from gymnasium.envs.registration import EnvSpec

from agentopd.parallel.processes import ALONE, Processes
from agentopd.rollout.calls import Call, Caller, InPlace, caller
from agentopd.rollout.episode import RAISED

T = TypeVar("T")
Env = gymnasium.Env[str, str]
Key = tuple[str, dict[str, Any]]
"""What an environment is built from, its name and its options: those of one key stand for another.
"""

_GRACE = 5.0
"""Seconds that are waited for the end of an environment whose episode was broken off."""


def places(env: Env) -> float:
    """How many of `env` may be there at once; infinity where it does not say."""
    return float(env.metadata.get("places") or math.inf)


@dataclass(eq=False)
class Stand:
    """One environment that is kept, without the wrappers of a configuration, and its caller.

    `used` says whether an episode was played in it, `ending` is its last call once that has begun.
    """

    key: Key
    env: Env
    caller: Caller | None = None
    used: bool = False
    ending: Call[Any] | None = None

    def end(self) -> Call[Any]:
        """Begin its last call, unless that has been done."""
        if self.ending is None:
            self.ending = (self.caller or InPlace()).end(self.env.close)
        return self.ending


class Shelf:
    """Keeps reusable environments until it is closed; others it hands through.

    Attributes:
        starts: how many reusable ones were built.
    """

    def __init__(self) -> None:
        self.starts = self._told = 0
        self._idle: list[Stand] = []
        self._alive: list[Stand] = []

    def lend(
        self,
        key: Key,
        build: Callable[[], Env],
        around: Callable[[Env], Env],
        seconds: float,
        wake: Event,
        most: float,
    ) -> tuple[Env, Caller]:
        """An environment for one episode, and its caller.

        Args:
            build: makes a fresh one, `around` puts its wrappers around it, each time anew.
            seconds, wake: see `agentopd.rollout.calls.caller`.
            most: how many may be there then; those of other keys that lie idle make room.

        Raises:
            Exception: what `build` or `around` raises.
        """
        stand = next((s for s in reversed(self._idle) if s.key == key), None)
        if stand is None:
            self._make_room(most)
            env = build()
            if not env.metadata.get("reusable"):
                env = around(env)
                return env, caller(env, seconds, wake)
            self.starts += 1
            stand = Stand(key, env)
            self._alive.append(stand)
        else:
            self._idle.remove(stand)
        try:
            env = around(_Shielded(stand.env))
        except BaseException:
            self.forget(stand)
            _finish(stand.end(), math.inf)
            raise
        if stand.caller is None:
            stand.caller = caller(env, seconds, wake)
        stand.caller.tune(seconds, wake)
        return env, _Lent(self, stand, stand.caller)

    def scalars(self, processes: Processes = ALONE) -> dict[str, float]:
        """As `env/starts`, how many were built since it was last asked, in all processes; of
        environments that are not reusable nothing is said.
        """
        new, self._told = self.starts - self._told, self.starts
        known = processes.gather([(new, self.starts)])
        if not any(starts for _, starts in known):
            return {}
        return {"env/starts": float(sum(since for since, _ in known))}

    def take_back(self, stand: Stand) -> None:
        """Keep an environment for the next episode."""
        stand.used = True
        self._idle.append(stand)

    def forget(self, stand: Stand) -> None:
        """An environment is closed."""
        self._alive.remove(stand)

    def close(self) -> None:
        """Close whatever is there. Each is waited for as long as a call may take; one whose episode
        was broken off, for five seconds.
        """
        alive, self._alive = self._alive, []
        idle, self._idle = self._idle, []
        ending = [(stand, stand.end()) for stand in alive]
        with ExitStack() as every:  # Ctrl-C in one of them leaves the others to be closed
            for stand, call in ending:
                every.callback(_finish, call, math.inf if stand in idle else _GRACE)

    def _make_room(self, most: float) -> None:
        """Close idle ones, the oldest first, until one more may be there."""
        most = min(most, *(places(stand.env) for stand in self._alive), math.inf)
        while self._idle and len(self._alive) >= most:
            stand = self._idle.pop(0)
            self.forget(stand)
            _finish(stand.end(), math.inf)


def _finish(call: Call[Any], seconds: float) -> None:
    """Wait for a last call, `seconds` at most; what it raises costs no episode any more."""
    call.due = min(call.due, time.monotonic() + seconds)
    with suppress(*RAISED):
        call.result()


class _Shielded(gymnasium.Wrapper[str, str, str, str]):
    """An environment that its wrappers do not close."""

    @property
    def spec(self) -> EnvSpec | None:
        """The specification inside: being kept changes nothing about it."""
        return self.env.spec

    def close(self) -> None:
        """Leave it open: see `Shelf`."""


class _Lent:
    """The caller of an environment that goes back to its shelf at the end; see `Caller`."""

    def __init__(self, shelf: Shelf, stand: Stand, inner: Caller) -> None:
        self.used = stand.used
        self._shelf, self._stand, self._inner = shelf, stand, inner

    def tune(self, seconds: float, wake: Event) -> None:
        """See `Caller.tune`."""
        self._inner.tune(seconds, wake)

    def begin(self, call: Callable[[], T]) -> Call[T]:
        """See `Caller.begin`."""
        return self._inner.begin(call)

    def end(self, call: Callable[[], T], sound: bool = False) -> Call[T | None]:
        """See `Caller.end`: its wrappers are closed, and it itself unless it is `sound`."""
        shelf, stand = self._shelf, self._stand
        if sound:
            return _Then(
                self._inner.begin(call),
                lambda: shelf.take_back(stand),
                lambda: self._drop(stand.end()),
            )

        def whole() -> None:
            with ExitStack() as last:
                last.callback(stand.env.close)
                call()

        stand.ending = self._inner.end(whole, sound)
        forget = lambda: shelf.forget(stand)  # noqa: E731  (twice the same)
        return _Then(stand.ending, forget, forget)

    def _drop(self, call: Call[Any]) -> None:
        """Close an environment whose wrappers could not be closed."""
        self._shelf.forget(self._stand)
        _finish(call, math.inf)


class _Then(Generic[T]):
    """A call after whose result something is done: one thing, or another where it raised."""

    def __init__(
        self, call: Call[T], after: Callable[[], None], failed: Callable[[], None]
    ) -> None:
        self.due = call.due
        self._call, self._after, self._failed = call, after, failed

    @property
    def done(self) -> bool:
        """See `Call.done`."""
        return self._call.done

    def result(self) -> T:
        """See `Call.result`."""
        try:
            found = self._call.result()
        except BaseException:
            self._failed()
            raise
        self._after()
        return found
