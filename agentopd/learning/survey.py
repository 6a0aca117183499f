"""What the models say of a whole step before its first micro-batch, where something needs that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentopd.base.types import Lesson
from agentopd.signal.evidence import Measured
from agentopd.signal.tokens import Tokens


@dataclass(frozen=True)
class Survey:
    """The episodes that the models are asked about: numbers a token, no hidden states or logits.

    Attributes:
        tokens: of all lessons, end to end.
        measured: what student and teacher say of them; nothing of it is differentiated.
    """

    lessons: Sequence[Lesson]
    tokens: Tokens
    measured: Measured

    @classmethod
    def of(cls, lessons: Sequence[Lesson], measured: Measured) -> Survey:
        """The survey of these lessons, in the order in which their tokens were measured."""
        device = measured.student.logprob_N.device
        return cls(lessons, Tokens.of(lessons, device), measured)
