"""vLLM in this process: weights that follow, bits that repeat, breaks that leave it usable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from live_vllm import CONTEXT, gap, move, requests

from agentopd.models.model import LanguageModel, ModelSettings, StudentSettings, load_model
from agentopd.rollout.sampler import Request, SamplerFailed, answers
from agentopd.rollout.vllm import in_process
from agentopd.rollout.vllm.engines import VllmEngine
from agentopd.rollout.vllm.in_process import VllmSampler
from agentopd.serving.weights import engine_weights
from agentopd.signal.truncation import Truncation


@pytest.fixture(scope="module")
def sampler(small: LanguageModel) -> Iterator[VllmSampler]:
    with VllmEngine().open(small, CONTEXT) as found:
        assert isinstance(found, VllmSampler)
        yield found


@pytest.mark.parametrize("lora", [None, {"rank": 4}], ids=["full", "merged"])
def test_twenty_syncs_of_a_pretrained_model_leave_rounding_alone(
    folder: Path, lora: dict[str, int] | None
) -> None:
    """Its embeddings are tied."""
    model = load_model(StudentSettings.model_validate({"path": str(folder), "lora": lora}))
    assert model.module.config.tie_word_embeddings
    with VllmEngine().open(model, CONTEXT) as sampler:
        gaps = []
        for _ in range(20):
            move(model)
            gaps.append((sampler.sync(model) or {})["sync_gap_most"])
        assert max(gaps) <= 1e-4, gaps
        found = zip(requests(model, 3), answers(sampler, requests(model, 3)), strict=True)
        assert max(gap(model, *pair) for pair in found) <= 1e-4


@pytest.mark.parametrize("padding", [0, 13])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_embeddings_of_every_form_are_followed(
    reshaped: Callable[[bool, int], str], tied: bool, padding: int
) -> None:
    model = load_model(ModelSettings(path=reshaped(tied, padding)))
    with VllmEngine().open(model, CONTEXT) as sampler:
        move(model)
        sampler.sync(model)
        asked = requests(model, temperature=1.0)
        for request, said in zip(asked, answers(sampler, asked), strict=True):
            assert gap(model, request, said) <= 1e-4
            assert max(said.ids) < model.vocabulary


def test_a_tied_head_that_is_not_named_stays_old_and_is_seen(
    reshaped: Callable[[bool, int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(ModelSettings(path=reshaped(True, 0)))

    def forgetful(student: LanguageModel) -> Iterator[tuple[str, torch.Tensor]]:
        return ((name, x) for name, x in engine_weights(student) if name != "lm_head.weight")

    with VllmEngine().open(model, CONTEXT) as sampler:
        move(model, 0.02)
        with monkeypatch.context() as patch:
            patch.setattr(in_process, "engine_weights", forgetful)
            with pytest.raises(SamplerFailed, match="nats off the student"):
                sampler.sync(model)
        sampler.sync(model)


@pytest.mark.parametrize(
    "truncation", [Truncation(), Truncation(top_p=0.8), Truncation(top_k=3), Truncation(0.9, 5)]
)
def test_log_probabilities_are_those_of_what_was_sampled_from(
    small: LanguageModel, sampler: VllmSampler, truncation: Truncation
) -> None:
    asked = requests(small, temperature=0.7, truncation=truncation)
    for request, said in zip(asked, answers(sampler, asked), strict=True):
        ids_1T = torch.tensor([[*request.ids, *said.ids]])
        with torch.inference_mode():
            logits_TV = small.module(ids_1T).logits[0, len(request.ids) - 1 : -1] / 0.7
        for logits_V, token, logprob in zip(logits_TV, said.ids, said.logprobs, strict=True):
            assert logprob == pytest.approx(_truncated(logits_V, token, truncation), abs=1e-4)


def _truncated(logits_V: torch.Tensor, token: int, truncation: Truncation) -> float:
    """By sorting: first the likeliest k, then of these the fewest that hold p."""
    p_V, order_V = logits_V.double().softmax(-1).sort(descending=True)
    if truncation.top_k:
        p_V = p_V[: truncation.top_k] / p_V[: truncation.top_k].sum()
    before_V = p_V.cumsum(-1) - p_V
    kept_V = p_V[before_V < truncation.top_p]
    place = order_V.tolist().index(token)
    assert place < len(kept_V), "it was cut off"
    return (kept_V[place] / kept_V.sum()).log().item()


def test_an_answer_has_the_same_bits_alone_and_among_others(
    small: LanguageModel, sampler: VllmSampler
) -> None:
    together = answers(sampler, requests(small))
    assert together == answers(sampler, requests(small))
    assert together == [answers(sampler, [request])[0] for request in requests(small)]


def test_what_was_computed_with_old_weights_is_forgotten(reshaped: Any) -> None:
    """The same contexts again, which the prefix cache holds."""
    model = load_model(ModelSettings(path=reshaped(False, 0)))
    asked = [Request(key, [key, *range(1, 200)], (0, key), 4) for key in range(3)]
    with VllmEngine().open(model, CONTEXT) as sampler:
        answers(sampler, asked)
        move(model, 0.05)
        sampler.sync(model)
        for request, said in zip(asked, answers(sampler, asked), strict=True):
            assert gap(model, request, said) <= 1e-4


def test_ctrl_c_in_a_step_leaves_it_usable(
    small: LanguageModel, sampler: VllmSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = answers(sampler, requests(small))
    runner = sampler.engine._llm.llm_engine.engine_core
    real, calls = runner.get_output, iter(range(10))

    def interrupted() -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return real()

    sampler.submit(requests(small))
    with monkeypatch.context() as patch:
        patch.setattr(runner, "get_output", interrupted)
        with pytest.raises(KeyboardInterrupt):
            while True:
                sampler.ready()
    sampler.forget(range(8))
    assert answers(sampler, requests(small)) == expected


def test_an_engine_that_fails_in_a_step_says_so_and_is_usable(
    small: LanguageModel, sampler: VllmSampler
) -> None:
    """An id that its embeddings do not have, past our own check."""
    expected = answers(sampler, requests(small, 2))
    sampler.submit(requests(small, 2))
    sampler.engine.add([10**6], sampler.bounds.parameters(requests(small, 1)[0]))
    with pytest.raises(SamplerFailed, match="vLLM failed in the middle of a step"):
        while True:
            sampler.ready()
    assert answers(sampler, requests(small, 2)) == expected
