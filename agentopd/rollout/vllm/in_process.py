"""vLLM in this process as a sampler: answers that end are handed over while others go on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any

import numpy as np

from agentopd.models.model import LanguageModel
from agentopd.rollout.sampler import Answer, Completion, Request, SamplerFailed, check_request
from agentopd.rollout.vllm.agreement import Agreement
from agentopd.rollout.vllm.parameters import SCORED, Bounds
from agentopd.rollout.vllm.process import EmbeddedEngine
from agentopd.serving.weights import engine_weights


@dataclass
class VllmSampler:
    """It is a `Sampler`, and works in `ready`. A next turn joins the answers that are under way.

    What an answer says depends on its seed alone, whatever else is being answered. After Ctrl-C or
    a failed step nothing is under way, and it may be asked again.

    Args:
        engine: without weights; they come with the first `sync`.
        sleeps: whether it leaves the GPU whenever no conversation is known.
    """

    engine: EmbeddedEngine
    bounds: Bounds
    agreement: Agreement
    sleeps: bool = False

    def __post_init__(self) -> None:
        self._names: dict[int, str] = {}
        self._keys: dict[str, int] = {}
        self._known: set[int] = set()
        self._asleep = False

    def submit(self, requests: Sequence[Request]) -> None:
        """See `Sampler.submit`; refuses, too, what vLLM would not survive or answer otherwise."""
        for request in requests:
            check_request(request, request.key in self._names)
            self.bounds.check(request)
        self._wake()
        for request in requests:
            name = self.engine.add(request.ids, self.bounds.parameters(request))
            self._names[request.key], self._keys[name] = name, request.key
            self._known.add(request.key)

    def ready(self, wake: Event | None = None, seconds: float | None = None) -> list[Answer]:
        """See `Sampler.ready`; between two steps it looks whether to come back."""
        due = np.inf if seconds is None else time.monotonic() + seconds
        while self._names and not (wake is not None and wake.is_set()):
            if due < np.inf and time.monotonic() >= due:
                break
            if ended := self._step():
                found = [self._answer(output) for output in ended]
                return sorted(found, key=lambda answer: answer.key)
        return []

    def forget(self, keys: Sequence[int]) -> None:
        """See `Sampler.forget`."""
        if names := [self._names.pop(key) for key in keys if key in self._names]:
            self.engine.abort(names)
            for name in names:
                del self._keys[name]
        self._known -= set(keys)
        if self.sleeps and not self._known and not self._asleep:
            self.engine.sleep()
            self._asleep = True

    def sync(self, student: LanguageModel) -> Mapping[str, float]:
        """See `Sampler.sync`; answers under way are forgotten too.

        Returns:
            `sync_seconds`, and what the alarm has measured, see `Agreement.check`.
        """
        began = time.perf_counter()
        self._wake()
        self._drop()
        self.engine.abort()
        self.engine.load(engine_weights(student))
        gap = self.agreement.check(student, self._said())
        return {"sync_seconds": time.perf_counter() - began, **gap}

    def _step(self) -> list[Any]:
        try:
            return self.engine.step()
        except BaseException:  # the engine has called off everything, Ctrl-C too
            self._drop()
            raise

    def _drop(self) -> None:
        self._names, self._keys, self._known = {}, {}, set()

    def _wake(self) -> None:
        if self._asleep:
            self.engine.wake()
            self._asleep = False

    def _answer(self, output: Any) -> Answer:
        key = self._keys.pop(output.request_id)
        del self._names[key]
        (said,) = output.outputs
        ids = list(said.token_ids)
        logprobs = [at[token].logprob for at, token in zip(said.logprobs, ids, strict=True)]
        return Answer(key, Completion(ids, logprobs, cut=said.finish_reason == "length"))

    def _said(self) -> list[float]:
        """The engine's log-probabilities of the alarm's tokens, from the second on."""
        ids = self.agreement.ids
        self.engine.add(ids, SCORED)
        ended: list[Any] = []
        while not ended:
            ended = self.engine.step()
        said = ended[0].prompt_logprobs
        if said is None or len(said) != len(ids):
            raise SamplerFailed("vLLM does not say what it thinks of a prompt's tokens")
        return [at[token].logprob for at, token in zip(said[1:], ids[1:], strict=True)]
