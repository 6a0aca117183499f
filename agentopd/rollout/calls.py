"""Calls of an environment: made in place, or on a thread with a limit of time.

An environment in process answers in microseconds and is called where it stands. One that waits for
something else, a server say, declares `metadata["blocking"] = True`: each such environment has a
thread of its own, so that many of them wait at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

import gymnasium

T = TypeVar("T")
Answer = Callable[[], T]
"""Gives what a call returned, or raises what it raised; waits for one that is still under way."""


class Caller(Protocol):
    """How the calls of one environment are made."""

    def begin(self, call: Callable[[], T]) -> Answer[T]:
        """Begin a call."""
        ...

    def end(self, call: Callable[[], T]) -> Answer[T | None]:
        """Begin the last call."""
        ...


def caller(env: gymnasium.Env[Any, Any], seconds: float) -> Caller:
    """The caller that suits `env`; `seconds` limit a call of an environment that blocks."""
    return OnThread(seconds) if env.metadata.get("blocking") else InPlace()


class InPlace:
    """Makes every call where its answer is asked for."""

    def begin(self, call: Callable[[], T]) -> Answer[T]:
        """See `Caller.begin`."""
        return call

    def end(self, call: Callable[[], T]) -> Answer[T | None]:
        """See `Caller.end`."""
        return call


class OnThread:
    """Makes its calls one after another on one thread; an answer is waited for `seconds` at most.

    One thread for all calls, because what stands behind an environment may belong to the thread
    that made it. A daemon and no executor's, because Python waits for executors' threads before it
    ends, and a call may never return.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._overdue = False
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        threading.Thread(target=self._work, name="environment", daemon=True).start()

    def begin(self, call: Callable[[], T]) -> Answer[T]:
        """See `Caller.begin`; the answer raises TimeoutError when it does not come in time."""
        future: Future[T] = Future()
        due = time.monotonic() + self.seconds
        self._calls.put((future, call))

        def answer() -> T:
            if not wait([future], max(0.0, due - time.monotonic())).done:
                self._overdue = True
                raise TimeoutError(
                    f"the environment did not answer within {self.seconds:g} seconds; "
                    "rollout.env_seconds is the limit"
                )
            return future.result()

        return answer

    def end(self, call: Callable[[], T]) -> Answer[T | None]:
        """See `Caller.end`; behind a call that is overdue nobody waits for the last one."""
        answer = self.begin(call)
        self._calls.put(None)
        return (lambda: None) if self._overdue else answer

    def _work(self) -> None:
        while (given := self._calls.get()) is not None:
            future, call = given
            try:
                future.set_result(call())
            except BaseException as error:  # it goes to whoever asks for the answer
                future.set_exception(error)
            del given, future, call  # an idle thread holds on to nothing
