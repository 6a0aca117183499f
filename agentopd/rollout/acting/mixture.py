"""Answers that a student and another write together: every token comes from the mixture
(1 - share) p + share q of their distributions, or from a blend, their geometric mean.

Both are tempered and truncated before they are mixed, and the log-probability that is noted is the
mixture's: so p over it is the importance ratio, of a mixture at most 1 / (1 - share) where nothing
is truncated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from agentopd.models.model import LanguageModel
from agentopd.rollout.drawing import distribution, pick
from agentopd.rollout.sampler import Answer, Mixture, Request
from agentopd.rollout.transformers_sampler import Row, TransformersSampler

# R rows (conversations) of a call, V vocabulary


class MixtureSampler(TransformersSampler):
    """Samples from two models at once; both are in process.

    Args:
        teacher: the other model; the student itself where that reads two contexts. A request's
            `mixture` says what it reads.
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
                logprob_RV[r] = _together(logprob_RV[r], other_1V[0], request.mixture)
        return pick(logprob_RV, [row.uniform[len(row.ids)] for row in rows], requests)


def _together(own_V: torch.Tensor, other_V: torch.Tensor, how: Mixture) -> torch.Tensor:
    """(V,) log-probabilities of both, as they are mixed."""
    if how.blend is None:
        return _mixed(own_V, other_V, how.share)
    return _blended(own_V, other_V, how.blend)


def _mixed(own_V: torch.Tensor, other_V: torch.Tensor, share: float) -> torch.Tensor:
    """log((1 - share) p + share q), of log-probabilities."""
    share_1 = own_V.new_tensor([share])
    return torch.logaddexp(own_V + (-share_1).log1p(), other_V + share_1.log())


def _blended(own_V: torch.Tensor, other_V: torch.Tensor, blend: float) -> torch.Tensor:
    """Log-probabilities in proportion to other^(1 - l) own^l, l = min(blend H(other) / log V, 1)
    (hinted decoding, 2602.12222).
    """
    entropy_1 = -torch.special.xlogy(other_V.exp(), other_V.exp()).sum()
    share = min(blend * float(entropy_1) / math.log(len(other_V)), 1.0)
    if share in (0.0, 1.0):  # what the one lacks is no limit to the other
        return own_V if share else other_V
    return torch.log_softmax((1 - share) * other_V + share * own_V, dim=-1)


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
