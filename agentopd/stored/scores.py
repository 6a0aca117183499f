"""What the models said of trajectories, on disk: Parquet, one row an episode, exact."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import torch

from agentopd.base.types import Briefed, Lesson, Privilege, Trajectory, View
from agentopd.signal.evidence import Measured
from agentopd.signal.scores import Scored
from agentopd.stored.parquet import read_table, write_table

# N trainable tokens, K likeliest tokens

_SCORED = ("episode", "vocabulary", "privileges", "view_ids", "view_position", "view_segments")
_MEASURED = "measured."


def save_scores(scored: Sequence[Scored], path: Path) -> None:
    """Write to one file what the models said of a step's episodes, beside their trajectories.

    A number a token is a list of N numbers, one for each of a token's likeliest tokens a list of
    N x K.
    """
    numbers = [dict(_tensors(one.measured)) for one in scored]
    views = [one.lesson.view for one in scored]
    rows: dict[str, list[Any]] = {
        "episode": [one.lesson.trajectory.episode for one in scored],
        "vocabulary": [one.vocabulary for one in scored],
        "privileges": [
            None if v is None else json.dumps([asdict(p) for p in v.briefed.privileges])
            for v in views
        ],
        "view_ids": [None if v is None else v.ids for v in views],
        "view_position": [None if v is None else v.position for v in views],
        "view_segments": [None if v is None else json.dumps(v.segments) for v in views],
    }
    for name in dict.fromkeys(name for found in numbers for name in found):
        column = [found.get(name) for found in numbers]
        rows[_MEASURED + name] = [None if x is None else x.flatten().numpy() for x in column]
    write_table(rows, path)


def load_scores(path: Path, trajectories: Sequence[Trajectory]) -> list[Scored]:
    """Read what `save_scores` wrote, equal in every number, and join it to its trajectories.

    Raises:
        ValueError: the file is not there, holds no scores, or some of other trajectories.
    """
    if not path.is_file():
        raise ValueError(f"there is no file of scores {path}")
    table = read_table(path)
    missing = set(_SCORED) - set(table.column_names)
    if missing:
        raise ValueError(f"{path} holds no scores: it has no column {', '.join(sorted(missing))}")
    by_episode = {t.episode: t for t in trajectories}
    rows = table.to_pydict()
    strangers = [e for e in rows["episode"] if e not in by_episode]
    if strangers:
        raise ValueError(
            f"{path} scores episode {strangers[0]}, which is not among the step's trajectories"
        )
    kinds = {
        name: np.dtype(table.schema.field(name).type.value_type.to_pandas_dtype())
        for name in rows
        if name.startswith(_MEASURED)
    }
    return [
        _read_scored(by_episode[episode], {k: v[i] for k, v in rows.items()}, kinds)
        for i, episode in enumerate(rows["episode"])
    ]


def _tensors(record: Any, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """A record's tensors by their dotted names."""
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, torch.Tensor):
            yield prefix + field.name, value
        elif value is not None:
            yield from _tensors(value, f"{prefix}{field.name}.")


def _read_scored(
    trajectory: Trajectory, row: Mapping[str, Any], kinds: Mapping[str, np.dtype[Any]]
) -> Scored:
    view = None
    if row["view_ids"] is not None:
        told = tuple(Privilege(**p) for p in json.loads(row["privileges"]))
        view = View(
            briefed=Briefed(trajectory=trajectory, privileges=told),
            ids=np.array(row["view_ids"], dtype=np.int64),
            position=np.array(row["view_position"], dtype=np.int64),
            segments=tuple((a, b) for a, b in json.loads(row["view_segments"])),
        )
    tokens = int(trajectory.trainable.sum())
    tensors = {
        name.removeprefix(_MEASURED): torch.from_numpy(np.array(row[name], dtype=kind))
        for name, kind in kinds.items()
        if row[name] is not None
    }
    shaped = {
        name: x.reshape(tokens, -1) if name.endswith("_NK") else x for name, x in tensors.items()
    }
    return Scored(
        lesson=Lesson(trajectory=trajectory, view=view),
        measured=_record(Measured, shaped),
        vocabulary=row["vocabulary"],
    )


def _record(kind: type[Any], tensors: Mapping[str, torch.Tensor], prefix: str = "") -> Any:
    """The reverse of `_tensors`; None where a record's tensors are missing."""
    found: dict[str, Any] = {}
    for name, hint in get_type_hints(kind).items():
        kinds = (x for x in (hint, *get_args(hint)) if isinstance(x, type))
        nested = next((x for x in kinds if is_dataclass(x)), None)
        if nested is None:
            found[name] = tensors.get(prefix + name)
        elif any(key.startswith(f"{prefix}{name}.") for key in tensors):
            found[name] = _record(nested, tensors, f"{prefix}{name}.")
        else:
            found[name] = None
    return kind(**found)
