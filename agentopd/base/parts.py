"""Parts: the values on the axes of a method.

A part is a pydantic model whose fields are its configuration, so that a YAML mapping with a `kind`
*is* the part. A family is a direct subclass with `family=`; a member names itself with `kind=`:

    class Unit(Part, family="unit"): ...
    class TurnUnit(Unit, kind="turn"): ...

    Unit.model_validate({"kind": "turn", "reduce": "sum"})  # a TurnUnit
    Unit.model_validate("my_package.units:Halves")          # your own class, with a kind or without

What is written can be found again by another process: the package's own parts by their kind, every
other by `module:Class`, for a kind is known only where its module has been imported.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from agentopd.base.objects import load_object, object_path
from agentopd.base.rows.costs import Cost


def closest(name: str, known: Iterable[str]) -> str:
    """A hint that names the closest of `known`, or lists them all."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known)}"


_OURS = __name__.partition(".")[0]
_SENTENCE = re.compile(r"(?<=\.) ")
_CODE = re.compile(r"`([^`]*)`")


class Settings(BaseModel):
    """A frozen group of settings; an unknown key is an error that names the closest known one."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        arbitrary_types_allowed=True,
        allow_inf_nan=False,  # what a run writes of itself is JSON, which has neither
    )

    @model_validator(mode="before")
    @classmethod
    def _known_keys_only(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            for key in value:
                if key not in cls.model_fields:
                    raise ValueError(f"unknown key {key!r}; {closest(str(key), cls.model_fields)}")
        return value

    def unread(self) -> dict[str, str]:
        """The fields that nothing reads as the others are set, and with what each would be: of what
        acts beside the gradient. What acts on the gradient is found by experiment.
        """
        return {}


class Part(Settings):
    """One value on one axis; see the module's docstring."""

    family: ClassVar[str] = ""
    kind: ClassVar[str] = ""

    def __init_subclass__(cls, *, family: str = "", kind: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if family:
            cls.family = family
        # Named last: a refused class lives on until it is collected, and must not be found by then.
        cls.kind = ""
        if kind and any(other.kind == kind for other in cls._root().members()):
            raise ValueError(f"there are two {cls.family} parts of kind {kind!r}: rename one")
        cls.kind = kind

    def __class_getitem__(cls, item: Any) -> Any:
        raise TypeError(f"{cls.__name__} is not generic")

    @classmethod
    def _root(cls) -> type[Part]:
        """The class that opened this family."""
        return next(
            c
            for c in reversed(cls.__mro__)
            if isinstance(c, type) and issubclass(c, Part) and c.__dict__.get("family")
        )

    @classmethod
    def members(cls) -> list[type[Self]]:
        """All classes of this family that have a kind, wherever they were defined."""
        found: list[type[Self]] = []
        for child in cls.__subclasses__():
            found += ([child] if child.kind else []) + child.members()
        return found

    @property
    def formula(self) -> str:
        """What it adds to the equation of a method, in plain symbols; see
        `agentopd.looking.methods.equation`. Its name and its own settings, where it says no more.
        """
        shared = type(self)._root().model_fields
        own = {name: value for name, value in self if name not in shared}
        said = [f"{n}={v}" for n, v in own.items() if isinstance(v, bool | int | float | str)]
        return f"{self.kind or type(self).__name__}({', '.join(said)})"

    @property
    def costs(self) -> tuple[Cost, ...]:
        """What it makes models read and write, beside what every method does. A rollout that says
        what the student learns says all of it; the teacher, where it is asked, reads as much.
        """
        return ()

    @classmethod
    def remark(cls) -> str:
        """The first sentence that the class says of itself."""
        said = (inspect.getdoc(cls) or "").split("\n\n")[0]
        return _CODE.sub(r"\1", _SENTENCE.split(" ".join(said.split()))[0].rstrip(".:"))

    @classmethod
    def written(cls) -> str:
        """The name under which any process finds this class; see the module's docstring."""
        ours = cls.__module__.partition(".")[0] == _OURS
        return cls.kind if cls.kind and ours else object_path(cls)

    @classmethod
    def _derived(cls) -> list[type[Self]]:
        """All classes of this family, those without a kind too; the newest last."""
        found: list[type[Self]] = []
        for child in cls.__subclasses__():
            found += [child, *child._derived()]
        return found

    @classmethod
    def of_kind(cls, kind: str) -> type[Self]:
        """The member of that kind, or the class that `package.module:Class` names.

        Raises:
            ValueError: there is none; the message names the closest.
        """
        if ":" in kind:
            return cls._of_path(kind)
        kinds = {member.kind: member for member in cls.members()}
        if kind not in kinds:
            raise ValueError(
                f"no {cls.family} is called {kind!r}; {closest(kind, kinds)} "
                "(one of your own is named module:Class)"
            )
        return kinds[kind]

    @classmethod
    def _of_path(cls, path: str) -> type[Self]:
        # A class that lives already is not imported again: that of a script would be made twice.
        alive = [child for child in cls._derived() if object_path(child) == path]
        found: Any = alive[-1] if alive else load_object(path)
        if not (isinstance(found, type) and issubclass(found, cls)):
            raise ValueError(
                f"{path} is not a {cls.family}: derive it from {cls.__module__}.{cls.__name__}"
            )
        if inspect.isabstract(found):
            missing = ", ".join(sorted(found.__abstractmethods__))
            raise ValueError(f"{path} cannot be used before it defines {missing}")
        return found

    @model_validator(mode="wrap")
    @classmethod
    def _choose(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(value, str):
            value = {"kind": value}
        if not isinstance(value, Mapping):
            return handler(value)
        value = dict(value)
        kind = value.pop("kind", None)
        if kind is None and cls is cls._root():
            known = ", ".join(sorted(member.kind for member in cls.members()))
            raise ValueError(f"the {cls.family} needs a kind; there are: {known}")
        named = kind is None or (kind == cls.kind and cls.kind)
        target = cls if named else cls.of_kind(str(kind))
        return handler(value) if target is cls else target.model_validate(value)

    @model_serializer(mode="wrap")
    def _with_kind(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"kind": self.written(), **handler(self)}
