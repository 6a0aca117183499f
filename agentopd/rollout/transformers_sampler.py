"""Continuous batching with the student itself, over one cache that lives across turns.

A caller asks with whole contexts; the sampler knows which part of each it has seen, of a new one
which part others have in common with it, and feeds the model the rest. Answers are written a token
at a time, all that are under way together: one that ends leaves, and what comes anew is read in
calls of its own and then joins them. A model of a few million parameters spends its time on the
number of calls, not on their size, so newcomers wait for one another as long as that costs less
than another call: see `TransformersSampler._next`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Event

import numpy as np
import torch
from transformers import AutoConfig

from agentopd.models.folders import base_path, model_folder
from agentopd.models.model import LanguageModel, ModelSettings
from agentopd.models.passes import logprobs_of
from agentopd.rollout.attention import masks, narrowed, reach_of
from agentopd.rollout.cache import RowCache
from agentopd.rollout.drawing import draw
from agentopd.rollout.sampler import Answer, Completion, Request, answers, check_request
from agentopd.rollout.sharing import common, followers, longest_common

# R rows (conversations) of a call, Q columns fed at once, C columns of the cache, V vocabulary

_CALL = 128
"""A call of the model costs about as much as so many tokens more in another call."""
_MOST = 8192
"""Tokens of a call, padding included: what their activations may take of the memory."""


@dataclass(eq=False)
class Row:
    """A conversation: what the cache holds of it, and the answer it is giving, if it is.

    Attributes:
        fed: ids whose keys and values are in the cache.
        left: ids that the model has yet to read before it says the next token.
        new: whether it has read nothing itself yet, so that what others have read may serve.
    """

    key: int
    fed: list[int] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    new: bool = True
    request: Request | None = None
    uniform: np.ndarray = field(default_factory=lambda: np.zeros(0))
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def begin(self, request: Request) -> None:
        """The next answer; of a history that was rewritten, what is still the same is kept."""
        ids = list(request.ids)
        kept = min(common(self.fed, ids), len(ids) - 1)
        self.fed, self.left, self.new = self.fed[:kept], ids[kept:], not kept
        self.request, self.ids, self.logprobs = request, [], []
        self.uniform = np.random.default_rng(request.seed).random(request.max_tokens)

    def read(self, most: int) -> None:
        """The model has read so many of what was left."""
        self.fed += self.left[:most]
        self.left = self.left[most:]
        self.new = False

    def adopt(self, count: int) -> None:
        """So many tokens of its context are in the cache, copied from another."""
        context = self.context
        self.fed, self.left = context[:count], context[count:]

    @property
    def context(self) -> list[int]:
        """All that it has read and is to read."""
        return self.fed + self.left

    def say(self, token: int, logprob: float, stop_ids: frozenset[int]) -> Completion | None:
        """Note the next token; the answer, if that was its last."""
        assert self.request is not None
        self.ids.append(token)
        self.logprobs.append(logprob)
        self.left = [token]
        ended = token in stop_ids
        if not ended and len(self.ids) < self.request.max_tokens:
            return None
        self.request = None
        return Completion(self.ids, self.logprobs, cut=not ended)


class TransformersSampler:
    """Samples with the student itself, in process. It is a `Sampler`; it works in `ready`.

    What is in a call together is decided by what was asked, never by the clock: the same requests
    in the same order give the same bits. Neighbours change an answer's log-probabilities by
    rounding alone.

    Raises:
        ValueError: the model attends neither to all tokens nor to a window of the last, or what it
            says of two conversations in one cache is not what it says of each by itself.
    """

    def __init__(self, student: LanguageModel) -> None:
        with narrowed(student.module.config):
            self.sync(student)
            _refuse_disagreement(self, student)
        self.sync(student)

    def sync(self, student: LanguageModel) -> None:
        """See `Sampler.sync`; answers under way are forgotten too."""
        self.student = student
        self._reach = reach_of(student.module.config, student.name)
        self._known: dict[int, Row] = {}
        self._start()

    def _start(self) -> None:
        """Nothing is known, and no memory held."""
        self._places: list[Row | None] = []
        self._writing: list[Row] = []
        self._waiting: list[Row] = []
        self._joining: list[Row] = []
        self._missed = 0
        layers = self.student.module.config.get_text_config().num_hidden_layers
        self._cache = RowCache(layers, self.student.device)

    def submit(self, requests: Sequence[Request]) -> None:
        """See `Sampler.submit`."""
        for request in requests:
            row = self._known.get(request.key)
            check_request(request, row is not None and row.request is not None)
            row = row or self._enter(request.key)
            row.begin(request)
            self._waiting.append(row)
        self._share([row for row in self._waiting if row.new])

    def ready(self, wake: Event | None = None, seconds: float | None = None) -> list[Answer]:
        """See `Sampler.ready`; between two calls of the model it looks whether to come back."""
        due = np.inf if seconds is None else time.monotonic() + seconds
        found: list[Answer] = []
        while (
            (self._writing or self._waiting or self._joining)
            and not found
            and not (wake is not None and wake.is_set())
            and (due == np.inf or time.monotonic() < due)
        ):
            found = self._step()
        return found

    def forget(self, keys: Sequence[int]) -> None:
        """See `Sampler.forget`; when nobody is left, the memory is given back."""
        gone = {id(row) for key in keys if (row := self._known.pop(key, None)) is not None}
        if not self._known:
            self._start()
            return
        self._places = [None if id(row) in gone else row for row in self._places]
        for rows in (self._writing, self._waiting, self._joining):
            rows[:] = [row for row in rows if id(row) not in gone]
        while self._places[-1] is None:
            self._places.pop()

    def _enter(self, key: int) -> Row:
        """A new conversation takes the first free place."""
        row = self._known[key] = Row(key)
        if None in self._places:
            self._places[self._places.index(None)] = row
        else:
            self._places.append(row)
        return row

    @torch.inference_mode()
    def _step(self) -> list[Answer]:
        """One call of the model, and the answers that ended with it, in the order of their keys."""
        batch, first = self._next()
        width = min(max(len(row.left) for row in batch), max(1, _MOST // len(batch)))
        longest = max(len(row.fed) for row in self._known.values())
        self._cache.fit(len(self._places), longest + width)
        rows = self._gather(batch, first)
        logits_RV = self._feed(rows, first, width)
        for row in rows:
            row.read(width)
        speaking = [row for row in rows if not row.left]
        found = self._say(speaking, logits_RV) if speaking else []
        joined = [row for row in self._joining if row in speaking]
        self._joining = [row for row in self._joining if row not in speaking]
        self._writing = [r for r in (*self._writing, *joined) if r.request is not None]
        return sorted(found, key=lambda answer: answer.key)

    def _next(self) -> tuple[list[Row], int]:
        """The rows of the next call, and the place of the first of them.

        Those who wait are let in when the tokens that they have missed by waiting are as many as
        those that the others would miss meanwhile, or when the others need not miss any. They are
        read shortest first, and a longer one is left to a call of its own where padding the others
        to its length would cost more. Those who are writing go on in the same call on the same
        condition.
        """
        if self._waiting and not self._joining:
            width = max(len(row.left) for row in self._waiting)
            if self._missed >= len(self._writing) or self._fill(len(self._writing), 1, width):
                self._joining, self._waiting = self._waiting, []
                self._missed = 0
            else:
                self._missed += len(self._waiting)
        if not self._joining:
            return self._writing, 0
        rows = sorted(self._readers(), key=lambda row: len(row.left))
        for count, (row, longer) in enumerate(pairwise(rows), start=1):
            if not self._fill(count, len(row.left), len(longer.left)):
                rows = rows[:count]
                break
        width = len(rows[-1].left)
        rows = rows[: max(1, _MOST // width)]
        if self._fill(len(self._writing), 1, width):
            return [*self._writing, *rows], 0
        return rows, len(self._writing)

    def _readers(self) -> list[Row]:
        """Those of who join that read now: what several begin with, one of them reads for all."""
        new = [row for row in self._joining if row.new]
        if not new:
            return self._joining
        self._share(new)
        contexts = [row.context for row in self._joining]
        held, free = zip(*((len(row.fed), row.new) for row in self._joining), strict=True)
        later = followers(contexts, held, free)
        if sum(later.values()) <= _CALL:
            return self._joining
        return [row for n, row in enumerate(self._joining) if n not in later]

    @torch.inference_mode()
    def _share(self, rows: list[Row]) -> None:
        """Copy what others have read of these rows' contexts."""
        known = sorted((row for row in self._known.values() if row.fed), key=lambda row: row.fed)
        read = [row.fed for row in known]
        found: list[tuple[Row, Row, int]] = []
        for row in rows:
            number, count = longest_common(context := row.context, read)
            count = min(count, len(context) - 1)
            if count > len(row.fed):
                found.append((row, known[number], count))
        if not found:
            return
        place = {id(row): n for n, row in enumerate(self._places)}
        most = max(count for _, _, count in found)
        self._cache.fit(len(self._places), max(most, self._cache.columns))
        target, source = zip(*((place[id(a)], place[id(b)]) for a, b, _ in found), strict=True)
        self._cache.copy(target, source, most)
        for row, _, count in found:
            row.adopt(count)

    @staticmethod
    def _fill(rows: int, tokens: int, width: int) -> bool:
        """Whether padding rows of so many tokens to a width costs less than a call of their own."""
        return rows * (width - tokens) <= _CALL

    def _gather(self, batch: list[Row], first: int) -> list[Row]:
        """Let the batch lie side by side from place `first` on; returns it in that order."""
        keys = {row.key for row in batch}
        last = first + len(batch)
        inside = [row is not None and row.key in keys for row in self._places]
        leaving = [place for place in range(first, last) if not inside[place]]
        coming = [p for p, here in enumerate(inside) if here and not first <= p < last]
        if coming:
            longest = max(len(row.fed) for row in self._known.values())
            self._cache.swap(leaving, coming, longest)
            for a, b in zip(leaving, coming, strict=True):
                self._places[a], self._places[b] = self._places[b], self._places[a]
        return [row for row in self._places[first:last] if row is not None]

    def _feed(self, rows: list[Row], first: int, width: int) -> torch.Tensor:
        """Run the model on what the rows have left, `width` tokens of it at most.

        Returns:
            The logits (R, V) after the last token, of the rows that have none left then.
        """
        device = self.student.device
        now = [row.left[:width] for row in rows]
        ids_RQ = torch.tensor([ids + [0] * (width - len(ids)) for ids in now], device=device)
        seen_R1 = torch.tensor([[len(row.fed)] for row in rows], device=device)
        column_RQ = seen_R1 + torch.arange(width, device=device)
        last_R1 = torch.tensor([[len(r.fed) + len(n) - 1] for r, n in zip(rows, now, strict=True)])
        columns = int(last_R1.max()) + 1
        # What pads a row gets a position that the model has, and is written where nobody looks.
        position_RQ = column_RQ.minimum(last_R1.to(device))
        aligned = len({len(row.fed) for row in rows}) == 1
        self._cache.at(first, column_RQ, columns, aligned)
        hidden_RQH = self.student.body(
            input_ids=ids_RQ,
            attention_mask=masks(self._reach, position_RQ, columns, self.student.module.dtype),
            position_ids=position_RQ,
            past_key_values=self._cache.cache,
            use_cache=True,
        ).last_hidden_state
        ended = [(r, len(n) - 1) for r, n in enumerate(now) if len(n) == len(rows[r].left)]
        row_R, column_R = torch.tensor(ended, dtype=torch.long, device=device).reshape(-1, 2).T
        return self.student.logits(hidden_RQH[row_R, column_R])

    def _say(self, rows: list[Row], logits_RV: torch.Tensor) -> list[Answer]:
        """Draw each row's next token; the answers that end with it."""
        requests = [row.request for row in rows if row.request is not None]
        ids_R, logprob_R = self._draw(rows, requests, logits_RV)
        found = []
        for row, token, logprob in zip(rows, ids_R.tolist(), logprob_R.tolist(), strict=True):
            if (said := row.say(token, logprob, self.student.stop_ids)) is not None:
                found.append(Answer(row.key, said))
        return found

    def _draw(
        self, rows: Sequence[Row], requests: Sequence[Request], logits_RV: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The next token (R,) of each row, and its log-probability (R,)."""
        return draw(logits_RV, [row.uniform[len(row.ids)] for row in rows], requests)


def check_actor(settings: ModelSettings) -> None:
    """Refuse a model that cannot act before its weights are read.

    Raises:
        ValueError: see `TransformersSampler`; or there is no such folder.
    """
    folder = model_folder(base_path(settings.path))
    try:
        config = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=settings.trust_remote_code
        )
    except Exception:  # as transformers raises anything, loading says what is wrong with a folder
        return
    reach_of(config, settings.path)


_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
_COARSE = 0.1
"""Nats between two passes of a model of 16 bits over the same tokens, on average."""


def _refuse_disagreement(sampler: TransformersSampler, student: LanguageModel) -> None:
    """Compare two conversations of different lengths, over two turns, with plain forward passes.

    Raises:
        ValueError: they differ by more than rounding, or the model cannot be called so.
    """
    why = "answers are sampled from many conversations in one cache"
    try:
        gap = _gap(sampler, student)
    except Exception as error:  # the model's own code, whatever it raises
        raise ValueError(
            f"{student.name} cannot act: {why}, and called like that the model raises "
            f"{type(error).__name__}: {str(error).splitlines()[0]}"
        ) from error
    if not gap < _TOLERANCE.get(student.module.dtype, _COARSE):
        kind = student.module.config._attn_implementation
        raise ValueError(
            f"{student.name} cannot act: {why}, and there its log-probabilities are {gap:.2g} nats "
            f"off those of a plain forward pass; its architecture or its attention ({kind}) takes "
            "masks or positions otherwise. Another `_attn_implementation` in its config.json, "
            "sdpa or eager, may help"
        )


def _gap(sampler: TransformersSampler, student: LanguageModel) -> float:
    """Mean difference of log-probabilities between the sampler and plain forward passes."""
    contexts = {key: _some_ids(length, student) for key, length in enumerate((3, 8))}
    differences: list[float] = []
    for turn, more in enumerate((0, 4)):
        contexts = {k: ids + _some_ids(more * (2 - k), student) for k, ids in contexts.items()}
        requests = [Request(k, ids, (turn, k), max_tokens=3) for k, ids in contexts.items()]
        for request, said in zip(requests, answers(sampler, requests), strict=True):
            context = contexts[request.key]
            contexts[request.key] = [*context, *said.ids]
            plain_T = logprobs_of(student, contexts[request.key])[len(context) - 1 :]
            differences += (plain_T - torch.tensor(said.logprobs)).abs().tolist()
    return float(np.mean(differences))


def _some_ids(count: int, student: LanguageModel) -> list[int]:
    return [(101 * (n + count) ** 2 + 7 * n) % student.vocabulary for n in range(count)]
