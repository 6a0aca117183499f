"""What is known before any training, beside what the training gained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from agentopd.base.statistics import Estimate, correlated
from agentopd.looking.report.shape import Mechanism, Step
from agentopd.looking.studies.changes import Cell, Row

_FEWEST_ARMS = 8
_FEWEST_CAUSES = 5
"""Pairs of student and teacher under which a rank correlation says nothing."""


@dataclass(frozen=True)
class Known:
    """What is known of an arm before its first update, and what it gained.

    Attributes:
        gain: mean success after the training less before it.
        start: the line of metrics before the first step; None where none is kept.
        first: the first step's, whose probes were taken before its update.
    """

    study: str
    arm: str
    gain: float
    mechanism: Mechanism
    start: Step | None
    first: Step | None

    @property
    def cause(self) -> str:
        """Equal in arms, and in studies, that have the same student and teacher."""
        return self.mechanism.model_dump_json(exclude={"arms"})


@dataclass(frozen=True)
class Predictor:
    """A number of an arm before its training; `read` gives None where it was not measured."""

    name: str
    meaning: str
    read: Callable[[Known], float | None]


@dataclass(frozen=True)
class Predicted:
    """A predictor beside the gains of the arms that have it.

    Attributes:
        points: its value and the gain of each arm.
        causes: how many different pairs of student and teacher these are.
        correlation: Spearman's; None where there is nothing to tell, and `why` says so.
    """

    predictor: Predictor
    points: Sequence[tuple[float, float]]
    causes: int
    correlation: Estimate | None
    why: str


def predicted(rows: Sequence[Row]) -> list[Predicted]:
    """Each predictor over the arms of all studies that a teacher teaches."""
    known = [found for row in rows for cell in row.cells.values() for found in _known(row, cell)]
    return [_predicted(predictor, known) for predictor in PREDICTORS]


def _known(row: Row, cell: Cell) -> Iterator[Known]:
    """Nothing of an arm without a teacher, or one that was not evaluated at both ends."""
    before, after = cell.arm.success_before, cell.arm.success_after
    if cell.mechanism is None or before is None or after is None:
        return
    steps = row.results.steps.get(cell.name, [])
    start = next((step for step in steps if step.step < 0), None)
    first = next((step for step in steps if step.step == 0), None)
    yield Known(row.name, cell.name, after - before, cell.mechanism, start, first)


def _predicted(predictor: Predictor, known: Sequence[Known]) -> Predicted:
    found = [(value, arm) for arm in known if (value := predictor.read(arm)) is not None]
    points = [(value, arm.gain) for value, arm in found]
    causes = [arm.cause for _, arm in found]
    count = len(set(causes))
    if len(points) < _FEWEST_ARMS or count < _FEWEST_CAUSES:
        least = f"{_FEWEST_ARMS} arms of {_FEWEST_CAUSES} different students and teachers"
        return Predicted(predictor, points, count, None, f"too few: it takes {least}")
    values, gains = ([point[axis] for point in points] for axis in (0, 1))
    correlation = correlated(values, gains, causes)
    why = "" if correlation else "the same in all arms"
    return Predicted(predictor, points, count, correlation, why)


def _told_gap(arm: Known) -> float | None:
    told = arm.mechanism.told
    return None if told is None else told.success - arm.mechanism.alone.success


def _disarmed(arm: Known) -> float | None:
    own, other = arm.mechanism.own, arm.mechanism.other
    return None if own is None or other is None else own - other


def _by_turn(probe: str) -> Callable[[Known], float | None]:
    """A probe's mean over the first step's tokens, from its means by turn."""

    def read(arm: Known) -> float | None:
        probes = arm.first.probes.by_turn if arm.first else {}
        counts = probes.get("count", [])
        pairs = zip(probes.get(probe, []), counts, strict=False)
        known = [(value, count) for value, count in pairs if value is not None and count]
        total = sum(count for _, count in known)
        return sum(value * count for value, count in known) / total if total else None

    return read


def _depth(arm: Known) -> float | None:
    turns = (arm.start.evaluation or {}).get("turns") if arm.start else None
    return float(turns) if isinstance(turns, int | float) else None


PREDICTORS = (
    Predictor(
        "speaks as told",
        "the probability that the untold student gives to the first tokens of its told teacher",
        lambda arm: arm.mechanism.opening,
    ),
    Predictor(
        "overlap",
        "the share of the likeliest tokens that student and teacher have in common",
        _by_turn("overlap"),
    ),
    Predictor("told less alone", "the teacher's success less the student's", _told_gap),
    Predictor(
        "log-ratio",
        "how far the teacher's log-probabilities are from the student's, in nats a token",
        _by_turn("log_ratio"),
    ),
    Predictor(
        "best action",
        "what the teacher gives to the best action behind the student's words, in nats",
        lambda arm: arm.mechanism.own,
    ),
    Predictor(
        "own less teacher's words",
        "the same, less behind the teacher's words: far below 0 where the student disarms it",
        _disarmed,
    ),
    Predictor("entropy", "of the student, in nats a token", _by_turn("student_entropy")),
    Predictor("depth", "turns of an episode of the untrained student", _depth),
)
"""What is measured of every arm that has a teacher, where its study and probes say it."""
