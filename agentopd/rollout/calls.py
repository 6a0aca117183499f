"""Calls of an environment: made in place, or on a thread with a limit of time.

An environment in process answers in microseconds and is called where it stands. One that waits for
something else, a server say, declares `metadata["blocking"] = True`: each such environment has a
thread of its own, so that many of them wait at once.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

import gymnasium

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Call(Protocol[T_co]):
    """A call that was begun.

    `due` is when it will have taken too long, on the monotonic clock; infinity where nobody waits.
    """

    due: float

    @property
    def done(self) -> bool:
        """Whether `result` would not wait."""
        ...

    def result(self) -> T_co:
        """What the call returned, or raises what it raised; waits until it is due."""
        ...


class Caller(Protocol):
    """How the calls of one environment are made.

    `used` says whether an episode was played in that environment before.
    """

    used: bool

    def tune(self, seconds: float, wake: threading.Event) -> None:
        """Limit calls by so many seconds from here on, and set `wake` after each."""
        ...

    def begin(self, call: Callable[[], T]) -> Call[T]:
        """Begin a call."""
        ...

    def end(self, call: Callable[[], T], sound: bool = False) -> Call[T | None]:
        """Begin the last call.

        Args:
            sound: the episode was played to its end, and nothing in it failed.
        """
        ...


def caller(
    env: gymnasium.Env[Any, Any], seconds: float, wake: threading.Event | None = None
) -> Caller:
    """The caller that suits `env`.

    Args:
        seconds: limit a call of an environment that blocks.
        wake: set whenever such an environment has answered.
    """
    blocks = env.metadata.get("blocking")
    return OnThread(seconds, wake or threading.Event()) if blocks else InPlace()


class Made(Generic[T]):
    """A call that is made where its result is asked for."""

    due = math.inf
    done = True

    def __init__(self, result: Callable[[], T]) -> None:
        self.result = result


class InPlace:
    """Makes every call where its result is asked for."""

    used = False

    def tune(self, seconds: float, wake: threading.Event) -> None:
        """See `Caller.tune`; nobody waits for these calls."""

    def begin(self, call: Callable[[], T]) -> Call[T]:
        """See `Caller.begin`."""
        return Made(call)

    def end(self, call: Callable[[], T], sound: bool = False) -> Call[T | None]:
        """See `Caller.end`."""
        del sound
        return Made(call)


class Begun(Generic[T]):
    """A call on an environment's thread.

    Its result raises TimeoutError when it does not come in time.
    """

    def __init__(self, future: Future[T], caller: OnThread) -> None:
        self.due = time.monotonic() + caller.seconds
        self._future, self._caller = future, caller

    @property
    def done(self) -> bool:
        """See `Call.done`: it has answered, or nobody waits for it any more."""
        return self._future.done() or time.monotonic() >= self.due

    def result(self) -> T:
        """See `Call.result`."""
        if not wait([self._future], max(0.0, self.due - time.monotonic())).done:
            self._caller.overdue = True
            raise TimeoutError(
                f"the environment did not answer within {self._caller.seconds:g} seconds; "
                "rollout.env_seconds is the limit"
            )
        return self._future.result()


class OnThread:
    """Makes its calls one after another on one thread; each is waited for `seconds` at most.

    One thread for all calls, because what stands behind an environment may belong to the thread
    that made it. A daemon and no executor's, because Python waits for executors' threads before it
    ends, and a call may never return.
    """

    used = False

    def __init__(self, seconds: float, wake: threading.Event) -> None:
        self.seconds, self.wake = seconds, wake
        self.overdue = False
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        threading.Thread(target=self._work, name="environment", daemon=True).start()

    def tune(self, seconds: float, wake: threading.Event) -> None:
        """See `Caller.tune`."""
        self.seconds, self.wake = seconds, wake

    def begin(self, call: Callable[[], T]) -> Call[T]:
        """See `Caller.begin`."""
        future: Future[T] = Future()
        future.add_done_callback(lambda _: self.wake.set())
        self._calls.put((future, call))
        return Begun(future, self)

    def end(self, call: Callable[[], T], sound: bool = False) -> Call[T | None]:
        """See `Caller.end`; behind a call that is overdue nobody waits for the last one."""
        del sound
        begun = self.begin(call)
        self._calls.put(None)
        return Made(lambda: None) if self.overdue else begun

    def _work(self) -> None:
        while (given := self._calls.get()) is not None:
            future, call = given
            try:
                future.set_result(call())
            except BaseException as error:  # it goes to whoever asks for the answer
                future.set_exception(error)
            del given, future, call  # an idle thread holds on to nothing
