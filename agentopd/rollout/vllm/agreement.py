"""The alarm: whether a sampler says what the learner says, after each of its syncs.

A sync that did not fail may still leave an engine with some of its old weights: a name that was not
sent, a packed copy that was not made anew, a cache that was not emptied. So fixed tokens are read
by both models, and their log-probabilities compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from agentopd.models.model import LanguageModel
from agentopd.models.passes import logprobs_of
from agentopd.rollout.sampler import SamplerFailed

# T tokens that are read

_TOKENS = 64
_EXACT = 1e-3
"""Nats in any token's log-probability that are no rounding in float32."""
_COARSE, _GROWTH = 0.5, 3.0
"""In 16 bits: nats on average that are no rounding either, and how much more than after the first
sync they may become."""


class Agreement:
    """Compares an engine with the student, one sync after the other.

    Args:
        exact: whether both run in float32, so that rounding alone is between them.
    """

    def __init__(self, student: LanguageModel, exact: bool, context: int) -> None:
        self.exact = exact
        self.ids = _some_ids(min(_TOKENS, context - 1), student.vocabulary)
        self._first: float | None = None

    def check(self, student: LanguageModel, said: Sequence[float]) -> dict[str, float]:
        """Compare what the engine says of `ids`, from the second on, with what the student says.

        Returns:
            `sync_gap`, the mean of the differences in nats, and `sync_gap_most`, the largest.

        Raises:
            SamplerFailed: they are more than rounding.
        """
        own_T = logprobs_of(student, self.ids)
        gap_T = (own_T - torch.tensor(said, dtype=torch.float64)).abs()
        mean, most = gap_T.mean().item(), gap_T.max().item()
        if self.exact:
            if not most <= _EXACT:
                told = "a server in 16 bits is told by sampler.dtype=bfloat16"
                raise _disagree(most, f"in float32 rounding is below {_EXACT:g}; {told}")
        else:
            bound = _COARSE if self._first is None else _GROWTH * self._first
            if not mean <= bound:
                raise _disagree(mean, f"on average, and the first sync allows for {bound:.2g}")
            self._first = mean if self._first is None else self._first
        return {"sync_gap": mean, "sync_gap_most": most}


def _disagree(gap: float, why: str) -> SamplerFailed:
    return SamplerFailed(
        f"after its sync the sampler is {gap:.2g} nats off the student ({why}): it does not run "
        "the weights that learn, and nothing may be learnt from it. Use sampler=transformers, and "
        "please report the model's architecture and vLLM's version"
    )


def _some_ids(count: int, vocabulary: int) -> list[int]:
    """The same for every model of that vocabulary, spread over it."""
    return [(7_919 * (n + 1) ** 2 + 104_729 * n) % vocabulary for n in range(count)]
