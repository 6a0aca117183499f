"""Judges of whole episodes, who give one of ten grades."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from agentopd.base.parts import Part
from agentopd.base.types import Trajectory
from agentopd.models.model import LanguageModel
from agentopd.signal.beside import Beside
from agentopd.teacher import Teacher

BEST = 9
"""The highest grade; the lowest is 0."""


class Judge(Part, family="judge"):
    """Grades whole episodes from 0, the worst, to 9."""

    in_words: ClassVar[bool] = False
    """Whether a model is asked."""

    def check(self, beside: Beside) -> None:
        """See `Unit.check`."""

    def prepare(self, student: LanguageModel, teacher: Teacher) -> None:
        """Get ready before the first step; the teacher is ready where the method asks one.

        Raises:
            ValueError: a model that is to be asked cannot be loaded or used.
        """

    @abstractmethod
    def grades(self, trajectories: Sequence[Trajectory]) -> list[int | None]:
        """A grade an episode, in order; None where nothing can be said of it.

        How an episode came about, and who wrote it, is not looked at.
        """


class FactJudge(Judge, kind="facts"):
    """Grades by what the environment states: no model is needed.

    A solved episode has a 9. Another one has, rounded, 9 times the share in which its turns have
    the values that are wanted of the facts they state, and never more than 8.

    Args:
        wants: the facts and their values; if not given, that a move of Sokoban leads closer. What
            nearly every turn has lifts all grades, and tells no episodes apart.
    """

    wants: dict[str, bool | int | float | str] = Field(default={"moves_closer": True}, min_length=1)

    def grades(self, trajectories: Sequence[Trajectory]) -> list[int | None]:
        """See `Judge.grades`; None where no turn of a failed episode states any of the facts."""
        return [BEST if t.success else self._failed(t) for t in trajectories]

    def _failed(self, trajectory: Trajectory) -> int | None:
        facts = [turn.info.get("facts", {}) for turn in trajectory.turns]
        met = [f[name] == value for f in facts for name, value in self.wants.items() if name in f]
        return min(round(BEST * sum(met) / len(met)), BEST - 1) if met else None


def numbers_of(grades: Sequence[int | None]) -> dict[str, float]:
    """The mean of some grades, and of how many episodes nothing could be said."""
    given = [grade for grade in grades if grade is not None]
    found = {"ungraded": float(len(grades) - len(given))}
    return found | ({"grade": sum(given) / len(given)} if given else {})
