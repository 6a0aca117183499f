"""Divergences against a reference in probability space, and at their edges."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from compared import AIMED, KINDS, Config, compared, named
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import autograd, differences, naive_value
from pydantic import ValidationError

from agentopd.divergences.base import Divergence, Row
from agentopd.divergences.kl import EntropySwitched
from agentopd.divergences.logprobs import entropy, kl

INF = math.inf
every_kind = pytest.mark.parametrize("kind", KINDS, ids=named)

# Next-token logits of student and teacher. What neither side gives any mass, a padded vocabulary,
# say, is -inf on both.
FINITE = [
    ([0.3, -1.2, 2.0, 0.0], [1.0, 0.4, -0.7, 0.1]),
    ([0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]),
    ([500.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]),
    ([0.0, 0.0, 0.0, 0.0], [500.0, 0.0, 0.0, 0.0]),
    ([500.0, 0.0, 0.0, 0.0], [0.0, 500.0, 0.0, 0.0]),
    ([0.0, -600.0, 1.0, -300.0], [-600.0, 0.0, 1.0, -300.0]),
    ([1e3, 1e3 - 1, 1e3 + 1, 1e3], [-1e3, -1e3, -1e3 + 2, -1e3]),
    ([0.0, 1.0, -INF, -INF], [1.0, 0.0, -INF, -INF]),
    ([0.0, -INF, -INF, -INF], [5.0, -INF, -INF, -INF]),
]


@every_kind
@pytest.mark.parametrize(("student", "teacher"), FINITE)
@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_value_and_gradient_are_those_of_the_reference(
    kind: Config,
    student: list[float],
    teacher: list[float],
    dtype: torch.dtype,
    within: float,
) -> None:
    value, gradient = autograd(kind, student, teacher, teacher)
    found, found_gradient, _ = compared(kind, student, teacher, dtype=dtype)
    assert found == pytest.approx(value, rel=within, abs=within)
    np.testing.assert_allclose(found_gradient, gradient, rtol=10 * within, atol=10 * within)


@pytest.mark.parametrize("kind", [*KINDS, *AIMED], ids=named)
@pytest.mark.parametrize("scale", [0.01, 3.0])
def test_random_pairs_agree_with_the_reference_and_with_finite_differences(
    kind: Config, scale: float
) -> None:
    for student, teacher, other in np.random.default_rng(1).normal(0, scale, (2, 3, 7)).tolist():
        value, gradient = autograd(kind, student, teacher, other)
        found, found_gradient, _ = compared(kind, student, teacher, reference=other)
        assert found == pytest.approx(value, rel=1e-9, abs=1e-12)
        np.testing.assert_allclose(found_gradient, gradient, rtol=1e-8, atol=1e-11)
        numeric = differences(kind, student, teacher, other)
        np.testing.assert_allclose(found_gradient, numeric, rtol=1e-4, atol=1e-7)


@every_kind
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.01, 1.0, 10.0, 50.0]))
def test_values_are_those_of_the_definition(kind: Config, seed: int, scale: float) -> None:
    student, teacher = np.random.default_rng(seed).normal(0, scale, (2, 9))
    found, *_ = compared(kind, student.tolist(), teacher.tolist())
    assert found == pytest.approx(float(naive_value(kind, student, teacher)), rel=1e-7, abs=1e-9)


@every_kind
def test_closed_forms_are_what_autograd_makes_of_the_value(kind: Config) -> None:
    divergence = Divergence.model_validate(kind)
    rng = torch.Generator().manual_seed(3)
    p_NV, q_NV = torch.log_softmax(2 * torch.randn(2, 6, 5, generator=rng).double(), -1)
    row = Row(entropy(q_NV))
    own = divergence.closed_form(p_NV, q_NV, row)
    generic = Divergence.closed_form(divergence, p_NV, q_NV, row)
    torch.testing.assert_close(own[0], generic[0])
    spread = [x - p_NV.exp() * x.sum(-1, keepdim=True) for x in (own[1], generic[1])]
    torch.testing.assert_close(*spread)


@every_kind
@pytest.mark.parametrize("tiny", [-200.0, -INF])
def test_mass_below_the_dtype_counts_as_none(kind: Config, tiny: float) -> None:
    """exp(-200) is 0 in float32; the teacher holds the token for impossible."""
    without = compared(kind, [0.0, 1.0], [1.0, 0.0], dtype=torch.float32)
    value, gradient, _ = compared(kind, [0.0, 1.0, tiny], [1.0, 0.0, -INF], dtype=torch.float32)
    assert value == pytest.approx(without[0])
    np.testing.assert_allclose(gradient, [*without[1], 0.0], atol=1e-7)


@pytest.mark.parametrize(
    ("kind", "student", "teacher"),
    [
        ("reverse_kl", [0.0, 1.0, 0.0], [1.0, 0.0, -INF]),
        ("forward_kl", [0.0, 1.0, -INF], [1.0, 0.0, 0.0]),
        ("alpha", [0.0, -INF, -INF], [-INF, 1.0, 0.0]),
    ],
)
def test_a_divergence_is_infinite_where_the_other_side_lacks_all_it_needs(
    kind: str, student: list[float], teacher: list[float]
) -> None:
    assert compared({"kind": kind}, student, teacher, dtype=torch.float32)[0] == INF


BOUNDED = [k for k in KINDS if k["kind"] in ("jsd", "skew") or k.get("form") == "amari"]


@pytest.mark.parametrize("kind", BOUNDED, ids=named)
@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ([0.0, 1.0, -INF], [1.0, 0.0, 0.5]),
        ([0.0, 1.0, 0.5], [1.0, 0.0, -INF]),
        ([0.0, -INF, -INF], [-INF, 1.0, 0.0]),
    ],
)
def test_the_others_are_finite_where_one_side_lacks_mass(
    kind: Config, student: list[float], teacher: list[float]
) -> None:
    value, gradient = autograd(kind, student, teacher, teacher)
    found, found_gradient, _ = compared(kind, student, teacher)
    assert math.isfinite(found)
    assert found == pytest.approx(value, rel=1e-10)
    np.testing.assert_allclose(found_gradient, gradient, atol=1e-10)


def test_an_infinite_kl_that_does_not_count_is_not_looked_at() -> None:
    """The teacher is sure of one token and holds another for impossible that the student says."""
    kind: Config = {"kind": "entropy_switched", "reading": "switch", "threshold": 0.0}
    student, teacher = [0.0, 1.0, -0.5], [1.0, 1.0, -INF]
    found, gradient, _ = compared(kind, student, teacher)
    expected = compared({"kind": "forward_kl"}, student, teacher)
    assert found == pytest.approx(expected[0])
    np.testing.assert_allclose(gradient, expected[1])


_logits = st.lists(st.floats(-60, 60), min_size=6, max_size=6)


@every_kind
@settings(max_examples=10)
@given(student=_logits, teacher=_logits)
def test_divergences_are_not_negative(
    kind: Config, student: list[float], teacher: list[float]
) -> None:
    assert compared(kind, student, teacher)[0] >= -1e-12


@every_kind
@settings(max_examples=10)
@given(logits=_logits, shift=st.floats(-30, 30))
def test_divergences_and_their_gradients_vanish_at_equality(
    kind: Config, logits: list[float], shift: float
) -> None:
    value, gradient, _ = compared(kind, logits, [x + shift for x in logits])
    assert value == pytest.approx(0.0, abs=1e-10)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-10)


@pytest.mark.parametrize(
    "kind",
    [*KINDS, {"kind": "reverse_kl", "target": {"kind": "extrapolate", "scale": 1.25}}],
    ids=named,
)
@settings(max_examples=10)
@given(logits=_logits)
def test_equal_distributions_have_a_gradient_of_exactly_nothing(
    kind: Config, logits: list[float]
) -> None:
    """A rounding of 1e-8 would be a full step to an optimizer that normalises gradients."""
    value, gradient, _ = compared(kind, logits, logits, dtype=torch.float32)
    assert value == 0.0
    assert not gradient.any()


@pytest.mark.parametrize("kind", [*KINDS, *AIMED[:4]], ids=named)
@settings(max_examples=10)
@given(student=_logits, teacher=_logits, order=st.permutations(range(6)))
def test_the_order_of_the_vocabulary_does_not_matter(
    kind: Config, student: list[float], teacher: list[float], order: list[int]
) -> None:
    value, gradient, _ = compared(kind, student, teacher)
    found, found_gradient, _ = compared(
        kind, [student[v] for v in order], [teacher[v] for v in order]
    )
    assert found == pytest.approx(value, rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(found_gradient, gradient[order], rtol=1e-8, atol=1e-10)


@settings(max_examples=30)
@given(student=_logits, teacher=_logits, beta=st.floats(0.01, 0.99))
def test_jensen_shannon_is_bounded_by_the_entropy_of_its_mixture(
    student: list[float], teacher: list[float], beta: float
) -> None:
    value, *_ = compared({"kind": "jsd", "beta": beta}, student, teacher)
    choice = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
    assert value * beta * (1 - beta) <= choice + 1e-9


@pytest.mark.parametrize(
    ("kind", "end"),
    [
        ({"kind": "jsd", "beta": 1e-5}, "forward_kl"),
        ({"kind": "jsd", "beta": 1 - 1e-5}, "reverse_kl"),
        ({"kind": "skew", "direction": "forward", "alpha": 1e-5}, "forward_kl"),
        ({"kind": "skew", "direction": "reverse", "alpha": 1e-5}, "reverse_kl"),
        ({"kind": "alpha", "form": "renyi", "alpha": 1e-5}, "forward_kl"),
        ({"kind": "alpha", "form": "renyi", "alpha": 1 - 1e-5}, "reverse_kl"),
        ({"kind": "alpha", "form": "amari", "alpha": 1e-5}, "forward_kl"),
        ({"kind": "alpha", "form": "amari", "alpha": 1 - 1e-5}, "reverse_kl"),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_families_go_over_into_the_two_kls(kind: Config, end: str, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    for student, teacher in rng.normal(size=(20, 2, 7)).tolist():
        found = compared(kind, student, teacher, dtype=dtype)
        limit = compared({"kind": end}, student, teacher)
        assert found[0] == pytest.approx(limit[0], rel=3e-2 if dtype == torch.float32 else 1e-3)
        np.testing.assert_allclose(found[1], limit[1], rtol=2e-2, atol=2e-3)


def test_jensen_shannon_is_symmetric_at_one_half() -> None:
    student, teacher = [0.3, -1.0, 2.0], [1.0, 0.0, -0.5]
    there = compared({"kind": "jsd"}, student, teacher)[0]
    assert there == pytest.approx(compared({"kind": "jsd"}, teacher, student)[0])


@pytest.mark.parametrize("end", [0.0, 1.0])
@pytest.mark.parametrize(
    ("kind", "field"), [("jsd", "beta"), ("skew", "alpha"), ("alpha", "alpha")]
)
def test_the_ends_of_a_family_are_refused(kind: str, field: str, end: float) -> None:
    with pytest.raises(ValidationError, match=field):
        Divergence.model_validate({"kind": kind, field: end})


def _logs(*probabilities: float) -> list[float]:
    return [math.log(x) if x else -INF for x in probabilities]


def test_worked_examples() -> None:
    """Student (1/2, 1/2), teacher (3/4, 1/4); a quarter of the teacher in m makes (9/16, 7/16)."""
    student, teacher = _logs(0.5, 0.5), _logs(0.75, 0.25)

    def value(**config: Any) -> float:
        return compared(config, student, teacher)[0]

    assert value(kind="reverse_kl") == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    jsd = 0.25 * (0.75 * math.log(0.75 * 16 / 9) + 0.25 * math.log(0.25 * 16 / 7)) + 0.75 * (
        0.5 * math.log(8 / 9) + 0.5 * math.log(8 / 7)
    )
    assert value(kind="jsd", beta=0.25, scaled=False) == pytest.approx(jsd)
    assert value(kind="jsd", beta=0.25) == pytest.approx(jsd * 16 / 3)
    assert value(kind="skew", direction="forward", alpha=0.25) == pytest.approx(
        0.75 * math.log(0.75 * 16 / 9) + 0.25 * math.log(0.25 * 16 / 7)
    )
    # m = p / 4 + 3 q / 4 = (11/16, 5/16)
    assert value(kind="skew", direction="reverse", alpha=0.25) == pytest.approx(
        0.5 * math.log(8 / 11) + 0.5 * math.log(8 / 5)
    )
    shared = math.sqrt(3 / 8) + math.sqrt(1 / 8)
    assert value(kind="alpha", form="renyi", alpha=0.5) == pytest.approx(-4 * math.log(shared))
    assert value(kind="alpha", form="amari", alpha=0.5) == pytest.approx(4 * (1 - shared))


@pytest.mark.parametrize(
    ("reading", "reverse", "forward"),
    [("additive", 1.0, 1.0), ("switch", 0.0, 1.0), ("blended", 1 / 3, 2 / 3)],
)
def test_readings_of_the_entropy_switch(reading: str, reverse: float, forward: float) -> None:
    """The teacher's entropy is log 2; log 2 above the threshold and a width of 1 blend 1 to 2."""
    student, teacher = _logs(0.8, 0.2), _logs(0.5, 0.5)
    base: Config = {"kind": "entropy_switched", "reading": reading, "width": 1.0}
    down, up = (compared({"kind": k}, student, teacher) for k in ("reverse_kl", "forward_kl"))
    value, gradient, _ = compared({**base, "threshold": 0.0}, student, teacher)
    assert value == pytest.approx(reverse * down[0] + forward * up[0])
    np.testing.assert_allclose(gradient, reverse * down[1] + forward * up[1])
    if reading != "blended":
        sure, *_ = compared({**base, "threshold": 0.7}, student, teacher)
        assert sure == pytest.approx(down[0])


