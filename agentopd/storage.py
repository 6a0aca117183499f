"""Trajectories on disk: Parquet, one row an episode, token-exact."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from agentopd.types import EndReason, Message, Owner, Trajectory, Turn

_ARRAYS = {"ids": np.int64, "turn": np.int32, "owner": np.uint8, "logprob": np.float32}
_PLAIN = ("episode", "task", "seed", "env", "error")
_TEXTS = ("end", "messages", "turns", "segments", "prompt")


def save_trajectories(trajectories: Sequence[Trajectory], path: Path) -> None:
    """Write trajectories to one file; what the environment said is kept as JSON."""
    rows: dict[str, list[Any]] = {
        **{name: [getattr(t, name) for t in trajectories] for name in (*_ARRAYS, *_PLAIN)},
        "success": [t.success for t in trajectories],
        "reward": [t.reward for t in trajectories],
        "end": [t.end.value for t in trajectories],
        "messages": [json.dumps([asdict(m) for m in t.messages]) for t in trajectories],
        "turns": [json.dumps([_turn(u) for u in t.turns]) for t in trajectories],
        "segments": [json.dumps(t.segments) for t in trajectories],
        "prompt": [json.dumps(dict(t.prompt)) for t in trajectories],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(rows), path, compression="zstd")


def load_trajectories(path: Path) -> list[Trajectory]:
    """Read what `save_trajectories` wrote, equal in every field.

    Raises:
        ValueError: the file is not there or holds no trajectories.
    """
    if not path.is_file():
        raise ValueError(f"there is no trajectory file {path}")
    table = pq.read_table(path)
    missing = {*_ARRAYS, *_PLAIN, *_TEXTS} - set(table.column_names)
    if missing:
        raise ValueError(
            f"{path} holds no trajectories: it has no column {', '.join(sorted(missing))}"
        )
    return [_read(row) for row in table.to_pylist()]


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
