"""Last hidden states from a server: vLLM's pooling runner, which reads our own token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from agentopd.models.passes import Reading
from agentopd.serving.http import HttpClient
from agentopd.serving.models import ServedModel, in_requests

# N places of a sequence, T its tokens, or those of all sequences of a request; H hidden size

Wire = Literal["float32", "float16", "bfloat16"]
"""How numbers cross the network."""
_PATH = "/pooling"


@dataclass(frozen=True)
class PoolingServer:
    """A server whose model gives its hidden states after the final norm.

    Args:
        size: numbers in a hidden state.
        budget: tokens of one request.
    """

    client: HttpClient
    model: ServedModel
    size: int
    wire: Wire
    budget: int

    def states(self, readings: Sequence[Reading]) -> list[torch.Tensor]:
        """Last hidden states (N, H) of each sequence at its places, in order, in float32.

        Raises:
            ServerError: the server gives no answer, or states of another shape, or no numbers.
        """
        requests = in_requests([len(reading.ids_T) for reading in readings], self.budget)
        answers = self.client.post_each(_PATH, [self._body(readings[part]) for part in requests])
        found = list[torch.Tensor]()
        for part, answer in zip(requests, answers, strict=True):
            lengths = [len(reading.ids_T) for reading in readings[part]]
            states = self._read(answer, sum(lengths)).split(lengths)
            # Chosen at once, which copies: the other tokens' states are most of the answer.
            places = [torch.from_numpy(reading.places) for reading in readings[part]]
            found += [own_TH[at].float() for own_TH, at in zip(states, places, strict=True)]
        return found

    def _body(self, readings: Sequence[Reading]) -> dict[str, object]:
        return {
            "model": self.model.name,
            "input": [reading.ids_T.tolist() for reading in readings],
            "task": "token_embed",
            "use_activation": False,
            "encoding_format": "bytes_only",
            "embed_dtype": self.wire,
            "endianness": "little",
        }

    def _read(self, answer: bytes, tokens: int) -> torch.Tensor:
        dtype = getattr(torch, self.wire)
        if len(answer) != tokens * self.size * dtype.itemsize:
            raise self.client.error(
                _PATH,
                f"{len(answer)} bytes for {tokens} tokens, where hidden states of {self.size} "
                f"numbers in {self.wire} take {tokens * self.size * dtype.itemsize}",
                "is it the model of `source`, served with --runner pooling --convert embed and "
                "the pooler's task token_embed?",
            )
        states_TH = torch.frombuffer(bytearray(answer), dtype=dtype).view(tokens, self.size)
        if not states_TH.isfinite().all():
            raise self.client.error(
                _PATH,
                "a hidden state that is no finite number",
                "take wire: float32, and see the dtype that the model is served in",
            )
        return states_TH
