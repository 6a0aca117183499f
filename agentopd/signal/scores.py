"""What the models said of an episode's tokens, apart from its micro-batch: to keep and reuse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate, pairwise
from typing import Any

import torch

from agentopd.base.types import Lesson
from agentopd.signal.evidence import Gathered, Measured
from agentopd.signal.tokens import Tokens

# N trainable tokens, K kept tokens of the vocabulary


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """One episode and what the models said of it, in the order of its trainable tokens.

    Attributes:
        lesson: without hidden states; its view is there where a teacher was asked.
        measured: nothing of it is differentiated, and it lies in main memory.
        vocabulary: how many tokens the models' distributions are over.
    """

    lesson: Lesson
    measured: Measured
    vocabulary: int

    @property
    def taught(self) -> bool:
        """Whether a teacher was asked."""
        return self.measured.teacher is not None


def split_scores(
    measured: Measured,
    tokens: Tokens,
    lessons: Sequence[Lesson],
    vocabulary: int,
    most: int | None = None,
) -> list[Scored]:
    """A micro-batch's numbers, an episode each.

    Args:
        most: how many of each model's likeliest tokens stay of those that were kept; None for all.
    """
    narrow = _narrowed(measured, most)
    rows = [(tokens.lesson_N == number).nonzero()[:, 0] for number in range(len(lessons))]
    return [
        Scored(
            lesson=lesson.emptied(),
            measured=_over_tensors(narrow, lambda x, own=own: x.detach()[own].cpu()),
            vocabulary=vocabulary,
        )
        for lesson, own in zip(lessons, rows, strict=True)
    ]


def join_scores(scored: Sequence[Scored]) -> Measured:
    """The numbers of episodes end to end, which must all have the same ones."""
    bounds = [0, *accumulate(len(one.measured.student.logprob_N) for one in scored)]
    gathered = Gathered(bounds[-1])
    for one, (start, stop) in zip(scored, pairwise(bounds), strict=True):
        gathered.add(slice(start, stop), one.measured)
    return gathered.result()


def _narrowed(measured: Measured, most: int | None) -> Measured:
    kept = measured.kept
    if kept is None or most is None or (each := kept.ids_NK.shape[1] // 2) <= most:
        return measured
    columns_K = torch.cat([torch.arange(most), torch.arange(each, each + most)])
    chosen_K = columns_K.to(kept.ids_NK.device)
    return replace(measured, kept=_over_tensors(kept, lambda x: x[:, chosen_K]))


def _over_tensors(record: Any, made: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The record of what `made` makes of its tensors; what is None stays."""
    if record is None:
        return None
    if isinstance(record, torch.Tensor):
        return made(record)
    inner = {f.name: _over_tensors(getattr(record, f.name), made) for f in fields(record)}
    return type(record)(**inner)
