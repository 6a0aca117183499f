"""What the models say of each token: all that the signal is made of, without the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from agentopd.base.types import Lesson
from agentopd.signal.tokens import Tokens

# N tokens of a micro-batch, K kept tokens


@dataclass(frozen=True)
class Opinion:
    """What one model says of each token.

    Attributes:
        logprob_N: log-probability of the sampled token, in nats.
        entropy_N: of the next-token distribution, in nats; NaN where not all of it is known.
        top_N: log-probability of the likeliest token; NaN where not all of them are known.
        rank_N: how many tokens are likelier than the sampled one; None unless asked for.
    """

    logprob_N: torch.Tensor
    entropy_N: torch.Tensor
    top_N: torch.Tensor
    rank_N: torch.Tensor | None = None

    def detached(self) -> Opinion:
        """The same numbers, of which nothing is differentiated."""
        return replace(self, logprob_N=self.logprob_N.detach(), entropy_N=self.entropy_N.detach())

    def narrowed(self) -> Opinion:
        """The sampled token's number alone, where the rest of the distribution is not known."""
        unknown_N = torch.full_like(self.entropy_N, torch.nan)
        return Opinion(self.logprob_N, unknown_N, unknown_N)


@dataclass(frozen=True)
class Kept:
    """What both models give to the likeliest tokens.

    Attributes:
        ids_NK: first the student's likeliest tokens, then as many of the teacher's, each in order;
            what both hold for likely is there twice.
        student_NK: the student's log-probability of each, in nats.
        teacher_NK: the teacher's.
    """

    ids_NK: torch.Tensor
    student_NK: torch.Tensor
    teacher_NK: torch.Tensor


@dataclass(frozen=True)
class Measured:
    """A micro-batch's tokens, seen by the models.

    Gradients flow into the student through `student.logprob_N`, `student.entropy_N` and
    `divergence_N`.

    Attributes:
        teacher: None where no teacher was asked.
        reference: the student as it was before its first step, or the model that the divergence's
            target names, in the student's context; None where nothing asks for it.
        divergence_N: None where no divergence of distributions was asked for.
        mass_N: the share of the student's probability that the divergence's support captures.
        kept: the likeliest tokens; None unless asked for.
    """

    student: Opinion
    teacher: Opinion | None = None
    reference: Opinion | None = None
    divergence_N: torch.Tensor | None = None
    mass_N: torch.Tensor | None = None
    kept: Kept | None = None


class Gathered:
    """Measurements of a few tokens each, copied into the room that was made for all at first.

    Kept as they come, and joined at the end, the small tensors would lie between the large ones
    that are made and freed meanwhile, and the allocator could use hardly any memory again.

    Args:
        tokens: how many there are in all.
    """

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._whole: Measured | None = None

    def add(self, rows: slice, part: Measured) -> None:
        """Take in the measurements of the tokens `rows`, of the same sort as those before."""
        if self._whole is None:
            self._whole = _room(part, self._tokens)
        _copy(self._whole, rows, part)

    def at(self, rows: slice) -> Measured:
        """The measurements of the tokens `rows`, where they lie."""
        assert self._whole is not None
        return _view(self._whole, rows)

    def result(self) -> Measured:
        """The measurements of all tokens."""
        assert self._whole is not None
        return self._whole


def _room(part: Any, tokens: int) -> Any:
    if part is None:
        return None
    if isinstance(part, torch.Tensor):
        return part.new_empty(tokens, *part.shape[1:])
    return type(part)(**{f.name: _room(getattr(part, f.name), tokens) for f in fields(part)})


def _view(whole: Any, rows: slice) -> Any:
    if whole is None or isinstance(whole, torch.Tensor):
        return None if whole is None else whole[rows]
    return type(whole)(**{f.name: _view(getattr(whole, f.name), rows) for f in fields(whole)})


def _copy(whole: Any, rows: slice, part: Any) -> None:
    if isinstance(part, torch.Tensor):
        whole[rows] = part
    elif part is not None:
        for field in fields(part):
            _copy(getattr(whole, field.name), rows, getattr(part, field.name))


@dataclass(frozen=True)
class Evidence:
    """What a weight, a unit or an estimator may look at; nothing of it is differentiated.

    Attributes:
        value_N: the divergence or the estimator's loss or advantage, each token's own, before any
            weight.
        advantage_N: the reinforcement-learning advantage; zeros without that channel.
        success_L: the share of solved episodes in each lesson's group.
        route_L: how much each lesson counts in the distillation channel; 0 where the mix sends it
            elsewhere.
        step: of the run, counted from 0.
    """

    student: Opinion
    teacher: Opinion
    tokens: Tokens
    lessons: Sequence[Lesson]
    value_N: torch.Tensor
    advantage_N: torch.Tensor
    success_L: torch.Tensor
    route_L: torch.Tensor
    step: int = 0

    @property
    def gap_N(self) -> torch.Tensor:
        """log q(y) - log p(y): positive where the teacher wants more of the token."""
        return self.teacher.logprob_N - self.student.logprob_N


class NotYetAsked(Exception):
    """A part looks at what no model has been asked yet."""


class UnaskedEvidence(Evidence):
    """What is known before any model is asked: the tokens, the episodes and the step.

    Whoever looks at more is stopped, and asked again when it is known. So that a part is done with
    it proves that it needs no more.

    Raises:
        NotYetAsked: something else was looked at.
    """

    def __init__(self, tokens: Tokens, lessons: Sequence[Lesson], step: int) -> None:
        vars(self).update(tokens=tokens, lessons=lessons, step=step)

    def __getattr__(self, name: str) -> Any:
        raise NotYetAsked(name)


class UntaughtEvidence(UnaskedEvidence):
    """The same, and what the student says: what is known where no teacher is asked."""

    def __init__(
        self, student: Opinion, tokens: Tokens, lessons: Sequence[Lesson], step: int
    ) -> None:
        super().__init__(tokens, lessons, step)
        vars(self).update(student=student)


class SignalError(ValueError):
    """A number that nothing can be learnt from; the message names the episode and the turn."""


def check_measured(measured: Measured, tokens: Tokens, lessons: Sequence[Lesson]) -> None:
    """Nothing that is to be averaged may be infinite or no number.

    Raises:
        SignalError: something is.
    """
    teacher_N = measured.teacher.logprob_N if measured.teacher else None
    reference_N = measured.reference.logprob_N if measured.reference else None
    checked = (
        ("the student's log-probability of a sampled token", measured.student.logprob_N),
        ("the teacher's log-probability of a sampled token", teacher_N),
        ("the reference's log-probability of a sampled token", reference_N),
        ("the divergence of student and teacher", measured.divergence_N),
    )
    for what, value_N in checked:
        if value_N is not None:
            check_finite(what, value_N, tokens, lessons)


def check_finite(
    what: str, value_N: torch.Tensor, tokens: Tokens, lessons: Sequence[Lesson]
) -> None:
    """No token's value may be infinite or no number.

    Raises:
        SignalError: one is; the message says `what` and where.
    """
    if (fine_N := value_N.isfinite()).all():
        return
    n = int((~fine_N).nonzero()[0])
    lesson, turn = lessons[int(tokens.lesson_N[n])], int(tokens.turn_N[n])
    raise SignalError(
        f"episode {lesson.trajectory.episode}, turn {turn + 1}: {what} is {value_N[n].item()}. "
        "Its model gives no number, or no probability, to a token that the other samples: "
        "check the models' weights and dtype; where the divergence alone is infinite, jsd is not"
    )
