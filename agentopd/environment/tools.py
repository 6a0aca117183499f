"""Typed Python functions as actions: how they are described, called and written."""

from __future__ import annotations

import ast
import enum
import inspect
import itertools
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, ValidationError, validate_call

from agentopd.base.text import check_unicode, escaped

Syntax = Literal["json", "call"]

_LONGEST = 4_000
_MOST_CALLS = 1_000


class ToolError(ValueError):
    """A text is no call of a tool; the message is for the one who wrote it."""


class Tool:
    """A function whose arguments are checked against its annotations.

    Args:
        function: every parameter annotated; returns the action as a str.

    Raises:
        ValueError: a parameter has no annotation, or cannot be given by name.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        if not inspect.isfunction(function):
            raise ValueError(f"a tool is a Python function, not {function!r}")
        self.name = function.__name__
        self._signature = inspect.signature(function)
        hints = get_type_hints(function)
        for name, parameter in self._signature.parameters.items():
            named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            if name not in hints or not named:
                raise ValueError(
                    f"the parameter {name!r} of the tool {self.name} needs an annotation and a "
                    "name of its own: calls are checked by annotations and give arguments by name"
                )
        self._hints = {name: hints[name] for name in self._signature.parameters}
        self._doc = inspect.getdoc(function) or ""
        self._run = validate_call(config=ConfigDict(extra="forbid"))(function)

    def described(self) -> str:
        """The signature and the first line of the docstring."""
        remark = self._doc.partition("\n")[0]
        shown = ", ".join(f"{name}: {_shown(hint)}" for name, hint in self._hints.items())
        return f"- {self.name}({shown})" + (f": {remark}" if remark else "")

    def run(self, arguments: Mapping[str, Any]) -> str:
        """The action that a call gives.

        Raises:
            ToolError: the arguments do not fit, the function refuses them, or the action is no
                Unicode text, which a call may spell in escapes.
        """
        try:
            return check_unicode(str(self._run(**arguments)), "the action")
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise ToolError(escaped(f"{self.name}: {where}: {first['msg']}.")) from error
        except ValueError as error:
            raise ToolError(escaped(f"{self.name}: {error}")) from error

    def write(self, arguments: Mapping[str, Any], syntax: Syntax) -> str:
        """A call as it is written."""
        if syntax == "json":
            return json.dumps({"name": self.name, "arguments": dict(arguments)})
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"

    def every_call(self) -> Iterator[tuple[dict[str, Any], str]]:
        """Arguments and action of every call that is accepted; of none where they are endless."""
        choices = [_choices(hint) for hint in self._hints.values()]
        calls = itertools.product(*(choice or () for choice in choices))
        for values in itertools.islice(calls, _MOST_CALLS):
            arguments = dict(zip(self._hints, values, strict=True))
            try:
                yield arguments, self.run(arguments)
            except Exception:  # the function refuses these, or fails: nobody has to write that call
                continue

    @staticmethod
    def call(text: str, syntax: Syntax, tools: Mapping[str, Tool]) -> str:
        """The action of the call that `text` is.

        Raises:
            ToolError: `text` is no call of one of `tools`.
        """
        if len(text) > _LONGEST:
            raise ToolError(f"The call is longer than {_LONGEST} characters.")
        name, arguments = _from_json(text) if syntax == "json" else _from_call(text)
        if name not in tools:
            raise ToolError(f"There is no {name!r}; there are: {', '.join(tools)}.")
        return tools[name].run(arguments)


def _from_json(text: str) -> tuple[str, dict[str, Any]]:
    try:
        read = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ToolError(f"This is no JSON: {error}.") from error
    arguments = read.get("arguments", {}) if isinstance(read, dict) else None
    if not (isinstance(arguments, dict) and isinstance(read.get("name"), str)):
        raise ToolError('Write a JSON object with "name", a text, and "arguments", an object.')
    return read["name"], arguments


def _from_call(text: str) -> tuple[str, dict[str, Any]]:
    form = "Write one call like name(argument='value'), with literal values."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd literals are the student's, not the user's
            node = ast.parse(text.strip(), mode="eval").body
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)) or node.args:
            raise ToolError(f"{form} Arguments are given by name.")
        arguments = {key.arg: ast.literal_eval(key.value) for key in node.keywords}
    except ToolError:
        raise
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ToolError(form) from error
    given = {name: value for name, value in arguments.items() if name is not None}
    if len(given) < len(node.keywords):
        raise ToolError(form)
    return node.func.id, given


def _choices(hint: Any) -> tuple[Any, ...] | None:
    """The values of an annotation, as they are written; None where they are not finite."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    if hint is bool:
        return (False, True)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return tuple(member.value for member in hint)
    return None


def _shown(hint: Any) -> str:
    choices = _choices(hint)
    if choices is not None:
        return " | ".join(map(repr, choices))
    return hint.__name__ if isinstance(hint, type) else str(hint)
