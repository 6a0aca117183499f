"""Trajectories on disk: Parquet, one row an episode, equal in every field."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from agentopd.base.text import escaped
from agentopd.base.types import Attempt, EndReason, Message, Owner, Trajectory, Turn
from agentopd.signal.payments import Payment
from agentopd.stored.parquet import read_table, write_table

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
        "trainable": [t.trainable for t in trajectories],
        "told": [t.told for t in trajectories],
        "attempt": [json.dumps(asdict(t.attempt)) if t.attempt else None for t in trajectories],
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
    write_table(rows, path)


def trajectory_files(folder: Path) -> list[Path]:
    """The files of a store of episodes, or of those that a run has saved, in their order."""
    inner = folder / "trajectories"
    return sorted((inner if inner.is_dir() else folder).glob("*.parquet"))


def load_trajectories(path: Path) -> list[Trajectory]:
    """Read what `save_trajectories` wrote, equal in every field.

    Raises:
        ValueError: the file is not there or holds no trajectories.
    """
    if not path.is_file():
        raise ValueError(f"there is no trajectory file {path}")
    table = read_table(path)
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
    table = read_table(path)
    if "payments" not in table.column_names:
        return {}
    rows = table.select(["episode", "payments"]).to_pylist()
    return {row["episode"]: [Payment(**own) for own in row["payments"]] for row in rows}


def _turn(turn: Turn) -> dict[str, Any]:
    return {f.name: getattr(turn, f.name) for f in fields(turn)} | {"info": dict(turn.info)}


def _read(row: dict[str, Any]) -> Trajectory:
    arrays: dict[str, Any] = {n: np.array(row[n], dtype=kind) for n, kind in _ARRAYS.items()}
    return Trajectory(
        **arrays,
        **{name: row[name] for name in _PLAIN},
        trainable=_flags(row.get("trainable"), arrays["owner"] != Owner.TEMPLATE),
        told=_flags(row.get("told"), None),
        attempt=Attempt(**json.loads(tried)) if (tried := row.get("attempt")) else None,
        end=EndReason(row["end"]),
        messages=tuple(Message(**m) for m in json.loads(row["messages"])),
        turns=tuple(Turn(**u) for u in json.loads(row["turns"])),
        segments=tuple((a, b) for a, b in json.loads(row["segments"])),
        prompt=json.loads(row["prompt"]),
    )


def _flags(column: Sequence[bool] | None, otherwise: npt.NDArray[np.bool_] | None) -> Any:
    """A column of flags, one a token; `otherwise` in a file by a version that did not write it."""
    return otherwise if column is None else np.array(column, dtype=np.bool_)
