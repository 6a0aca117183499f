"""Reading one call of an API from a line of text, without running anything."""

from __future__ import annotations

import ast
import warnings
from typing import Any

from agentopd.base.text import is_unicode
from agentopd.envs.desk.api import Call

FORM = 'write one call like mail.search(query="keys")'
_LONGEST = 4_000
_CONSTANTS = {"true": True, "false": False, "null": None}


class CallError(ValueError):
    """The text is no call; the message says what is wrong with it."""


def parse_call(text: str) -> Call:
    """The call that `text` is: `app.api(name=value, ...)` with literal values.

    Values are texts, numbers, True, False, None, and lists of those; JSON's true, false and null
    will do.

    Raises:
        CallError: the text is anything else.
    """
    node = _expression(text)
    if not (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
    ):
        raise CallError(f"This is no call of an API: {FORM}.")
    if node.args:
        raise CallError(f"Arguments are named: {FORM}.")
    arguments: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg in arguments:
            raise CallError(f"Every argument is named once: {FORM}.")
        arguments[keyword.arg] = _value(keyword.value)
    return Call(node.func.value.id, node.func.attr, arguments)


def _expression(text: str) -> ast.expr:
    if len(text) > _LONGEST:
        raise CallError(f"The call is longer than {_LONGEST} characters.")
    try:
        with warnings.catch_warnings():
            # Python warns of odd escapes in texts; they are the agent's, not ours.
            warnings.simplefilter("ignore")
            return ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise CallError(f"This cannot be read ({error.msg}): {FORM}.") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise CallError(f"This cannot be read: {FORM}.") from error


def _value(node: ast.expr) -> Any:
    """The value of a literal."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | None):
        if not isinstance(node.value, str) or is_unicode(node.value):
            return node.value
    elif isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return _CONSTANTS[node.id]
    elif isinstance(node, ast.List | ast.Tuple):
        return [_value(item) for item in node.elts if _flat(item)]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        # Of one sign alone: a thousand of them are as deep.
        value = _value(node.operand) if isinstance(node.operand, ast.Constant) else None
        if isinstance(value, int | float) and not isinstance(value, bool):
            return -value
    raise CallError("Values are texts in quotes, numbers, True, False, None or lists of those.")


def _flat(node: ast.expr) -> bool:
    """Refuses lists in lists, so that reading a value takes a bounded depth."""
    if isinstance(node, ast.List | ast.Tuple):
        raise CallError("A list holds texts or numbers, no lists.")
    return True
