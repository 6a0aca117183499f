"""Log-probabilities of given tokens from servers of OpenAI's completions interface."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from agentopd.models.passes import Reading
from agentopd.serving.http import HttpClient
from agentopd.serving.models import ServedModel, in_requests

# N places of a sequence, T its tokens, K listed tokens

Asking = Literal["prompt_logprobs", "echo"]
"""How a server is asked: by vLLM's `prompt_logprobs`, or by `echo` and `logprobs` as OpenAI had it.
"""
_PATH = "/v1/completions"
_NONE = -9999.0
"""What vLLM writes for minus infinity, which JSON has no form for."""
_NAMED = "token_id:"
"""How vLLM writes a token where it is asked for ids."""
_Row = tuple[float, dict[int, float]]
"""The log-probability of the token that stands there, and those of the likeliest."""


@dataclass(frozen=True)
class Told:
    """What a server says after each of a sequence's places.

    Attributes:
        known_N: where it says all that was asked for; the other numbers are nothing elsewhere.
        logprob_N: of the token that follows, in nats.
        ids_NK, logprob_NK: the likeliest tokens.
    """

    known_N: npt.NDArray[np.bool_]
    logprob_N: torch.Tensor
    ids_NK: torch.Tensor
    logprob_NK: torch.Tensor


@dataclass(frozen=True)
class CompletionServer:
    """A server that tells what its model gives to the tokens of a prompt, at temperature 1.

    Args:
        top: how many likeliest tokens it is asked for.
        budget: tokens of one request.
    """

    client: HttpClient
    model: ServedModel
    asking: Asking
    top: int
    budget: int

    def told(self, readings: Sequence[Reading]) -> list[Told]:
        """What the server says after each sequence's places, in order.

        Raises:
            ServerError: the server gives no answer, or one of another form.
        """
        requests = in_requests([len(reading.ids_T) for reading in readings], self.budget)
        answers = self.client.post_all(_PATH, [self._body(readings[part]) for part in requests])
        found = list[Told]()
        for part, answer in zip(requests, answers, strict=True):
            asked = readings[part]
            choices = self._choices(answer, len(asked))
            found += [self._read(x, said) for x, said in zip(asked, choices, strict=True)]
        return found

    def _body(self, readings: Sequence[Reading]) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model.name,
            "prompt": [reading.ids_T.tolist() for reading in readings],
            "temperature": 1.0,
        }
        if self.asking == "prompt_logprobs":
            return body | {"max_tokens": 1, "prompt_logprobs": self.top}
        asked = {"echo": True, "max_tokens": 0, "logprobs": self.top}
        # Others than vLLM need not know the last: their tokens come as text.
        return body | asked | ({"return_tokens_as_token_ids": True} if self.top else {})

    def _choices(self, answer: bytes, expected: int) -> list[Mapping[str, Any]]:
        read = self.client.json(_PATH, answer)
        said = read.get("choices") if isinstance(read, dict) else None
        choices = [x for x in said if isinstance(x, dict)] if isinstance(said, list) else []
        if len(choices) != expected:
            raise self._strange(f"no {expected} choices, one a prompt")
        return sorted(choices, key=lambda choice: choice.get("index", 0))

    def _read(self, reading: Reading, choice: Mapping[str, Any]) -> Told:
        row_at = self._rows(reading.ids_T, choice)
        rows = [row_at(int(place) + 1) for place in reading.places]
        empty: _Row = (0.0, dict.fromkeys(range(self.top), 0.0))
        filled = [empty if row is None else row for row in rows]
        width = (len(rows), self.top)
        return Told(
            known_N=np.array([row is not None for row in rows], dtype=bool),
            logprob_N=torch.tensor([own for own, _ in filled], dtype=torch.float32),
            ids_NK=torch.tensor([list(top) for _, top in filled], dtype=torch.long).view(width),
            logprob_NK=torch.tensor(
                [list(top.values()) for _, top in filled], dtype=torch.float32
            ).view(width),
        )

    def _rows(
        self, ids_T: npt.NDArray[np.int64], choice: Mapping[str, Any]
    ) -> Callable[[int], _Row | None]:
        """What reads the numbers at a place; None where something of them is missing."""
        if self.asking == "prompt_logprobs":
            told = choice.get("prompt_logprobs")
            if not isinstance(told, list):
                raise self._strange("no prompt_logprobs")
            return lambda t: self._of_vllm(told[t], int(ids_T[t])) if t < len(told) else None
        said = choice.get("logprobs")
        if not isinstance(said, dict) or not isinstance(said.get("token_logprobs"), list):
            raise self._strange("no logprobs of the prompt's tokens")
        own, top = said["token_logprobs"], said.get("top_logprobs") or []
        if len(own) < len(ids_T):
            raise self._strange(f"{len(own)} log-probabilities for {len(ids_T)} tokens")
        return lambda t: self._complete(own[t], _by_id(top[t]) if t < len(top) else {})

    def _of_vllm(self, row: Mapping[str, Any] | None, realised: int) -> _Row | None:
        if not row or str(realised) not in row:
            return None
        ranked = sorted(row.items(), key=lambda one: one[1]["rank"])
        top = {int(i): float(one["logprob"]) for i, one in ranked[: self.top]}
        return self._complete(row[str(realised)]["logprob"], top)

    def _complete(self, own: float | None, top: Mapping[int, float]) -> _Row | None:
        """The row, if nothing of it is missing."""
        likeliest = dict(sorted(top.items(), key=lambda one: -one[1])[: self.top])
        if own is None or len(likeliest) < self.top:
            return None
        told = all(math.isfinite(x) and x > _NONE for x in (own, *likeliest.values()))
        return (float(own), likeliest) if told else None

    def _strange(self, what: str) -> ValueError:
        hint = "does it know this way of asking, and is it the right server? See `asking`"
        return self.client.error(_PATH, f"the answer holds {what}", hint)


def _by_id(row: Mapping[str, float] | None) -> dict[int, float]:
    """Tokens by their ids; those that the server writes as text are left out."""
    named = {name.removeprefix(_NAMED): x for name, x in (row or {}).items() if _NAMED in name}
    return {int(name): float(x) for name, x in named.items() if name.isdecimal()}
