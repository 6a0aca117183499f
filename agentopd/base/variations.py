"""Settings varied: made anew, with one value changed, and the values that a field might have."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from agentopd.base.parts import Part, Settings

Path = tuple[str | int, ...]
"""The way from settings to a value below them, as configurations write it with dots."""

_BOUNDS = ("ge", "gt", "le", "lt")


def settings_in(value: Any, path: Path = ()) -> Iterator[tuple[Path, Settings]]:
    """All settings at or below a value, each with the way to it."""
    if isinstance(value, Settings):
        yield path, value
    for name, inner in _below(value):
        yield from settings_in(inner, (*path, name))


def remade(value: Any, change: Callable[[Settings], Settings | None] = lambda _: None) -> Any:
    """The same settings, made anew, so that nothing they have lived through is left.

    Args:
        change: what is to stand in the place of some settings; None leaves them.
    """
    if isinstance(value, Settings):
        changed = change(value)
        if changed is not None:
            return changed
        fields = {name: remade(inner, change) for name, inner in value}
        return type(value).model_validate(fields)
    if isinstance(value, Mapping):
        return {name: remade(inner, change) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(remade(inner, change) for inner in value)
    return value


def replaced(value: Any, path: Path, new: Any) -> Any:
    """A value with another one at the end of a path; what lies on the way is validated again.

    Raises:
        ValueError: the settings there refuse it.
    """
    if not path:
        return new
    first, *rest = path
    if isinstance(value, Settings):
        fields = dict(value)
        fields[str(first)] = replaced(fields[str(first)], tuple(rest), new)
        return type(value).model_validate(fields)
    items = dict(_below(value))
    items[first] = replaced(items[first], tuple(rest), new)
    return items if isinstance(value, Mapping) else type(value)(items.values())


def default_of(settings: Settings, field: str) -> Any:
    """What a field is where nobody writes it; `PydanticUndefined` where it must be written."""
    return type(settings).model_fields[field].get_default(call_default_factory=True)


def written(settings: Settings) -> list[str]:
    """The fields that are not what they are by default, of those that have a default."""
    fields = type(settings).model_fields
    return [
        name
        for name, field in fields.items()
        if not field.is_required()
        and not alike(getattr(settings, name), default_of(settings, name))
    ]


def alike(one: Any, other: Any) -> bool:
    """Whether two values are written alike, whatever the settings among them have lived through."""
    if isinstance(one, Settings):
        return type(one) is type(other) and alike(dict(one), dict(other))
    if isinstance(one, Mapping):
        return isinstance(other, Mapping) and alike([*one.items()], [*other.items()])
    if isinstance(one, list | tuple):
        fit = isinstance(other, list | tuple) and len(one) == len(other)
        return fit and all(alike(a, b) for a, b in zip(one, other, strict=True))
    return type(one) is type(other) and bool(one == other)


def others(settings: Settings, field: str) -> list[Any]:
    """Other values that a field might have: all of a choice, some of numbers, each kind of a part
    that needs no settings; none of texts and of collections, of which there is no telling.
    """
    info, now = type(settings).model_fields[field], getattr(settings, field)
    found = [x for x in _values(info.annotation, info, now) if not alike(x, now)]
    return [x for n, x in enumerate(found) if not any(alike(x, y) for y in found[:n])]


def _below(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Settings):
        yield from value
    elif isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        yield from enumerate(value)


def _values(annotation: Any, info: FieldInfo, now: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Literal:
        yield from get_args(annotation)
    elif origin is Annotated:
        yield from _values(get_args(annotation)[0], info, now)
    elif origin is Union or origin is types.UnionType:
        for one in get_args(annotation):
            yield from _values(one, info, now)
    elif annotation is bool:
        yield from (True, False)
    elif annotation is type(None):
        yield None
    elif annotation in (int, float):
        yield from _numbers(annotation, info, now)
    elif isinstance(annotation, type) and issubclass(annotation, Part):
        yield from _kinds(annotation)


def _numbers(of: type[int] | type[float], info: FieldInfo, now: Any) -> list[float]:
    """Near the bounds, about one, and about where it is now."""
    bounds = [getattr(x, name) for x in info.metadata for name in _BOUNDS if hasattr(x, name)]
    tried = [*bounds, 0, 1, 2, 4]
    if of is float:
        tried += [-1, 0.01, 0.1, 0.4, 0.9, 20.0]
        tried += [bound + step for bound in bounds for step in (-0.05, 0.05)]
    if isinstance(now, int | float):
        tried += [now + 1, now / 3 if of is float else now // 3]
    return [of(x) for x in tried]


def _kinds(family: type[Part]) -> Iterator[Part]:
    for member in family.members():
        try:
            yield member.model_validate({})
        except ValidationError:
            # It cannot be made without being told something.
            continue
