"""Servers on loopback for the tests, and environments for them to serve."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from threading import Event, Thread
from typing import Any

import numpy as np
from websockets.sync.server import Server, ServerConnection
from websockets.sync.server import serve as listen

from agentopd.environment.contract import Info, TextEnv
from agentopd.environment.serve import serve

PATIENCE = 60.0
"""Seconds that only a failing test takes."""


@contextmanager
def running(server: Server) -> Iterator[str]:
    """The server's address while it serves from a thread."""
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    host, port = server.socket.getsockname()[:2]
    try:
        yield f"ws://{host}:{port}/ws"
    finally:
        server.shutdown()
        thread.join(PATIENCE)


def served(spec: str, options: dict[str, Any] | None = None, **settings: Any) -> Any:
    """`agentopd serve-env` without the command."""
    return running(serve(spec, options, port=0, **settings))


def pretended(
    answer: Callable[[dict[str, Any]], Any], action_schema: Any = None, status: int = 200
) -> Any:
    """A foreign server: `answer` takes a message and gives what is sent back, None for nothing."""

    def converse(connection: ServerConnection) -> None:
        for message in connection:
            read = json.loads(message)
            if read["type"] == "close":
                return
            if (reply := answer(read)) is not None:
                connection.send(reply if isinstance(reply, str) else json.dumps(reply))

    def route(connection: ServerConnection, request: Any) -> Any:
        if request.path == "/ws":
            return None
        assert request.path == "/schema"
        return connection.respond(HTTPStatus(status), json.dumps({"action": action_schema}))

    return running(listen(converse, "127.0.0.1", 0, process_request=route))


class Counting(TextEnv):
    """Counts its steps, is solved at the third, and says which object it is.

    Args:
        bad: what step 2 raises, if that is "TypeError"; a reset with the option "bad" is refused.
        both: the third step is also a limit of turns, as Gymnasium's TimeLimit may have it.
    """

    system_prompt = "count"
    max_turns = 9

    def __init__(self, bad: str = "", both: bool = False) -> None:
        self.bad, self.both, self.steps = bad, both, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        if options and "bad" in options:
            raise ValueError("no such task")
        text = f"seed {seed} {options or ''}".strip()
        return text, {"task_id": f"count/{seed}", "success": False, "oracle": "up"}

    def step(self, action: str) -> tuple[str, Any, bool, bool, Info]:
        self.steps += 1
        if self.steps == 2 and self.bad == "TypeError":
            raise TypeError("broken")
        done = self.steps == 3
        info = {"task_id": "count", "success": done, "action_valid": action != "?"}
        info |= {"facts": {"n": np.int64(self.steps)}, "metrics": {"n": np.float32(1)}}
        return f"{self.steps} {action}", np.float64(done), done, done and self.both, info


class Closing(TextEnv):
    """Sets an event when it is closed."""

    closed = Event()

    def reset(self, **kwargs: Any) -> tuple[str, Info]:
        return "hello", {"task_id": "t", "success": False}

    def close(self) -> None:
        self.closed.set()
