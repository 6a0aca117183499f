"""Requests to model servers: many at once, retried within bounds, none longer than its time.

It stands on the standard library: a request can be cut from another thread, which Ctrl-C needs, its
time limit is that of the whole exchange, and no package is added for it. Nothing lives between
requests: a thread and its connection last as long as there is work for them.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, field_validator

from agentopd.base.parts import Settings
from agentopd.serving.connection import Connection, Failure, Request, shortened

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 8.0
"""Seconds between two tries, doubled each time."""


class ServerError(ValueError):
    """A server that gives no answer, or none that anything can be made of.

    The message is one line: the address, what happened, what to do.
    """


class ServerSettings(Settings):
    """Which server, and how patient one is with it.

    Args:
        url: its address, without the path of an interface: `http://localhost:8000`.
        key: the environment variable that holds the key it asks for; none by default. The key
            itself is never written anywhere.
        seconds: how long one try may take.
        patience: how many seconds a request is tried again, counted from its first failure, where
            the server is gone or has too much to do. So no request takes longer than `seconds` and
            `patience` together.
        parallel: how many requests it is sent at once.
    """

    url: str
    key: str = ""
    seconds: float = Field(default=60.0, gt=0)
    patience: float = Field(default=60.0, ge=0)
    parallel: int = Field(default=16, ge=1, le=1024)

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{value!r} is no server's address: give one as http://localhost:8000")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                f"the address of {parts.hostname} says more than where the server is: a key is "
                "named by `key`, an environment variable"
            )
        return value.rstrip("/")

    def headers(self) -> dict[str, str]:
        """What goes with each request.

        Raises:
            ValueError: the environment variable of the key is not set.
        """
        if not self.key:
            return {}
        if not (secret := os.environ.get(self.key)):
            raise ValueError(
                f"the key for {self.url} is to be in the environment variable {self.key}, which is "
                "not set: export it where the run starts"
            )
        return {"Authorization": f"Bearer {secret}"}


def _at_address(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


Server = Annotated[ServerSettings, BeforeValidator(_at_address)]
"""A server's address, or a mapping with its limits too."""


class HttpClient:
    """Asks one server, from any thread.

    Raises:
        ValueError: the environment variable of the key is not set.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self._headers = settings.headers()
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Future[bytes], Request]] = deque()
        self._workers = 0
        self._open = set[Connection]()

    def get(self, path: str, patience: float | None = None) -> bytes:
        """What the server answers to a GET; for `patience` see `post`."""
        return self._asked(self._request("GET", path, None), patience)

    def post(
        self, path: str, body: Mapping[str, Any] | bytes, patience: float | None = None
    ) -> bytes:
        """What the server answers to a body, bytes or what JSON can say.

        Args:
            patience: in place of the settings'; with 0 there is one try, as a request needs that
                must not be made twice.

        Raises:
            ServerError: no answer came in time, it was cut off, or it is no success.
        """
        return self._asked(self._request("POST", path, body), patience)

    def submit(self, path: str, body: Mapping[str, Any] | bytes) -> Future[bytes]:
        """`post` on another thread; at most `parallel` run at once, the others wait in order."""
        asked: Future[bytes] = Future()
        with self._lock:
            self._refuse_if_closed()
            self._waiting.append((asked, self._request("POST", path, body)))
            if starts := self._workers < self.settings.parallel:
                self._workers += 1
        if starts:  # daemons, since Python does not wait for them to end
            threading.Thread(target=self._work, name="http", daemon=True).start()
        return asked

    def post_each(self, path: str, bodies: Iterable[Mapping[str, Any] | bytes]) -> Iterator[bytes]:
        """`post` of several bodies at once; the answers in order, each let go of once it is taken.
        The first failure, or Ctrl-C, calls off those that wait.
        """
        asked = deque(self.submit(path, body) for body in bodies)
        try:
            while asked:
                yield asked.popleft().result()
        finally:
            for future in asked:
                future.cancel()

    def json(self, path: str, answer: bytes) -> Any:
        """An answer as JSON.

        Raises:
            ServerError: it is none.
        """
        try:
            return json.loads(answer)
        except ValueError as error:
            raise self.error(
                path, f"the answer is no JSON ({shortened(answer)})", "is this the right server?"
            ) from error

    def error(self, path: str, what: str, hint: str) -> ServerError:
        """An error in the words of all others."""
        return ServerError(f"{self.settings.url}{path}: {what}; {hint}")

    def close(self) -> None:
        """Call off everything, also what is under way. Twice is once."""
        self._closed.set()
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
            under_way = list(self._open)
        for future, _ in waiting:
            future.cancel()
        for connection in under_way:
            connection.cut()

    def __enter__(self) -> HttpClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def _request(self, method: str, path: str, body: Mapping[str, Any] | bytes | None) -> Request:
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        return Request(method, path, data, {"Content-Type": kind, **self._headers})

    def _asked(self, request: Request, patience: float | None) -> bytes:
        connection = Connection(self.settings.url)
        try:
            return self._ask(connection, request, patience)
        finally:
            connection.close()

    def _work(self) -> None:
        """Take what waits until nothing does."""
        connection = Connection(self.settings.url)
        while True:
            with self._lock:
                if not self._waiting:
                    self._workers -= 1
                    break
                future, request = self._waiting.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._ask(connection, request, None))
            except BaseException as error:  # it goes to whoever asks for the answer
                future.set_exception(error)
            del future, request
        connection.close()

    def _ask(self, connection: Connection, request: Request, patience: float | None) -> bytes:
        """Try, and try again while that may help and there is patience."""
        patience = self.settings.patience if patience is None else patience
        pause, tries, until, seconds = _FIRST_PAUSE, 0, 0.0, self.settings.seconds
        while True:
            answer = self._try(connection, request, seconds)
            if isinstance(answer, bytes):
                return answer
            self._refuse_if_closed()
            tries += 1
            until = until or time.monotonic() + patience
            wait = max(pause, answer.pause)
            if not answer.temporary or time.monotonic() + wait > until:
                often = f" ({tries} tries)" if tries > 1 else ""
                raise self.error(request.path, answer.what + often, answer.hint)
            self._closed.wait(wait)
            seconds = min(self.settings.seconds, max(until - time.monotonic(), pause))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _try(self, connection: Connection, request: Request, seconds: float) -> bytes | Failure:
        with self._lock:
            self._refuse_if_closed()
            self._open.add(connection)
        try:
            return connection.exchange(request, seconds)
        finally:
            with self._lock:
                self._open.discard(connection)

    def _refuse_if_closed(self) -> None:
        if self._closed.is_set():
            raise self.error("", "the client was closed", "make another to ask again")
