"""Who judges and who writes criteria where no model can be asked: somebody who makes it up.

What a rubric does with verdicts can then be seen without the models that give them.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

from agentopd.base.parts import Settings
from agentopd.base.types import Trajectory
from agentopd.base.variations import remade
from agentopd.rollout.acting.judging import Judge
from agentopd.units.rubric.criteria import Criterion
from agentopd.units.rubric.induction import Attempt, RubricWriter
from agentopd.units.rubric.judges import Case, FactVerifier, Verifier


class MadeUpVerifier(Verifier):
    """Verdicts that the turn and the criterion decide, and nothing that is meant by them.

    It has no kind, because no file names it.

    Args:
        mood: another gives other verdicts.
    """

    mood: int = 0

    def verdicts(self, cases: Sequence[Case]) -> list[float | None]:
        """See `Verifier.verdicts`."""
        asked = [f"{x.trajectory.episode} {x.turn.index} {x.text} {self.mood}" for x in cases]
        return [zlib.crc32(one.encode()) % 5 / 4 for one in asked]


class MadeUpJudge(Judge):
    """Grades that the episode's number decides."""

    mood: int = 0

    def grades(self, trajectories: Sequence[Trajectory]) -> list[int | None]:
        """See `Judge.grades`."""
        return [zlib.crc32(f"{t.episode} {self.mood}".encode()) % 10 for t in trajectories]


class MadeUpWriter(RubricWriter):
    """One criterion, whatever was played."""

    mood: int = 0

    @property
    def criteria(self) -> tuple[Criterion, ...]:
        """See `RubricWriter.criteria`."""
        verifier = MadeUpVerifier(mood=self.mood)
        return (Criterion(name="made up", verifier=verifier, part="action"),)

    def write(self, good: Sequence[Attempt], bad: Sequence[Attempt]) -> list[Criterion]:
        """See `RubricWriter.write`."""
        return list(self.criteria)

    def learn(self, trajectories: Sequence[Trajectory]) -> None:
        """See `RubricWriter.learn`: there is nothing to be learnt."""


def without_models(part: Any, mood: int = 0) -> Any:
    """A part, made anew, in which nobody judges or writes by more than facts.

    Args:
        mood: of all who make it up; a teacher that is another may judge otherwise.
    """

    def stand_in(settings: Settings) -> Settings | None:
        if isinstance(settings, Verifier) and not isinstance(settings, FactVerifier):
            return MadeUpVerifier(mood=mood)
        if isinstance(settings, Judge):
            return MadeUpJudge(mood=mood)
        return MadeUpWriter(mood=mood) if isinstance(settings, RubricWriter) else None

    return remade(part, stand_in)
