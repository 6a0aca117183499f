"""Divergences against a reference in probability space, at their edges, as policy gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentopd.signal.advantages import policy_gradient
from agentopd.signal.divergences import Divergence, JensenShannon, ReverseKL, entropy, kl

Array = npt.NDArray[np.float64]
KINDS: list[dict[str, str | float]] = [
    {"kind": "reverse_kl"},
    {"kind": "forward_kl"},
    *({"kind": "jsd", "beta": beta} for beta in (0.1, 0.5, 0.9)),
]
INF = math.inf
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda k: "-".join(map(str, k.values())))

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


def _softmax(logits: list[float]) -> Array:
    exponent = np.array(logits, dtype=np.float64)
    weight = np.exp(exponent - exponent.max())
    return weight / weight.sum()


def _plogp(p: Array, ratio_of: Array) -> Array:
    """p log(p / ratio_of), 0 where p is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, p * np.log(p / ratio_of), 0.0)


def _reference(kind: dict[str, str | float], p: Array, q: Array) -> tuple[float, Array]:
    """Value, and gradient with respect to the student's logits, from probabilities alone.

    With g the derivative by p, the softmax's Jacobian makes p g - p (p . g) of it.
    """
    if kind["kind"] == "reverse_kl":
        value, weighted = _plogp(p, q).sum(), _plogp(p, q)
    elif kind["kind"] == "forward_kl":
        value, weighted = _plogp(q, p).sum(), -q
    else:
        b = float(kind["beta"])
        m = (1 - b) * p + b * q
        value = (b * _plogp(q, m).sum() + (1 - b) * _plogp(p, m).sum()) / (b * (1 - b))
        weighted = _plogp(p, m) / b
    return float(value), weighted - p * weighted.sum()


def _measured(
    kind: dict[str, str | float], student: list[float], teacher: list[float], dtype: torch.dtype
) -> tuple[float, Array]:
    logits = torch.tensor([student], dtype=dtype, requires_grad=True)
    target = torch.log_softmax(torch.tensor([teacher], dtype=dtype), -1)
    divergence = Divergence.model_validate(kind)
    value = divergence.per_token(torch.log_softmax(logits, -1), target, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    return value.item(), gradient[0].double().numpy()


@every_kind
@pytest.mark.parametrize(("student", "teacher"), FINITE)
@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_value_and_gradient_are_those_of_the_reference(
    kind: dict[str, str | float],
    student: list[float],
    teacher: list[float],
    dtype: torch.dtype,
    within: float,
) -> None:
    value, gradient = _reference(kind, _softmax(student), _softmax(teacher))
    found, found_gradient = _measured(kind, student, teacher, dtype)
    assert found == pytest.approx(value, rel=within, abs=within)
    np.testing.assert_allclose(found_gradient, gradient, rtol=10 * within, atol=10 * within)


@every_kind
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.01, 1.0, 10.0, 50.0]))
def test_random_pairs_agree_with_the_reference(
    kind: dict[str, str | float], seed: int, scale: float
) -> None:
    student, teacher = np.random.default_rng(seed).normal(0, scale, (2, 9)).tolist()
    value, gradient = _reference(kind, _softmax(student), _softmax(teacher))
    found, found_gradient = _measured(kind, student, teacher, torch.float64)
    assert found == pytest.approx(value, rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(found_gradient, gradient, rtol=1e-8, atol=1e-10)


@every_kind
def test_gradients_are_finite_differences(kind: dict[str, str | float]) -> None:
    rows = [pair for pair in FINITE if max(map(abs, pair[0] + pair[1])) < 10]
    logits_NV = torch.tensor([s for s, _ in rows], dtype=torch.float64, requires_grad=True)
    teacher_NV = torch.log_softmax(torch.tensor([t for _, t in rows], dtype=torch.float64), -1)
    divergence, ids_N = Divergence.model_validate(kind), torch.zeros(len(rows), dtype=torch.long)

    def value_N(logits_NV: torch.Tensor) -> torch.Tensor:
        return divergence.per_token(torch.log_softmax(logits_NV, -1), teacher_NV, ids_N)

    assert torch.autograd.gradcheck(value_N, (logits_NV,))


@every_kind
@pytest.mark.parametrize("tiny", [-200.0, -INF])
def test_mass_below_the_dtype_counts_as_none(kind: dict[str, str | float], tiny: float) -> None:
    """exp(-200) is 0 in float32; the teacher holds the token for impossible."""
    without = _measured(kind, [0.0, 1.0], [1.0, 0.0], torch.float32)
    value, gradient = _measured(kind, [0.0, 1.0, tiny], [1.0, 0.0, -INF], torch.float32)
    assert value == pytest.approx(without[0])
    np.testing.assert_allclose(gradient, [*without[1], 0.0], atol=1e-7)


@pytest.mark.parametrize(
    ("kind", "student", "teacher"),
    [
        ("reverse_kl", [0.0, 1.0, 0.0], [1.0, 0.0, -INF]),
        ("forward_kl", [0.0, 1.0, -INF], [1.0, 0.0, 0.0]),
    ],
)
def test_a_kl_is_infinite_where_its_second_argument_lacks_mass(
    kind: str, student: list[float], teacher: list[float]
) -> None:
    assert _measured({"kind": kind}, student, teacher, torch.float32)[0] == INF


@pytest.mark.parametrize(
    ("student", "teacher"),
    [([0.0, 1.0, -INF], [1.0, 0.0, 0.5]), ([0.0, 1.0, 0.5], [1.0, 0.0, -INF])],
)
@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_jensen_shannon_is_finite_where_one_side_lacks_mass(
    student: list[float], teacher: list[float], beta: float
) -> None:
    kind: dict[str, str | float] = {"kind": "jsd", "beta": beta}
    value, gradient = _reference(kind, _softmax(student), _softmax(teacher))
    found, found_gradient = _measured(kind, student, teacher, torch.float64)
    assert found == pytest.approx(value, rel=1e-10)
    np.testing.assert_allclose(found_gradient, gradient, atol=1e-10)


_logits = st.lists(st.floats(-60, 60), min_size=6, max_size=6)


@every_kind
@given(student=_logits, teacher=_logits)
def test_divergences_are_not_negative(
    kind: dict[str, str | float], student: list[float], teacher: list[float]
) -> None:
    assert _measured(kind, student, teacher, torch.float64)[0] >= -1e-12


@every_kind
@given(logits=_logits, shift=st.floats(-30, 30))
def test_divergences_and_their_gradients_vanish_at_equality(
    kind: dict[str, str | float], logits: list[float], shift: float
) -> None:
    value, gradient = _measured(kind, logits, [x + shift for x in logits], torch.float64)
    assert value == pytest.approx(0.0, abs=1e-10)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-10)


