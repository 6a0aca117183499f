"""A teacher between the student as it was and as it is, in its logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from pydantic import Field, PrivateAttr

from agentopd.base.rows.costs import Cost
from agentopd.models.head import Head
from agentopd.models.model import LanguageModel
from agentopd.models.passes import Reading, hidden_at
from agentopd.teacher import Teacher

# N places, H hidden size, V vocabulary


class TrustRegionTeacher(Teacher, kind="trust_region"):
    """Logits (1 - share) z_start + share z_live: the student before its first step, and a little of
    the student as it is now (SDPO 2601.20802).

    With a share of 0 it is `frozen`, with 1 `live`. Unlike an average of weights it is no model of
    its own. The two output layers stand beside each other while a micro-batch is learnt from; with
    adapters they are one.

    Args:
        share: of the live student.
    """

    copies_student = True
    is_student = True
    is_start = True

    share: float = Field(default=0.05, ge=0, le=1)

    _both: tuple[LanguageModel, LanguageModel] | None = PrivateAttr(default=None)

    @property
    def costs(self) -> tuple[Cost, ...]:
        """See `Part.costs`."""
        return Cost("teacher", "reads", "L"), Cost("reference", "reads", "L")

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"softmax({1 - self.share:g} z_0 + {self.share:g} z), z the logits of p"

    @property
    def local(self) -> bool:
        """See `Teacher.local`: it is two models."""
        return False

    def prepare(self, student: LanguageModel) -> None:
        """See `Teacher.prepare`."""
        self._both = student.snapshot(), student

    @property
    def positions(self) -> float:
        """See `Teacher.positions`."""
        return self._prepared[0].positions

    def held(self) -> Iterator[torch.Tensor]:
        """See `Teacher.held`."""
        for model in self._prepared:
            yield from model.module.parameters()
            yield from model.module.buffers()

    def hidden(self, readings: Sequence[Reading]) -> list[torch.Tensor]:
        """See `Teacher.hidden`: both models' states side by side, (N, 2 H), times their shares."""
        start, live = (hidden_at(x, readings, self.tokens_per_batch) for x in self._prepared)
        return [
            torch.cat([(1 - self.share) * old_NH, self.share * new_NH], -1)
            for old_NH, new_NH in zip(start, live, strict=True)
        ]

    def head(self, hidden_NH: torch.Tensor) -> Head:
        """See `Teacher.head`."""
        old, new = (
            model.head(part_NH)
            for model, part_NH in zip(self._prepared, hidden_NH.chunk(2, -1), strict=True)
        )
        bias_V = None
        if old.bias_V is not None and new.bias_V is not None:
            bias_V = torch.lerp(old.bias_V, new.bias_V, self.share)
        if old.weight_VH.data_ptr() == new.weight_VH.data_ptr():
            return Head(old.hidden_NH + new.hidden_NH, old.weight_VH, bias_V)
        return Head(hidden_NH, torch.cat([old.weight_VH, new.weight_VH], -1), bias_V)

    @property
    def _prepared(self) -> tuple[LanguageModel, LanguageModel]:
        assert self._both is not None, "prepare() comes first"
        return self._both
