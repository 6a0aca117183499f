"""Whole episodes, graded by a judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field, PrivateAttr, SerializeAsAny

from agentopd.base.rows.costs import Cost
from agentopd.base.types import Trajectory
from agentopd.rollout.acting.judging import BEST, FactJudge, Judge, numbers_of
from agentopd.signal.beside import Beside
from agentopd.units.stretches import TrajectoryUnit

if TYPE_CHECKING:
    from agentopd.models.model import LanguageModel
    from agentopd.teacher import Teacher


class GradedUnit(TrajectoryUnit, kind="graded"):
    """The whole episode, whose score is a judge's grade, for `mix: {kind: reward, score: unit}`:
    the rival reading of OVD (2601.21968), in which grades are rewards.

    The score is the grade over 9, from 0 to 1; an episode without a grade has none.

    Args:
        judge: who grades.
    """

    judge: SerializeAsAny[Judge] = Field(default_factory=FactJudge)
    # The step's trajectories are kept beside their scores, so that no id is used twice.
    _graded: dict[int, tuple[Trajectory, float | None]] = PrivateAttr(default_factory=dict)
    _numbers: dict[str, float] = PrivateAttr(default_factory=dict)

    @property
    def score_formula(self) -> str:
        """See `Unit.score_formula`."""
        return f"the judge's grade / {BEST}"

    @property
    def costs(self) -> tuple[Cost, ...]:
        """See `Part.costs`."""
        return self.judge.costs

    def check(self, beside: Beside) -> None:
        """See `Unit.check`."""
        self.judge.check(beside)

    def prepare(self, student: LanguageModel, teacher: Teacher) -> None:
        """See `Unit.prepare`."""
        self.judge.prepare(student, teacher)

    def learn(self, trajectories: Sequence[Trajectory]) -> None:
        """See `Unit.learn`: all episodes are graded at once."""
        grades = self.judge.grades(trajectories)
        self._graded = {
            id(t): (t, _score(grade)) for t, grade in zip(trajectories, grades, strict=True)
        }
        self._numbers = numbers_of(grades)

    def score(self, trajectory: Trajectory) -> float | None:
        """The grade as a share of the best; one that `learn` has not seen is graded now."""
        known = self._graded.get(id(trajectory))
        return known[1] if known else _score(self.judge.grades([trajectory])[0])

    def scalars(self) -> dict[str, float]:
        """See `Unit.scalars`."""
        return dict(self._numbers)


def _score(grade: int | None) -> float | None:
    return None if grade is None else grade / BEST
