"""Environments behind OpenEnv's WebSocket protocol: `openenv:ws://HOST:PORT/ws`.

The server may be `openenv`'s own, in front of any of its environments, or `agentopd serve-env`; of
the protocol only the package `websockets` is needed. An environment is one session: it connects on
its first reset. What the protocol does not say is found out or can be told:

- An action is an object, a student's answer is text. Where the server's schema has exactly one
  required field of text, the answer is put there; otherwise the answer's `<action>` holds the
  object as JSON.
- An observation is an object too, of which the student sees the first field that is text by its
  name, or everything as JSON.
- Our `info` is read from the observation's metadata where it is there and of the right type, and so
  are `truncated`, the rules and the form of an action that `agentopd serve-env` sends.

Source: the package `openenv`, 0.10 (`core/env_server/http_server.py`, `core/env_client.py`).
"""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from agentopd.environment.contract import Info, TextEnv, parse_action
from agentopd.envs.adapters import library
from agentopd.envs.adapters.loopback import is_local, opener

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

TEXTS = ("text", "prompt", "message", "output", "content", "messages")
"""Fields of an observation that hold what a student reads, the likeliest first."""

_LARGEST = 2**24
"""Bytes of a message that is accepted."""

_INFO: dict[str, type] = {
    "task_id": str,
    "success": bool,
    "action_valid": bool,
    "feedback": str,
    "mistake": str,
    "oracle": str,
    "reference": str,
    "facts": dict,
    "metrics": dict,
    "skill": str,
    "guide": str,
}


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
        self._closed = library("websockets.exceptions", "openenv").ConnectionClosed
        self._proxy = None if is_local(self.url) else True
        self._http = opener(self.url)

    def ask(self, kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
        """The data of the observation that answers a message.

        Raises:
            Rejected: the server found the message invalid.
            ServerError: it answered anything but an observation; the session is over.
            TimeoutError: it did not answer in time; the session is over.
            OSError: it cannot be reached.
        """
        with ExitStack() as failing:
            failing.callback(self._drop)  # what comes later would be taken for the next answer
            if self._connection is None:
                # No pings: how long a server may be busy is what `seconds` says.
                self._connection = self._ending.enter_context(
                    self._connect(
                        self.url, open_timeout=self.connect_seconds, max_size=_LARGEST,
                        close_timeout=self.connect_seconds, ping_interval=None, compression=None,
                        proxy=self._proxy,
                    )
                )  # fmt: skip
            with suppress(self._closed):  # a server that is full says so, closes, and can be read
                self._connection.send(json.dumps({"type": kind, "data": data}))
            answer = json.loads(self._connection.recv(self.seconds))
            failing.pop_all()
        found = answer.get("data") if isinstance(answer, dict) else None
        if isinstance(found, dict) and answer.get("type") == "observation":
            return found
        if isinstance(found, dict) and found.get("code") == "VALIDATION_ERROR":
            raise Rejected(_reasons(found))
        self.close()
        if isinstance(found, dict) and answer.get("type") == "error":
            raise ServerError(f"{self.url} answered {found.get('code')}: {found.get('message')}")
        raise ServerError(f"{self.url} answered {_short(answer)}, which is no observation")

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


class Remote(TextEnv):
    """An environment on a server.

    Args:
        url: `ws://`, `wss://`, `http://` or `https://`; `/ws` is added where no path is given.
        send: the whole answer, as `agentopd serve-env` expects it, or only what stands in its
            `<action>`.
        action_field: the field of an action that takes the text, where the schema does not say.
        text_field: the field of an observation that the student reads, where it is none of `TEXTS`.
        reset: more that the environment's reset takes, `{"task_id": "a"}` say.
        max_turns: answers after which an episode is truncated.
        system_prompt: rules, for a server that sends none.
        success_reward: an episode is solved if it ends with a reward of at least this, where the
            server does not say `success`.
        connect_seconds, seconds: limits of connecting and of one answer.

    Raises:
        ValueError: the address is none, or `websockets` is not installed.
    """

    metadata: dict[str, Any] = {**TextEnv.metadata, "blocking": True}  # noqa: RUF012

    def __init__(
        self,
        url: str,
        *,
        send: Literal["answer", "action"] = "answer",
        action_field: str | None = None,
        text_field: str | None = None,
        reset: Mapping[str, Any] | None = None,
        max_turns: int | None = None,
        system_prompt: str = "",
        success_reward: float = 1.0,
        connect_seconds: float = 10.0,
        seconds: float = 60.0,
    ) -> None:
        if send not in ("answer", "action"):
            raise ValueError(f"send is 'answer' or 'action', not {send!r}")
        self.link = Link(_address(url), connect_seconds, seconds)
        self._send, self._field, self._text_field = send, action_field, text_field
        self._more = dict(reset or {})
        self.max_turns, self.system_prompt = max_turns, system_prompt
        self._turn_limit = max_turns
        self._success_reward = success_reward
        self._schema: dict[str, Any] | None = None
        self._task_id, self._turns = "", 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        """Start an episode; the options are sent along with the seed.

        Raises:
            ServerError, OSError: the server cannot, or cannot be reached.
        """
        if self._field is None and self._schema is None:
            self._schema = self.link.schema()
            self._field = text_field(self._schema)
        wanted = self._more | ({"options": options} if options else {})
        try:
            data = self.link.ask("reset", wanted | ({} if seed is None else {"seed": seed}))
        except Rejected as error:
            raise ServerError(f"{self.link.url} refused to reset: {error}") from error
        metadata = _metadata(data)
        self.system_prompt = _of(str, metadata, "system_prompt") or self.system_prompt
        self.action_form = _of(str, metadata, "action_form") or self.action_form
        self.action_between = metadata.get("action_between", self.action_between)
        self.stochastic = metadata.get("stochastic") is True
        self.max_turns = self._turn_limit or _of(int, metadata, "max_turns")
        self._turns = 0
        self._task_id = f"{self.link.url}/{seed}"
        return self._text(data), {"success": False} | self._info(metadata)

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Send an answer; one that cannot be sent, or that the server rejects, costs a turn."""
        self._turns += 1
        late = self._turn_limit is not None and self._turns >= self._turn_limit
        try:
            data = self.link.ask("step", self._action(action))
        except Rejected as error:
            problem = str(error)
            told = {"success": False, "action_valid": False, "feedback": problem}
            return problem, 0.0, False, late, {"task_id": self._task_id} | told
        metadata, reward = _metadata(data), float(data.get("reward") or 0.0)
        done = bool(data.get("done"))
        truncated = done and metadata.get("truncated") is True
        solved = done and not truncated and reward >= self._success_reward
        info = {"success": solved, "action_valid": True} | self._info(metadata)
        return (
            self._text(data),
            reward,
            done and not truncated,
            truncated or (late and not done),
            info,
        )

    def close(self) -> None:
        """End the session."""
        self.link.close()

    def _action(self, answer: str) -> dict[str, Any]:
        """The object that says what the answer says.

        Raises:
            Rejected: the answer holds no action.
        """
        if self._field is not None and self._send == "answer":
            return {self._field: answer}
        content = parse_action(answer)
        if content is None:
            raise Rejected("No <action></action> in the answer.")
        if self._field is not None:
            return {self._field: content}
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise Rejected(f"The action is not JSON: {error}. {self._wanted()}") from error
        if not isinstance(found, dict):
            raise Rejected(f"The action is not a JSON object. {self._wanted()}")
        return found

    def _wanted(self) -> str:
        properties = (self._schema or {}).get("properties") or {}
        names = [name for name in properties if name != "metadata"]
        return f"Its keys are: {', '.join(names)}."

    def _text(self, data: Mapping[str, Any]) -> str:
        seen = data.get("observation")
        if not isinstance(seen, dict):
            return _written(seen)
        names = (self._text_field,) if self._text_field is not None else TEXTS
        for name in names:
            if seen.get(name):
                return _written(seen[name])
        shown = {k: v for k, v in seen.items() if k not in ("metadata", "done", "reward")}
        # An empty text is a text; what has none is shown whole.
        return "" if any(isinstance(shown.get(name), str) for name in names) else _written(shown)

    def _info(self, metadata: Mapping[str, Any]) -> Info:
        kept = {k: v for k, v in metadata.items() if isinstance(v, _INFO.get(k, ()))}
        self._task_id = kept.get("task_id", self._task_id)
        return {"task_id": self._task_id} | kept


def text_field(schema: Mapping[str, Any]) -> str | None:
    """The only required field of an action, if it is one of text."""
    required = schema.get("required") or []
    properties = schema.get("properties") or {}
    if len(required) != 1 or properties.get(required[0], {}).get("type") != "string":
        return None
    return required[0]


def _address(url: str) -> str:
    """The address of the WebSocket."""
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.hostname:
        raise ValueError(f"{url!r} is no address of a server: write openenv:ws://HOST:PORT/ws")
    path = parts.path.rstrip("/")
    return urlunsplit(
        (scheme, parts.netloc, path if path.endswith("/ws") else f"{path}/ws", "", "")
    )


def _metadata(data: Mapping[str, Any]) -> dict[str, Any]:
    """What stands beside an observation, or in it."""
    seen = data.get("observation")
    inside = seen.get("metadata") if isinstance(seen, dict) else None
    found = data.get("metadata") or inside
    return found if isinstance(found, dict) else {}


def _of(kind: type, metadata: Mapping[str, Any], name: str) -> Any:
    value = metadata.get(name)
    return value if isinstance(value, kind) else None


def _written(value: Any) -> str:
    """Text as it is, messages by their content, anything else as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(m, dict) and "content" in m for m in value):
        return "\n".join(_written(m["content"]) for m in value)
    return json.dumps(value, ensure_ascii=False)


def _reasons(error: Mapping[str, Any]) -> str:
    """A validation error in a line: the message, and what is wrong with which field."""
    found = error.get("errors")
    details = [d for d in found if isinstance(d, dict)] if isinstance(found, list) else []
    lines = [f"{'.'.join(map(str, d.get('loc') or ()))}: {d.get('msg')}" for d in details]
    return ": ".join(filter(None, (str(error.get("message", "")), "; ".join(lines))))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
