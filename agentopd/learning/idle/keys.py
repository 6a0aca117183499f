"""Keys that nothing reads as the others are set, and with what they would be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from agentopd.base.parts import Settings
from agentopd.base.variations import Path, default_of, others, settings_in, written
from agentopd.learning.idle.neighbours import Finding, Neighbourhood, at, of_kind, shown, values_at
from agentopd.learning.method import Method
from agentopd.mixes.base import Mix
from agentopd.rollout.acting.judging import Judge
from agentopd.units.base import Unit
from agentopd.units.rubric.criteria import Criterion
from agentopd.units.rubric.induction import RubricWriter
from agentopd.units.rubric.judges import Verifier

_NUMBERS = 3
"""So many other values of a number are tried, to see whether it wakes another key."""
_ALWAYS_READ = ("normalise", "budget")
"""Of a unit: mixes read them that read nothing else of it."""

_Key = tuple[Path, str]


def unread_keys(near: Neighbourhood, told: Sequence[Path]) -> Iterator[Finding]:
    """The written keys of which no value moves anything.

    Args:
        told: places of which something was said already, for all that stands below them.
    """
    keys: dict[tuple[Path, str], list[str]] = {}
    for path, field in _written_keys(near):
        if not _below(path, field, told) and _unread(near, path, field):
            keys.setdefault((path, _reader(near, path, field)), []).append(field)
    for (path, reader), fields in keys.items():
        settings = _get(near.method, path)
        found = [at(near.method, (*path, x), default_of(settings, x)) for x in fields]
        same = [x for x in found if x is not None]
        yield Finding((*path, fields[0]), _sentence(path, fields, reader), same)


def _sentence(path: Path, fields: Sequence[str], reader: str) -> str:
    names = " and ".join(".".join(map(str, (*path, field))) for field in fields)
    change, they, them = ("change", "they are", "them")
    if len(fields) == 1:
        change, they, them = ("changes", "it is", "it")
    instead = f"{they} read with {reader}" if reader else f"leave {them} out"
    return f"{names} {change} nothing as the rest is set: {instead}"


def waking(method: Method, path: Path, awake: Callable[[Method], bool], but: str = "") -> str:
    """A key of the settings at a path, and its values with which something is read that is not read
    now; empty if there is none.
    """
    settings = _get(method, path)
    for field in type(settings).model_fields:
        if field == but:
            continue
        values = others(settings, field)
        if all(isinstance(x, float | int) for x in values):
            values = values[:_NUMBERS]
        tried = [(x, at(method, (*path, field), x)) for x in values]
        found = [x for x, neighbour in tried if neighbour is not None and awake(neighbour)]
        if any(isinstance(x, float | int) and not isinstance(x, bool) for x in found):
            return f"another {field}"
        if found:
            return f"{field}: {' or '.join(map(shown, found))}"
    return ""


def _written_keys(near: Neighbourhood) -> Iterator[_Key]:
    """The keys that are not at their default, of parts that enter the loss."""
    roots = ["unit", "mix"]
    roots += [x for x in ("divergence", "weight") if near.reads(x)]
    for root in roots:
        asked: list[Path] = []
        for path, settings in settings_in(getattr(near.method, root), (root,)):
            if any(path[: len(x)] == x for x in asked):
                continue
            if isinstance(settings, Judge | Verifier | RubricWriter | Criterion):
                # Judges and writers are put to models, which are not here; what a criterion says is
                # put to judges and shown to people.
                asked.append(path)
                continue
            yield from ((path, field) for field in written(settings))


def _below(path: Path, field: str, told: Sequence[Path]) -> bool:
    """Whether something was said of the key, or of what it stands in."""
    if path == ("unit",) and field in _ALWAYS_READ:
        return False
    whole = (*path, field)
    return any(x and whole[: len(x)] == x for x in told)


def _unread(near: Neighbourhood, path: Path, field: str) -> bool:
    """Whether neither the default nor another value moves anything."""
    settings = _get(near.method, path)
    if not others(settings, field):
        return False
    first, *rest = (near.at((*path, field), x) for x in values_at(settings, field))
    return near.moves(first) is False and not any(near.moves(x) for x in rest)


def _reader(near: Neighbourhood, path: Path, field: str) -> str:
    """What would have to be set for the key to be read; empty if one change is not enough."""
    method = near.method

    def awake(other: Method) -> bool:
        settings = _get(other, path)
        if settings is None or field not in type(settings).model_fields:
            return False
        without = at(other, (*path, field), default_of(settings, field))
        trial = near.laboratory.trial
        return without is not None and trial(other).differs(trial(without)) is True

    for end in range(len(path), 0, -1):
        above = _get(method, path[:end])
        if isinstance(above, Settings):
            found = waking(method, path[:end], awake, but=field if end == len(path) else "")
            if found:
                name, colon, values = found.partition(":")
                prefix = "" if end == len(path) else ".".join(map(str, path[:end])) + "."
                return f"{prefix}{name}{colon}{values}" if colon else found
    families: list[tuple[str, type[Unit] | type[Mix]]] = [("unit", Unit), ("mix", Mix)]
    for axis, family in families:
        if axis == "unit" and path != ("unit",):
            continue
        now = getattr(method, axis)
        made = [of_kind(x, **dict(now)) for x in family.members() if x is not type(now)]
        tried = [(x, at(method, (axis,), x)) for x in made if x is not None]
        kinds = [x.kind for x, other in tried if other is not None and awake(other)]
        if kinds:
            return f"{axis}: {' or '.join(kinds)}"
    return ""


def _get(method: Method, path: Path) -> Any:
    """What stands at a path; None where nothing does."""
    found: Any = method
    for name in path:
        if isinstance(name, int):
            found = found[name] if isinstance(found, list | tuple) and name < len(found) else None
        else:
            found = getattr(found, name, None)
    return found
