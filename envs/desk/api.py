"""What an API is: a typed method of an app. Its signature and docstring are its documentation and
the rule by which arguments are checked, so the three cannot disagree.
"""

from __future__ import annotations

import difflib
import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

TOKEN = "token"
"""The argument that protected APIs take in addition, where logins give tokens."""
LONGEST_TEXT = 2_000
"""Characters of the text of a mail or of an answer."""
LONGEST_LINE = 200
"""Characters of any other text: a title, a note, a query."""
LONGEST_LIST = 100
LARGEST_NUMBER = 1e12
_LONGEST_NAME = 40
"""Characters of an argument's name that are looked at for the one that was meant."""

_LONG = ("answer", "body")
"""The arguments that may have `LONGEST_TEXT`."""

Json = dict[str, Any]
F = TypeVar("F", bound=Callable[..., Any])


class ApiError(Exception):
    """A refused call: a status as on the web, and a sentence that says what to do."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"Error {status}: {message}")
        self.status = status


class SignatureError(ApiError):
    """The call names no API, or its arguments do not fit the API's signature."""


@dataclass(frozen=True)
class Call:
    """A call of an API, written as the agent writes it.

    `Call("mail", "search", {"query": "keys"})` is `mail.search(query="keys")`.
    """

    app: str
    api: str
    arguments: Mapping[str, Any]

    def __str__(self) -> str:
        inside = ", ".join(f"{name}={literal(value)}" for name, value in self.arguments.items())
        return f"{self.app}.{self.api}({inside})"

    @property
    def key(self) -> str:
        """The same for calls that ask the same, whatever the order of their arguments."""
        asked = {n: v for n, v in sorted(self.arguments.items()) if n != TOKEN and v is not None}
        return str(Call(self.app, self.api, asked))


def call(name: str, /, **arguments: Any) -> Call:
    """The call of `app.api` with `arguments`."""
    app, _, api = name.partition(".")
    return Call(app, api, arguments)


def literal(value: Any) -> str:
    """`value` as a Python literal, texts in double quotes."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(literal, value)) + "]"
    return repr(value)


@dataclass(frozen=True)
class Parameter:
    """An argument of an API: its name, the types it may have, its default."""

    name: str
    kinds: tuple[type, ...]
    default: Any = inspect.Parameter.empty

    @property
    def required(self) -> bool:
        """Whether a call must give it."""
        return self.default is inspect.Parameter.empty

    @property
    def longest(self) -> int:
        """Characters that a text may have here."""
        return LONGEST_TEXT if self.name in _LONG else LONGEST_LINE

    @property
    def kind(self) -> str:
        """Its types in words."""
        named = {type(None): "None", list: "list"}
        return " | ".join(named.get(kind, kind.__name__) for kind in self.kinds)

    def __str__(self) -> str:
        shown = f"{self.name}: {self.kind}"
        return shown if self.required else f"{shown} = {literal(self.default)}"

    def accepts(self, value: Any) -> bool:
        """Whether `value` has one of the types; a whole number will do for a float."""
        if isinstance(value, list | tuple):
            short = list in self.kinds and len(value) <= LONGEST_LIST
            return short and all(_atom(item, self.longest) for item in value)
        kind = type(value)
        known = kind in self.kinds or (kind is int and float in self.kinds)
        return known and (value is None or kind is bool or _atom(value, self.longest))


@dataclass(frozen=True)
class Api:
    """One API: what it is called, takes and does, and why it may be refused, by status."""

    app: str
    name: str
    parameters: tuple[Parameter, ...]
    description: str
    writes: bool
    open: bool
    errors: Mapping[int, str]

    def signature(self, tokens: bool) -> str:
        """The API as the documentation shows it."""
        shown = [str(parameter) for parameter in self.parameters]
        if tokens and not self.open:
            shown.append(f"{TOKEN}: str")
        return f"{self.app}.{self.name}({', '.join(shown)})"

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Refuse arguments that the signature does not take.

        Raises:
            SignatureError: 422, naming the argument and what to give.
        """
        known = {parameter.name: parameter for parameter in self.parameters}
        for name, value in arguments.items():
            if name not in known:
                takes = ", ".join(known) or "no arguments"
                # Names are as long as a cell makes them, and the search is slow.
                close = difflib.get_close_matches(name[:_LONGEST_NAME], known, n=1, cutoff=0.6)
                hint = f"did you mean {close[0]}?" if close else f"it takes {takes}."
                raise SignatureError(
                    422, f"{self.app}.{self.name} takes no {shortened(name)}; {hint}"
                )
            if not known[name].accepts(value):
                kind, most = known[name].kind, known[name].longest
                if type(value) is str and len(value) > most and str in known[name].kinds:
                    raise SignatureError(422, f"{name} has {len(value)} characters, over {most}.")
                raise SignatureError(422, f"{name} must be {kind}, not {described(value)}.")
        for parameter in self.parameters:
            if parameter.required and parameter.name not in arguments:
                raise SignatureError(422, f"{self.app}.{self.name} needs {parameter}.")


def _atom(value: Any, longest: int = LONGEST_TEXT) -> bool:
    """Whether `value` is a text or a number of a size that an app keeps."""
    if type(value) is str:
        return len(value) <= longest
    # Not a number is not below anything either.
    return type(value) in (int, float) and abs(value) < LARGEST_NUMBER


def described(value: Any) -> str:
    """`value` for a message: as it is written where that is short, else its type."""
    short = value is None or type(value) is bool or _atom(value)
    return shortened(literal(value)) if short else f"a {type(value).__name__} like this"


def shortened(text: str, most: int = 40) -> str:
    """`text` for a message."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def api(
    errors: Mapping[int, str] | None = None, *, writes: bool = False, open: bool = False
) -> Callable[[F], F]:
    """Mark a method of an app as an API.

    Args:
        errors: why it refuses calls that fit its signature, by status.
        writes: it changes the world.
        open: it needs no login, also where its app has one.
    """

    def mark(function: F) -> F:
        function.__dict__["marked"] = (writes, open, errors or {})
        return function

    return mark


class App:
    """An app: its APIs are the methods marked with `@api`.

    Subclasses name themselves: `class Mail(Account, name="mail")`; their docstring's first line is
    the app's description.
    """

    name: ClassVar[str] = ""
    protected: ClassVar[bool] = False
    apis: ClassVar[dict[str, Api]] = {}

    def __init_subclass__(cls, name: str = "") -> None:
        cls.name = name
        cls.apis = {}
        for base in reversed(cls.__mro__):
            for method, function in vars(base).items():
                if hasattr(function, "marked"):
                    cls.apis[method] = _describe(cls, method, function)

    @classmethod
    def description(cls) -> str:
        """What the app is for, in a line."""
        return (inspect.getdoc(cls) or "").partition("\n")[0]


def _describe(app: type[App], name: str, function: Callable[..., Any]) -> Api:
    writes, open, errors = function.__dict__["marked"]
    hints = typing.get_type_hints(function)
    parameters = tuple(
        Parameter(parameter.name, _kinds(hints[parameter.name]), parameter.default)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name != "self"
    )
    description = " ".join((inspect.getdoc(function) or "").split())
    free = open or not app.protected
    return Api(app.name, name, parameters, description, writes, free, errors)


def _kinds(hint: Any) -> tuple[type, ...]:
    """The plain types in a type hint: `list[int] | None` has `list` and `NoneType`."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return tuple(kind for part in typing.get_args(hint) for kind in _kinds(part))
    return (typing.get_origin(hint) or hint,)
