"""What the student reads of an OpenEnv server's observation, which is an object."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

TEXTS = ("text", "prompt", "message", "output", "content", "messages")
"""Fields of an observation that hold what a student reads, the likeliest first."""

_OTHERS = ("metadata", "done", "reward")
_MISCALLED = ("tool_not_found", "invalid_args")
"""Errors of a tool's call by which the call itself is at fault."""


def shown(seen: Any, field: str | None = None) -> str:
    """The text of an observation.

    The first of `TEXTS`, then what other fields there are, as JSON; what a tool gave; or all of it
    as JSON.

    Args:
        field: show this one alone.
    """
    if not isinstance(seen, dict):
        return _written(seen)
    if "tool_name" in seen and ("result" in seen or "error" in seen):
        return _of_tool(seen)
    rest = {name: value for name, value in seen.items() if name not in _OTHERS}
    names = TEXTS if field is None else (field,)
    found = next((name for name in names if seen.get(name)), None)
    if found is not None:
        others = {name: v for name, v in rest.items() if name not in TEXTS and v is not None}
        alone = field is not None or not others
        return _written(seen[found]) + ("" if alone else f"\n{_written(others)}")
    # An empty text is a text; what has none is shown whole.
    if any(isinstance(rest.get(name), str) for name in names):
        return ""
    told = seen.get("metadata")
    if not rest and isinstance(told, dict) and (text := told.get("message")):
        return _written(text)
    return _written(rest)


def miscalled(seen: Any) -> str:
    """What is wrong with the call of a tool; empty where the call could be made."""
    error = seen.get("error") if isinstance(seen, dict) and "tool_name" in seen else None
    if isinstance(error, dict) and error.get("error_type") in _MISCALLED:
        return str(error.get("message"))
    return ""


def _of_tool(seen: Mapping[str, Any]) -> str:
    """What a call of an MCP tool gave: its texts, its data, or its error."""
    error, result = seen.get("error"), seen.get("result")
    if error:
        return str(error.get("message")) if isinstance(error, dict) else _written(error)
    if isinstance(result, dict) and isinstance(content := result.get("content"), list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        if texts and all(isinstance(text, str) for text in texts):
            return "\n".join(map(str, texts))
        return _written(result.get("data"))
    return _written(result)


def _written(value: Any) -> str:
    """Text as it is, messages by their content, anything else as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(m, dict) and "content" in m for m in value):
        return "\n".join(_written(m["content"]) for m in value)
    return json.dumps(value, ensure_ascii=False)
