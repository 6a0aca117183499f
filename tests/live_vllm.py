"""For tests of vLLM itself: servers, requests, and what a student says of the answers."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from http_servers import free_port

from agentopd.models.model import LanguageModel
from agentopd.rollout.sampler import Completion, Request

SMALL = "zoo:sokoban-easy"
PATIENCE = 600
"""Seconds that a server may take to start."""
CONTEXT = 512


def requests(model: LanguageModel, count: int = 8, **settings: Any) -> list[Request]:
    """Contexts of different lengths, some with a beginning in common."""
    told = {"temperature": 0.7, "max_tokens": 8, **settings}
    contexts = [[(7 * (key % 3) + n * n) % model.vocabulary for n in range(20 + key)]
                for key in range(count)]  # fmt: skip
    return [Request(key, ids, (5, key), **told) for key, ids in enumerate(contexts)]


@torch.inference_mode()
def gap(model: LanguageModel, request: Request, said: Completion) -> float:
    """The largest difference from a plain forward pass over context and answer."""
    ids_1T = torch.tensor([[*request.ids, *said.ids]])
    logits_TV = model.module(ids_1T).logits[0, len(request.ids) - 1 : -1, : model.vocabulary]
    own_TV = torch.log_softmax(logits_TV.float() / request.temperature, -1)
    own_T = own_TV.gather(1, torch.tensor(said.ids)[:, None])[:, 0]
    return (own_T - torch.tensor(said.logprobs)).abs().max().item()


@torch.no_grad()
def move(model: LanguageModel, by: float = 1e-3) -> None:
    """Something like a step of the optimizer."""
    for weight in model.module.parameters():
        if weight.requires_grad:
            weight.add_(by * torch.randn_like(weight))


@contextmanager
def serving(model: str, context: int) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server's address and process, once it is ready; it is gone at the end."""
    port = free_port()
    command = [sys.executable, "-m", "agentopd.serving.server", model, "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--context", str(context)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(PATIENCE):
            assert process.poll() is None, "the server ended"
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                time.sleep(1)
        else:
            raise AssertionError(f"no server within {PATIENCE} seconds")
        yield url, process
    finally:
        process.terminate()
        process.wait()
