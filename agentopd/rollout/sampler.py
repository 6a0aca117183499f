"""Sampling answers for many conversations at once, with one KV cache that lives across their turns.

A caller asks with whole contexts; the sampler knows which part of each it has seen and feeds the
model the rest. Rows of the cache are conversations, columns are steps of the whole batch: new text
is left-padded to the longest of the round, then answers are decoded column by column. Padding is
masked and positions are counted per row, so a row's log-probabilities do not depend on its
neighbours. Columns that nobody needs any more and rows of finished conversations are dropped when
they cost more than moving the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from transformers import Cache, PreTrainedConfig
from transformers.cache_utils import CacheLayerMixin

from agentopd.models.model import LanguageModel

# R rows (conversations), C columns of the cache, Q columns fed at once, V vocabulary, D head size


@dataclass(frozen=True)
class Request:
    """The next answer of conversation `key`, whose context so far is `ids`.

    `seed` fixes the random numbers of this answer, whatever else is in the batch.
    """

    key: int
    ids: Sequence[int]
    seed: tuple[int, ...]


@dataclass(frozen=True)
class Completion:
    """An answer: sampled ids, closing token included, and their log-probabilities.

    `cut` tells that the limit of tokens ended it.
    """

    ids: list[int]
    logprobs: list[float]
    cut: bool


class Sampler(Protocol):
    """What rollouts need of a sampler, whatever runs it."""

    def generate(
        self, requests: Sequence[Request], max_tokens: int, temperature: float
    ) -> list[Completion]:
        """One answer a request, in order."""
        ...

    def sync(self, student: LanguageModel) -> None:
        """Take over the student's weights; forget everything computed with older ones."""
        ...


@dataclass
class _Row:
    """One conversation in the cache: the ids it has fed, and the answer it is giving."""

    key: int
    fed: list[int] = field(default_factory=list)


