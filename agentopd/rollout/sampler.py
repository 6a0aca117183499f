"""What rollouts ask of a sampler: requests are submitted, finished answers are taken.

Nobody waits for the slowest: an answer is handed over when it has ended, and its conversation may
ask again while the others are still being written. A sampler in process works while it is waited
for; one behind a server only listens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Protocol

from agentopd.base.types import Owner
from agentopd.models.model import LanguageModel
from agentopd.signal.truncation import WHOLE, Truncation


class SamplerFailed(ValueError):
    """What runs the student while it acts is gone, or is not the student any more.

    The message is one line, and says what to do. No step that was finished is lost by it.
    """


@dataclass(frozen=True)
class Mixture:
    """The other's part in an answer that the student writes with it, who reads the context `ids`
    and what the answer holds by then: the teacher, or the student itself, told something.

    Attributes:
        share: of the probability that is the other's in every token.
        blend: where given, probabilities are multiplied in place of that: the other's to the power
            1 - l, the student's to the power l = min(blend H, 1), with H the other's entropy over
            its largest, so that it is heard where it is sure.
    """

    ids: Sequence[int]
    share: float = 0.0
    blend: float | None = None


@dataclass(frozen=True)
class Request:
    """The next answer of conversation `key`, whose context so far is `ids`.

    `seed` fixes the random numbers of this answer, whatever else is being answered. The answer is
    cut after `max_tokens`; a temperature of 0 takes the likeliest token. What `truncation` cuts
    off is found after the temperature. `actor` is who is to answer, which matters where several
    models act.
    """

    key: int
    ids: Sequence[int]
    seed: tuple[int, ...]
    max_tokens: int
    temperature: float = 1.0
    truncation: Truncation = WHOLE
    actor: Owner = Owner.STUDENT
    mixture: Mixture | None = None


@dataclass(frozen=True)
class Completion:
    """An answer: sampled ids, closing token included, and their log-probabilities.

    Log-probabilities are those of the tempered, truncated and renormalised distribution that was
    sampled from (of the plain one at temperature 0). `cut` tells that the limit of tokens ended it.
    """

    ids: list[int]
    logprobs: list[float]
    cut: bool


@dataclass(frozen=True)
class Answer:
    """The finished answer of conversation `key`."""

    key: int
    completion: Completion


class Sampler(Protocol):
    """What rollouts need of a sampler, whatever runs it.

    A conversation has one answer under way at most. What is known of a conversation is kept until
    it is forgotten, so that its next request, whose context goes on from the last, costs what is
    new.
    """

    def submit(self, requests: Sequence[Request]) -> None:
        """Ask for answers, one a request; returns at once.

        Raises:
            ValueError: a context is empty, or its conversation is being answered already.
        """
        ...

    def ready(self, wake: Event | None = None, seconds: float | None = None) -> list[Answer]:
        """Work or wait until an answer has ended; give all that have, each once.

        Comes back early, with nothing perhaps, once `wake` is set or `seconds` have passed; and at
        once where nothing has been asked.
        """
        ...

    def forget(self, keys: Sequence[int]) -> None:
        """These conversations are over, or broken off: an answer under way is never given."""
        ...

    def sync(self, student: LanguageModel) -> Mapping[str, float] | None:
        """Take over the student's weights; forget everything computed with older ones.

        Returns:
            Numbers on how that went, for the metrics, if there are any.

        Raises:
            SamplerFailed: what runs it has not taken them over, or is gone.
        """
        ...


def check_request(request: Request, answering: bool) -> None:
    """Refuse what no sampler can answer.

    Args:
        answering: whether the request's conversation is being answered already.

    Raises:
        ValueError: it is, or there is no context.
    """
    if not request.ids:
        raise ValueError(f"conversation {request.key} has no token that could be continued")
    if answering:
        raise ValueError(
            f"conversation {request.key} is being answered: take that answer or forget it before "
            "you ask again"
        )


def answers(sampler: Sampler, requests: Sequence[Request]) -> list[Completion]:
    """One answer a request, in their order: for those who ask once and need them all."""
    keys = [request.key for request in requests]
    found: dict[int, Completion] = {}
    try:
        sampler.submit(requests)
        while len(found) < len(requests):
            found |= {answer.key: answer.completion for answer in sampler.ready()}
    finally:
        sampler.forget(keys)
    return [found[key] for key in keys]
