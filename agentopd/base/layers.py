"""Settings in layers: what stands when two say something of one setting.

A part is a mapping with a `kind`, or its kind alone. Two mappings of one kind are merged key by
key; everything else above takes the place of what is below.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml


@dataclass(frozen=True)
class Change:
    """A value below that is another once the layer above lies over it; `key` is dotted."""

    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.key}: {_short(self.before)} -> {_short(self.after)}"


def over(below: Any, above: Any) -> Any:
    """`above` laid over `below`; of a part, a mapping above that names no kind refines it."""
    if isinstance(below, Mapping) and isinstance(above, Mapping) and _akin(below, above):
        return {**below, **{key: over(below.get(key), value) for key, value in above.items()}}
    if isinstance(below, Mapping) and isinstance(above, str) and below.get("kind") == above:
        return below
    if isinstance(below, str) and isinstance(above, Mapping) and _akin({"kind": below}, above):
        return {"kind": below, **above}
    return above


def changes(below: Mapping[str, Any], after: Mapping[str, Any], at: str = "") -> Iterator[Change]:
    """Which values that stand in `below` are others in `after`."""
    for key, value in below.items():
        where, now = f"{at}{key}", after.get(key)
        if isinstance(value, Mapping) and isinstance(now, Mapping) and _akin(value, now):
            yield from changes(value, now, f"{where}.")
        elif value != now and not _only_named(value, now):
            yield Change(where, value, now)


def beyond(value: Any, base: Any) -> Any:
    """What `over` must lay on `base` to give `value`; None where they are the same."""
    if isinstance(value, Mapping) and isinstance(base, Mapping) and _akin(value, base):
        own = {key: beyond(inner, base.get(key)) for key, inner in value.items()}
        kept = {key: inner for key, inner in own.items() if value[key] != base.get(key)}
        kind = {"kind": value["kind"]} if "kind" in value and kept else {}
        return {**kind, **kept} or None
    return None if value == base else value


def _akin(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return "kind" not in other or "kind" not in one or one["kind"] == other["kind"]


def _only_named(value: Any, now: Any) -> bool:
    """Whether `value` is the kind of the part `now`, which says more of it."""
    return isinstance(value, str) and isinstance(now, Mapping) and now.get("kind") == value


def _short(value: Any) -> str:
    """A value in few words: of a part, its kind."""
    if isinstance(value, Mapping) and isinstance(value.get("kind"), str):
        return value["kind"]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(_short, value))}]"
    flow = yaml.safe_dump(value, default_flow_style=True, width=1_000).removesuffix("...\n")
    return " ".join(flow.split())
