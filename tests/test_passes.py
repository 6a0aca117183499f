"""Hidden states of many sequences are those of each by itself, whatever bounds their memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch
from live import Live
from transformers import (
    BloomConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from agentopd.models.model import LanguageModel
from agentopd.models.passes import Reading, hidden_at
from agentopd.models.recompute import recomputed_layers

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 96,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "rotary positions": LlamaConfig(**SIZES, num_hidden_layers=8),
    "a sliding window": MistralConfig(**SIZES, num_hidden_layers=3, sliding_window=7),
    "learned positions, dropout": GPT2Config(vocab_size=50, n_embd=32, n_layer=3, n_head=2),
    "slopes by distance": BloomConfig(vocab_size=50, hidden_size=32, n_layer=3, n_head=2),
}
LENGTHS = (90, 3, 41, 40, 64, 17)
GENEROUS = 4_096


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return _model(request.param)


def _model(kind: str) -> LanguageModel:
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(CONFIGS[kind])
    return LanguageModel(module.eval(), cast(Any, None), kind)


def _readings() -> list[Reading]:
    rng = np.random.default_rng(0)
    return [
        Reading(rng.integers(0, 50, size), np.sort(rng.choice(size, 1 + size // 3, replace=False)))
        for size in LENGTHS
    ]


def _gradient(model: LanguageModel, hidden: Sequence[torch.Tensor]) -> torch.Tensor:
    model.module.zero_grad(set_to_none=True)
    sum(x.pow(2).sum() for x in hidden).backward()  # type: ignore[union-attr]
    return torch.cat([p.grad.flatten() for p in model.module.parameters() if p.grad is not None])


def _alone(model: LanguageModel) -> list[torch.Tensor]:
    body = cast(PreTrainedModel, model.body)
    return [
        body(input_ids=torch.from_numpy(r.ids_T)[None], use_cache=False).last_hidden_state[
            0, torch.from_numpy(r.places)
        ]
        for r in _readings()
    ]


@pytest.mark.parametrize("budget", [64, 200, GENEROUS])
@pytest.mark.parametrize("recompute", [False, True])
def test_they_and_their_gradients_are_those_of_each_alone(
    model: LanguageModel, budget: int, recompute: bool
) -> None:
    expected = _alone(model)
    found = hidden_at(model, _readings(), budget, recompute)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)
    exact = _gradient(model, expected)
    assert exact.norm() > 1
    assert (_gradient(model, found) - exact).norm() < 1e-5 * exact.norm()


def test_recomputed_layers_give_the_same_bits_and_leave_nothing_behind(
    model: LanguageModel,
) -> None:
    kept = _gradient(model, hidden_at(model, _readings(), GENEROUS))
    assert torch.equal(_gradient(model, hidden_at(model, _readings(), GENEROUS, True)), kept)
    assert not any("forward" in vars(layer) for layer in model.module.modules())
    assert not any(layer.training for layer in model.module.modules())


def _peak(model: LanguageModel, budget: int, recompute: bool) -> int:
    model.module.zero_grad(set_to_none=True)
    with Live(model.module) as live:
        hidden = hidden_at(model, _readings(), budget, recompute)
        sum(x.sum() for x in hidden).backward()  # type: ignore[union-attr]
        gradients = sum(p.grad.nbytes for p in model.module.parameters() if p.grad is not None)
    return live.peak - gradients


def test_less_is_kept_where_layers_are_recomputed_or_calls_are_small() -> None:
    model = _model("rotary positions")
    all_kept = _peak(model, GENEROUS, recompute=False)
    assert _peak(model, GENEROUS, recompute=True) < 0.4 * all_kept
    assert _peak(model, 96, recompute=False) < 0.5 * all_kept


def test_a_model_that_does_not_name_its_layers_is_refused() -> None:
    with (
        pytest.raises(ValueError, match=r"leave out learner\.checkpoint_layers"),
        recomputed_layers(torch.nn.Linear(2, 2)),
    ):
        pass
