"""vLLM as far as agentopd sees it: a model of its own, into which weights are loaded by name."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from http_servers import Asked
from scenes import thawed

from agentopd.models.model import LanguageModel
from agentopd.models.passes import logprobs_of
from agentopd.rollout.sampler import Completion, Request, answers
from agentopd.rollout.transformers_sampler import TransformersSampler
from agentopd.serving.extension import Receiver
from agentopd.signal.truncation import Truncation


@dataclass
class FakeEngine:
    """Answers with a copy of a model whose own weights mean nothing.

    `lost` are names that it takes without loading them, as a broken sync does.
    """

    model: LanguageModel
    lost: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.model = thawed(self.model)
        with torch.no_grad():
            for weight in self.model.module.parameters():
                weight.normal_(generator=torch.Generator().manual_seed(9))

    @torch.no_grad()
    def load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        own = self.model.module.state_dict()
        for name, tensor in weights:
            if name not in self.lost:
                own[name].copy_(tensor)

    def answer(self, ids: list[int], told: dict[str, Any]) -> Completion:
        truncation = Truncation(told.get("top_p", 1.0), told.get("top_k", 0))
        seed, most, heat = (told.get("seed", 0),), told["max_tokens"], told["temperature"]
        request = Request(0, ids, seed, most, heat, truncation)
        return answers(TransformersSampler(self.model), [request])[0]

    def scores(self, ids: list[int]) -> list[float]:
        return logprobs_of(self.model, ids).tolist()


class FakeServer:
    """Routes of a vLLM server, to be given to `http_servers.answering`.

    `refusing` holds statuses with which the next answers are refused, `before` is called before
    each answer, `said` is the version that answers name if it is not the true one.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.engine, self.version, self.said = FakeEngine(model), "default", ""
        self.refusing, self.calls = deque[int](), list[str]()
        self.before: Callable[[], object] = lambda: None
        self.longest, self.forgets, self.paused = 10_000, True, False
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> None:
        path = asked.path.partition("?")[0]
        told = json.loads(asked.body) if asked.body else {}
        self.calls.append(path)
        if path == "/inference/v1/generate":
            self.before()
            if self.refusing:
                asked.say({"error": "busy"}, self.refusing.popleft())
                return
            asked.say(self._generated(told))
        else:
            asked.say(self._told(path, told))

    def _told(self, path: str, told: dict[str, Any]) -> dict[str, Any]:
        if path == "/v1/models":
            return {"data": [{"id": "student", "max_model_len": self.longest}]}
        if path == "/collective_rpc":
            assert self.paused, "weights come while nobody is answered"
            receiver = Receiver()
            receiver.model_runner = SimpleNamespace(reload_weights=self._reload)
            return {"results": [getattr(receiver, told["method"])(**told["kwargs"])]}
        if path == "/reset_prefix_cache":
            return {"success": self.forgets}
        if path == "/update_weight_version":
            self.version = told["new_version"]
        if path in ("/pause", "/resume"):
            self.paused = path == "/pause"
        return {}

    def _reload(self, weights_iterator: Iterable[tuple[str, torch.Tensor]]) -> None:
        self.engine.load(weights_iterator)

    def _generated(self, told: dict[str, Any]) -> dict[str, Any]:
        ids, parameters = told["token_ids"], told["sampling_params"]
        with self._lock:
            if "prompt_logprobs" in parameters:
                pairs = zip(ids[1:], self.engine.scores(ids), strict=True)
                scores = [None, *({str(i): {"logprob": p}} for i, p in pairs)]
                return {"choices": [], "prompt_logprobs": scores}
            said = self.engine.answer(ids, parameters)
        content = [
            {"token_id": i, "logprob": p} for i, p in zip(said.ids, said.logprobs, strict=True)
        ]
        version = self.said or self.version
        choice = {
            "finish_reason": "length" if said.cut else "stop",
            "token_ids": said.ids,
            "logprobs": {"content": content},
            "weight_versions": [{"version": version, "start": 0, "end": len(said.ids)}],
        }
        return {"choices": [choice]}
