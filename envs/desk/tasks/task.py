"""What a task is: what is asked, which changes it wants, how it is solved and checked."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from agentopd.envs.desk.api import Call
from agentopd.envs.desk.state import Completion, Given, State
from agentopd.envs.desk.world import Change, World, changes

_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?: ?([ap])\.?m)?")
_MONEY = re.compile(r"(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)(?: dollars| usd)?")


@dataclass(frozen=True)
class Expected:
    """A change that a goal wants in `table`.

    A `made` record has the values in `fields`; what else could be filled is left out, except for
    what the task leaves `free`. A record that is `altered` has new values in `fields` and in no
    others; one that is `gone` is named by `id`.
    """

    table: str
    kind: Literal["made", "altered", "gone"]
    fields: Mapping[str, Any]
    id: int = 0
    free: tuple[str, ...] = ()

    def met_by(self, change: Change) -> bool:
        """Whether `change` is this one."""
        record = change.before or change.after
        assert record is not None
        if change.table != self.table or (self.id and record.id != self.id):
            return False
        if self.kind == "gone" or change.after is None:
            return self.kind == "gone" and change.after is None
        if (change.before is None) != (self.kind == "made"):
            return False
        if self.kind == "altered" and change.altered.keys() != self.fields.keys():
            return False
        if self.kind == "made" and change.after.chosen - {*self.fields, *self.free}:
            return False
        return all(_is(getattr(change.after, name), value) for name, value in self.fields.items())


@dataclass(frozen=True)
class Goal:
    """Something to be done: in words, as the changes that show it, and as the call that does it."""

    requirement: str
    call: Call
    changes: tuple[Expected, ...]


@dataclass(frozen=True)
class Task:
    """A task in a world.

    Args:
        instruction: what the user says.
        reads: the calls that find out what the goals and the answer need, in stages: a call may
            use what the stages before it have shown.
        goals: what must change; empty for questions and for tasks that cannot be done.
        answer: what must be answered; None where nothing is asked.
        status: how the task must be ended.
    """

    instruction: str
    reads: tuple[tuple[Call, ...], ...]
    goals: tuple[Goal, ...] = ()
    answer: Given = None
    status: Literal["success", "fail"] = "success"

    @property
    def completion(self) -> Completion:
        """How a perfect agent ends the task."""
        return Completion(self.answer, self.status)


@dataclass(frozen=True)
class Check:
    """One thing that was checked: what is required, and whether it is so."""

    kind: Literal["goal", "collateral", "answer", "status"]
    requirement: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True)
class Progress:
    """How far the state is: a change for each goal that is met, and the changes nobody wants."""

    unmet: tuple[Goal, ...]
    stray: tuple[Change, ...]


def progress(task: Task, start: World, world: World) -> Progress:
    """Match what changed since `start` with what the task wants, each change at most once."""
    left = changes(start, world)
    unmet = []
    for goal in task.goals:
        found: list[Change] = []
        for expected in goal.changes:
            hits = (c for c in left if c not in found and expected.met_by(c))
            found += list(itertools.islice(hits, 1))
        if len(found) == len(goal.changes):
            left = [change for change in left if change not in found]
        else:
            unmet.append(goal)
    return Progress(tuple(unmet), tuple(change for change in left if not _harmless(change)))


def evaluate(task: Task, start: World, state: State) -> list[Check]:
    """All checks of a task, as the state stands: goals, collateral damage, answer, status."""
    reached = progress(task, start, state.world)
    done = state.completion
    checks = [Check("goal", g.requirement, g not in reached.unmet) for g in task.goals]
    stray = ", ".join(map(str, reached.stray))
    checks.append(Check("collateral", "nothing else is changed", not stray, stray))
    wanted = "no answer is given" if task.answer is None else f"the answer is {task.answer}"
    given = None if done is None else done.answer
    right = done is not None and same(task.answer, given, _spoken)
    # Who gives up may say why.
    right |= done is not None and done.status == task.status == "fail"
    checks.append(Check("answer", wanted, right, "" if right else f"{given!r} was answered"))
    ends = "completed" if task.status == "success" else 'given up with status "fail"'
    passed = done is not None and done.status == task.status
    checks.append(Check("status", f"the task is {ends}", passed))
    return checks


def _plain(value: Any) -> str:
    """`value` as a text in which only what matters is left."""
    text = " ".join(str(value).casefold().split()).rstrip(".!").lstrip("$").strip()
    try:
        return f"{float(text):.2f}"
    except ValueError:
        return text


def _spoken(value: Any) -> str:
    """An answer as `_plain` has it, also without quotes, times of day and sums of money in one
    form: `9:00 am` is `09:00`, `1,250 dollars` is `1250.00`.
    """
    text = _plain(str(value).strip().rstrip(".!").strip("\"'“”"))
    if clock := _CLOCK.fullmatch(text):
        hour = int(clock[1]) % 12 + 12 * (clock[3] == "p") if clock[3] else int(clock[1])
        return f"{hour:02}:{clock[2]}"
    if sum_ := _MONEY.fullmatch(text):
        return f"{float(sum_[1].replace(',', '')):.2f}"
    return text


def same(expected: Any, got: Any, form: Callable[[Any], str] = _plain) -> bool:
    """Whether two values say the same: texts but for capitals, spaces and a full stop at the end,
    numbers to half a cent, lists in any order and also as a text with commas.

    `form` writes a value so that what says the same is equal.
    """
    if expected is None or got is None:
        return expected is None and got in (None, "")
    if isinstance(expected, bool) or isinstance(got, bool):
        return expected is got
    if isinstance(expected, list | tuple):
        parts = got.split(",") if isinstance(got, str) else got
        if not isinstance(parts, list | tuple):
            return False
        return sorted(map(form, expected)) == sorted(map(form, parts))
    if isinstance(got, list | tuple):
        return len(got) == 1 and same(expected, got[0], form)
    return form(expected) == form(got)


def _is(got: Any, wanted: Any) -> bool:
    """Whether a field has the wanted value; what is kept in order must have this order."""
    return got == wanted if isinstance(wanted, tuple) else same(wanted, got)


def _harmless(change: Change) -> bool:
    """A mail that was marked as read or unread is no damage."""
    return change.table == "messages" and change.altered.keys() == {"read"} and bool(change.before)
