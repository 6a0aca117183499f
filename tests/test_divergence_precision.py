"""Divergences from a mixture in float32, where student and teacher are close and the mixture is
nearly one of them: as precise as the reverse KL, whatever the share.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

import agentopd.divergences.kl  # noqa: F401  (the kinds)
from agentopd.divergences.base import Divergence
from agentopd.divergences.linear import measure
from agentopd.divergences.logprobs import above_mixture, bend, relative_difference
from agentopd.divergences.question import Question
from agentopd.models.head import Head

DIFFERENCES = (1.0, 0.1, 0.01, 0.001)
SUPPORTS: dict[str, Any] = {
    "full": "full",
    "tail": {"kind": "teacher_top_k", "k": 24, "rest": "tail"},
    "renormalised": {"kind": "union_top_k", "k": 24, "rest": "renormalise"},
}
SHARES = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
MIXED = [
    *({"kind": "jsd", "beta": share} for share in SHARES),
    *({"kind": "skew", "direction": d, "alpha": a} for d in ("forward", "reverse") for a in SHARES),
]


def _logits(difference: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, V) of the student and of a teacher that far from it, in float64 and exact in float32."""
    generator = torch.Generator().manual_seed(7)
    student_NV = 3 * torch.randn(20, 64, generator=generator)
    return student_NV.double(), (
        student_NV + difference * torch.randn(20, 64, generator=generator)
    ).double()


def _gradient(written: dict[str, Any], difference: float, dtype: torch.dtype) -> torch.Tensor:
    """By the student's logits, of the sum over the tokens."""
    student_NV, teacher_NV = (x.to(dtype) for x in _logits(difference))
    student_NV.requires_grad_()
    unit_VV = torch.eye(student_NV.shape[1], dtype=dtype)
    question = Question(
        torch.zeros(len(student_NV), dtype=torch.long), Divergence.model_validate(written)
    )
    measured = measure(question, Head(student_NV, unit_VV), Head(teacher_NV, unit_VV))
    assert measured.divergence_N is not None
    measured.divergence_N.sum().backward()
    assert student_NV.grad is not None
    return student_NV.grad.double()


def _error(written: dict[str, Any], difference: float) -> float:
    """Of the float32 gradient, relative to the float64 one."""
    exact_NV = _gradient(written, difference, torch.float64)
    found_NV = _gradient(written, difference, torch.float32)
    return float((found_NV - exact_NV).norm() / exact_NV.norm())


@cache
def _of_reverse_kl(support: str, difference: float) -> float:
    return _error({"kind": "reverse_kl", "support": SUPPORTS[support]}, difference)


@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("written", MIXED, ids=lambda x: " ".join(map(str, x.values())))
def test_a_mixture_costs_no_precision(written: dict[str, Any], support: str) -> None:
    for difference in DIFFERENCES:
        found = _error({**written, "support": SUPPORTS[support]}, difference)
        assert found < 10 * _of_reverse_kl(support, difference), difference


@pytest.mark.parametrize("share", SHARES)
def test_what_mixtures_are_made_of_is_what_it_says(share: float) -> None:
    p_K = torch.linspace(-60, 0, 401, dtype=torch.float64)
    q_K = p_K.flip(0)
    m_K = (1 - share) * p_K.exp() + share * q_K.exp()
    torch.testing.assert_close(above_mixture(p_K, q_K, share), p_K - m_K.log())
    difference_K = (p_K.exp() - q_K.exp()) / m_K
    torch.testing.assert_close(relative_difference(p_K, q_K, share), difference_K)


def test_a_bend_is_precise_where_its_parts_cancel() -> None:
    y_K = torch.cat([-torch.logspace(-7, -0.1, 60), torch.logspace(-7, 1, 80)]).double()
    narrow_K = y_K.float()
    found_K = bend(narrow_K, narrow_K.log1p()).double()
    exact_K = torch.where(
        y_K.abs() < 1e-3, -(y_K**2) / 2 + y_K**3 / 3 - y_K**4 / 4, y_K.log1p() - y_K
    )
    torch.testing.assert_close(found_K, exact_K, rtol=2e-5, atol=0)
