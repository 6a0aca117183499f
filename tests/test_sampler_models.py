"""Which models can act: the sampler compared with plain forward passes when it is made."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scripted import alone, random_model, toy_tokenizer
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CodeGenConfig,
    FalconConfig,
    GemmaConfig,
    GPT2Config,
    GPTJConfig,
    LlamaConfig,
    MptConfig,
    OPTConfig,
    PreTrainedConfig,
    Qwen3Config,
)

from agentopd.models.model import LanguageModel
from agentopd.rollout import attention
from agentopd.rollout.sampler import Completion, Request
from agentopd.rollout.transformers_sampler import TransformersSampler

TOKENIZER = toy_tokenizer()
WIDE: dict[str, Any] = {
    "vocab_size": len(TOKENIZER),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.3,
}
SMALL: dict[str, Any] = {
    "vocab_size": len(TOKENIZER),
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
EAGER_ALONE = {
    "gptj": GPTJConfig(**SMALL, rotary_dim=4),
    "codegen": CodeGenConfig(**SMALL, n_ctx=64, rotary_dim=4),
    "mpt": MptConfig(vocab_size=len(TOKENIZER), d_model=32, n_layers=2, n_heads=4, max_seq_len=64),
}
BOTH = {
    "qwen3": Qwen3Config(**WIDE, head_dim=8, num_key_value_heads=2),
    "llama": LlamaConfig(**WIDE, num_key_value_heads=2),
    "gemma": GemmaConfig(**WIDE, head_dim=8, num_key_value_heads=2),
    "gpt2": GPT2Config(**SMALL),
    "opt": OPTConfig(
        vocab_size=len(TOKENIZER),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=48,
        word_embed_proj_dim=32,
        max_position_embeddings=64,
    ),
    "falcon": FalconConfig(**WIDE),
}


def _model(
    config: PreTrainedConfig, kind: str, dtype: torch.dtype = torch.float32
) -> LanguageModel:
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(config, attn_implementation=kind, dtype=dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    return LanguageModel(module.eval(), TOKENIZER, "random", frozenset({0}))


def _check(model: LanguageModel) -> None:
    """Conversations of 2 to 30 tokens, two turns, against forward passes of each alone."""
    sampler = TransformersSampler(model)
    contexts = {key: [20 + key] * (2 + 7 * key) for key in range(5)}
    for turn in range(2):
        sampler.submit([Request(k, ids, (turn, k), 4) for k, ids in contexts.items()])
        found: dict[int, Completion] = {}
        while len(found) < 5:
            found |= {answer.key: answer.completion for answer in sampler.ready()}
        for key, said in found.items():
            ids = [*contexts[key], *said.ids]
            hidden = alone(model, ids)[len(contexts[key]) - 1 : -1]
            plain = torch.log_softmax(model.logits(hidden), -1)[range(len(said.ids)), said.ids]
            assert (plain - torch.tensor(said.logprobs)).abs().max() < 1e-4
            contexts[key] = [*ids, 60 + key, 50]


@pytest.mark.parametrize("kind", ["eager", "sdpa"])
@pytest.mark.parametrize("name", BOTH)
def test_a_model_is_sampled_as_it_is_learnt(name: str, kind: str) -> None:
    _check(_model(BOTH[name], kind))


@pytest.mark.parametrize("name", EAGER_ALONE)
def test_a_model_without_fused_attention_is_too(name: str) -> None:
    _check(_model(EAGER_ALONE[name], "eager"))


def test_sixteen_bits_round_more_and_are_not_refused() -> None:
    for kind in ("eager", "sdpa"):
        TransformersSampler(_model(BOTH["qwen3"], kind, torch.bfloat16))


def test_a_model_that_cannot_be_called_so_is_refused_with_its_reason() -> None:
    """Its biases by distance are counted on a mask of another form."""
    bloom = BloomConfig(
        vocab_size=len(TOKENIZER), hidden_size=32, n_layer=2, n_head=4, pad_token_id=3
    )
    with pytest.raises(ValueError, match=r"random cannot act: .*the model raises ValueError"):
        TransformersSampler(_model(bloom, "eager"))


def test_a_model_that_takes_the_mask_otherwise_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As eager attention takes truth values: it adds them."""
    mask = attention._mask
    monkeypatch.setattr(attention, "_mask", lambda *given: (mask(*given) == 0).to(given[2]))
    with pytest.raises(ValueError, match=r"nats off those of a plain forward pass.*\(eager\)"):
        TransformersSampler(_model(BOTH["qwen3"], "eager"))


def test_a_model_of_no_numbers_is_refused() -> None:
    model = random_model(TOKENIZER)
    with torch.no_grad():
        model.output.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="nan nats off"):
        TransformersSampler(model)
