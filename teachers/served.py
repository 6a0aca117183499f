"""A teacher on a server that gives its hidden states; its output layer alone is here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import PrivateAttr

from agentopd.models.head import Head
from agentopd.models.model import LanguageModel, ModelSettings, load_model
from agentopd.models.passes import Reading, hidden_at
from agentopd.serving.http import HttpClient, Server
from agentopd.serving.models import served_model
from agentopd.serving.output_layer import OutputLayer, load_output_layer
from agentopd.serving.pooling import PoolingServer, Wire
from agentopd.teacher import Teacher, check_same_vocabulary

# N places, T tokens, H hidden size, V vocabulary

_PROBE = 32
"""Tokens of the sequence that `verify` compares."""
_APART = 0.1
"""Nats between two log-probabilities, in the mean over all of them, that are no rounding: serving
in bfloat16 makes about 0.04."""


@dataclass(frozen=True)
class _Apart:
    """The model in two places."""

    layer: OutputLayer
    server: PoolingServer


class ServedTeacher(Teacher, kind="served"):
    """A model on a server, by its last hidden states: every divergence, support, target and
    temperature works as with a model that is loaded here.

    The server is vLLM with its pooling runner, see docs/served_teachers.md. It is given token ids,
    and its weights never change.

    Args:
        server: its address, `http://localhost:8000`, or a mapping with its limits.
        source: the folder of the same model, of which the tokenizer and the output layer alone are
            read.
        name: the model's name at the server; the only one it has, if empty.
        wire: the type of the hidden states on their way: float16 and bfloat16 halve the traffic and
            round.
        verify: compare the server's model with that of `source` before the first step; that loads
            the whole of it once.
        tokens_per_batch: tokens of one request.
    """

    server: Server
    source: ModelSettings
    name: str = ""
    wire: Wire = "float32"
    verify: bool = False

    _apart: _Apart | None = PrivateAttr(default=None)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"the model {self.source.path} on a server"

    @property
    def local(self) -> bool:
        """See `Teacher.local`."""
        return False

    def prepare(self, student: LanguageModel) -> None:
        """See `Teacher.prepare`.

        Raises:
            ServerError: the server does not answer, or serves another model.
        """
        layer = load_output_layer(self.source)
        check_same_vocabulary(student, layer)
        client = HttpClient(self.server)
        model = served_model(client, self.name)
        server = PoolingServer(client, model, layer.size, self.wire, self.tokens_per_batch)
        self._apart = _Apart(layer, server)
        probe_T = np.linspace(0, layer.vocabulary - 1, _PROBE).astype(np.int64)
        self._try(Reading(probe_T, np.arange(_PROBE)))

    @property
    def positions(self) -> float:
        """See `Teacher.positions`."""
        apart = self._prepared
        return min(apart.layer.positions, apart.server.model.positions)

    def held(self) -> Iterator[torch.Tensor]:
        """See `Teacher.held`."""
        layer = self._prepared.layer
        yield layer.weight_VH
        if layer.bias_V is not None:
            yield layer.bias_V

    def hidden(self, readings: Sequence[Reading]) -> list[torch.Tensor]:
        """See `Teacher.hidden`.

        Raises:
            ServerError: the server gives no answer, or none that is hidden states.
        """
        weight_VH = self._prepared.layer.weight_VH
        found = self._prepared.server.states(readings)
        return [hidden_NH.to(weight_VH.device, weight_VH.dtype) for hidden_NH in found]

    def head(self, hidden_NH: torch.Tensor) -> Head:
        """See `Teacher.head`."""
        return self._prepared.layer.head(hidden_NH)

    @property
    def _prepared(self) -> _Apart:
        assert self._apart is not None, "prepare() comes first"
        return self._apart

    @torch.no_grad()
    def _try(self, reading: Reading) -> None:
        """The server's states must have the layer's size, and with `verify` be the folder's."""
        found_NH = self.hidden([reading])[0]
        if not self.verify:
            return
        whole = load_model(self.source)
        expected_NH = hidden_at(whole, [reading], len(reading.ids_T))[0]
        there_NV, here_NV = (
            whole.logits(hidden_NH).log_softmax(-1) for hidden_NH in (found_NH, expected_NH)
        )
        if (apart := (there_NV - here_NV).abs().mean().item()) > _APART:
            raise self._prepared.server.client.error(
                "",
                f"its log-probabilities are {apart:.2g} nats from those of {self.source.path}, in "
                "the mean",
                "serve that folder, or name the served model's own as source",
            )