@every_kind
@given(logits=_logits)
def test_equal_distributions_have_a_gradient_of_exactly_nothing(
    kind: dict[str, str | float], logits: list[float]
) -> None:
    """A rounding of 1e-8 would be a full step to an optimizer that normalises gradients."""
    value, gradient = _measured(kind, logits, logits, torch.float32)
    assert value == 0.0
    assert not gradient.any()


@given(student=_logits, teacher=_logits, beta=st.floats(0.01, 0.99))
def test_jensen_shannon_is_bounded_by_the_entropy_of_its_mixture(
    student: list[float], teacher: list[float], beta: float
) -> None:
    value, _ = _measured({"kind": "jsd", "beta": beta}, student, teacher, torch.float64)
    choice = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
    assert value * beta * (1 - beta) <= choice + 1e-9


@pytest.mark.parametrize(("beta", "end"), [(1e-5, "forward_kl"), (1 - 1e-5, "reverse_kl")])
def test_jensen_shannon_goes_over_into_the_two_kls(beta: float, end: str) -> None:
    rng = np.random.default_rng(0)
    for student, teacher in rng.normal(size=(20, 2, 7)).tolist():
        jsd = _measured({"kind": "jsd", "beta": beta}, student, teacher, torch.float64)
        limit = _measured({"kind": end}, student, teacher, torch.float64)
        assert jsd[0] == pytest.approx(limit[0], rel=1e-3)
        np.testing.assert_allclose(jsd[1], limit[1], rtol=5e-3, atol=1e-4)


def test_jensen_shannon_is_symmetric_at_one_half() -> None:
    student, teacher = [0.3, -1.0, 2.0], [1.0, 0.0, -0.5]
    kind: dict[str, str | float] = {"kind": "jsd"}
    there = _measured(kind, student, teacher, torch.float64)[0]
    assert there == pytest.approx(_measured(kind, teacher, student, torch.float64)[0])


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_the_ends_of_jensen_shannon_are_refused(beta: float) -> None:
    with pytest.raises(ValidationError, match="beta"):
        JensenShannon(beta=beta)


