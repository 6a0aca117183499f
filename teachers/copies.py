"""Teachers that are the student itself: as it was, is, was a while ago, or is on average."""

from __future__ import annotations

import torch
from pydantic import Field, PrivateAttr

from agentopd.models.model import LanguageModel
from agentopd.teacher import Teacher

_AVERAGE = "average."


class LiveTeacher(Teacher, kind="live"):
    """The student as it is now, a baseline: it can drift with its own teaching and collapse."""

    copies_student = True
    is_student = True

    def prepare(self, student: LanguageModel) -> None:
        """See `Teacher.prepare`."""
        self._model = student


class FrozenTeacher(LiveTeacher, kind="frozen"):
    """The student as it was before its first step (OPSD 2601.18734)."""

    is_student = False

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
    student's. The average is kept in float32: in bfloat16 such small moves would round to none.
    """

    rate: float = Field(default=0.05, gt=0, le=1)

    _average: dict[str, torch.Tensor] = PrivateAttr(default_factory=dict)

    def prepare(self, student: LanguageModel) -> None:
        """See `Teacher.prepare`."""
        super().prepare(student)
        # Of a float32 model these are the weights themselves, of another copies of them.
        self._average = {n: p.detach().float() for n, p in self.model.module.named_parameters()}

    @torch.no_grad()
    def sync(self, student: LanguageModel, step: int) -> None:
        """See `Teacher.sync`."""
        current = dict(student.module.named_parameters())
        for name, weight in self.model.module.named_parameters():
            weight.copy_(self._average[name].lerp_(current[name].float(), self.rate))

    def tensors(self) -> dict[str, torch.Tensor]:
        """See `Teacher.tensors`."""
        weights = super().tensors()
        wide = {n: x for n, x in self._average.items() if x.dtype != weights[n].dtype}
        return weights | {f"{_AVERAGE}{name}": average for name, average in wide.items()}

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """See `Teacher.restore`."""
        super().restore({n: x for n, x in tensors.items() if not n.startswith(_AVERAGE)})
        for name, tensor in tensors.items():
            if name.startswith(_AVERAGE):
                self._average[name.removeprefix(_AVERAGE)].copy_(tensor)
