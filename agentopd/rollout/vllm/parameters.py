"""Requests as vLLM takes them, in process and over HTTP alike; and what it would not survive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agentopd.models.model import LanguageModel
from agentopd.rollout.sampler import Request

_COLDEST, _HOTTEST = 0.01, 2.0
"""vLLM samples at the coldest what is asked to be colder, and refuses what is hotter."""
SCORED: dict[str, Any] = {
    "temperature": 0.0,
    "max_tokens": 1,
    "prompt_logprobs": 0,
    "ignore_eos": True,
    "detokenize": False,
}
"""Sampling parameters with which a prompt's own log-probabilities come back, at temperature 1."""


@dataclass(frozen=True)
class Bounds:
    """What an engine can be asked: ids below `vocabulary`, contexts of `context` tokens."""

    vocabulary: int
    context: int
    stop_ids: frozenset[int]

    @classmethod
    def of(cls, student: LanguageModel, context: int) -> Bounds:
        """Of an engine that holds this student."""
        return cls(student.vocabulary, int(min(context, student.positions)), student.stop_ids)

    def check(self, request: Request) -> None:
        """Refuse what would be answered wrongly, or end the engine for everyone: of an id that its
        embeddings do not have vLLM dies in the middle of a step.

        Raises:
            ValueError: see above.
        """
        ids, heat = request.ids, request.temperature
        if min(ids) < 0 or max(ids) >= self.vocabulary:
            raise ValueError(
                f"conversation {request.key} has the token {max(ids)}, and the student knows "
                f"{self.vocabulary}: its context was made with another tokenizer"
            )
        if len(ids) + request.max_tokens > self.context:
            raise ValueError(
                f"conversation {request.key} has {len(ids)} tokens, and with {request.max_tokens} "
                f"of an answer they are more than the {self.context} that vLLM was opened for: "
                "lower rollout.max_context or max_turn_tokens"
            )
        if 0 < heat < _COLDEST or heat > _HOTTEST:
            raise ValueError(
                f"vLLM samples at temperatures from {_COLDEST} to {_HOTTEST} and at 0, not at "
                f"{heat}: set another rollout.temperature, or sampler=transformers"
            )

    def parameters(self, request: Request) -> dict[str, Any]:
        """vLLM's sampling parameters of a request.

        Log-probabilities are those of the distribution that is sampled from where the engine was
        started with `logprobs_mode="processed_logprobs"`.
        """
        return {
            "temperature": request.temperature,
            "top_p": request.truncation.top_p,
            "top_k": request.truncation.top_k,
            "seed": seed_of(request.seed),
            "max_tokens": request.max_tokens,
            "stop_token_ids": sorted(self.stop_ids),
            "ignore_eos": True,
            "logprobs": 0,
            "detokenize": False,
        }


def seed_of(seed: Sequence[int]) -> int:
    """One number for an answer's seed: vLLM's are 63 bits, and a negative one is none."""
    return int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 2)
