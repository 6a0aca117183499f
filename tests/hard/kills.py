"""A kill at every write, rename and delete of `train`, `compare` and `report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from signal import SIGHUP, SIGKILL, SIGTERM
from tempfile import TemporaryDirectory

from hard import orphans
from hard.faults import Fault, Whom
from hard.row import Row
from hard.trials import Disturbed, Undisturbed, crew, disturb, subjects

SIGNALS = (SIGKILL, SIGTERM, SIGHUP)
SHARE = 4
"""Of the changes of `train` and `report`, one in so many for SIGTERM and SIGHUP, all for SIGKILL;
of a study, one in so many, each by another of nine ways."""


def everywhere(every: int = 1) -> list[Row]:
    """All kills, or one in so many."""
    rows: list[Row] = []
    with TemporaryDirectory() as name, crew() as pool:
        for of in subjects(pool, Path(name)).values():
            rows += _rows(of, disturb(pool, of, _chosen(of)[::every]))
        rows.append(orphans.row(pool, Path(name)))
    return rows


def _chosen(of: Undisturbed) -> list[Fault]:
    places = of.telling
    if of.subject.name != "compare":
        rarer = [Fault(at, number) for number in (SIGTERM, SIGHUP) for at in places[::SHARE]]
        return [*(Fault(at, SIGKILL) for at in places), *rarer]
    ways = [(number, whom) for number in SIGNALS for whom in Whom]
    return [Fault(at, *ways[n % len(ways)]) for n, at in enumerate(places[::SHARE])]


def _rows(of: Undisturbed, found: Sequence[Disturbed]) -> list[Row]:
    other = [each for each in found if each.differ or each.again.code != 0]
    stacks = [each for each in found if each.first.traceback or each.again.traceback]
    left = [each for each in found if each.first.left or each.again.left]
    slowest = max(each.first.waited for each in found)
    by_signal = {number: sum(each.fault.signal is number for each in found) for number in SIGNALS}
    counts = ", ".join(f"{count:,} {number.name}" for number, count in by_signal.items())
    tried = f"{of.subject.name}: {len(of.places):,} changes on the disk, {counts}"
    bars = (("resumed to other bits", other), ("tracebacks", stacks), ("processes left", left))
    rows = [Row("kills", f"{tried}: {what}", _told(bad), "none", not bad) for what, bad in bars]
    last = f"{of.subject.name}: the last process's end after the kill"
    return [*rows, Row("kills", last, f"{slowest:.1f} s", "60 s", slowest < 60)]


def _told(bad: Sequence[Disturbed]) -> str:
    return f"{len(bad)} ({bad[0]})" if bad else "0"
