"""Environments behind OpenEnv's WebSocket protocol: `openenv:ws://HOST:PORT/ws`.

The server may be `openenv`'s own, in front of any of its environments, or `agentopd serve-env`; of
the protocol only the package `websockets` is needed. An environment is one session: it connects on
its first reset. What the protocol does not say is found out or can be told:

- An action is an object, a student's answer is text. An answer, or its `<action>`, that is a JSON
  object with the keys of the server's schema is sent as such. Elsewhere, where the schema has
  exactly one required field of text, the answer is put there, without its thoughts. What keys there
  are the rules say, and the tools of an MCP environment, if no rules are given.
- An observation is an object too, of which the student sees the first field that is text by its
  name and the other fields as JSON, or what a tool gave.
- Our `info` is read from the observation's metadata where it is there and of the right type, and so
  are `truncated`, the rules and the form of an action that `agentopd serve-env` sends.

Source: the package `openenv`, 0.10 (`core/env_server/http_server.py`, `core/env_client.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from agentopd.environment.contract import Info, TextEnv, parse_action, without_reasoning
from agentopd.envs.adapters.openenv.actions import ActionSchema, text_field, tool_rules
from agentopd.envs.adapters.openenv.link import Link, Rejected, ServerError
from agentopd.envs.adapters.openenv.observations import TEXTS, miscalled, shown

__all__ = ["TEXTS", "Remote", "ServerError", "text_field"]

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


_LIST_TOOLS = {"jsonrpc": "2.0", "method": "tools/list", "params": {}, "id": 1}


class Remote(TextEnv):
    """An environment on a server.

    Args:
        url: `ws://`, `wss://`, `http://` or `https://`; `/ws` is added where no path is given.
        send: all that the answer says, without its thoughts, or only what stands in its `<action>`.
        action_field: the field of an action that takes the text, where the schema does not say.
        text_field: the field of an observation that the student reads, where it is none of `TEXTS`.
        reset: more that the environment's reset takes, `{"task_id": "a"}` say.
        max_turns: answers after which an episode is truncated.
        system_prompt: rules, for a server that sends none.
        success_reward: an episode is solved if it ends with a reward of at least this, where the
            server does not say `success`.
        connect_seconds, seconds: limits of connecting and of one answer.
        execution_error: what the server's EXECUTION_ERROR is: the end of the episode, recorded as
            its error, or an invalid action, where a server answers so to what it cannot play.

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
        execution_error: Literal["raise", "invalid"] = "raise",
    ) -> None:
        if send not in ("answer", "action"):
            raise ValueError(f"send is 'answer' or 'action', not {send!r}")
        if execution_error not in ("raise", "invalid"):
            raise ValueError(f"execution_error is 'raise' or 'invalid', not {execution_error!r}")
        self.link = Link(_address(url), connect_seconds, seconds)
        self._playable = execution_error == "invalid"
        self._send, self._field, self._text_field = send, action_field, text_field
        self._more = dict(reset or {})
        self.max_turns, self.system_prompt = max_turns, system_prompt
        self._turn_limit = max_turns
        self._success_reward = success_reward
        self._schema = ActionSchema()
        self._asked = action_field is not None
        """Whether the server has been asked for its schema, or need not be."""
        self._task_id, self._turns = "", 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        """Start an episode; the options are sent along with the seed.

        Raises:
            ServerError, OSError: the server cannot, or cannot be reached.
        """
        if not self._asked:
            self._learn_form()
        wanted = self._more | ({"options": options} if options else {})
        try:
            data = self.link.ask("reset", wanted | ({} if seed is None else {"seed": seed}))
        except Rejected as error:
            raise ServerError(f"{self.link.url} refused to reset: {error}") from error
        metadata = _metadata(data)
        self.system_prompt = _of(str, metadata, "system_prompt") or self.system_prompt
        self.examples = _pairs(metadata.get("examples")) or self.examples
        self.action_form = _of(str, metadata, "action_form") or self.action_form
        self.action_between = metadata.get("action_between", self.action_between)
        self.stochastic = metadata.get("stochastic") is True
        self.max_turns = self._turn_limit or _of(int, metadata, "max_turns")
        self._turns = 0
        self._task_id = f"{self.link.url}/{seed}"
        seen = shown(data.get("observation"), self._text_field)
        return seen, {"success": False} | self._info(metadata)

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Send an answer; one that cannot be sent, or that the server rejects, costs a turn."""
        self._turns += 1
        late = self._turn_limit is not None and self._turns >= self._turn_limit
        try:
            data = self.link.ask("step", self._action(action), playable=self._playable)
        except Rejected as error:
            problem = str(error)
            told = {"success": False, "action_valid": False, "feedback": problem}
            return problem, 0.0, False, late, {"task_id": self._task_id} | told
        metadata, reward = _metadata(data), float(data.get("reward") or 0.0)
        done = bool(data.get("done"))
        truncated = done and metadata.get("truncated") is True
        solved = done and not truncated and reward >= self._success_reward
        problem = miscalled(data.get("observation"))
        own = {"action_valid": False, "feedback": problem} if problem else {"action_valid": True}
        info = {"success": solved} | own | self._info(metadata)
        return (
            shown(data.get("observation"), self._text_field),
            reward,
            done and not truncated,
            truncated or (late and not done),
            info,
        )

    def close(self) -> None:
        """End the session."""
        self.link.close()

    def _learn_form(self) -> None:
        """Ask the server for the form of its actions, and for its tools."""
        self._schema = ActionSchema(self.link.schema())
        self._field = self._schema.field_of_text
        rules = self._schema.rules()
        if self._schema.names_a_tool:
            listed = self.link.ask("mcp", _LIST_TOOLS).get("result")
            tools = listed.get("tools") if isinstance(listed, dict) else None
            rules = tool_rules([t for t in tools or () if isinstance(t, dict)])
        self.system_prompt = "\n".join(filter(None, (self.system_prompt, rules)))
        self._asked = True

    def _action(self, answer: str) -> dict[str, Any]:
        """The object that says what the answer says.

        Raises:
            Rejected: the answer holds no action.
        """
        said, content = without_reasoning(answer), parse_action(answer)
        given = self._schema.read(said.strip() if content is None else content)
        if given is not None:
            return given
        if self._field is not None and self._send == "answer":
            return {self._field: said}
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
        return f"Its keys are: {', '.join(self._schema.properties)}."

    def _info(self, metadata: Mapping[str, Any]) -> Info:
        kept = {k: v for k, v in metadata.items() if isinstance(v, _INFO.get(k, ()))}
        self._task_id = kept.get("task_id", self._task_id)
        return {"task_id": self._task_id} | kept


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


def _pairs(value: Any) -> list[tuple[str, str]]:
    """Worked examples as a server sends them; none where it sends anything else."""
    rows = value if isinstance(value, list) else []
    return [(row[0], row[1]) for row in rows if isinstance(row, list) and len(row) == 2]


def _of(kind: type, metadata: Mapping[str, Any], name: str) -> Any:
    value = metadata.get(name)
    return value if isinstance(value, kind) else None
