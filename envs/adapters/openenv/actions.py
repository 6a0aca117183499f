"""What a student's answer is to an OpenEnv server, and what it is told of the form.

A server takes objects, described by a JSON schema. Those of an MCP environment name a tool and its
arguments: which tools there are, the server tells apart from the schema.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_TOOL, _ARGUMENTS = "tool_name", "arguments"


@dataclass(frozen=True)
class ActionSchema:
    """The JSON schema of an action, as far as it matters here."""

    found: Mapping[str, Any] = field(default_factory=dict)

    @property
    def properties(self) -> Mapping[str, Any]:
        """The schema of each key, but of `metadata`, which every action has."""
        named = self.found.get("properties") or {}
        return {name: about for name, about in named.items() if name != "metadata"}

    @property
    def names_a_tool(self) -> bool:
        """Whether an action is a call of an MCP tool."""
        return {_TOOL, _ARGUMENTS} <= self.properties.keys()

    @property
    def field_of_text(self) -> str | None:
        """The only required key, if it is one of text and names no tool."""
        return None if self.names_a_tool else text_field(self.found)

    def read(self, text: str) -> dict[str, Any] | None:
        """The action that `text` is as it stands: an object with the schema's keys, or None."""
        if not text.startswith("{"):
            return None
        try:
            given = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if self.names_a_tool and "name" in given:  # as MCP itself, and many templates, write it
            given = {_TOOL: given.pop("name"), **given}
        required = set(self.found.get("required") or ())
        fits = required <= given.keys() <= {*self.properties, "metadata"}
        return given if given and fits else None

    def rules(self) -> str:
        """How an action of several keys is written; empty where it is one text, or unknown."""
        if not self.properties or self.field_of_text is not None or self.names_a_tool:
            return ""
        keys = ", ".join(_typed(self.found, name) for name in self.properties)
        return f"Your action is a JSON object inside <action></action> with the keys {keys}."


def text_field(schema: Mapping[str, Any]) -> str | None:
    """The only required field of an action, if it is one of text."""
    required = schema.get("required") or []
    properties = schema.get("properties") or {}
    if len(required) != 1 or properties.get(required[0], {}).get("type") != "string":
        return None
    return required[0]


def tool_rules(tools: Sequence[Mapping[str, Any]]) -> str:
    """What tools there are, and how one is called; empty where there is none."""
    if not tools:
        return ""
    lines = [_described(tool) for tool in tools]
    first, schema = str(tools[0].get("name")), _inputs(tools[0])
    example = {_TOOL: first, _ARGUMENTS: dict.fromkeys(schema.get("required") or (), "...")}
    return "\n".join(
        (
            "Your action is one call of a tool, a JSON object inside <action></action>:",
            *lines,
            f"For example <action>{json.dumps(example, ensure_ascii=False)}</action>",
        )
    )


def _described(tool: Mapping[str, Any]) -> str:
    schema = _inputs(tool)
    shown = ", ".join(_typed(schema, name) for name in schema.get("properties") or {})
    remark = " ".join(str(tool.get("description") or "").split())
    return f"- {tool.get('name')}({shown})" + (f": {remark}" if remark else "")


def _inputs(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of a tool's arguments, which MCP and OpenEnv spell differently."""
    found = tool.get("inputSchema") or tool.get("input_schema")
    return found if isinstance(found, dict) else {}


def _typed(schema: Mapping[str, Any], name: str) -> str:
    """A key with its type, and whether it may be left out."""
    about = (schema.get("properties") or {}).get(name)
    about = about if isinstance(about, dict) else {}
    values = about.get("enum") or [a.get("type") for a in about.get("anyOf") or ()]
    kind = about.get("type") or " or ".join(json.dumps(v).strip('"') for v in values)
    optional = "" if name in (schema.get("required") or ()) else ", optional"
    return f"{name} ({kind or 'any'}{optional})"
