"""Several teachers, each of the tasks that it knows best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from pydantic import Field, SerializeAsAny

from agentopd.base.types import Lesson, Trajectory, View
from agentopd.models.head import Speaker
from agentopd.models.model import LanguageModel
from agentopd.models.speakers import InTurn
from agentopd.signal.beside import Beside
from agentopd.teacher import Teacher


class RoutedTeacher(Teacher, kind="routed"):
    """One teacher for each tag that tasks have (MOPD 2601.02780): of every episode the one that its
    tag names is asked, and `default` where it names none.

    All are checked, prepared, saved and brought on as if each were alone.

    Args:
        teachers: by tag, each of any kind.
        default: of all other episodes.
        by: the key of the environment's `info` that holds the tag, as it is when a task begins;
            the environment's own id is the tag where there is no such key.
        tokens_per_batch: not read; each teacher has its own.
    """

    teachers: dict[str, SerializeAsAny[Teacher]] = Field(min_length=1)
    default: SerializeAsAny[Teacher]
    by: str = "skill"

    # Facts of a class elsewhere; here those of the teachers that were chosen.
    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        tags = [f"{teacher.formula} for {tag}" for tag, teacher in sorted(self.teachers.items())]
        return f"by the tag {self.by}: {', '.join(tags)}, {self.default.formula} for others"

    @property
    def is_student(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """See `Teacher.is_student`."""
        return any(teacher.is_student for teacher in self._all)

    @property
    def is_start(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """See `Teacher.is_start`: whether one of them is."""
        return any(teacher.is_start for teacher in self._all)

    @property
    def follows(self) -> bool:
        """See `Teacher.follows`."""
        return any(teacher.follows for teacher in self._all)

    @property
    def needs_adapters(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """See `Teacher.needs_adapters`."""
        return any(teacher.needs_adapters for teacher in self._all)

    @property
    def local(self) -> bool:
        """See `Teacher.local`: which of them would act, judge or write?"""
        return False

    def check(self, beside: Beside) -> None:
        """See `Teacher.check`.

        Raises:
            ValueError: one of the teachers refuses.
        """
        for teacher in self._all:
            teacher.check(beside)

    def prepare(self, student: LanguageModel) -> None:
        """See `Teacher.prepare`.

        Raises:
            ValueError: one of the teachers does not fit the student.
        """
        for teacher in self._all:
            teacher.prepare(student)

    def sync(self, student: LanguageModel, step: int) -> None:
        """See `Teacher.sync`."""
        for teacher in self._all:
            teacher.sync(student, step)

    def tensors(self) -> dict[str, torch.Tensor]:
        """See `Teacher.tensors`; each name begins with its teacher's place."""
        return {
            f"{place}.{name}": tensor
            for place, teacher in enumerate(self._all)
            for name, tensor in teacher.tensors().items()
        }

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """See `Teacher.restore`.

        Raises:
            ValueError: a weight is missing.
        """
        for place, teacher in enumerate(self._all):
            own = {
                n.removeprefix(f"{place}."): x
                for n, x in tensors.items()
                if n.startswith(f"{place}.")
            }
            if own:
                teacher.restore(own)

    @property
    def positions(self) -> float:
        """See `Teacher.positions`: the least."""
        return min(teacher.positions for teacher in self._all)

    def held(self) -> Iterator[torch.Tensor]:
        """See `Teacher.held`."""
        for teacher in self._all:
            yield from teacher.held()

    def score(self, views: Sequence[View]) -> list[Lesson]:
        """See `Teacher.score`."""
        found: list[Lesson | None] = [None] * len(views)
        for teacher in self._all:
            places = [v for v, view in enumerate(views) if self._of(view.trajectory) is teacher]
            lessons = teacher.score([views[v] for v in places]) if places else []
            for place, lesson in zip(places, lessons, strict=True):
                found[place] = lesson
        return [lesson for lesson in found if lesson is not None]

    def speaker(self, lessons: Sequence[Lesson]) -> InTurn:
        """See `Teacher.speaker`."""
        parts = list[Speaker]()
        for _, run in groupby(lessons, key=lambda lesson: id(self._of(lesson.trajectory))):
            own = list(run)
            parts.append(self._of(own[0].trajectory).speaker(own))
        return InTurn(parts)

    @property
    def _all(self) -> list[Teacher]:
        """In an order that a resumed run has too."""
        return [*(self.teachers[tag] for tag in sorted(self.teachers)), self.default]

    def _of(self, trajectory: Trajectory) -> Teacher:
        return self.teachers.get(str(trajectory.prompt.get(self.by, trajectory.env)), self.default)