def test_a_divergence_of_a_users_own_needs_no_more_than_its_value() -> None:
    class SquaredDistance(Divergence):
        """Of the probabilities."""

        def value(self, p_NK: torch.Tensor, q_NK: torch.Tensor, row: Row) -> torch.Tensor:
            return ((p_NK.exp() - q_NK.exp()) ** 2).sum(-1)

    p_NK, q_NK = torch.tensor([_logs(0.5, 0.5)]), torch.tensor([_logs(0.75, 0.25)])
    value_N, pull_NK = SquaredDistance().compare(p_NK, q_NK, Row(entropy(q_NK)))
    assert value_N.tolist() == pytest.approx([0.125])
    # 2 (p - q) dp / dlog p
    assert pull_NK[0].tolist() == pytest.approx([-0.25, 0.25])
    assert not (value_N.requires_grad or pull_NK.requires_grad)


@pytest.mark.parametrize(
    "config",
    [
        {"kind": "alpha"},
        {"kind": "reverse_kl", "target": "veto"},
        {"kind": "jsd", "target": "extrapolate"},
    ],
)
def test_what_is_defined_of_whole_distributions_is_refused_a_part(config: Config) -> None:
    with pytest.raises(ValidationError, match="whole distributions"):
        Divergence.model_validate({**config, "support": {"kind": "teacher_top_k", "rest": "raw"}})


