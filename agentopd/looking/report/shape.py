"""What a report is made of: the records of a study's and a run's files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

Interval = tuple[float, float]


class Record(BaseModel):
    """A frozen record; keys that the report does not use are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Point(Record):
    """One evaluation of one run; `episodes` and `seconds` count from the start of the training."""

    step: int
    episodes: int
    seconds: float
    success: float
    interval: Interval | None = None


class Run(Record):
    """One training seed of an arm; `folder` is relative to the study's.

    `outcomes` has a digit a test task, 1 where it was solved after the training; none are kept by
    older versions.
    """

    seed: int = 0
    folder: str = "."
    success_before: float | None = None
    success_after: float | None = None
    outcomes: str = Field(default="", pattern="^[01]*$")
    curve: tuple[Point, ...] = ()


def _crossing(curve: tuple[Point, ...], level: float) -> float | None:
    """The training episodes at which a curve first reaches a success, interpolated; or None."""
    for here, there in pairwise(curve):
        if here.success < level <= there.success:
            share = (level - here.success) / (there.success - here.success)
            return here.episodes + share * (there.episodes - here.episodes)
    return None


class Arm(Record):
    """All seeds of one method; `interval` belongs to `success_after`, `seconds` is by stage.

    `skipped` counts the steps without an update by the reason; `errors` counts training episodes by
    the error that ended them; `notices` tell which of its settings change nothing.
    """

    success_before: float | None = None
    success_after: float | None = None
    interval: Interval | None = None
    episodes: int | None = None
    student_tokens: int | None = None
    teacher_tokens: int | None = None
    seconds: dict[str, float] = {}
    seeds: tuple[int, ...] = ()
    dead_groups: float | None = None
    skipped: dict[str, int] | None = None
    errors: dict[str, int] = {}
    overrides: dict[str, Any] = {}
    notices: tuple[str, ...] = ()
    runs: tuple[Run, ...] = ()

    @property
    def skipped_steps(self) -> int | None:
        """How many steps changed nothing; None where nobody counted."""
        return None if self.skipped is None else sum(self.skipped.values())

    @property
    def episodes_to_half(self) -> float | None:
        """Training episodes until half of the test tasks are solved: the mean over seeds.

        None when a seed never gets there, or starts above.
        """
        found = [_crossing(run.curve, 0.5) for run in self.runs]
        reached = [episodes for episodes in found if episodes is not None]
        return sum(reached) / len(reached) if reached and len(reached) == len(found) else None

    @property
    def before(self) -> Interval | None:
        """Where success before the training may lie: what the seeds' intervals at step 0 span.

        A success without an interval counts as one of no width; None when it was not measured.
        """
        ends = [p.interval for r in self.runs for p in r.curve if p.step == 0 and p.interval]
        if ends:
            return min(lo for lo, _ in ends), max(hi for _, hi in ends)
        return None if self.success_before is None else (self.success_before, self.success_before)


class Teacher(Record):
    """The teacher's own success on the test episodes."""

    success: float
    interval: Interval | None = None
    note: str = ""


class Habit(Record):
    """What a way of acting that reads nothing scores on the test episodes."""

    name: str
    success: float
    interval: Interval


class Summary(Record):
    """A study; the arms' order is the order in which they are shown."""

    name: str = ""
    env: str = ""
    arms: dict[str, Arm]
    teacher: Teacher | None = None
    habits: tuple[Habit, ...] = ()
    machine: dict[str, Any] = {}
    versions: dict[str, Any] = {}
    config: dict[str, Any] = {}

    @property
    def habit(self) -> Habit | None:
        """The best habit; None where none was played."""
        return max(self.habits, key=lambda habit: habit.success, default=None)


class Probes(Record):
    """One step's probes: lists by turn, numbers by whether the episode was solved, and others."""

    by_turn: dict[str, list[float | None]] = {}
    by_success: dict[str, dict[str, float | None]] = {}
    scalars: dict[str, float | None] = {}


class Step(Record):
    """One line of `metrics.jsonl`; `episodes` and `seconds` are cumulative, the others are not.

    `stage` is the folder of the stage that it is of, in a run in stages.
    """

    step: int
    stage: str = ""
    episodes: int = 0
    seconds: float = 0.0
    train: dict[str, float | None] = {}
    loss: float | None = None
    probes: Probes = Probes()
    stages: dict[str, float] = {}
    tokens: dict[str, int] = {}
    skipped: str = ""
    failed: dict[str, int] = {}
    evaluation: dict[str, Any] | None = None


class Token(Record):
    """A token of the student; `signal` in nats, positive where the teacher wants more of it."""

    text: str
    signal: float | None = None
    divergence: float | None = None


class Turn(Record):
    """One turn of the displayed episode."""

    observation: str
    tokens: tuple[Token, ...] = ()
    feedback: str = ""
    reward: float = 0.0


class Episode(Record):
    """One episode for display."""

    arm: str
    env: str
    task: str
    success: bool
    privilege: str
    turns: tuple[Turn, ...]


class Rate(Record):
    """A success rate and its interval."""

    success: float
    interval: Interval


class Mechanism(Record):
    """What an arm's student and teacher are to each other before any step; see
    `agentopd.running.preparation.mechanism.Mechanism`. `arms` have the same two.
    """

    arms: tuple[str, ...] = ()

    alone: Rate
    told: Rate | None = None
    opening: float | None = None
    own: float | None = None
    other: float | None = None
    asked: int = 0
    student_search: dict[str, float] = {}
    teacher_search: dict[str, float] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """A folder's content, in the shape of a study; a single run is a study of one arm.

    `steps` and `episodes` are by arm, from the first seed that has them; others are absent.
    `mechanisms` are by the first arm that has this student and teacher, of a study that measured
    them.
    """

    summary: Summary
    single: bool
    steps: Mapping[str, list[Step]] = field(default_factory=dict)
    episodes: Mapping[str, Episode] = field(default_factory=dict)
    mechanisms: Mapping[str, Mechanism] = field(default_factory=dict)
