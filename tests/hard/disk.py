"""A disk that is full from each write, rename and delete of `train`, `compare` and `report` on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from hard.faults import Fault
from hard.row import Row
from hard.trials import Disturbed, Undisturbed, crew, disturb, subjects

SHARE = {"train": 1, "report": 1, "compare": 9}
"""One in so many of a command's changes."""


def full(every: int = 1) -> list[Row]:
    """All places, or one in so many."""
    rows: list[Row] = []
    with TemporaryDirectory() as name, crew() as pool:
        for of in subjects(pool, Path(name)).values():
            places = of.telling[:: SHARE[of.subject.name] * every]
            rows += _rows(of, disturb(pool, of, [Fault(at) for at in places]))
    return rows


def _rows(of: Undisturbed, found: Sequence[Disturbed]) -> list[Row]:
    tried = f"{of.subject.name}: {len(found):,} of {len(of.places):,} changes on the disk"
    bars = {
        "not told in one line": [each for each in found if not _is_told(each)],
        "other bits once there was room": [e for e in found if e.differ or e.again.code != 0],
        "processes left": [each for each in found if each.first.left],
    }
    return [Row("full disk", f"{tried}: {k}", _worst(v), "none", not v) for k, v in bars.items()]


def _is_told(each: Disturbed) -> bool:
    """A command that could do without the change says nothing, and then nothing is missing."""
    first = each.first
    return not first.traceback and (first.code == 0 or (first.code == 2 and len(first.errors) == 1))


def _worst(bad: Sequence[Disturbed]) -> str:
    return f"{len(bad)} ({bad[0]})" if bad else "0"