class TransformersSampler:
    """Samples with the student itself, in process.

    Raises:
        ValueError: the model uses sliding-window or linear attention, whose caches cannot be masked
            by column.
    """

    def __init__(self, student: LanguageModel) -> None:
        kinds = _attention(student.module.config)
        if kinds != {"full_attention"}:
            raise ValueError(
                f"{student.name} has layers of kind {', '.join(sorted(kinds))}, whose reach is "
                "counted in columns of a cache that many conversations share; use a model of full "
                "attention throughout"
            )
        self.sync(student)

    def sync(self, student: LanguageModel) -> None:
        """See `Sampler.sync`."""
        self.student = student
        self._rows: list[_Row] = []
        layers = [_Columns() for _ in range(student.module.config.num_hidden_layers)]
        self._cache = Cache(layers=list[CacheLayerMixin](layers))  # type: ignore[arg-type]
        self._valid_RC = torch.zeros(0, 0, dtype=torch.bool, device=student.device)

    @torch.inference_mode()
    def generate(
        self, requests: Sequence[Request], max_tokens: int, temperature: float
    ) -> list[Completion]:
        """See `Sampler.generate`; a temperature of 0 takes the likeliest token.

        Log-probabilities are those of the tempered distribution that was sampled from (of the plain
        one at 0).
        """
        if not requests:
            return []
        place = self._arrange(requests)
        wanted = {place[r.key]: r for r in requests}
        uniform_RQ = np.zeros((len(self._rows), max_tokens))
        for row, request in wanted.items():
            uniform_RQ[row] = np.random.default_rng(request.seed).random(max_tokens)
        fresh = [
            list(wanted[r].ids[len(row.fed) :]) if r in wanted else []
            for r, row in enumerate(self._rows)
        ]
        answers: list[list[int]] = [[] for _ in self._rows]
        logprobs: list[list[float]] = [[] for _ in self._rows]
        open_rows = set(wanted)
        for column in range(max_tokens):
            logits_RV = self._feed(fresh)
            ids_R, logprob_R = _draw(logits_RV, uniform_RQ[:, column], temperature)
            fresh = [[] for _ in self._rows]
            for row in sorted(open_rows):
                answers[row].append(int(ids_R[row]))
                logprobs[row].append(float(logprob_R[row]))
                if answers[row][-1] in self.student.stop_ids:
                    open_rows.remove(row)
                else:
                    fresh[row] = [answers[row][-1]]
            if not open_rows:
                break
        return [
            Completion(answers[p], logprobs[p], p in open_rows)
            for p in (place[r.key] for r in requests)
        ]

    def _arrange(self, requests: Sequence[Request]) -> dict[int, int]:
        """Give every request a row; drop rows and columns that cost more than moving the rest."""
        keys = {r.key for r in requests}
        contexts = {r.key: r.ids for r in requests}
        keep = [i for i, row in enumerate(self._rows) if row.key in keys]
        for i in keep:
            row = self._rows[i]
            if list(contexts[row.key][: len(row.fed)]) != row.fed or len(row.fed) >= len(
                contexts[row.key]
            ):
                row.fed = []
                self._valid_RC[i] = False
        known = {self._rows[i].key for i in keep}
        newcomers = [r.key for r in requests if r.key not in known]
        longest = max((len(self._rows[i].fed) for i in keep), default=0)
        columns = self._valid_RC.shape[1]
        if newcomers or len(keep) <= 0.75 * len(self._rows) or columns > 2 * longest + 64:
            self._compact(keep, newcomers, longest)
        return {row.key: i for i, row in enumerate(self._rows) if row.key in keys}

    def _compact(self, keep: list[int], newcomers: list[int], longest: int) -> None:
        """Rebuild the cache: rows `keep`, valid columns moved left, then those of `newcomers`."""
        old_RC = self._valid_RC[keep]
        order = torch.argsort((~old_RC).to(torch.int8), dim=1, stable=True)[:, :longest]
        valid_RC = torch.zeros(
            len(keep) + len(newcomers), longest, dtype=torch.bool, device=self.student.device
        )
        valid_RC[: len(keep)] = old_RC.gather(1, order)
        for layer in self._cache.layers:
            assert isinstance(layer, _Columns)
            layer.rebuild(keep, order, len(newcomers))
        self._valid_RC = valid_RC
        self._rows = [self._rows[i] for i in keep] + [_Row(key) for key in newcomers]

    def _feed(self, fresh: list[list[int]]) -> torch.Tensor:
        """Run the model on each row's new ids; returns the logits (R, V) after each row's last."""
        device = self.student.device
        width = max(map(len, fresh))
        ids_RQ = torch.zeros(len(fresh), width, dtype=torch.long)
        real_RQ = torch.zeros(len(fresh), width, dtype=torch.bool)
        for r, ids in enumerate(fresh):
            if ids:
                ids_RQ[r, width - len(ids) :] = torch.tensor(ids)
                real_RQ[r, width - len(ids) :] = True
        ids_RQ, real_RQ = ids_RQ.to(device), real_RQ.to(device)
        seen_R = torch.tensor([len(row.fed) for row in self._rows], device=device)
        position_RQ = (seen_R[:, None] + real_RQ.cumsum(1) - 1).clamp(min=0)
        # A padding column looks at itself, or its softmax would be over nothing; nobody ever looks
        # at it.
        causal_QQ = torch.ones(width, width, dtype=torch.bool, device=device).tril()
        own_RQQ = (causal_QQ & real_RQ[:, None, :]) | torch.eye(
            width, dtype=torch.bool, device=device
        )
        past_RQC = self._valid_RC[:, None, :].expand(-1, width, -1)
        mask_R1QC = torch.cat([past_RQC, own_RQQ], dim=2)[:, None]
        output = self.student.body(
            input_ids=ids_RQ,
            attention_mask=mask_R1QC,
            position_ids=position_RQ,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._valid_RC = torch.cat([self._valid_RC, real_RQ], dim=1)
        for row, ids in zip(self._rows, fresh, strict=True):
            row.fed += ids
        return self.student.logits(output.last_hidden_state[:, -1])


def _attention(config: PreTrainedConfig) -> set[str]:
    """The kinds of attention of a model's layers; older configs name none, only a window's size."""
    window = getattr(config, "sliding_window", None) or getattr(
        config, "attention_chunk_size", None
    )
    named = getattr(config, "layer_types", None)
    return set(named or ["sliding_attention" if window else "full_attention"])


class _Columns(CacheLayerMixin):
    """Keys and values (R, heads, C, D) with room to grow: a new column copies nothing old."""

    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
        self._used = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Make empty buffers of the right kind."""
        rows, heads, _, size = key_states.shape
        self.keys = key_states.new_zeros(rows, heads, 0, size)
        self.values = value_states.new_zeros(rows, heads, 0, value_states.shape[-1])
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new columns; returns views of all columns in use."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        end = self._used + key_states.shape[2]
        if end > self.keys.shape[2]:
            room = max(end + 64, 2 * self.keys.shape[2])
            self.keys, self.values = _grown(self.keys, room), _grown(self.values, room)
        self.keys[:, :, self._used : end] = key_states
        self.values[:, :, self._used : end] = value_states
        self._used = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def rebuild(self, keep: list[int], order_RC: torch.Tensor, newcomers: int) -> None:
        """Keep rows `keep` with their columns in `order_RC`, and add empty rows."""
        if not self.is_initialized:
            return
        assert self.keys is not None and self.values is not None
        self.keys, self.values = (
            _reordered(t, keep, order_RC, newcomers) for t in (self.keys, self.values)
        )
        self._used = order_RC.shape[1]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns a query sees, and the first of them."""
        return self._used + query_length, 0

    def get_seq_length(self) -> int:
        """Columns in use."""
        return self._used

    def get_max_length(self) -> int:
        """There is no maximum."""
        return -1


def _grown(buffer: torch.Tensor, columns: int) -> torch.Tensor:
    grown = buffer.new_zeros(*buffer.shape[:2], columns, buffer.shape[3])
    grown[:, :, : buffer.shape[2]] = buffer
    return grown


def _reordered(
    buffer: torch.Tensor, keep: list[int], order_RC: torch.Tensor, newcomers: int
) -> torch.Tensor:
    index = order_RC[:, None, :, None].expand(-1, buffer.shape[1], -1, buffer.shape[3])
    kept = buffer[keep].gather(2, index)
    room = kept.new_zeros(len(keep) + newcomers, kept.shape[1], kept.shape[2] + 64, kept.shape[3])
    room[: len(keep), :, : kept.shape[2]] = kept
    return room


def _draw(
    logits_RV: torch.Tensor, uniform_R: np.ndarray, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample by inverting the cumulative distribution at given uniform numbers."""
    logprob_RV = torch.log_softmax(logits_RV / (temperature or 1.0), dim=-1)
    if temperature == 0:
        ids_R = logprob_RV.argmax(-1)
    else:
        cumulative_RV = logprob_RV.double().exp().cumsum(-1)
        # Scaled by the last sum, which rounding keeps from being exactly 1.
        target_R1 = (
            torch.as_tensor(uniform_R, device=logits_RV.device)[:, None] * cumulative_RV[:, -1:]
        )
        ids_R = (
            torch.searchsorted(cumulative_RV, target_R1, right=True)
            .squeeze(1)
            .clamp(max=logits_RV.shape[1] - 1)
        )
    return ids_R, logprob_RV.gather(1, ids_R[:, None]).squeeze(1)
