"""Trajectories, and what the models said of them, on disk: Parquet, one row an episode, exact."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from agentopd.base.files import writing
from agentopd.base.text import escaped
from agentopd.base.types import (
    Briefed,
    EndReason,
    Lesson,
    Message,
    Owner,
    Privilege,
    Trajectory,
    Turn,
    View,
)
from agentopd.signal.evidence import Measured
from agentopd.signal.scores import Scored
from agentopd.units.spans import Payment

# N trainable tokens, K likeliest tokens

_ARRAYS = {"ids": np.int64, "turn": np.int32, "owner": np.uint8, "logprob": np.float32}
_NUMBERS = ("episode", "task", "seed")
_NAMES = ("env", "error")
_PLAIN = (*_NUMBERS, *_NAMES)
_TEXTS = ("end", "messages", "turns", "segments", "prompt")
_PAYMENTS = pa.list_(
    pa.struct(
        {
            "criterion": pa.string(),
            "text": pa.string(),
            "weight": pa.float64(),
            "turn": pa.int32(),
            "verdict": pa.float64(),
            "start": pa.int32(),
            "stop": pa.int32(),
            "paid": pa.float64(),
        }
    )
)
_SCORED = ("episode", "vocabulary", "privileges", "view_ids", "view_position", "view_segments")
_MEASURED = "measured."


def save_trajectories(
    trajectories: Sequence[Trajectory],
    path: Path,
    payments: Mapping[int, Sequence[Payment]] | None = None,
) -> None:
    """Write trajectories to one file; what the environment said is kept as JSON.

    Args:
        payments: a unit's verdicts, by episode number, and what they paid.
    """
    rows: dict[str, Any] = {
        **{name: [getattr(t, name) for t in trajectories] for name in (*_ARRAYS, *_NUMBERS)},
        **{name: [escaped(getattr(t, name)) for t in trajectories] for name in _NAMES},
        "success": [t.success for t in trajectories],
        "reward": [t.reward for t in trajectories],
        "end": [t.end.value for t in trajectories],
        "messages": [json.dumps([asdict(m) for m in t.messages]) for t in trajectories],
        "turns": [json.dumps([_turn(u) for u in t.turns]) for t in trajectories],
        "segments": [json.dumps(t.segments) for t in trajectories],
        "prompt": [json.dumps(dict(t.prompt)) for t in trajectories],
    }
    if payments:
        judged = [[asdict(p) for p in payments.get(t.episode, ())] for t in trajectories]
        rows["payments"] = pa.array(judged, type=_PAYMENTS)
    _write(rows, path)


def load_trajectories(path: Path) -> list[Trajectory]:
    """Read what `save_trajectories` wrote, equal in every field.

    Raises:
        ValueError: the file is not there or holds no trajectories.
    """
    if not path.is_file():
        raise ValueError(f"there is no trajectory file {path}")
    table = _table(path)
    missing = {*_ARRAYS, *_PLAIN, *_TEXTS} - set(table.column_names)
    if missing:
        raise ValueError(
            f"{path} holds no trajectories: it has no column {', '.join(sorted(missing))}"
        )
    return [_read(row) for row in table.to_pylist()]


def load_payments(path: Path) -> dict[int, list[Payment]]:
    """The verdicts that `save_trajectories` wrote, by episode number; empty where there were none.

    Raises:
        ValueError: the file is not there.
    """
    if not path.is_file():
        raise ValueError(f"there is no trajectory file {path}")
    table = _table(path)
    if "payments" not in table.column_names:
        return {}
    rows = table.select(["episode", "payments"]).to_pylist()
    return {row["episode"]: [Payment(**own) for own in row["payments"]] for row in rows}


def _write(rows: Mapping[str, Any], path: Path) -> None:
    """One file of columns; each page of it knows its checksum."""
    with writing(path) as beside:
        pq.write_table(pa.table(rows), beside, compression="zstd", write_page_checksum=True)


def _table(path: Path) -> pa.Table:
    """What lies in a Parquet file.

    Raises:
        ValueError: it is damaged; the message names it.
    """
    try:
        return pq.read_table(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        why = str(error).partition("\n")[0]
        raise ValueError(
            f"{path} is damaged ({why}): put a copy of it back, or choose another --step"
        ) from error


def _turn(turn: Turn) -> dict[str, Any]:
    return {f.name: getattr(turn, f.name) for f in fields(turn)} | {"info": dict(turn.info)}


def _read(row: dict[str, Any]) -> Trajectory:
    arrays: dict[str, Any] = {n: np.array(row[n], dtype=kind) for n, kind in _ARRAYS.items()}
    return Trajectory(
        **arrays,
        **{name: row[name] for name in _PLAIN},
        trainable=arrays["owner"] != Owner.TEMPLATE,
        end=EndReason(row["end"]),
        messages=tuple(Message(**m) for m in json.loads(row["messages"])),
        turns=tuple(Turn(**u) for u in json.loads(row["turns"])),
        segments=tuple((a, b) for a, b in json.loads(row["segments"])),
        prompt=json.loads(row["prompt"]),
    )


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
    _write(rows, path)


def load_scores(path: Path, trajectories: Sequence[Trajectory]) -> list[Scored]:
    """Read what `save_scores` wrote, equal in every number, and join it to its trajectories.

    Raises:
        ValueError: the file is not there, holds no scores, or some of other trajectories.
    """
    if not path.is_file():
        raise ValueError(f"there is no file of scores {path}")
    table = _table(path)
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
