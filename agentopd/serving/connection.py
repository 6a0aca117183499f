"""One exchange with a server, and in words what may go wrong in it."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import SplitResult, urlsplit

_CHUNK = 2**20
"""Bytes of an answer that are read at a time."""
_SOON = 1e-3
"""Seconds, where hardly any are left; a socket takes 0 for no waiting at all."""
_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)
"""Statuses after which the same request may well succeed."""
_SAID = 200
"""Characters of a server's own words in a message."""
_HINTS = {
    401: "name the environment variable of its key with `key`",
    403: "name the environment variable of its key with `key`",
    404: "is this the right server, its address and the model's name?",
    413: "its limit for a request is too small: send less at once",
    429: "it has too much to do: lower `parallel`, or raise `patience`",
}


@dataclass(frozen=True)
class Request:
    """What a server is asked; `path` begins with a slash."""

    method: str
    path: str
    body: bytes | None
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Failure:
    """Why a try gave nothing, what the user may do, and whether another may give more.

    `pause` is how many seconds the server asks to be left alone.
    """

    what: str
    hint: str
    temporary: bool
    pause: float = 0.0


class Connection:
    """One connection, made when it is needed; of one thread, but for `cut`."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self._made: http.client.HTTPConnection | None = None
        self._socket: socket.socket | None = None

    def exchange(self, request: Request, seconds: float) -> bytes | Failure:
        """The body of an answer that is a success, or why there is none."""
        try:
            return self._exchange(request, seconds)
        except (OSError, http.client.HTTPException) as error:  # what a network may do
            self.close()
            return _broken(error, seconds)

    def cut(self) -> None:
        """End whatever waits for the server, from another thread."""
        held = self._socket
        if held is not None:
            try:
                held.shutdown(socket.SHUT_RDWR)
            except OSError:  # it has ended by itself
                return

    def close(self) -> None:
        """Let go of the connection; the next exchange makes another."""
        if self._made is not None:
            self._made.close()
        self._made = self._socket = None

    def _exchange(self, request: Request, seconds: float) -> bytes | Failure:
        due = time.monotonic() + seconds
        if self._made is None:
            self._made = _open(self._url, seconds)
        made, target = self._made, self._url.path + request.path
        if _proxy(self._url) and self._url.scheme == "http":
            target = self._url._replace(path=target).geturl()
        if made.sock is None:
            made.connect()
        held = self._socket = made.sock
        assert held is not None
        held.settimeout(max(due - time.monotonic(), _SOON))
        made.request(request.method, target, request.body, dict(request.headers))
        with made.getresponse() as response:
            body = _read(response, held, due)
            if 200 <= response.status < 300:
                return body
            self.close()  # some servers do not read what they refuse
            return _refused(response, body)


def is_local(host: str | None) -> bool:
    """Whether a host is this machine: no proxy stands between a machine and itself."""
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False


def shortened(answer: bytes) -> str:
    """A server's own words, in one line that is not too long."""
    text = " ".join(answer[: 4 * _SAID].decode(errors="replace").split())
    return repr(text if len(text) <= _SAID else f"{text[:_SAID]}...") if text else "nothing"


def _proxy(url: SplitResult) -> SplitResult | None:
    """The proxy that the environment names for an address."""
    host = url.hostname or ""
    if is_local(host) or urllib.request.proxy_bypass(host):
        return None
    named = urllib.request.getproxies().get(url.scheme)
    return urlsplit(named if "//" in named else f"//{named}") if named else None


def _open(url: SplitResult, seconds: float) -> http.client.HTTPConnection:
    near, secure = _proxy(url) or url, url.scheme == "https"
    assert near.hostname is not None and url.hostname is not None
    if not secure:
        return http.client.HTTPConnection(near.hostname, near.port, timeout=seconds)
    safe = ssl.create_default_context()
    made = http.client.HTTPSConnection(near.hostname, near.port, timeout=seconds, context=safe)
    if near is not url:
        made.set_tunnel(url.hostname, url.port or 443)
    return made


def _read(response: http.client.HTTPResponse, held: socket.socket, due: float) -> bytes:
    """The body, all of it.

    Raises:
        TimeoutError: it is not there when it is due, though some of it may still be coming.
        http.client.IncompleteRead: the server ended it too early.
    """
    parts = list[bytes]()
    while part := response.read1(_CHUNK):
        parts.append(part)
        if (left := due - time.monotonic()) <= 0:
            raise TimeoutError
        held.settimeout(left)
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return b"".join(parts)


def _broken(error: Exception, seconds: float) -> Failure:
    """What happened where there is no answer."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Failure(f"its certificate does not hold ({error.reason})", "correct it", False)
    if isinstance(error, ConnectionRefusedError):
        return Failure("nothing listens there", "start the server, or correct its address", True)
    if isinstance(error, socket.gaierror):
        return Failure("there is no such host", "correct the address", True)
    if isinstance(error, TimeoutError):
        hint = "raise `seconds` if it needs longer, and see what it is doing"
        return Failure(f"no answer within {seconds:.3g} seconds", hint, True)
    said = str(error).split("\n")[0] or type(error).__name__
    return Failure(f"the answer broke off ({said})", "see the server's own log", True)


def _refused(response: http.client.HTTPResponse, body: bytes) -> Failure:
    """What a server says that is no success."""
    status, pause = response.status, response.getheader("Retry-After", "")
    return Failure(
        what=f"status {status}, {_explained(body)}",
        hint=_HINTS.get(status, "see the server's own log"),
        temporary=status in _TEMPORARY,
        pause=float(pause) if pause.isdecimal() else 0.0,
    )


def _explained(body: bytes) -> str:
    """The message in an error's JSON, as OpenAI's interface has it, or whatever stands there."""
    try:
        said: Any = json.loads(body)
    except ValueError:
        return shortened(body)
    for name in ("error", "message", "detail"):
        if isinstance(said, dict) and name in said:
            said = said[name]
    return shortened(said.encode() if isinstance(said, str) else body)
