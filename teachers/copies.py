"""Teachers that are the student itself: as it was, is, was a while ago, is on average, or would be
without its adapters.

A student with adapters shares its base with all of them, which nothing moves: what is copied,
averaged and saved is the adapters. A teacher is a model of its own on that memory, and never the
student with its adapters switched: so no pass can leave the wrong ones on.
"""

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

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return "p"

    def prepare(self, student: LanguageModel) -> None:
        """See `Teacher.prepare`."""
        self._model = student


class AdapterOffTeacher(Teacher, kind="adapter_off"):
    """The student without its adapters: the base that they stand on, at no memory of its own.

    Where adapters are new at the first step, it is what `frozen` is; where the run goes on with
    those of another, `frozen` has these and this has none.
    """

    needs_adapters = True

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return "p without its adapters"

    def prepare(self, student: LanguageModel) -> None:
        """See `Teacher.prepare`.

        Raises:
            ValueError: the student has no adapters.
        """
        self._model = student.without_adapters()


class FrozenTeacher(LiveTeacher, kind="frozen"):
    """The student as it was before its first step (OPSD 2601.18734).

    It is not saved: a run that goes on finds it where it started from, and checkpoints hold a
    digest by which they know it again.
    """

    is_student, is_start = False, True

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return "p_0"

    def prepare(self, student: LanguageModel) -> None:
        """See `Teacher.prepare`."""
        self._model = student.snapshot()

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """See `Teacher.restore`. There is something to restore where an earlier version saved it.

        Raises:
            ValueError: it is not the model that the student started from.
        """
        for name, weight in self.model.weights().items():
            if name in tensors and not torch.equal(tensors[name], weight):
                raise ValueError(
                    f"the frozen teacher of this run is another model than {self.model.name}: the "
                    "folder has changed since the run began. Put back what lay there"
                )


class LaggedTeacher(FrozenTeacher, kind="lagged"):
    """The student as it was at the last multiple of `every` steps.

    `every: 1` follows each step (Skill-SD 2604.10674).
    """

    is_start = False

    every: int = Field(default=10, ge=1)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        if self.every == 1:
            return "p as it was before the step"
        return f"p as it was at the last multiple of {self.every} steps"

    def prepare(self, student: LanguageModel) -> None:
        """See `Teacher.prepare`."""
        self._model = student.frozen_copy()

    def sync(self, student: LanguageModel, step: int) -> None:
        """See `Teacher.sync`."""
        if (step + 1) % self.every == 0:
            self.model.load_weights(student.weights())

    def tensors(self) -> dict[str, torch.Tensor]:
        """See `Teacher.tensors`."""
        return self.model.weights()

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """See `Teacher.restore`.

        Raises:
            ValueError: a weight is missing.
        """
        self.model.load_weights(tensors)


class EmaTeacher(FrozenTeacher, kind="ema"):
    """An exponential moving average of the student's weights (SDPO 2601.20802).

    It starts at the student. After each step every weight moves by `rate` of its distance to the
    student's. The average is kept in float32: in bfloat16 such small moves would round to none.

    Of adapters the factors A and B are averaged, each by itself, which keeps their rank. What they
    say is then not the average of the products B A, which has the rank of all steps together: the
    two differ by the covariance of A and B over the window, of second order in how far these move
    within it.
    """

    is_start = False

    rate: float = Field(default=0.05, gt=0, le=1)

    _average: dict[str, torch.Tensor] = PrivateAttr(default_factory=dict)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"p with averaged weights, which move by {self.rate:g} of the distance a step"

    def prepare(self, student: LanguageModel) -> None:
        """See `Teacher.prepare`."""
        self._model = student.frozen_copy()
        # Of float32 weights these are the weights themselves, of others copies of them.
        self._average = {n: p.detach().float() for n, p in self._parameters(self.model).items()}

    @torch.no_grad()
    def sync(self, student: LanguageModel, step: int) -> None:
        """See `Teacher.sync`."""
        current = self._parameters(student)
        for name, weight in self._parameters(self.model).items():
            weight.copy_(self._average[name].lerp_(current[name].float(), self.rate))

    def tensors(self) -> dict[str, torch.Tensor]:
        """See `Teacher.tensors`."""
        weights = self.model.weights()
        wide = {n: x for n, x in self._average.items() if x.dtype != weights[n].dtype}
        return weights | {f"{_AVERAGE}{name}": average for name, average in wide.items()}

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """See `Teacher.restore`.

        Raises:
            ValueError: a weight is missing.
        """
        self.model.load_weights(tensors)
        for name, tensor in tensors.items():
            if name.startswith(_AVERAGE) and name.removeprefix(_AVERAGE) in self._average:
                self._average[name.removeprefix(_AVERAGE)].copy_(tensor)

    @staticmethod
    def _parameters(model: LanguageModel) -> dict[str, torch.nn.Parameter]:
        weights = model.weights().items()
        return {name: x for name, x in weights if isinstance(x, torch.nn.Parameter)}
