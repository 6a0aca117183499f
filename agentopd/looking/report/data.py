"""What a report is made of, read from a study or a run folder and checked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from agentopd.base.files import read_text
from agentopd.base.written import read_stored

Interval = tuple[float, float]


class Record(BaseModel):
    """A frozen record; keys that the report does not use are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


R = TypeVar("R", bound=Record)


class Point(Record):
    """One evaluation of one run; `episodes` and `seconds` count from the start of the training."""

    step: int
    episodes: int
    seconds: float
    success: float
    interval: Interval | None = None


class Run(Record):
    """One training seed of an arm; `folder` is relative to the study's."""

    seed: int = 0
    folder: str = "."
    success_before: float | None = None
    success_after: float | None = None
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
    """One line of `metrics.jsonl`; `episodes` and `seconds` are cumulative, the others are not."""

    step: int
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

    arm: str = ""
    env: str = ""
    task: str = ""
    success: bool = False
    privilege: str = ""
    turns: tuple[Turn, ...] = ()


class Rate(Record):
    """A success rate and its interval."""

    success: float
    interval: Interval


class Mechanism(Record):
    """What an arm's student and teacher are to each other before any step; see
    `agentopd.running.preparation.mechanism.Mechanism`.
    """

    alone: Rate
    told: Rate | None = None
    opening: float | None = None
    own: float | None = None
    other: float | None = None
    asked: int = 0


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


def read_results(folder: Path) -> Results:
    """Read a study folder or a run folder.

    Raises:
        ValueError: the folder holds neither a study nor a run, or a file in it is damaged.
    """
    path = folder / "summary.json"
    written = read_json(path) if path.is_file() else {}
    if "arms" in written:
        summary = _checked(Summary, written, path)
        if not summary.arms:
            raise ValueError(f"{path} names no arm: run the study until one arm has finished")
    elif written.get("run") or (folder / "metrics.jsonl").is_file():
        summary = _summary_of_run(folder, written)
    else:
        raise ValueError(
            f"{folder} holds neither a study's summary.json nor a run's metrics.jsonl, so there is "
            "nothing to report; name a folder that `agentopd compare` or `agentopd train` wrote "
            "(of a study that was interrupted, a single run such as arms/NAME/seed-0)"
        )
    steps: dict[str, list[Step]] = {}
    episodes: dict[str, Episode] = {}
    for name, arm in summary.arms.items():
        for run in arm.runs:
            at = folder / run.folder
            if name not in steps and (found := _steps_of_run(at)):
                steps[name] = found
            if name not in episodes and (at / "episode.json").is_file():
                shown = at / "episode.json"
                episodes[name] = _checked(Episode, read_json(shown), shown)
    return Results(
        summary=summary,
        single="arms" not in written,
        steps=steps,
        episodes=episodes,
        mechanisms=_mechanisms(folder / "mechanisms.json"),
    )


def _mechanisms(path: Path) -> dict[str, Mechanism]:
    found = read_json(path) if path.is_file() else {}
    return {arm: _checked(Mechanism, row, path) for arm, row in found.items()}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, with null for numbers that are not finite.

    Raises:
        ValueError: it is not JSON, or not an object.
    """
    value = _parse(read_text(path), str(path))
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not an object: was it edited?")
    return value


def read_steps(path: Path) -> list[Step]:
    """The steps of a run; none when there is no such file.

    A last line that was cut off while it was written is left out.

    Raises:
        ValueError: another line is damaged.
    """
    if not path.is_file():
        return []
    *lines, last = read_text(path).split("\n")
    if _is_complete(last):
        lines.append(last)
    where = [(f"{path}, line {i}", line) for i, line in enumerate(lines, 1) if line.strip()]
    return [_checked(Step, _parse(line, place), place) for place, line in where]


def _steps_of_run(folder: Path) -> list[Step]:
    """The steps of a run, all of them where it has ended."""
    metrics, summary = folder / "metrics.jsonl", folder / "summary.json"
    steps = read_steps(metrics)
    ended = read_json(summary).get("steps") if summary.is_file() else None
    have = steps[-1].step + 1 if steps else 0
    if isinstance(ended, int) and metrics.is_file() and have < ended:
        raise ValueError(
            f"{metrics} ends at step {have}, and the run has ended after step {ended}: put a copy "
            "of the file back"
        )
    return steps


def _is_complete(line: str) -> bool:
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    return True


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON ({error}): was it cut off or edited?") from error


def _checked(kind: type[R], value: Any, where: Path | str) -> R:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"{where} is not what agentopd writes there ({place}: {first['msg']}): put a copy back"
        ) from error


def _summary_of_run(folder: Path, written: dict[str, Any]) -> Summary:
    """A run as a study of one arm; what `summary.json` does not say, `metrics.jsonl` does."""
    steps = _steps_of_run(folder)
    # An evaluation's own `episodes` counts test episodes; a point's counts those trained on
    evaluated = [
        s.evaluation | {"step": s.step, "episodes": s.episodes, "seconds": s.seconds}
        for s in steps
        if s.evaluation
    ]
    curve = written.get("curve") or evaluated
    last: dict[str, Any] = curve[-1] if curve else {}
    stages = {name for step in steps for name in step.stages}
    seconds = {name: sum(s.stages.get(name, 0.0) for s in steps) for name in sorted(stages)}
    seed = written.get("seed", 0)
    measured: dict[str, Any] = {
        "success_before": curve[0].get("success") if curve and curve[0].get("step") == 0 else None,
        "success_after": last.get("success"),
        "interval": last.get("interval"),
        "seeds": [seed],
        "errors": sum((Counter(s.failed) for s in steps), Counter()),
        "dead_groups": _mean([s.train.get("dead_groups") for s in steps]),
        "skipped": Counter(s.skipped for s in steps if s.skipped),
    }
    if steps:
        measured |= {
            "episodes": steps[-1].episodes,
            "student_tokens": sum(s.tokens.get("student", 0) for s in steps),
            "teacher_tokens": sum(s.tokens.get("teacher", 0) for s in steps),
            "seconds": seconds | {"total": steps[-1].seconds},
        }
    arm: dict[str, Any] = measured | {k: v for k, v in written.items() if k in Arm.model_fields}
    before, after = arm["success_before"], arm["success_after"]
    run = {"seed": seed, "success_before": before, "success_after": after, "curve": curve}
    name = str(written.get("arm") or written.get("name") or folder.resolve().name)
    config = written.get("config") or _config(folder / "config.yaml")
    study = {"name": name} | written | {"config": config, "arms": {name: arm | {"runs": [run]}}}
    return _checked(Summary, study, folder / "summary.json")


def _config(path: Path) -> dict[str, Any]:
    return read_stored(path.parent) if path.is_file() else {}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
