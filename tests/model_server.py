"""A server of a small model, with as much of vLLM's interface as teachers ask."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from http_servers import Answer, Asked, answering

from agentopd.models.model import LanguageModel


def answer_of(
    model: LanguageModel,
    name: str = "teacher",
    max_model_len: int = 2_048,
    most: int = 64,
    asked: list[dict[str, Any]] | None = None,
) -> Answer:
    """How a server of `model` answers.

    Args:
        most: how many likeliest tokens it tells at a position.
        asked: takes the bodies it is asked with.
    """
    lock = threading.Lock()

    def answer(request: Asked) -> None:
        if request.path == "/v1/models":
            request.say({"data": [{"id": name, "max_model_len": max_model_len}]})
            return
        body = json.loads(request.body)
        with lock, torch.no_grad():
            if asked is not None:
                asked.append(body)
            if body["model"] != name:
                request.say({"error": {"message": "no such model"}}, 404)
            elif request.path == "/pooling":
                request.say(_pooled(model, body))
            elif request.path == "/v1/completions":
                prompts = body["prompt"]
                request.say({"choices": [_scored(model, ids, body, most) for ids in prompts]})
            else:
                request.say({"error": {"message": "no such path"}}, 404)

    return answer


@contextmanager
def serving(
    model: LanguageModel, max_model_len: int = 2_048
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address of a server of `model`, and the bodies that it was asked with."""
    asked = list[dict[str, Any]]()
    with answering(answer_of(model, max_model_len=max_model_len, asked=asked)) as url:
        yield url, asked


def _pooled(model: LanguageModel, body: dict[str, Any]) -> bytes:
    assert body["task"] == "token_embed" and body["encoding_format"] == "bytes_only"
    states = [model.hidden(torch.tensor([ids]))[0] for ids in body["input"]]
    wired = torch.cat(states).to(getattr(torch, body["embed_dtype"]))
    return wired.contiguous().view(torch.uint8).numpy().tobytes()


def _scored(
    model: LanguageModel, ids: list[int], body: dict[str, Any], most: int
) -> dict[str, Any]:
    """As vLLM answers: the realised token and the likeliest, the first position without any."""
    logprob_TV = model.logits(model.hidden(torch.tensor([ids]))[0]).log_softmax(-1)
    if body.get("prompt_logprobs") is not None:
        told = [
            _ranked(logprob_TV[t], ids[t + 1], body["prompt_logprobs"]) for t in range(len(ids) - 1)
        ]
        return {"text": "", "prompt_logprobs": [None, *told]}
    assert body["echo"] and body["max_tokens"] == 0
    width = min(body["logprobs"], most)
    likeliest = [_ranked(logprob_TV[t], None, width) for t in range(len(ids) - 1)]
    return {
        "text": "",
        "logprobs": {
            "tokens": [f"token_id:{i}" for i in ids],
            "token_logprobs": [
                None,
                *(float(logprob_TV[t, ids[t + 1]]) for t in range(len(ids) - 1)),
            ],
            "top_logprobs": [
                None,
                *(
                    {f"token_id:{i}": said["logprob"] for i, said in row.items()}
                    for row in likeliest
                ),
            ],
        },
    }


def _ranked(logprob_V: torch.Tensor, realised: int | None, width: int) -> dict[str, Any]:
    order = logprob_V.argsort(descending=True).tolist()
    chosen = order[:width] if realised is None else [realised, *order[:width]]
    return {
        str(i): {"logprob": float(logprob_V[i]), "rank": order.index(i) + 1, "decoded_token": "?"}
        for i in chosen
    }
