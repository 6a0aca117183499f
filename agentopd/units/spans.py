"""Spans of a trajectory, and which tokens of a micro-batch belong to which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from agentopd.base.types import Lesson
from agentopd.signal.tokens import Tokens

# N tokens of a micro-batch, S spans, P pairs (span, token of the span)

Reduce = Literal["sum", "mean", "last"]


@dataclass(frozen=True, slots=True)
class Span:
    """Positions `start <= t < stop` of a trajectory's ids; only the trainable tokens there count.

    `name` says what the span is, for probes and reports; `weight` multiplies its value.
    """

    start: int
    stop: int
    name: str
    weight: float = 1.0


@dataclass(frozen=True)
class SpanIndex:
    """Which tokens of a micro-batch belong to which span, as pairs sorted by span and token."""

    span_P: torch.Tensor
    token_P: torch.Tensor
    weight_S: torch.Tensor
    lesson_S: torch.Tensor
    lessons: int

    @classmethod
    def of(
        cls, lessons: Sequence[Lesson], spans: Sequence[Sequence[Span]], tokens: Tokens
    ) -> SpanIndex:
        """The index of each lesson's spans over the tokens; spans without a token are left out."""
        span_of: list[int] = []
        token_of: list[torch.Tensor] = []
        weights: list[float] = []
        owners: list[int] = []
        offset = 0
        for number, (lesson, own) in enumerate(zip(lessons, spans, strict=True)):
            places = torch.from_numpy(lesson.trajectory.trainable.nonzero()[0])
            bounds = torch.tensor([(s.start, s.stop) for s in own], dtype=torch.long).reshape(-1, 2)
            first, last = torch.searchsorted(places, bounds.T.contiguous()).tolist()
            for span, a, b in zip(own, first, last, strict=True):
                if b > a:
                    span_of += [len(weights)] * (b - a)
                    token_of.append(torch.arange(a + offset, b + offset))
                    weights.append(span.weight)
                    owners.append(number)
            offset += len(places)
        device = tokens.ids_N.device
        return cls(
            span_P=torch.tensor(span_of, dtype=torch.long, device=device),
            token_P=torch.cat([torch.empty(0, dtype=torch.long), *token_of]).to(device),
            weight_S=torch.tensor(weights, device=device),
            lesson_S=torch.tensor(owners, dtype=torch.long, device=device),
            lessons=len(lessons),
        )

    def reduce(self, values_N: torch.Tensor, how: Reduce) -> torch.Tensor:
        """Each span's value, (S,)."""
        if how == "last":
            last_S = (
                torch.searchsorted(
                    self.span_P,
                    torch.arange(len(self.weight_S), device=self.span_P.device),
                    right=True,
                )
                - 1
            )
            return values_N[self.token_P[last_S]]
        total_S = values_N.new_zeros(len(self.weight_S)).index_add(
            0, self.span_P, values_N[self.token_P]
        )
        if how == "sum":
            return total_S
        return total_S / torch.bincount(self.span_P, minlength=len(self.weight_S)).clamp(min=1)

    def scatter(self, values_S: torch.Tensor, tokens: int) -> torch.Tensor:
        """What each token carries, (N,): the sum over its spans of value times weight."""
        carried_P = (values_S * self.weight_S)[self.span_P]
        return values_S.new_zeros(tokens).index_add(0, self.token_P, carried_P)

    def covered(self, tokens: int) -> torch.Tensor:
        """(N,) whether some span holds the token."""
        nowhere_N = torch.zeros(tokens, dtype=torch.bool, device=self.token_P.device)
        return nowhere_N.index_fill(0, self.token_P, True)
