"""A vLLM server as a sampler: an HTTP request for each answer, and weights brought to it."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from threading import Event
from typing import Any

from agentopd.models.model import LanguageModel
from agentopd.parallel.processes import ALONE, Processes
from agentopd.rollout.sampler import Answer, Completion, Request, SamplerFailed, check_request
from agentopd.rollout.vllm.agreement import Agreement
from agentopd.rollout.vllm.parameters import SCORED, Bounds
from agentopd.serving.http import HttpClient, ServerError
from agentopd.serving.transports import Transport
from agentopd.serving.weights import engine_weights

GENERATE = "/inference/v1/generate"


class ServedSampler:
    """It is a `Sampler` that only listens: the server works, and each of its answers must come from
    the weights that were brought to it last.

    A request that breaks off is made again: its seed fixes the answer. A server that stays away
    longer than its settings allow ends the waiting with `SamplerFailed`.

    Args:
        processes: who learn together, with the same weights: all ask, and the first alone brings
            the weights.
    """

    def __init__(
        self,
        client: HttpClient,
        bounds: Bounds,
        agreement: Agreement,
        transport: Transport,
        processes: Processes = ALONE,
    ) -> None:
        self.client, self.bounds = client, bounds
        self.agreement, self.transport, self.processes = agreement, transport, processes
        self._learner, self._syncs, self.version = uuid.uuid4().hex[:8], 0, ""
        self._asked: dict[int, Future[bytes]] = {}
        self._keys: dict[Future[bytes], int] = {}
        self._ended: SimpleQueue[Future[bytes]] = SimpleQueue()
        self._event = self._own = Event()

    def submit(self, requests: Sequence[Request]) -> None:
        """See `Sampler.submit`."""
        for request in requests:
            check_request(request, request.key in self._asked)
            self.bounds.check(request)
        for request in requests:
            body = {
                "token_ids": list(request.ids),
                "sampling_params": self.bounds.parameters(request),
            }
            future = self.client.submit(GENERATE, body)
            self._asked[request.key], self._keys[future] = future, request.key
            future.add_done_callback(self._hear)

    def ready(self, wake: Event | None = None, seconds: float | None = None) -> list[Answer]:
        """See `Sampler.ready`. Answers that end set `wake`, too: one can wait for both."""
        due = math.inf if seconds is None else time.monotonic() + seconds
        self._event = wake or self._own
        while self._keys:
            self._own.clear()
            if found := self._taken():
                return found
            left = due - time.monotonic()
            if left <= 0 or (wake is not None and wake.is_set()):
                return []
            self._event.wait(None if left == math.inf else left)
        return []

    def forget(self, keys: Sequence[int]) -> None:
        """See `Sampler.forget`."""
        for key in keys:
            if (future := self._asked.pop(key, None)) is not None:
                del self._keys[future]
                future.cancel()

    def sync(self, student: LanguageModel) -> Mapping[str, float]:
        """See `Sampler.sync`; the server calls off what it was still answering.

        Of several processes none goes on before the server has the weights; where it does not take
        them, all fail.

        Returns:
            `sync_seconds`, and what the alarm has measured, see `Agreement.check`.
        """
        numbers = dict[str, float]()
        self.forget(list(self._asked))
        with self.processes.united(SamplerFailed):
            if self.processes.first:
                numbers = self._bring(student)
        self.version, numbers = self.processes.gather([(self.version, numbers)])[0]
        return numbers

    def _bring(self, student: LanguageModel) -> dict[str, float]:
        """Bring the weights, and compare."""
        began = time.perf_counter()
        self._syncs += 1
        self.version = f"{self._learner}-{self._syncs}"
        try:
            self.client.post("/pause?mode=abort", {})
            self.transport.send(self.version, engine_weights(student))
            self._reset()
            self.client.post("/update_weight_version", {"new_version": self.version})
            self.client.post("/resume", {})
            said = self._said()
        except ServerError as error:
            raise SamplerFailed(f"the weights do not reach the sampler: {error}") from error
        gap = self.agreement.check(student, said)
        return {"sync_seconds": time.perf_counter() - began, **gap}

    def _hear(self, future: Future[bytes]) -> None:
        """An answer has ended; on a thread of the client's."""
        self._ended.put(future)
        self._event.set()

    def _taken(self) -> list[Answer]:
        """The answers that have ended and that somebody still waits for."""
        found = list[Answer]()
        while True:
            try:
                future = self._ended.get_nowait()
            except Empty:
                return sorted(found, key=lambda answer: answer.key)
            if (key := self._keys.pop(future, None)) is None:
                continue
            del self._asked[key]
            try:
                found.append(Answer(key, self._read(self.client.json(GENERATE, future.result()))))
            except ServerError as error:
                self.forget(list(self._asked))
                raise SamplerFailed(f"the sampler does not answer: {error}") from error

    def _read(self, answer: Any) -> Completion:
        choice = self._choice(answer)
        versions = {span["version"] for span in choice.get("weight_versions") or []}
        if choice["finish_reason"] not in ("stop", "length") or versions != {self.version}:
            said = ", ".join(sorted(versions)) or "no version"
            raise self.client.error(
                GENERATE,
                f"an answer ended by {choice['finish_reason']!r}, from weights of {said} and not "
                f"of {self.version}",
                "does another learner use this server, or was it started anew?",
            )
        ids = choice["token_ids"]
        logprobs = [at["logprob"] for at in choice["logprobs"]["content"]]
        return Completion(ids, logprobs, cut=choice["finish_reason"] == "length")

    def _choice(self, answer: Any) -> dict[str, Any]:
        try:
            (choice,) = answer["choices"]
            content = choice["logprobs"]["content"]
            if len(choice["token_ids"]) == len(content) > 0:
                return choice
        except (KeyError, TypeError, ValueError):  # it is not of that form
            pass
        raise self.client.error(
            GENERATE, "an answer without ids and log-probabilities", "is this a vLLM server?"
        )

    def _reset(self) -> None:
        """Let the server forget keys and values of other weights."""
        path = "/reset_prefix_cache"
        answer = self.client.json(path, self.client.post(path, {}))
        if answer.get("success") is not True:
            raise self.client.error(
                path, "it keeps keys and values of older weights", "does anyone else use it?"
            )

    def _said(self) -> list[float]:
        """The server's log-probabilities of the alarm's tokens, from the second on."""
        ids = self.agreement.ids
        body = {"token_ids": ids, "sampling_params": SCORED}
        said = self.client.json(GENERATE, self.client.post(GENERATE, body)).get("prompt_logprobs")
        if not isinstance(said, list) or len(said) != len(ids):
            raise self.client.error(
                GENERATE, "it does not say what it thinks of a prompt", "is this a vLLM server?"
            )
        return [at[str(i)]["logprob"] for at, i in zip(said[1:], ids[1:], strict=True)]
