"""A model's endpoint whose answers are given by hand, and what calls it on a thread of its own.

Control is turned around: whoever plays by calling a model waits at the call, until the answer is
given, and the other side waits until it is asked or all is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from agentopd.environment.checks.subject import Caught

Message = Mapping[str, Any]

_LEFT = 10.0
"""Seconds that what is cancelled may take to clean up."""


@dataclass(frozen=True)
class Asked:
    """A call of the model: the messages, and where its answer is put, None if it gets none."""

    messages: Sequence[Message]
    answer: queue.SimpleQueue[str | None] = field(default_factory=queue.SimpleQueue)


@dataclass(frozen=True)
class Ended:
    """What the player returned, or the error that ended it."""

    result: Any = None
    error: BaseException | None = None


class Player:
    """Something that plays by calling a model, on a thread and in an event loop of its own.

    Args:
        play: is given the endpoint's address, as OpenAI's clients take it, and plays.
    """

    def __init__(self, play: Callable[[str], Awaitable[Any]]) -> None:
        self._events: queue.SimpleQueue[Asked | Ended] = queue.SimpleQueue()
        self._asked: Asked | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self._events.put))
        self._begun, self._closing = threading.Event(), threading.Event()
        self._cancel: Callable[[], Any] = int
        self._port = int(self._server.server_address[1])
        url = f"http://127.0.0.1:{self._port}/v1"
        self._threads = [
            threading.Thread(target=target, args=given, name=f"verifiers-{name}", daemon=True)
            for name, target, given in (
                ("endpoint", self._serve, ()),
                ("player", self._run, (play, url)),
            )
        ]
        for thread in self._threads:
            thread.start()

    def _serve(self) -> None:
        while not self._closing.is_set():
            self._server.handle_request()

    def _run(self, play: Callable[[str], Awaitable[Any]], url: str) -> None:
        async def cancellable() -> Any:
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            assert task is not None
            self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
            self._begun.set()
            return await play(url)

        result = None
        with contextlib.suppress(asyncio.CancelledError), Caught() as caught:
            result = asyncio.run(cancellable())
        self._events.put(Ended(result, caught.error))

    def wait(self, seconds: float) -> Asked | Ended:
        """The next call, or the end.

        Raises:
            TimeoutError: neither comes in time.
        """
        try:
            event = self._events.get(timeout=seconds)
        except queue.Empty as error:
            raise TimeoutError(f"neither a question nor an end in {seconds:g} seconds") from error
        self._asked = event if isinstance(event, Asked) else None
        return event

    def answer(self, text: str) -> None:
        """Answer the call that came last."""
        assert self._asked is not None, "nothing has been asked"
        self._asked.answer.put(text)
        self._asked = None

    def close(self) -> None:
        """End it, wherever it is."""
        self._begun.wait(_LEFT)
        with contextlib.suppress(RuntimeError):  # its loop has ended by itself
            self._cancel()
        left = [self._asked] if self._asked else []
        while not self._events.empty():
            event = self._events.get()
            left += [event] if isinstance(event, Asked) else []
        for asked in left:
            asked.answer.put(None)
        self._closing.set()
        with contextlib.suppress(OSError):  # a call of nobody wakes what waits for calls
            socket.create_connection(("127.0.0.1", self._port), _LEFT).close()
        for thread in self._threads:
            thread.join(_LEFT)
        self._server.server_close()


async def aside(call: Callable[[], Any]) -> Any:
    """What `call` returns or raises, on a thread that ends with the process at the latest.

    Those of asyncio's own are waited for at the end, and one of these may wait for ever.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def done(result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def called() -> None:
        result = None
        with Caught() as caught:
            result = call()
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(done, result, caught.error)

    threading.Thread(target=called, name="verifiers-call", daemon=True).start()
    return await future


def _handler(heard: Callable[[Asked], None]) -> type[BaseHTTPRequestHandler]:
    """What answers a POST of OpenAI's chat completions, once the call has been answered."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            asked = Asked(json.loads(self.rfile.read(size))["messages"])
            heard(asked)
            if (text := asked.answer.get()) is None:
                return
            sent = json.dumps(_completion(text)).encode()
            with contextlib.suppress(ConnectionError):  # who asked has given up
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing is printed."""

    return Handler


def _completion(text: str) -> dict[str, Any]:
    """An answer in the form of OpenAI's chat completions; its tokens are the sampler's to know."""
    message = {"role": "assistant", "content": text}
    return {
        "id": "student",
        "object": "chat.completion",
        "created": 0,
        "model": "student",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    }
