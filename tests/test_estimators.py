"""Estimators: what they pull on average, summed over every token that might be sampled."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import ValidationError

from agentopd.divergences.base import Divergence
from agentopd.divergences.estimators import (
    Clipped,
    Estimator,
    Gated,
    Importance,
    Truncated,
)
from agentopd.divergences.future import RewardToGo
from agentopd.divergences.kl import ForwardKL, ReverseKL
from agentopd.divergences.support import SampledSupport
from agentopd.divergences.targets import Extrapolate, Veto
from agentopd.signal.evidence import Measured, Opinion
from agentopd.signal.surrogate import policy_gradient
from agentopd.signal.tokens import Tokens

Array = npt.NDArray[np.float64]

# Seven tokens: few enough to sum over all of them in place of sampling.
_RNG = np.random.default_rng(7)
STUDENT, TEACHER, ROLLOUT, REFERENCE = _RNG.normal(size=(4, 7))
policies = pytest.mark.parametrize("rollout", [None, ROLLOUT], ids=["on_policy", "off_policy"])


def _softmax(logits: Array) -> Array:
    return np.exp(logits) / np.exp(logits).sum()


P, Q, MU, REF = (_softmax(x) for x in (STUDENT, TEACHER, ROLLOUT, REFERENCE))
SCORE = np.eye(7) - P
"""The gradient by the student's logits of each token's log-probability, a row a token."""
REVERSE = (P * np.log(P / Q)) @ SCORE
FORWARD = -Q @ SCORE


def _tokens(behaviour_N: torch.Tensor, lesson_N: torch.Tensor | None = None) -> Tokens:
    """Tokens of one episode each, unless told otherwise."""
    count = torch.arange(len(behaviour_N))
    lesson_N = count if lesson_N is None else lesson_N
    return Tokens(
        ids_N=count,
        turn_N=torch.zeros_like(count),
        lesson_N=lesson_N,
        behaviour_N=behaviour_N,
        place_N=count,
        lessons=int(lesson_N.max()) + 1,
    )


def _opinion(logprob_N: torch.Tensor) -> Opinion:
    nothing_N = torch.zeros_like(logprob_N)
    return Opinion(logprob_N, nothing_N, nothing_N)


def _expected(divergence: Divergence, rollout: Array | None = None) -> Array:
    """The gradient by the student's logits of what an estimator makes of each token, averaged over
    the rollout's policy: the student itself where none is given. The average is a constant.
    """
    logits = torch.tensor(STUDENT, requires_grad=True)
    p_V = torch.log_softmax(logits, -1)
    q_V, mu_V, ref_V = (
        torch.log_softmax(torch.tensor(x), -1)
        for x in (TEACHER, STUDENT if rollout is None else rollout, REFERENCE)
    )
    measured = Measured(_opinion(p_V), _opinion(q_V), _opinion(ref_V))
    value_V = divergence.estimated(measured, _tokens(mu_V))
    if divergence.returns == "advantage":
        assert not value_V.requires_grad
        assert divergence.estimated_by is not None
        value_V = divergence.estimated_by.surrogate(p_V, mu_V, value_V)
    return torch.autograd.grad((mu_V.exp() * value_V).sum(), logits)[0].numpy()


def _sampled(kind: str, estimator: Any = None, **more: Any) -> Divergence:
    return Divergence.model_validate(
        {"kind": kind, "support": "sampled", "estimator": estimator, **more}
    )


@policies
@pytest.mark.parametrize("estimator", [None, "k1", "k2", "rho_k3", {"kind": "reward_to_go"}])
def test_estimators_have_the_gradient_of_the_exact_reverse_kl(
    estimator: Any, rollout: Array | None
) -> None:
    assert np.abs(REVERSE).max() > 0.1
    found = _expected(_sampled("reverse_kl", estimator), rollout)
    np.testing.assert_allclose(found, REVERSE, atol=1e-12)


@policies
def test_weighted_to_the_teacher_students_tokens_have_the_forward_kls_gradient(
    rollout: Array | None,
) -> None:
    assert np.linalg.norm(FORWARD - REVERSE) > 0.05
    found = _expected(_sampled("forward_kl", "importance"), rollout)
    np.testing.assert_allclose(found, FORWARD, atol=1e-12)


@pytest.mark.parametrize("estimator", ["truncated", "clipped", {"kind": "k1", "stale": True}])
def test_rules_for_the_ratio_do_not_matter_on_policy(estimator: Any) -> None:
    found = _expected(_sampled("reverse_kl", estimator))
    np.testing.assert_allclose(found, REVERSE, atol=1e-12)


def test_a_truncated_ratio_counts_as_its_cap() -> None:
    ratio = np.minimum(P / MU, 1.5)
    assert 0 < (P / MU > 1.5).sum() < 7
    found = _expected(_sampled("reverse_kl", Truncated(cap=1.5)), ROLLOUT)
    np.testing.assert_allclose(found, -(MU * ratio * np.log(Q / P)) @ SCORE, atol=1e-12)
    assert np.abs(found - REVERSE).max() > 0.01


def test_a_clipped_token_moves_no_further_in_its_advantages_direction() -> None:
    ratio, advantage = P / MU, np.log(Q / P)
    out = np.where(advantage > 0, ratio > 1.2, ratio < 0.8)
    assert 0 < out.sum() < 7
    found = _expected(_sampled("reverse_kl", Clipped(clip=0.2)), ROLLOUT)
    np.testing.assert_allclose(found, -(MU * ratio * advantage * ~out) @ SCORE, atol=1e-12)


def test_a_stale_advantage_is_the_rollouts() -> None:
    found = _expected(_sampled("reverse_kl", {"kind": "k1", "stale": True}), ROLLOUT)
    np.testing.assert_allclose(found, -(P * np.log(Q / MU)) @ SCORE, atol=1e-12)


def test_an_uncorrected_k2_is_off_the_reverse_kl_off_policy() -> None:
    plain = _sampled("reverse_kl", {"kind": "k2", "corrected": False})
    np.testing.assert_allclose(_expected(plain), REVERSE, atol=1e-12)
    off = _expected(plain, ROLLOUT)
    np.testing.assert_allclose(off, (MU * np.log(P / Q)) @ SCORE, atol=1e-12)
    assert np.abs(off - REVERSE).max() > 0.05


def test_the_gate_is_a_likelihood_of_what_the_teacher_likes_better() -> None:
    gate = 1 / (1 + (P / Q) ** 5.0)
    found = _expected(_sampled("reverse_kl", Gated(beta=5.0)))
    np.testing.assert_allclose(found, -(P * gate) @ SCORE, atol=1e-12)
    off = _expected(_sampled("reverse_kl", Gated(beta=5.0)), ROLLOUT)
    np.testing.assert_allclose(off, -(MU * gate) @ SCORE, atol=1e-12)
    cosines = [
        found @ exact / np.linalg.norm(found) / np.linalg.norm(exact)
        for exact in (REVERSE, FORWARD)
    ]
    assert all(0.5 < cosine < 0.99 for cosine in cosines)
    flat = _expected(_sampled("reverse_kl", Gated(beta=1e-9)))
    np.testing.assert_allclose(flat, 0.0, atol=1e-9)


def test_a_capped_weight_is_a_bias() -> None:
    weight = np.minimum(Q / P, 1.1)
    assert 0 < (Q / P > 1.1).sum() < 7
    found = _expected(_sampled("forward_kl", Importance(cap=1.1)))
    np.testing.assert_allclose(found, -(P * (weight - 1)) @ SCORE, atol=1e-12)


@policies
def test_targets_known_up_to_their_normaliser_have_the_exact_gradient(
    rollout: Array | None,
) -> None:
    vetoed = Q * P**0.4 / (Q * P**0.4).sum()
    found = _expected(_sampled("reverse_kl", target=Veto(beta=0.4)), rollout)
    np.testing.assert_allclose(found, (P * np.log(P / vetoed)) @ SCORE, atol=1e-12)
    beyond = Q**1.25 * REF**-0.25 / (Q**1.25 * REF**-0.25).sum()
    found = _expected(_sampled("reverse_kl", target=Extrapolate(scale=1.25)), rollout)
    np.testing.assert_allclose(found, (P * np.log(P / beyond)) @ SCORE, atol=1e-12)


Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def _expected_of(loss_of: Loss, rollout: Array | None = None) -> Array:
    """As `_expected`, of a loss written down here: loss(log p(y), log q(y), log mu(y))."""
    logits = torch.tensor(STUDENT, requires_grad=True)
    p_V = torch.log_softmax(logits, -1)
    q_V = torch.log_softmax(torch.tensor(TEACHER), -1)
    mu_V = torch.log_softmax(torch.tensor(STUDENT if rollout is None else rollout), -1)
    expected = (mu_V.exp() * loss_of(p_V, q_V, mu_V)).sum()
    return torch.autograd.grad(expected, logits)[0].numpy()


def _k3(p_V: torch.Tensor, q_V: torch.Tensor) -> torch.Tensor:
    return (q_V - p_V).exp() - 1 + p_V - q_V


def test_a_log_ratio_back_propagated_as_a_loss_teaches_nothing() -> None:
    found = _expected_of(lambda p_V, q_V, mu_V: p_V - q_V)
    np.testing.assert_allclose(found, 0.0, atol=1e-12)


def test_k3_back_propagated_teaches_the_forward_kl_and_off_policy_neither() -> None:
    found = _expected_of(lambda p_V, q_V, mu_V: _k3(p_V, q_V))
    np.testing.assert_allclose(found, FORWARD, atol=1e-12)
    off = _expected_of(lambda p_V, q_V, mu_V: _k3(p_V, q_V), ROLLOUT)
    assert min(np.abs(off - exact).max() for exact in (FORWARD, REVERSE)) > 0.05


@policies
def test_a_detached_ratio_before_k3_teaches_the_forward_kl(rollout: Array | None) -> None:
    found = _expected_of(lambda p, q, mu: (p - mu).exp().detach() * _k3(p, q), rollout)
    np.testing.assert_allclose(found, FORWARD, atol=1e-12)


def test_a_live_ratio_before_k3_is_k1_token_by_token_and_the_reverse_kl_in_value() -> None:
    p_N = torch.tensor([-0.5, -2.0, -1.0], dtype=torch.float64, requires_grad=True)
    q_N, mu_N = (torch.tensor(x, dtype=torch.float64) for x in ([-1.0, -0.3, -1.0], [-0.7, -1, -2]))
    losses = []
    for estimator in (Estimator.model_validate("rho_k3"), Estimator.model_validate("k1")):
        value_N = estimator.per_token(p_N, q_N, _tokens(mu_N))
        if estimator.returns == "advantage":
            value_N = estimator.surrogate(p_N, mu_N, value_N)
        losses.append(torch.autograd.grad(value_N.sum(), p_N)[0])
    torch.testing.assert_close(*losses)
    p_V, q_V, mu_V = (torch.tensor(np.log(x)) for x in (P, Q, MU))
    value_V = Estimator.model_validate("rho_k3").per_token(p_V, q_V, _tokens(mu_V))
    assert (MU * value_V.numpy()).sum() == pytest.approx((P * np.log(P / Q)).sum())


ALL = ["k1", "truncated", "clipped", "reward_to_go", "k2", "rho_k3", "importance"]


@pytest.mark.parametrize("kind", ALL)
def test_where_the_models_are_equal_nothing_moves_sample_by_sample(kind: str) -> None:
    estimator = Estimator.model_validate(kind)
    p_N = torch.tensor([-0.3, -4.0, -11.0], requires_grad=True)
    mu_N = torch.tensor([-0.5, -4.0, -9.0])
    value_N = estimator.per_token(p_N, p_N.detach(), _tokens(mu_N))
    if estimator.returns == "advantage":
        value_N = estimator.surrogate(p_N, mu_N, value_N)
    (gradient_N,) = torch.autograd.grad(value_N.sum(), p_N)
    assert not gradient_N.any()


def test_reward_to_go_sums_what_follows_in_the_same_episode() -> None:
    """Gaps 1, 2, 4 | 8, 16 at a discount of 1/2: 1 + 1 + 1, 2 + 2, 4 | 8 + 8, 16."""
    q_N, lesson_N = torch.tensor([1.0, 2, 4, 8, 16]), torch.tensor([0, 0, 0, 1, 1])
    tokens, all_N = _tokens(torch.zeros(5), lesson_N), torch.ones(5, dtype=torch.bool)
    own_N = RewardToGo().per_token(torch.zeros(5), q_N, tokens)
    assert own_N.tolist() == q_N.tolist()
    found = RewardToGo(discount=0.5).credited(own_N, all_N, tokens)
    assert found.tolist() == [3.0, 4.0, 4.0, 16.0, 16.0]
    assert RewardToGo(discount=0.0).credited(own_N, all_N, tokens).tolist() == q_N.tolist()
    assert RewardToGo().credited(own_N, all_N, tokens).tolist() == [7, 6, 4, 24, 16]


def test_what_is_removed_is_in_no_tokens_future() -> None:
    """Of gaps 1, 2, 4, 8 the first and the third are removed, and no number is there at all."""
    gap_N, kept_N = torch.tensor([1.0, 2, torch.inf, 8]), torch.tensor([False, True, False, True])
    tokens = _tokens(torch.zeros(4), torch.zeros(4, dtype=torch.long))
    assert RewardToGo().credited(gap_N, kept_N, tokens)[[1, 3]].tolist() == [10.0, 8.0]
    for kind in (*ALL, "gated"):
        if kind != "reward_to_go":
            own = Estimator.model_validate(kind)
            assert own.credited(gap_N, kept_N, tokens).tolist() == gap_N.tolist()


@pytest.mark.parametrize("lengths", [[1], [37], [1, 1, 5], [16, 1, 64, 3]])
def test_reward_to_go_is_a_plain_backward_sum(lengths: list[int]) -> None:
    lesson_N = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    gap_N = torch.randn(len(lesson_N), generator=torch.Generator().manual_seed(0)).double()
    expected, ahead = [0.0] * len(gap_N), 0.0
    for n in reversed(range(len(gap_N))):
        last = n + 1 == len(gap_N) or lesson_N[n + 1] != lesson_N[n]
        ahead = gap_N[n].item() + (0.0 if last else 0.9 * ahead)
        expected[n] = ahead
    tokens = _tokens(torch.zeros_like(gap_N), lesson_N)
    found = RewardToGo(discount=0.9).credited(gap_N, torch.ones_like(gap_N).bool(), tokens)
    assert found.tolist() == pytest.approx(expected)


def _two_steps(discount: float) -> tuple[Array, Array]:
    """Over all answers of two tokens out of three: the expected gradient of the estimator, and the
    exact one of the whole answer's reverse KL, by the 3 + 9 logits.
    """
    rng = torch.Generator().manual_seed(5)
    logits = torch.randn(4, 3, generator=rng, dtype=torch.float64).requires_grad_()
    p = torch.log_softmax(logits, -1)
    q = torch.log_softmax(torch.randn(4, 3, generator=rng, dtype=torch.float64), -1)
    answers = list(itertools.product(range(3), range(3)))
    # Row 0 holds the first token; row 1 + first, the second one after it.
    rows = torch.tensor([[0, 1 + first] for first, _ in answers]).flatten()
    ids = torch.tensor(answers).flatten()
    p_N, q_N = p[rows, ids], q[rows, ids]
    lesson_N = torch.arange(len(answers)).repeat_interleave(2)
    tokens = _tokens(p_N.detach(), lesson_N)
    chance = p_N.view(-1, 2).sum(-1).exp()
    own = RewardToGo(discount=discount)
    gap_N = own.per_token(p_N, q_N, tokens)
    ahead_N = own.credited(gap_N, torch.ones_like(gap_N).bool(), tokens)
    loss_N = own.surrogate(p_N, tokens.behaviour_N, ahead_N)
    expected = (chance.detach() * loss_N.view(-1, 2).sum(-1)).sum()
    exact = (chance * (p_N - q_N).view(-1, 2).sum(-1)).sum()
    found = [
        torch.autograd.grad(x, logits, retain_graph=True)[0].numpy() for x in (expected, exact)
    ]
    return found[0], found[1]


def test_undiscounted_reward_to_go_is_the_reverse_kl_of_whole_answers() -> None:
    found, exact = _two_steps(1.0)
    np.testing.assert_allclose(found, exact, atol=1e-12)
    short_sighted, exact = _two_steps(0.0)
    assert np.abs(short_sighted[0] - exact[0]).max() > 0.01
    np.testing.assert_allclose(short_sighted[1:], exact[1:], atol=1e-12)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"estimator": "k1_loss"}, "expected gradient of zero"),
        ({"estimator": "k3"}, "forward KL's gradient"),
        ({"estimator": {"kind": "k3"}}, "rho_k3"),
        ({"estimator": "importance"}, "estimates the forward_kl"),
        ({"kind": "forward_kl"}, "importance, which weights"),
        ({"kind": "forward_kl", "estimator": "k1"}, "estimates the reverse_kl"),
        ({"kind": "jsd"}, "jsd cannot be estimated from the sampled token"),
        ({"kind": "jsd", "estimator": "gated"}, "cannot be estimated from the sampled token"),
        ({"kind": "entropy_switched", "estimator": "k1"}, "cannot be estimated"),
        ({"support": "full", "estimator": "k1"}, "support: full compares distributions exactly"),
        ({"support": "student_top_k", "estimator": "k2"}, "compares distributions exactly"),
        ({"target": "veto", "estimator": "k2"}, "up to its normaliser"),
        ({"target": "extrapolate", "estimator": "gated"}, "up to its normaliser"),
        ({"target": {"kind": "veto", "student": "live"}}, "a detached target"),
        ({"estimator": "k4"}, "no estimator is called 'k4'"),
        ({"estimator": {"kind": "gated", "beta": 0}}, "expected gradient is zero: noise"),
        ({"estimator": {"kind": "reward_to_go", "discount": 1.5}}, "less than or equal to 1"),
    ],
    ids=str,
)
def test_what_is_void_is_refused_with_the_reason(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Divergence.model_validate({"kind": "reverse_kl", "support": "sampled", **config})


def test_the_reverse_kl_is_estimated_by_k1_unless_told_otherwise() -> None:
    plain = ReverseKL(support=SampledSupport())
    assert plain.estimated_by == Estimator.model_validate("k1")
    assert plain.returns == "advantage"
    assert _sampled("reverse_kl", "rho_k3").returns == "loss"
    assert ReverseKL().estimated_by is None and ReverseKL().returns == "loss"
    # A run's own record can be overridden with another support.
    again = Divergence.model_validate({**plain.model_dump(mode="json"), "support": "full"})
    assert again == ReverseKL()
    chosen = ForwardKL(support=SampledSupport(), estimator=Importance())
    assert Divergence.model_validate(chosen.model_dump(mode="json")) == chosen


def test_every_estimator_declares_what_it_is() -> None:
    for estimator in Estimator.members():
        assert estimator.returns in ("loss", "advantage")
        assert estimator.estimates in ("reverse_kl", "forward_kl", "neither")
        assert estimator.kind not in ("k3", "k1_loss")


def test_nothing_is_differentiated_through_an_advantage() -> None:
    """Were it, an estimator of a user's own could smuggle in the loss that teaches nothing."""
    for estimator in (Estimator.model_validate(x) for x in ("k1", "truncated", "clipped", "gated")):
        logprob = torch.tensor([-1.0], requires_grad=True)
        loss = estimator.surrogate(logprob, torch.tensor([-1.0]), 3.0 - logprob)
        loss.sum().backward()
        assert logprob.grad is not None
        assert logprob.grad.item() == pytest.approx(-4.0)
    logprob, behaviour = torch.tensor([-1.0], requires_grad=True), torch.tensor([-1.5])
    policy_gradient(logprob, behaviour, 3.0 - logprob, clip=None).sum().backward()
    assert logprob.grad is not None
    assert logprob.grad.item() == pytest.approx(-math.exp(0.5) * 4.0)
