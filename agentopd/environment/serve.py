"""Environments served over OpenEnv's WebSocket protocol, to any client that speaks it.

    server -> GET /health, /metadata, /schema          as JSON
    client -> {"type": "reset", "data": {"seed": 7}}
    server -> {"type": "observation", "data": {"observation": {"text": ..., "metadata": {...}},
                                               "reward": None, "done": False, "metadata": {...}}}
    client -> {"type": "step", "data": {"text": "<action>up</action>"}}
    client -> {"type": "state"} or {"type": "close"}
    server -> {"type": "error", "data": {"message": ..., "code": "VALIDATION_ERROR"}}

A connection is a session and an episode is an environment of its own: nothing is shared. Of `info`
the keys in `TOLD` are the observation's `metadata`, or all of them where that is asked for. What
the protocol has no place for is in there too: `truncated`, and on reset `system_prompt`,
`examples`, `action_form`, `action_between`, `max_turns` and `stochastic`. A message that cannot be
used is answered by an error and the session goes on; so is one on which the environment raises,
which ends the episode and is logged. Source: the package `openenv`, 0.10. Its stateless HTTP
`/reset` and `/step` and its tasks by number are left out.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Any

import gymnasium
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentopd.base.text import escaped, raised
from agentopd.environment.contract import (
    Info,
    TextEnv,
    declared,
    examples,
    plain,
    system_prompt,
    turn_limit,
)
from agentopd.environment.settings import EnvSettings
from agentopd.environment.wrappers import Wrapper

if TYPE_CHECKING:
    from websockets.http11 import Request, Response
    from websockets.sync.server import Server, ServerConnection

TOLD = frozenset({"task_id", "success", "action_valid", "metrics", "skill"})
"""The keys of `info` for every client: what else an environment says there may be the solution."""

_LOG = logging.getLogger(__name__)
_LARGEST = 2**20
"""Bytes of a message; a longer one ends its session."""


class Action(BaseModel):
    """What a client sends to act: the raw answer."""

    model_config = ConfigDict(extra="forbid")

    text: str
    metadata: dict[str, Any] = Field(default_factory=dict)


class Observation(BaseModel):
    """What a client is shown."""

    text: str
    done: bool = False
    reward: float | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class State(BaseModel):
    """Where a session stands."""

    episode_id: str | None = None
    step_count: int = 0


class Reset(BaseModel):
    """How an episode starts; keys that no environment here knows are ignored."""

    seed: int | None = Field(default=None, ge=0, strict=True)
    episode_id: str | None = Field(default=None, max_length=255)
    options: dict[str, Any] | None = None


class Refused(ValueError):
    """A message that cannot be used; `code` is one of the protocol's."""

    def __init__(self, code: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.code, self.more = code, more

    @property
    def reply(self) -> dict[str, Any]:
        """The answer to such a message."""
        return {"type": "error", "data": {"message": str(self), "code": self.code} | self.more}


@dataclass
class Session:
    """One client's episodes, one after another.

    Args:
        build: gives a fresh environment.
        privileged: whether the client is told what is for the teacher alone.
    """

    build: Callable[[], gymnasium.Env[str, str]]
    privileged: bool
    state: State = field(default_factory=State)
    _env: gymnasium.Env[str, str] | None = None
    _over: bool = False

    def reply(self, message: str | bytes) -> dict[str, Any] | None:
        """The answer to a message; None to the one that ends the session."""
        try:
            kind, data = _read(message)
            if kind == "close":
                return None
            if kind == "state":
                return {"type": "state", "data": self.state.model_dump()}
            return {"type": "observation", "data": self._act(kind, data)}
        except ValidationError as error:
            errors = error.errors(include_url=False, include_context=False, include_input=False)
            return Refused("VALIDATION_ERROR", "Invalid message", errors=errors).reply
        except Refused as error:
            return error.reply

    def close(self) -> None:
        """Close the environment, if there is one."""
        env, self._env = self._env, None
        if env is not None:
            env.close()

    def _act(self, kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
        if kind == "reset":
            return self._played(partial(self._reset, Reset.model_validate(data)))
        if kind == "step":
            return self._played(partial(self._step, Action.model_validate(data)))
        raise Refused("UNKNOWN_TYPE", f"Unknown message type: {kind}")

    def _played(self, play: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What the environment answers, as JSON has it.

        Raises:
            Refused: it raised, or answered what JSON has no form for; the episode is over.
        """
        try:
            return json.loads(json.dumps(play(), default=plain))
        except Refused:
            raise
        except ValueError as error:  # an environment's way to refuse options
            self._over = True
            raise Refused(
                "EXECUTION_ERROR", f"{escaped(str(error))}; reset to begin an episode"
            ) from error
        except (Exception, SystemExit) as error:
            self._over = True
            said = raised(error)
            _LOG.error("an environment raised %s", said, exc_info=error)
            raise Refused("EXECUTION_ERROR", f"{said}; reset to begin an episode") from error

    def _reset(self, wanted: Reset) -> dict[str, Any]:
        self.close()
        self._env = self.build()
        text, info = self._env.reset(seed=wanted.seed, options=wanted.options)
        self.state, self._over = State(episode_id=wanted.episode_id), False
        about = {
            "system_prompt": system_prompt(self._env),
            "examples": examples(self._env),
            "action_form": declared(self._env, "action_form", TextEnv.action_form),
            "action_between": declared(self._env, "action_between", " "),
            "max_turns": turn_limit(self._env),
            "stochastic": declared(self._env, "stochastic", False),
        }
        return self._shown(text, None, False, info, about)

    def _step(self, action: Action) -> dict[str, Any]:
        if self._env is None or self._over:
            raise Refused("EXECUTION_ERROR", "there is no episode under way: reset first")
        text, reward, terminated, truncated, info = self._env.step(action.text)
        self.state.step_count += 1
        self._over = bool(terminated or truncated)
        late = bool(truncated and not terminated)
        return self._shown(text, float(reward), self._over, info, {"truncated": late})

    def _shown(
        self, text: str, reward: float | None, done: bool, info: Info, own: Info
    ) -> dict[str, Any]:
        told = {k: v for k, v in (info | own).items() if self.privileged or k in TOLD | own.keys()}
        # Twice, as openenv does: typed clients look into the observation, generic ones beside it.
        seen = {"text": text, "metadata": told}
        return {"observation": seen, "reward": reward, "done": done, "metadata": told}


def _read(message: str | bytes) -> tuple[str, dict[str, Any]]:
    """A message's type and data.

    Raises:
        Refused: it is no message.
    """
    try:
        read = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise Refused("INVALID_JSON", f"Invalid JSON: {error}") from error
    if not isinstance(read, dict) or not isinstance(read.get("type"), str):
        raise Refused("VALIDATION_ERROR", 'a message is an object with a "type"')
    data = read.get("data")
    if data is not None and not isinstance(data, dict):
        raise Refused("VALIDATION_ERROR", 'the "data" of a message is an object')
    return read["type"], data or {}


def serve(
    spec: str,
    options: Mapping[str, Any] | None = None,
    *,
    wrappers: Sequence[Wrapper] = (),
    host: str = "127.0.0.1",
    port: int = 8000,
    sessions: int = 64,
    privileged: bool = False,
) -> Server:
    """A server that listens already; `serve_forever()` serves, `shutdown()` in a thread ends that.

    Args:
        spec, options: the environment, as for `agentopd.make`.
        wrappers: around it, the last one outermost.
        port: 0 takes a free one; `server.socket.getsockname()` tells which.
        sessions: connections at a time; one more is told so and closed.

    Raises:
        ValueError: the environment cannot be built, the address cannot be listened on, or
            `websockets` is missing.
    """
    try:
        from websockets.sync.server import serve as listen
    except ImportError as error:
        raise ValueError(
            "websockets is not installed: run pip install 'agentopd[openenv]'"
        ) from error

    settings = EnvSettings(id=spec, options=dict(options or {}), wrappers=list(wrappers))
    env = settings.build()
    told = _told_over_http(spec, env)
    env.close()
    free = BoundedSemaphore(sessions)

    def converse(connection: ServerConnection) -> None:
        if not free.acquire(blocking=False):
            full = Refused("CAPACITY_REACHED", f"all {sessions} sessions are taken: try later")
            connection.send(json.dumps(full.reply))
            return
        session = Session(settings.build, privileged)
        with ExitStack() as ending:
            ending.callback(free.release)
            ending.callback(session.close)
            _converse(connection, session)

    try:
        # Only what sends no Origin, which browsers do: a web page must not reach a local server.
        return listen(
            converse, host, port, process_request=_router(told), origins=[None], max_size=_LARGEST,
            compression=None,
        )  # fmt: skip
    except OSError as error:
        raise ValueError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another host or port"
        ) from error


def _converse(connection: ServerConnection, session: Session) -> None:
    """Answer every message, until the client or the server closes the connection."""
    from websockets.exceptions import ConnectionClosed

    with suppress(ConnectionClosed):
        for message in connection:
            if (reply := session.reply(message)) is None:
                return
            connection.send(json.dumps(reply))


def _router(told: Mapping[str, Any]) -> Callable[[ServerConnection, Request], Response | None]:
    """Answers GET requests by their path, and lets those for a session through."""

    def route(connection: ServerConnection, request: Request) -> Response | None:
        path = request.path.partition("?")[0]
        if path == "/ws":
            return None
        status = HTTPStatus.OK if path in told else HTTPStatus.NOT_FOUND
        known = {"detail": f"there are /ws, {', '.join(told)}"}
        response = connection.respond(status, json.dumps(told.get(path, known)))
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = "application/json"
        return response

    return route


def _told_over_http(spec: str, env: gymnasium.Env[str, str]) -> dict[str, Any]:
    """The answers to GET requests, by path."""
    about = (inspect.getdoc(type(env.unwrapped)) or spec).partition("\n")[0]
    schemas = {"action": Action, "observation": Observation, "state": State}
    return {
        "/health": {"status": "healthy"},
        "/metadata": {"name": spec, "description": about},
        "/schema": {name: model.model_json_schema() for name, model in schemas.items()},
    }
