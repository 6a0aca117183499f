"""What the numbers of several studies allow to be said."""

from __future__ import annotations

from collections.abc import Sequence

from agentopd.base.statistics import Estimate
from agentopd.looking.report.finding import UNKNOWN, percent, span
from agentopd.looking.report.shape import Step
from agentopd.looking.studies.changes import Cell, Row

_SEEDS = 5
"""Below so many seeds, a bootstrap's intervals are too narrow where seeds differ much."""


_SEARCH = {
    "states": "{:.1f}".format,
    "revisits": percent,
    "backtracks": percent,
    "repeats": percent,
}
"""How the numbers of `agentopd.probes.search` are written."""


def points(value: float) -> str:
    """A difference of two success rates in points of a hundred, with its sign."""
    whole = round(100 * value)
    return "0" if not whole else f"{'+' if whole > 0 else chr(0x2212)}{abs(whole)}"


def extent(change: Estimate) -> str:
    """The interval of a difference, in points."""
    return f"{points(change.interval[0])} to {points(change.interval[1])}"


def verdict(row: Row) -> str:
    """What a study says of its sick arm, in some sentences that claim no more than the intervals
    carry.
    """
    if row.sick is None:
        return "Its configuration names no sick arm (study.sick), so no change can be told."
    arm = row.sick.arm
    said = [
        f"The sick arm, {row.sick.name}, goes from {percent(arm.success_before)} to "
        f"{percent(arm.success_after)}{f' ({span(arm.interval)})' if arm.interval else ''}."
    ]
    if healthy := row.of("healthy", "control"):
        said.append(_without(healthy))
    tried = [cell for cell in row.of("fix") if cell.change is not None]
    above = _ranked([cell for cell in tried if cell.change and cell.change.interval[0] > 0])
    below = _ranked([cell for cell in tried if cell.change and cell.change.interval[1] < 0])
    rest = [cell.name for cell in tried if cell.change and not cell.change.apart]
    if above:
        said.append(f"Better: {above}.")
    if below:
        said.append(f"Worse: {below}.")
    if rest:
        said.append(f"Not told apart from it: {', '.join(rest)}.")
    return " ".join(said)


def caveats(rows: Sequence[Row], pending: Sequence[str]) -> list[str]:
    """What a reader must know of all that is shown."""
    few = {row.name: _seeds(row) for row in rows if _seeds(row) < _SEEDS}
    old = [row.name for row in rows if any(not cell.by_task for cell in row.cells.values())]
    notes = []
    if few:
        listed = ", ".join(f"{name} {count}" for name, count in few.items())
        notes.append(
            f"Fewer than {_SEEDS} seeds ({listed}): where seeds differ much, the intervals are too "
            "narrow."
        )
    if old:
        notes.append(
            f"No outcomes by task are kept of all arms of {', '.join(old)}: there the intervals "
            "marked † are Wilson's of the pooled episodes, unpaired, without the variation between "
            "seeds. Such a study has to be run again to have the others."
        )
    if pending:
        notes.append(f"Not finished, and not shown: {', '.join(pending)}.")
    return notes


def cause(cell: Cell) -> list[str]:
    """The mechanism probe of a cell, a line a fact."""
    found = cell.mechanism
    if found is None:
        return []
    told = percent(found.told.success) if found.told else UNKNOWN
    lines = [f"alone {percent(found.alone.success)}, told {told}"]
    if found.opening is not None:
        lines.append(f"speaks as told {found.opening:.2g}")
    if found.own is not None and found.other is not None:
        own, other = (f"{value:.1f}".replace("-", "\u2212") for value in (found.own, found.other))
        lines.append(f"best action {own} / {other}")
    return lines


def searched(cell: Cell, steps: Sequence[Step]) -> list[str]:
    """How an arm's student searches before and after its training, and its teacher, a line a
    number; nothing where it was not measured.
    """
    measured = [step.evaluation for step in steps if step.evaluation]
    told = cell.mechanism.teacher_search if cell.mechanism else {}
    lines = []
    for name, form in _SEARCH.items():
        known = [found.get(f"search/{name}") for found in measured]
        if known and known[0] is not None and known[-1] is not None:
            teacher = f", its teacher {form(told[name])}" if name in told else ""
            lines.append(f"{name}: {form(known[0])} → {form(known[-1])}{teacher}")
    return lines


def _without(cells: Sequence[Cell]) -> str:
    """Whether the effect is gone where its cause is not."""
    gone = _ranked([cell for cell in cells if cell.change and cell.change.interval[0] > 0])
    left = [cell.name for cell in cells if not (cell.change and cell.change.interval[0] > 0)]
    said = [f"the effect is gone in {gone}"] if gone else []
    said += [f"it cannot be told to be gone in {', '.join(left)}"] if left else []
    return f"Without the cause: {'; '.join(said)}."


def _ranked(cells: Sequence[Cell]) -> str:
    known = [(cell.change.value, cell.name) for cell in cells if cell.change]
    ordered = sorted(known, key=lambda pair: -abs(pair[0]))
    return ", ".join(f"{name} {points(value)}" for value, name in ordered)


def _seeds(row: Row) -> int:
    return min((len(cell.arm.runs) for cell in row.cells.values()), default=0)
