"""One session with an OpenEnv server: messages, answers, and what is said where there are none."""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from agentopd.envs.adapters import library
from agentopd.envs.adapters.loopback import is_local, opener, unreachable

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

_LARGEST = 2**24
"""Bytes of a message that is accepted."""


class ServerError(RuntimeError):
    """A server answered that it cannot go on, or something that is no answer."""


class Rejected(Exception):
    """A server refused an action, and the episode goes on; the message is for the student."""


@dataclass
class Link:
    """One session with a server, connected when it is first used.

    Args:
        url: of its WebSocket.
        connect_seconds: to open the connection, or to fetch the schema.
        seconds: for one answer.

    Raises:
        ValueError: `websockets` is not installed.
    """

    url: str
    connect_seconds: float
    seconds: float
    _connection: ClientConnection | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._ending = ExitStack()
        self._connect = library("websockets.sync.client", "openenv").connect
        errors = library("websockets.exceptions", "openenv")
        self._closed, self._refused = errors.ConnectionClosed, errors.WebSocketException
        self._proxy = None if is_local(self.url) else True
        self._http = opener(self.url)

    def ask(self, kind: str, data: Mapping[str, Any], playable: bool = False) -> dict[str, Any]:
        """The data of the observation that answers a message.

        Args:
            playable: the episode goes on where the server could not carry it out.

        Raises:
            Rejected: the server found the message invalid.
            ServerError: it answered anything but an observation; the session is over.
            TimeoutError: it did not answer in time; the session is over.
            OSError: it cannot be reached.
        """
        answer = self._exchange(kind, data)
        found = answer.get("data") if isinstance(answer, dict) else None
        if isinstance(found, dict) and answer.get("type") in ("observation", "mcp"):
            return found
        if isinstance(found, dict) and (
            found.get("code") == "VALIDATION_ERROR"
            or (playable and found.get("code") == "EXECUTION_ERROR")
        ):
            raise Rejected(_reasons(found))
        self.close()
        if isinstance(found, dict) and answer.get("type") == "error":
            raise ServerError(f"{self.url} answered {found.get('code')}: {found.get('message')}")
        raise ServerError(f"{self.url} answered {_short(answer)}, which is no observation")

    def _exchange(self, kind: str, data: Mapping[str, Any]) -> Any:
        """What the server answers to a message; the session is over where it is nothing."""
        with ExitStack() as failing:
            failing.callback(self._drop)  # what comes later would be taken for the next answer
            connection = self._connected()
            with suppress(self._closed):  # a server that is full says so, closes, and can be read
                connection.send(json.dumps({"type": kind, "data": data}))
            try:
                answer = json.loads(connection.recv(self.seconds))
            except TimeoutError as error:
                raise TimeoutError(
                    f"{self.url} did not answer within {self.seconds:g} seconds"
                ) from error
            except self._closed as error:
                raise ServerError(f"{self.url} closed the connection: {error}") from error
            failing.pop_all()
        return answer

    def _connected(self) -> ClientConnection:
        """The connection, opened with the first message."""
        if self._connection is None:
            try:
                # No pings: how long a server may be busy is what `seconds` says.
                self._connection = self._ending.enter_context(
                    self._connect(
                        self.url, open_timeout=self.connect_seconds, max_size=_LARGEST,
                        close_timeout=self.connect_seconds, ping_interval=None, compression=None,
                        proxy=self._proxy,
                    )
                )  # fmt: skip
            except OSError as error:
                raise ConnectionError(unreachable(self.url, error)) from error
            except self._refused as error:
                raise ServerError(f"{self.url} opens no session: {error}") from error
        return self._connection

    def schema(self) -> dict[str, Any]:
        """The JSON schema of an action.

        Raises:
            ServerError: the server has none.
            OSError: it cannot be reached.
        """
        parts = urlsplit(self.url)
        scheme = {"ws": "http", "wss": "https"}[parts.scheme]
        path = parts.path.removesuffix("/ws") + "/schema"
        address = urlunsplit((scheme, parts.netloc, path, "", ""))
        try:
            with self._http.open(address, timeout=self.connect_seconds) as response:
                found = json.loads(response.read(_LARGEST))["action"]
        except (urllib.error.HTTPError, ValueError, LookupError, TypeError) as error:
            raise ServerError(f"{address} is no schema of an action: {error}") from error
        except OSError as error:
            raise ConnectionError(unreachable(address, error)) from error
        return found if isinstance(found, dict) else {}

    def close(self) -> None:
        """End the session, and wait until the server has: it may have a place for one alone."""
        if self._connection is not None:
            with suppress(self._closed, TimeoutError):
                self._connection.send('{"type": "close"}')
                self._connection.recv(self.connect_seconds)
        self._drop()

    def _drop(self) -> None:
        self._connection = None
        self._ending.close()


def _reasons(error: Mapping[str, Any]) -> str:
    """A validation error in a line: the message, and what is wrong with which field."""
    found = error.get("errors")
    details = [d for d in found if isinstance(d, dict)] if isinstance(found, list) else []
    lines = [f"{'.'.join(map(str, d.get('loc') or ()))}: {d.get('msg')}" for d in details]
    return ": ".join(filter(None, (str(error.get("message", "")), "; ".join(lines))))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
