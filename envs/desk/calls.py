"""Calls of APIs as an agent makes them: read from a line of text, or asked for by a cell."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from agentopd.base.text import is_unicode
from agentopd.envs.desk.api import LONGEST_LIST, LONGEST_NAME, ApiError, Call

FORM = 'write one call like mail.search(query="keys")'
_LONGEST = 4_000
_MOST_ARGUMENTS = 20
_SPELLED = re.compile(
    r"<(function|module|coroutine|class|re\.Match|\w+_iterator|bound|built-in)\b[^\n]*>"
    r"|(range|slice|dict_keys|dict_values|dict_items|re\.compile)\([^\n]*\)"
    r"|(typing|supervisor|docs|contacts|mail|calendar|todo|wallet|music)\.\w+"
)
"""How the interpreter hands over what it has no other form for."""
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
        return -_number(node.operand)
    raise CallError("Values are texts in quotes, numbers, True, False, None or lists of those.")


def _number(node: ast.expr) -> int | float:
    """What a sign may stand before: no other sign, so that a thousand of them are no recursion."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        assert isinstance(node.value, int | float)
        return node.value
    raise CallError("A sign stands before a number, once.")


def _flat(node: ast.expr) -> bool:
    """Refuses lists in lists, so that reading a value takes a bounded depth."""
    if isinstance(node, ast.List | ast.Tuple):
        raise CallError("A list holds texts or numbers, no lists.")
    return True


def asked(function: str, unnamed: Sequence[Any], named: Mapping[str, Any]) -> Call:
    """The call of an API, `app.api`, that a cell asks for.

    The interpreter hands functions, ranges, modules and other objects over as texts that spell
    them: such a text is taken for the object.

    Raises:
        ApiError: 422, there is too much of it, or it is nothing that an API takes.
    """
    app, _, api = function.partition(".")
    if unnamed:
        raise ApiError(422, f"name the arguments of {function}.")
    if len(named) > _MOST_ARGUMENTS or any(len(name) > LONGEST_NAME for name in named):
        raise ApiError(422, f"{function} takes no such arguments; docs.show_api shows which.")
    for name, value in named.items():
        listed = value[:LONGEST_LIST] if isinstance(value, list | tuple) else (value,)
        if any(_is_spelled(item) for item in listed):
            raise ApiError(422, f"{name} must be a text, a number or a list, no other object.")
    return Call(app, api, named)


def _is_spelled(value: Any) -> bool:
    return type(value) is str and len(value) < 10_000 and bool(_SPELLED.fullmatch(value))


def names_bound(code: str) -> set[str]:
    """The names that a cell gives to something, wherever in it, but for modules under their own
    names; none of what is no Python.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nodes = list(ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    found = set()
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.asname for alias in node.names if alias.asname}
        elif isinstance(node, ast.ExceptHandler) and node.name:
            found.add(node.name)
    return found
