"""Targets: where learning stops, what the target's own movement adds, and their edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from compared import Config, compared
from naive import softmax

from agentopd.divergences.base import Divergence
from agentopd.divergences.kl import JensenShannon, ReverseKL
from agentopd.divergences.targets import Extrapolate, Target, Veto

INF = math.inf


def _logs(*probabilities: float) -> list[float]:
    return [math.log(x) if x else -INF for x in probabilities]


@pytest.mark.parametrize("kind", ["reverse_kl", "forward_kl", "jsd"])
@pytest.mark.parametrize("student", ["detached", "live"])
def test_veto_stops_at_the_sharpened_teacher(kind: str, student: str) -> None:
    """With beta = 1/2 that is the teacher's square: (4/5, 1/5) becomes (16/17, 1/17)."""
    config: Config = {"kind": kind, "target": {"kind": "veto", "beta": 0.5, "student": student}}
    value, gradient, _ = compared(config, _logs(16 / 17, 1 / 17), _logs(0.8, 0.2))
    assert value == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-12)
    assert abs(compared(config, _logs(0.8, 0.2), _logs(0.8, 0.2))[1]).max() > 0.01


def test_a_live_veto_adds_what_the_target_moves() -> None:
    """KL(p || Q) depends on Q's student by beta (Q - p), beside what a detached Q gives."""
    student, teacher, beta = [0.3, -1.2, 2.0, 0.0], [1.0, 0.4, -0.7, 0.1], 0.4
    p, q = softmax(np.array(student)), softmax(np.array(teacher))
    target = q * p**beta / (q * p**beta).sum()
    live, fixed = (
        compared({"kind": "reverse_kl", "target": Veto(beta=beta, student=how)}, student, teacher)
        for how in ("live", "detached")
    )
    assert live[0] == pytest.approx(fixed[0])
    np.testing.assert_allclose(live[1] - fixed[1], beta * (target - p), atol=1e-12)


def test_extrapolation_goes_on_from_the_reference_through_the_teacher() -> None:
    """Teacher (1/2, 1/4, 1/4), reference (1/4, 1/4, 1/2), twice: 1, 1/4, 1/8 over their sum."""
    q_NV = torch.tensor([_logs(0.5, 0.25, 0.25)])
    found = Extrapolate(scale=2.0).of(q_NV, q_NV, torch.tensor([_logs(0.25, 0.25, 0.5)]))
    assert found.exp()[0].tolist() == pytest.approx([8 / 11, 2 / 11, 1 / 11])
    same = Extrapolate(scale=1.0).of(q_NV, q_NV, torch.tensor([_logs(1.0, 0.0, 0.0)]))
    assert torch.equal(same, q_NV)


def test_a_target_that_is_the_teacher_is_so_to_the_last_bit() -> None:
    """Normalised again, float32 would be off by a rounding, and so the gradient at equality."""
    logits_NV = torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    q_NV = torch.log_softmax(logits_NV, -1)
    assert torch.equal(Extrapolate(scale=1.5).of(q_NV, q_NV, q_NV), q_NV)
    assert (q_NV.logsumexp(-1) != 0).any()


@pytest.mark.parametrize("target", [Veto(), Veto(student="live"), Extrapolate(scale=1.5)])
@pytest.mark.parametrize("kind", ["reverse_kl", "forward_kl", "jsd", "skew", "alpha"])
def test_targets_bear_a_padded_vocabulary(kind: str, target: Target) -> None:
    config, student, teacher = {"kind": kind, "target": target}, [0.0, 1.0, 0.5], [1.0, 0.0, -0.5]
    without = compared(config, student, teacher, reference=[0.2, 0.1, 0.0])
    padded = [[*x, -INF] for x in (student, teacher, [0.2, 0.1, 0.0])]
    found = compared(config, padded[0], padded[1], reference=padded[2])
    assert found[0] == pytest.approx(without[0])
    np.testing.assert_allclose(found[1], [*without[1], 0.0], atol=1e-12)


@pytest.mark.parametrize("kind", ["reverse_kl", "forward_kl", "jsd"])
def test_where_nothing_is_left_to_aim_at_the_value_is_no_number(kind: str) -> None:
    config: Config = {"kind": kind, "target": Veto()}
    assert math.isnan(compared(config, [0.0, -INF], [-INF, 0.0])[0])


@pytest.mark.parametrize(
    ("factor", "beta", "scale"), [(1.0, 0.6, 1.5), (0.5, 0.3, 0.75), (9.0, 1.0, 13.5)]
)
def test_a_factor_multiplies_the_targets_number(factor: float, beta: float, scale: float) -> None:
    veto = ReverseKL(target=Veto(beta=0.6, student="live")).aimed(factor)
    assert veto == ReverseKL(target=Veto(beta=beta, student="live"))
    beyond = JensenShannon(beta=0.3, target=Extrapolate(scale=1.5)).aimed(factor)
    assert beyond == JensenShannon(beta=0.3, target=Extrapolate(scale=scale))


@pytest.mark.parametrize("factor", [0.0, -1.0])
def test_at_nothing_a_veto_is_the_teacher_and_an_extrapolation_the_reference(factor: float) -> None:
    """Also where a model holds a token for impossible: 0 times infinity would be no number."""
    assert ReverseKL(target=Veto()).aimed(factor) == ReverseKL()
    back = JensenShannon(target=Extrapolate()).aimed(factor)
    student, teacher, reference = [0.0, 1.0, -INF], [1.0, 0.3, -INF], [-2.0, 0.5, 0.0]
    found = compared({"kind": "jsd", "target": back.target}, student, teacher, reference)
    expected = compared({"kind": "jsd"}, student, [-2.0, 0.5, -INF])
    assert found[0] == pytest.approx(expected[0])
    np.testing.assert_allclose(found[1], expected[1], atol=1e-12)


def test_only_a_target_has_a_number_to_multiply() -> None:
    class Halfway(Target):
        """Between teacher and student."""

        def mixed(
            self, p_NK: torch.Tensor, q_NK: torch.Tensor, reference_NK: torch.Tensor | None
        ) -> torch.Tensor:
            return (p_NK + q_NK) / 2

    with pytest.raises(ValueError, match="divergence: reverse_kl has no target: set one, such as"):
        ReverseKL().aimed(0.5)
    with pytest.raises(ValueError, match=r"none that is meant: let its class define times\(factor"):
        ReverseKL(target=Halfway()).aimed(0.5)


def test_what_needs_the_reference_says_so() -> None:
    assert ReverseKL(target=Extrapolate()).needs_reference
    assert not ReverseKL(target=Veto()).needs_reference
    assert not ReverseKL().needs_reference
    read = Divergence.model_validate({"kind": "jsd", "target": {"kind": "veto", "beta": 0.3}})
    assert read == JensenShannon(target=Veto(beta=0.3))
    assert Divergence.model_validate(read.model_dump(mode="json")) == read
