"""Weights of tokens."""

from __future__ import annotations

import math

import pytest
import torch
from trajectories import played, tokens_of

from agentopd.signal.tokens import Tokens, mean_by
from agentopd.signal.weights import EntropyWeight, GapGate, Weight

LONG = played([0, 1, 2], episode=0)
SHORT = played([3, 0], episode=1)


def _logprobs(seed: int, rows: int = 5, requires_grad: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits_NV = 2 * torch.randn(rows, 4, generator=generator)
    return torch.log_softmax(logits_NV.requires_grad_(requires_grad), -1)


def test_the_gap_gate_is_a_sigmoid_of_the_sampled_log_ratio() -> None:
    student, teacher = (
        torch.tensor([[0.5, 0.5], [0.9, 0.1]]),
        torch.tensor([[0.8, 0.2], [0.5, 0.5]]),
    )
    found = GapGate(beta=2.0, renormalise=False).of(
        student.log(), teacher.log(), tokens_of(played([0, 0]))
    )
    # sigmoid(2 log r) = r^2 / (1 + r^2)
    ratios = (0.8 / 0.5, 0.5 / 0.9)
    assert found.tolist() == pytest.approx([r**2 / (1 + r**2) for r in ratios])


def test_the_entropy_weight_is_the_students_entropy() -> None:
    student = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]).log()
    found = EntropyWeight(renormalise=False).of(student, student, tokens_of(played([0, 0])))
    assert found.tolist() == pytest.approx([math.log(2), 0.0])


@pytest.mark.parametrize("weight", [GapGate(), EntropyWeight()])
def test_weights_are_one_on_average_over_each_episode(weight: Weight) -> None:
    found = weight.of(_logprobs(0), _logprobs(1), tokens_of(LONG, SHORT))
    assert found[:3].mean().item() == pytest.approx(1.0)
    assert found[3:].mean().item() == pytest.approx(1.0)
    assert found.std() > 0.1


@pytest.mark.parametrize("weight", [GapGate(), EntropyWeight()])
def test_an_episodes_weights_do_not_depend_on_its_neighbours(weight: Weight) -> None:
    student, teacher = _logprobs(0), _logprobs(1)
    together = weight.of(student, teacher, tokens_of(LONG, SHORT))
    alone = weight.of(student[3:], teacher[3:], tokens_of(SHORT))
    torch.testing.assert_close(together[3:], alone)


@pytest.mark.parametrize("weight", [GapGate(), EntropyWeight()])
def test_weights_are_detached(weight: Weight) -> None:
    student = _logprobs(0, requires_grad=True)
    assert not weight.of(student, _logprobs(1), tokens_of(LONG, SHORT)).requires_grad


def test_where_every_weight_is_zero_all_tokens_count_alike() -> None:
    certain = torch.tensor([[0.0, -math.inf, -math.inf]] * 3)
    found = EntropyWeight().of(certain, certain, tokens_of(played([0, 0, 0])))
    assert found.tolist() == [1.0, 1.0, 1.0]


def test_a_weight_of_a_users_own_is_detached_too() -> None:
    class Likely(Weight):
        """The student's probability of the sampled token."""

        def raw(
            self, student_NV: torch.Tensor, teacher_NV: torch.Tensor, tokens: Tokens
        ) -> torch.Tensor:
            return student_NV.gather(1, tokens.ids_N[:, None]).squeeze(1).exp()

    student = _logprobs(0, requires_grad=True)
    assert not Likely().of(student, _logprobs(1), tokens_of(LONG, SHORT)).requires_grad


def test_the_mean_of_an_empty_group_is_zero() -> None:
    found = mean_by(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([0, 2, 2]), 3)
    assert found.tolist() == [1.0, 0.0, 4.0]
