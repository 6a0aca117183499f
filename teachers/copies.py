"""Teachers that are the student itself: as it was, is, was a while ago, or is on average."""

from __future__ import annotations

import torch
from pydantic import Field

from agentopd.model import LanguageModel
from agentopd.teacher import Teacher


class LiveTeacher(Teacher, kind="live"):
    """The student as it is now, a baseline: it can drift with its own teaching and collapse."""

    copies_student = True

    def prepare(self, student: LanguageModel) -> None:
        """See `Teacher.prepare`."""
        self._model = student


class FrozenTeacher(LiveTeacher, kind="frozen"):
    """The student as it was before its first step (OPSD 2601.18734)."""

    def prepare(self, student: LanguageModel) -> None:
        """See `Teacher.prepare`."""
        self._model = student.frozen_copy()

    def tensors(self) -> dict[str, torch.Tensor]:
        """See `Teacher.tensors`."""
        return dict(self.model.module.state_dict())

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """See `Teacher.restore`."""
        self.model.module.load_state_dict(tensors)


class LaggedTeacher(FrozenTeacher, kind="lagged"):
    """The student as it was at the last multiple of `every` steps.

    `every: 1` follows each step (Skill-SD 2604.10674).
    """

    every: int = Field(default=10, ge=1)

    def sync(self, student: LanguageModel, step: int) -> None:
        """See `Teacher.sync`."""
        if (step + 1) % self.every == 0:
            self.model.module.load_state_dict(student.module.state_dict())


class EmaTeacher(FrozenTeacher, kind="ema"):
    """An exponential moving average of the student's weights (SDPO 2601.20802).

    It starts at the student. After each step every weight moves by `rate` of its distance to the
    student's.
    """

    rate: float = Field(default=0.05, gt=0, le=1)

    @torch.no_grad()
    def sync(self, student: LanguageModel, step: int) -> None:
        """See `Teacher.sync`."""
        current = dict(student.module.named_parameters())
        for name, weight in self.model.module.named_parameters():
            weight.lerp_(current[name], self.rate)
