"""Answers that a student and a teacher write together: every token comes from the mixture
(1 - share) p + share q of their distributions.

Both are tempered and truncated before they are mixed, and the log-probability that is noted is the
mixture's: so p over it is the importance ratio, at most 1 / (1 - share) where nothing is truncated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from agentopd.models.model import LanguageModel
from agentopd.rollout.drawing import distribution, pick
from agentopd.rollout.sampler import Answer, Request
from agentopd.rollout.transformers_sampler import Row, TransformersSampler

# R rows (conversations) of a call, V vocabulary


class MixtureSampler(TransformersSampler):
    """Samples from student and teacher at once; both are in process.

    Args:
        teacher: the other model. A request's `mixture` says what it reads.
    """

    def __init__(self, student: LanguageModel, teacher: LanguageModel) -> None:
        self._listener = _Listener(teacher)
        super().__init__(student)

    def sync(self, student: LanguageModel) -> None:
        """See `Sampler.sync`; the teacher may have moved as well."""
        super().sync(student)
        self._listener.sync(self._listener.student)

    def forget(self, keys: Sequence[int]) -> None:
        """See `Sampler.forget`."""
        super().forget(keys)
        self._listener.forget(keys)

    def _draw(
        self, rows: Sequence[Row], requests: Sequence[Request], logits_RV: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The next tokens of mixtures; the student's own where a request asks for none."""
        logprob_RV = distribution(logits_RV, requests)
        contexts = {
            request.key: [*request.mixture.ids, *row.ids]
            for row, request in zip(rows, requests, strict=True)
            if request.mixture
        }
        heard = self._listener.hear(contexts) if contexts else {}
        for r, request in enumerate(requests):
            if request.mixture:
                other_1V = distribution(heard[request.key][None].to(logprob_RV), [request])
                logprob_RV[r] = _mixed(logprob_RV[r], other_1V[0], request.mixture.share)
        return pick(logprob_RV, [row.uniform[len(row.ids)] for row in rows], requests)


def _mixed(own_V: torch.Tensor, other_V: torch.Tensor, share: float) -> torch.Tensor:
    """log((1 - share) p + share q), of log-probabilities."""
    share_1 = own_V.new_tensor([share])
    return torch.logaddexp(own_V + (-share_1).log1p(), other_V + share_1.log())


class _Listener(TransformersSampler):
    """Gives the logits of what a model would say next."""

    _heard: dict[int, torch.Tensor] | None = None

    def hear(self, contexts: Mapping[int, Sequence[int]]) -> dict[int, torch.Tensor]:
        """(V,) logits after each context, by its conversation's key."""
        heard = self._heard = {}
        self.submit([Request(key, ids, (0,), max_tokens=1) for key, ids in contexts.items()])
        while len(heard) < len(contexts):
            self.ready()
        self._heard = None
        return heard

    def _say(self, rows: list[Row], logits_RV: torch.Tensor) -> list[Answer]:
        """Nothing is said where it listens."""
        if self._heard is None:
            return super()._say(rows, logits_RV)
        for row, logits_V in zip(rows, logits_RV, strict=True):
            self._heard[row.key] = logits_V
            row.request = None
        return []
