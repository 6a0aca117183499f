"""A wall limit on every call into the environment under test, which may never return.

The checks run on one thread of their own, and the caller only looks on: a call costs nothing more
than the note of when it began.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from agentopd.base import objects
from agentopd.environment.contract import Info

_BRIEFLY = 0.01
_CLOSE = "close()"
_INNERMOST = 3
"""Lines of code by which a call that hangs is found."""


class GivenUp(BaseException):
    """Ends the checks' thread if the call that it was given up for returns after all."""


class Watch:
    """Which call into the environment is running, and since when.

    Args:
        seconds: wall-clock time that a call may take; `allowed` is that of the running one.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.given_up = False
        self.allowed = seconds
        self.hung: tuple[str, ...] = ()
        """Where the call was that took too long: lines of code, the innermost last."""
        self.last: tuple[str, Any] = ("", None)
        """The call that is running or was the last one, and what it was given."""
        self._since = time.monotonic()

    def begin(self, call: str, given: Any = None, seconds: float | None = None) -> None:
        """Note that `call` begins, with `given`; it may take `seconds`.

        Raises:
            GivenUp: nobody waits for the checks any longer; what is open may still be closed.
        """
        if self.given_up and call != _CLOSE:
            raise GivenUp
        self.last = call, given
        self.allowed = self.seconds if seconds is None else seconds
        self._since = time.monotonic()

    def end(self) -> None:
        """Note that it has returned."""
        self._since, self.allowed = time.monotonic(), self.seconds

    @property
    def call(self) -> str:
        """The call that is running or was the last one, for a message."""
        name, given = self.last
        if name == "reset":
            return f"reset({', '.join(f'{key}={value}' for key, value in given.items())})"
        return f"step({short(given)})" if name == "step" else name

    @property
    def left(self) -> float:
        """Seconds that the running call may still take."""
        return self._since + self.allowed - time.monotonic()


def in_time(work: Callable[[], None], watch: Watch) -> bool:
    """Do `work` on a thread; False, and the thread is left alone, where a call takes too long.

    The thread is a daemon's, so that Python ends although it hangs.
    """
    done: Future[None] = Future()

    def run() -> None:
        try:
            work()
            done.set_result(None)
        except BaseException as error:  # it goes to whoever asks for the result
            done.set_exception(error)

    thread = threading.Thread(target=run, name="check-env", daemon=True)
    thread.start()
    try:
        while not wait([done], max(_BRIEFLY, watch.left)).done:
            if watch.left < 0:
                watch.hung = _standing(thread)
                return False
        done.result()
        return True
    finally:
        watch.given_up = not done.done()


def _standing(thread: threading.Thread) -> tuple[str, ...]:
    """The last lines of code in which `thread` stands, beneath the call that is watched."""
    frame = sys._current_frames().get(thread.ident or 0)
    lines = traceback.extract_stack(frame)
    ours = [n for n, line in enumerate(lines) if line.filename in (__file__, objects.__file__)]
    inside = lines[max(ours, default=-1) + 1 :]
    return tuple(
        f"{os.path.basename(line.filename)}, line {line.lineno}, in {line.name}"
        for line in inside[-_INNERMOST:]
    )


class Watched(gymnasium.Wrapper[str, str, str, str]):
    """An environment whose calls are noted in `watch`."""

    def __init__(self, env: gymnasium.Env[str, str], watch: Watch) -> None:
        super().__init__(env)
        self._watch = watch

    @property
    def spec(self) -> EnvSpec | None:
        """The specification inside: a look at the clock changes nothing about it."""
        return self.env.spec

    def reset(self, **kwargs: Any) -> tuple[str, Info]:
        """See `gymnasium.Env.reset`; what is not given is not handed on either."""
        self._watch.begin("reset", kwargs)
        try:
            return self.env.reset(**kwargs)
        finally:
            self._watch.end()

    def step(self, action: str) -> Any:
        """See `gymnasium.Env.step`; whatever it returns."""
        self._watch.begin("step", action)
        try:
            return self.env.step(action)
        finally:
            self._watch.end()

    def close(self) -> None:
        """See `gymnasium.Env.close`."""
        self._watch.begin(_CLOSE)
        try:
            self.env.close()
        finally:
            self._watch.end()


def short(value: Any) -> str:
    """`value` for a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
