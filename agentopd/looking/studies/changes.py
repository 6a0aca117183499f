"""What the arms of a study change against its sick arm, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from agentopd.base.statistics import (
    Array,
    Estimate,
    Stratum,
    bootstrapped,
    difference,
    improvement,
    iqm_of_one,
    wilson_difference,
)
from agentopd.looking.report.shape import Arm, Mechanism, Record, Results
from agentopd.looking.studies.effects import Effects

Role = Literal["sick", "healthy", "control", "fix"]
_STATISTICS = (iqm_of_one, difference, improvement)
_TASKS = ("env", "evaluate", "evaluate.options", "evaluate.episodes")
"""Settings on which it hangs which tasks an arm is tried on."""


class Roles(Record):
    """What a study's configuration says of its arms; see
    `agentopd.running.config.StudySettings`.
    """

    sick: str | None = None
    healthy: tuple[str, ...] = ()
    control: tuple[str, ...] = ()

    def of(self, arm: str) -> Role:
        """What an arm is; one that nothing is said of is tried against the pathology."""
        if arm == self.sick:
            return "sick"
        return "healthy" if arm in self.healthy else "control" if arm in self.control else "fix"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One arm beside the sick one.

    Attributes:
        middle: the interquartile mean of its seeds' successes.
        change: of its mean success against the sick arm's; None where one of them was not measured,
            for the sick arm itself, and where a study names none.
        chance: the probability that a seed of it ends above a seed of the sick arm.
        seeds: each seed's own change, where the sick arm has the same seeds.
        by_task: whether outcomes by task are known; else the intervals are of Wilson's kind, and
            `middle` and `chance` are None.
        mechanism: of its student and teacher; None where none was measured.
    """

    name: str
    role: Role
    arm: Arm
    middle: Estimate | None
    change: Estimate | None
    chance: Estimate | None
    seeds: tuple[float, ...]
    by_task: bool
    mechanism: Mechanism | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A study; `sick` is None where its configuration names no such arm."""

    name: str
    results: Results
    effects: Effects
    sick: Cell | None
    cells: Mapping[str, Cell]

    def of(self, *roles: Role) -> list[Cell]:
        """Its cells in these roles."""
        return [cell for cell in self.cells.values() if cell.role in roles]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overall:
    """An arm's name over all studies that have it and outcomes by task: rliable's aggregates."""

    studies: int
    middle: Estimate
    change: Estimate
    chance: Estimate


def row_of(name: str, results: Results, effects: Effects | None = None) -> Row:
    """The arms of a study beside its sick one.

    Args:
        effects: what these did to their students, where it was measured.
    """
    arms = results.summary.arms
    roles = Roles.model_validate(results.summary.config.get("study") or {})
    sick = arms.get(roles.sick) if roles.sick else None
    mechanisms = {
        arm: found for first, found in results.mechanisms.items() for arm in (first, *found.arms)
    }
    cells = {
        arm: _cell(arm, roles.of(arm), found, sick, mechanisms.get(arm))
        for arm, found in arms.items()
    }
    return Row(
        name=name,
        results=results,
        effects=effects or Effects(),
        sick=cells.get(roles.sick or ""),
        cells=cells,
    )


def shared_arms(rows: Sequence[Row]) -> list[str]:
    """The names of what more than one study has tried, in the order of their appearance."""
    seen: dict[str, int] = {}
    for cell in (cell for row in rows if row.sick for cell in row.of("fix")):
        seen[cell.name] = seen.get(cell.name, 0) + 1
    return [name for name, count in seen.items() if count > 1]


def overall(rows: Sequence[Row], name: str) -> Overall | None:
    """An arm over all studies, each a stratum; None where fewer than two know their outcomes."""
    strata = [
        stratum
        for row in rows
        if row.sick and name in row.cells and row.cells[name].role == "fix"
        if (stratum := _stratum(row.cells[name].arm, row.sick.arm)) is not None
    ]
    if len(strata) < 2:
        return None
    middle, change, chance = bootstrapped(_STATISTICS, strata)
    return Overall(studies=len(strata), middle=middle, change=change, chance=chance)


def _cell(name: str, role: Role, arm: Arm, sick: Arm | None, mechanism: Mechanism | None) -> Cell:
    against = sick if role != "sick" else None
    stratum = _stratum(arm, against or arm)
    middle = change = chance = None
    if stratum:
        middle, change, chance = bootstrapped(_STATISTICS, [stratum])
    elif against:
        change = _wilson_change(arm, against)
    return Cell(
        name=name,
        role=role,
        arm=arm,
        middle=middle,
        change=change if against else None,
        chance=chance if against else None,
        seeds=tuple(_by_seed(arm, against)) if against else (),
        by_task=stratum is not None,
        mechanism=mechanism,
    )


def _stratum(arm: Arm, sick: Arm) -> Stratum | None:
    """Two arms' outcomes by task; None where one of them keeps none."""
    one, other = _outcomes(arm), _outcomes(sick)
    if one is None or other is None:
        return None
    tasks = one.shape[1] == other.shape[1] and _tasks(arm.overrides) == _tasks(sick.overrides)
    return Stratum(one, other, same_tasks=tasks, same_seeds=_seeds(arm) == _seeds(sick))


def _outcomes(arm: Arm) -> Array | None:
    """The outcomes (S, T) of an arm's runs; None where one has none, or another number."""
    kept = [run.outcomes for run in arm.runs]
    if not kept or not kept[0] or len({len(digits) for digits in kept}) > 1:
        return None
    return np.array([[int(digit) for digit in digits] for digits in kept], dtype=np.float64)


def _tasks(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What an arm changes of the tasks that it is tried on."""
    return {
        key: value
        for key, value in overrides.items()
        if key in _TASKS or key.startswith(("env.", "evaluate.options."))
    }


def _seeds(arm: Arm) -> list[int]:
    return [run.seed for run in arm.runs]


def _wilson_change(arm: Arm, sick: Arm) -> Estimate | None:
    one, other = _pooled(arm), _pooled(sick)
    return None if one is None or other is None else wilson_difference(one, other)


def _pooled(arm: Arm) -> Estimate | None:
    if arm.success_after is None or arm.interval is None:
        return None
    return Estimate(arm.success_after, arm.interval)


def _by_seed(arm: Arm, sick: Arm) -> Iterator[float]:
    base = {run.seed: run.success_after for run in sick.runs}
    for run in arm.runs:
        before = base.get(run.seed)
        if run.success_after is not None and before is not None:
            yield run.success_after - before
