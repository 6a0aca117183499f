"""Layers that see a window of the last tokens: acting, learning, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from scripted import alone, random_model, toy_tokenizer
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GptOssConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Starcoder2Config,
)

from agentopd.models.model import LanguageModel, ModelSettings
from agentopd.rollout import attention
from agentopd.rollout.sampler import Completion, Request
from agentopd.rollout.transformers_sampler import TransformersSampler, check_actor
from agentopd.running.evaluate import untrained_success
from agentopd.running.reading import parse_config

TOKENIZER = toy_tokenizer()
WINDOW = 6
SMALL: dict[str, Any] = {
    "vocab_size": len(TOKENIZER),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "max_position_embeddings": 256,
    "sliding_window": WINDOW,
    "pad_token_id": 0,
}
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
CHOSEN = {"use_sliding_window": True, "max_window_layers": 0}
ALL: dict[str, PreTrainedConfig] = {
    "mistral": MistralConfig(**SMALL),
    "starcoder2": Starcoder2Config(**SMALL),
    "phi3": Phi3Config(**SMALL),
    "qwen2": Qwen2Config(**SMALL, **CHOSEN),
}
SOME: dict[str, PreTrainedConfig] = {
    "qwen2": Qwen2Config(**SMALL, **CHOSEN, layer_types=MIXED),
    "qwen3": Qwen3Config(**SMALL, **CHOSEN, head_dim=8, layer_types=MIXED),
    "gemma3": Gemma3TextConfig(**SMALL, head_dim=8, layer_types=MIXED),
}
FAMILIES = {f"{name}-all": c for name, c in ALL.items()} | SOME
KINDS = ("eager", "sdpa")


def _model(config: PreTrainedConfig, kind: str = "sdpa") -> LanguageModel:
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(config, attn_implementation=kind)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    return LanguageModel(module.eval(), TOKENIZER, "windowed", frozenset({0}))


def _answered(sampler: TransformersSampler, requests: list[Request]) -> dict[int, Completion]:
    sampler.submit(requests)
    found: dict[int, Completion] = {}
    while len(found) < len(requests):
        found |= {answer.key: answer.completion for answer in sampler.ready()}
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FAMILIES)
def test_conversations_longer_than_the_window_are_sampled_as_they_are_learnt(
    name: str, kind: str
) -> None:
    """Two turns of 2 to 58 tokens, against forward passes of each conversation alone."""
    model = _model(FAMILIES[name], kind)
    sampler = TransformersSampler(model)
    contexts = {key: [20 + key] * (2 + 7 * key) for key in range(5)}
    for turn in range(2):
        requests = [Request(k, ids, (turn, k), 9) for k, ids in contexts.items()]
        for key, said in _answered(sampler, requests).items():
            ids = [*contexts[key], *said.ids]
            hidden = alone(model, ids)[len(contexts[key]) - 1 : -1]
            plain = torch.log_softmax(model.logits(hidden), -1)[range(len(said.ids)), said.ids]
            assert (plain - torch.tensor(said.logprobs)).abs().max() < 1e-4
            contexts[key] = [*ids, *range(30, 50)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ALL)
def test_the_learner_sees_what_the_windows_show_and_no_more(name: str, kind: str) -> None:
    """Through three layers a token hears those up to 3 (window - 1) before it; padding, none."""
    model, far = _model(ALL[name], kind), 3 * (WINDOW - 1)
    ids_2T = torch.tensor([[*range(20, 60)]] * 2)
    ids_2T[1, 10] = 99
    hidden_2TH = model.hidden(ids_2T).detach()
    differs_T = (hidden_2TH[0] - hidden_2TH[1]).abs().amax(-1) > 1e-6
    assert differs_T.nonzero().squeeze(1).tolist() == list(range(10, 10 + far + 1))
    padded_2T = torch.cat([ids_2T, torch.zeros(2, 24, dtype=torch.long)], 1)
    assert torch.allclose(model.hidden(padded_2T)[:, :40], hidden_2TH, atol=1e-5)


def test_a_model_whose_windows_do_not_matter_would_not_be_told_apart_by_these_tests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same comparison fails where windows are ignored: so is the sampler's own."""
    mask = attention._mask
    monkeypatch.setattr(
        attention, "_mask", lambda at, columns, dtype, _: mask(at, columns, dtype, None)
    )
    with pytest.raises(ValueError, match="nats off those of a plain forward pass"):
        TransformersSampler(_model(FAMILIES["gemma3"]))


def test_the_window_is_as_it_was_after_the_check() -> None:
    model = _model(FAMILIES["gemma3"])
    sampler = TransformersSampler(model)
    assert model.module.config.sliding_window == WINDOW
    assert sampler._reach == {"full_attention": None, "sliding_attention": WINDOW}


def test_sinks_beside_the_window_are_sampled_too() -> None:
    config = GptOssConfig(**SMALL, head_dim=8, num_local_experts=2, num_experts_per_tok=2)
    TransformersSampler(_model(config, "eager"))


def test_what_is_no_window_is_refused_before_any_weight_is_read(tmp_path: Path) -> None:
    """A folder of a configuration alone: who read weights would miss them."""
    kinds = ["full_attention", "chunked_attention", "linear_attention"]
    config = Qwen3Config(**SMALL).to_dict() | {"layer_types": kinds}
    (tmp_path / "config.json").write_text(json.dumps(config))
    why = r"cannot act: it has layers of kind chunked_attention, linear_attention.*use a model"
    with pytest.raises(ValueError, match=why):
        check_actor(ModelSettings(path=str(tmp_path)))
    run = parse_config({"student": {"path": str(tmp_path)}, "env": {"id": "agentopd/Sokoban-v0"}})
    with pytest.raises(ValueError, match=why):
        untrained_success(run)


def test_chunks_that_no_layer_names_are_refused_too() -> None:
    model = random_model(TOKENIZER)
    model.module.config.layer_types = None
    model.module.config.attention_chunk_size = 8
    with pytest.raises(ValueError, match="chunked_attention"):
        TransformersSampler(model)
