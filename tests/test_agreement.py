"""The alarm: what it takes for rounding, and what it does not."""

from __future__ import annotations

import pytest
import torch
from scripted import alone, random_model, toy_tokenizer

from agentopd.models.model import LanguageModel
from agentopd.rollout.sampler import SamplerFailed
from agentopd.rollout.vllm.agreement import Agreement


@pytest.fixture(scope="module")
def student() -> LanguageModel:
    return random_model(toy_tokenizer())


def _own(student: LanguageModel, ids: list[int]) -> list[float]:
    """By one pass with its positions written out."""
    logprob_TV = torch.log_softmax(student.logits(alone(student, ids)[:-1]), -1)
    return [logprob_TV[at, token].item() for at, token in enumerate(ids[1:])]


def _off(said: list[float], by: float) -> list[float]:
    return [value + by for value in said]


def test_it_reads_tokens_from_all_of_the_vocabulary(student: LanguageModel) -> None:
    agreement = Agreement(student, exact=True, context=2048)
    assert len(agreement.ids) == 64
    assert all(0 <= token < student.vocabulary for token in agreement.ids)
    assert len(set(agreement.ids)) > 10
    assert len(Agreement(student, exact=True, context=20).ids) == 19


def test_rounding_is_measured_and_let_pass(student: LanguageModel) -> None:
    agreement = Agreement(student, exact=True, context=2048)
    said = _own(student, agreement.ids)
    said[5] += 4e-4
    found = agreement.check(student, said)
    assert found["sync_gap_most"] == pytest.approx(4e-4, abs=5e-5)
    assert found["sync_gap"] == pytest.approx(4e-4 / 63, abs=5e-5)


@pytest.mark.parametrize("wrong", [0.002, -0.002, float("nan")])
def test_one_token_that_is_off_stops_a_run_in_float32(student: LanguageModel, wrong: float) -> None:
    agreement = Agreement(student, exact=True, context=2048)
    said = _own(student, agreement.ids)
    said[40] += wrong
    with pytest.raises(SamplerFailed, match=r"nats off the student.*sampler=transformers"):
        agreement.check(student, said)


def test_in_16_bits_the_first_sync_is_the_measure(student: LanguageModel) -> None:
    agreement = Agreement(student, exact=False, context=2048)
    own = _own(student, agreement.ids)
    agreement.check(student, _off(own, 0.03))
    agreement.check(student, _off(own, -0.08))
    agreement.check(student, _off(own, 0.08))
    with pytest.raises(SamplerFailed, match=r"the first sync allows for 0\.09"):
        agreement.check(student, _off(own, 0.1))


def test_a_first_sync_that_is_far_off_is_no_measure(student: LanguageModel) -> None:
    agreement = Agreement(student, exact=False, context=2048)
    with pytest.raises(SamplerFailed):
        agreement.check(student, _off(_own(student, agreement.ids), 0.6))