def test_entropy_of_a_uniform_and_of_a_one_hot_distribution() -> None:
    logits_NV = torch.tensor([[0.0, 0.0, 0.0, -INF], [0.0, -INF, -INF, -INF]])
    found = entropy(torch.log_softmax(logits_NV, -1)).tolist()
    assert found == pytest.approx([math.log(3), 0.0])


@pytest.mark.parametrize("kind", [*KINDS, *AIMED[:4]], ids=named)
def test_tokens_do_not_see_each_other(kind: Config) -> None:
    divergence = Divergence.model_validate(kind)
    generator = torch.Generator().manual_seed(0)
    p_NV, q_NV, r_NV = torch.log_softmax(torch.randn(3, 5, 7, generator=generator), -1)
    together = divergence.compare(p_NV, q_NV, Row(entropy(q_NV), r_NV))
    for n in range(5):
        row = Row(entropy(q_NV[n : n + 1]), r_NV[n : n + 1])
        value_N, pull_NK = divergence.compare(p_NV[n : n + 1], q_NV[n : n + 1], row)
        torch.testing.assert_close(value_N, together[0][n : n + 1])
        torch.testing.assert_close(pull_NK, together[1][n : n + 1])


def test_the_kl_of_rows_is_each_rows_own() -> None:
    p_NV, q_NV = torch.log_softmax(torch.randn(2, 5, 7), -1)
    alone = torch.cat([kl(p_NV[n : n + 1], q_NV[n : n + 1]) for n in range(5)])
    assert torch.equal(kl(p_NV, q_NV), alone)


def test_the_switch_reads_the_whole_vocabularys_entropy() -> None:
    p_NK, q_NK = torch.tensor([_logs(0.8, 0.2)]), torch.tensor([_logs(0.5, 0.5)])
    switch = EntropySwitched(reading="switch", threshold=1.0)
    high, low = (switch.compare(p_NK, q_NK, Row(torch.tensor([h])))[0] for h in (1.1, 0.9))
    assert high.item() == pytest.approx(kl(q_NK, p_NK).item())
    assert low.item() == pytest.approx(kl(p_NK, q_NK).item())