@pytest.mark.parametrize("kind", ["forward_kl", "jsd"])
def test_one_sampled_token_estimates_no_other_divergence(kind: str) -> None:
    with pytest.raises(ValidationError, match=f"{kind} cannot be estimated from the sampled token"):
        Divergence.model_validate({"kind": kind, "support": "sampled"})


def test_entropy_of_a_uniform_and_of_a_one_hot_distribution() -> None:
    logits_NV = torch.tensor([[0.0, 0.0, 0.0, -INF], [0.0, -INF, -INF, -INF]])
    found = entropy(torch.log_softmax(logits_NV, -1)).tolist()
    assert found == pytest.approx([math.log(3), 0.0])


def test_tokens_do_not_see_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    p_NV, q_NV = torch.log_softmax(torch.randn(2, 5, 7, generator=generator), -1)
    alone = torch.cat([kl(p_NV[n : n + 1], q_NV[n : n + 1]) for n in range(5)])
    assert torch.equal(kl(p_NV, q_NV), alone)


# Seven tokens: few enough to sum over all of them in place of sampling.
_RNG = np.random.default_rng(7)
STUDENT, TEACHER, ROLLOUT = _RNG.normal(size=(3, 7)).tolist()
Surrogate = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def _expected_gradient(loss_of: Surrogate, rollout: list[float] | None = None) -> Array:
    """The gradient by the student's logits of E[loss(log p(y), log q(y), log mu(y))], y from mu.

    mu is a constant. It is the student itself where no `rollout` is given.
    """
    logits = torch.tensor(STUDENT, dtype=torch.float64, requires_grad=True)
    p_V = torch.log_softmax(logits, -1)
    q_V = torch.log_softmax(torch.tensor(TEACHER, dtype=torch.float64), -1)
    mu_V = torch.log_softmax(torch.tensor(rollout or STUDENT, dtype=torch.float64), -1)
    expected = (mu_V.exp() * loss_of(p_V, q_V, mu_V)).sum()
    return torch.autograd.grad(expected, logits)[0].numpy()


def _as_advantage(p_V: torch.Tensor, q_V: torch.Tensor, mu_V: torch.Tensor) -> torch.Tensor:
    p_VV, q_VV = p_V.expand(len(p_V), -1), q_V.expand(len(q_V), -1)
    value_V = ReverseKL(support="sampled").per_token(p_VV, q_VV, torch.arange(len(p_V)))
    return policy_gradient(p_V, mu_V, value_V, clip=None)


@pytest.mark.parametrize("rollout", [None, ROLLOUT], ids=["on_policy", "off_policy"])
def test_the_sampled_advantage_has_the_gradient_of_the_exact_reverse_kl(
    rollout: list[float] | None,
) -> None:
    _, exact = _reference({"kind": "reverse_kl"}, _softmax(STUDENT), _softmax(TEACHER))
    assert np.abs(exact).max() > 0.1
    np.testing.assert_allclose(_expected_gradient(_as_advantage, rollout), exact, atol=1e-12)


def test_a_log_ratio_back_propagated_as_a_loss_teaches_nothing() -> None:
    found = _expected_gradient(lambda p_V, q_V, mu_V: p_V - q_V)
    np.testing.assert_allclose(found, 0.0, atol=1e-12)


def test_k3_back_propagated_as_a_loss_teaches_the_forward_kl() -> None:
    found = _expected_gradient(lambda p_V, q_V, mu_V: (q_V - p_V).exp() - 1 + p_V - q_V)
    _, forward = _reference({"kind": "forward_kl"}, _softmax(STUDENT), _softmax(TEACHER))
    np.testing.assert_allclose(found, forward, atol=1e-12)


def test_a_divergence_that_returns_an_advantage_carries_no_gradient() -> None:
    p_NV = torch.log_softmax(torch.randn(3, 5, requires_grad=True), -1)
    divergence = ReverseKL(support="sampled")
    assert divergence.returns == "advantage"
    assert not divergence.per_token(p_NV, p_NV.detach(), torch.zeros(3).long()).requires_grad


def test_nothing_is_differentiated_through_an_advantage() -> None:
    """Were it, a divergence of a user's own could smuggle in the loss that teaches nothing."""
    logprob, behaviour = torch.tensor([-1.0], requires_grad=True), torch.tensor([-1.5])
    advantage = 3.0 - logprob
    policy_gradient(logprob, behaviour, advantage, clip=None).sum().backward()
    assert logprob.grad is not None
    assert logprob.grad.item() == pytest.approx(-math.exp(0.5) * 4.0)
