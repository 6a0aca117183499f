"""Supports: every divergence on every support, what is captured, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from compared import KINDS, Config, compared, named
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import autograd, differences, softmax
from pydantic import ValidationError

from agentopd.divergences.base import Divergence, Row
from agentopd.divergences.logprobs import entropy
from agentopd.divergences.support import (
    FullSupport,
    IntersectionTopK,
    SampledSupport,
    StudentTopK,
    Support,
    TeacherTopK,
    TopKSupport,
    UnionTopK,
)

INF = math.inf
VOCABULARY = 6
TOP_K = ["student_top_k", "teacher_top_k", "intersection_top_k", "union_top_k"]
RESTS = ["tail", "renormalise", "raw"]
SUMS = [kind for kind in KINDS if kind["kind"] != "alpha" and kind.get("beta") in (None, 0.5)]
WHOLE: list[Config] = [
    {"kind": "alpha", "form": "renyi", "alpha": 0.3},
    {"kind": "alpha", "form": "amari", "alpha": 0.6},
    {"kind": "reverse_kl", "target": {"kind": "veto", "beta": 0.3, "student": "detached"}},
    {"kind": "jsd", "beta": 0.4, "target": {"kind": "veto", "beta": 0.6, "student": "live"}},
    {"kind": "forward_kl", "target": {"kind": "extrapolate", "scale": 1.25}},
]


def _supports(kind: str, rest: str) -> list[Config]:
    first = 2 if rest == "renormalise" and kind != "union_top_k" else 1
    return [{"kind": kind, "k": k, "rest": rest} for k in (first, 3, VOCABULARY)]


# Models apart, a student nearly sure, and tokens that neither, or one of the two, ever says.
PAIRS = [
    *np.random.default_rng(2).normal(0, 2, (1, 3, VOCABULARY)),
    np.array([[0.3, -1.0, 2.0, 0.1, -0.4, 0.9], [40.0, 1.0, 0.5, 0.0, -2.0, 3.0], [0.0] * 6]),
]
EDGES = [
    ([0.3, -1.0, 2.0, -INF, -INF, 0.9], [1.0, 0.2, 0.5, -INF, -INF, 3.0]),
    ([500.0, 0.2, 0.1, 0.0, -0.1, -0.2], [0.0, 400.0, 0.1, 0.2, -0.1, 0.3]),
    ([0.0, -40.0, -41.0, -42.0, -43.0, -44.0], [0.0, -45.0, -44.0, -43.0, -42.0, -41.0]),
]


@pytest.mark.parametrize("rest", RESTS)
@pytest.mark.parametrize("kind", TOP_K)
def test_every_divergence_agrees_with_the_reference_and_with_finite_differences(
    kind: str, rest: str
) -> None:
    for support in _supports(kind, rest):
        for own in SUMS if rest == "raw" else [*SUMS, *WHOLE]:
            config = {**own, "support": support}
            for pair in PAIRS:
                rows = pair.tolist()
                found, found_gradient, _ = compared(config, *rows)
                value, gradient = autograd(config, *rows)
                label = str((config, rows))
                assert found == pytest.approx(value, rel=1e-8, abs=1e-11), label
                np.testing.assert_allclose(found_gradient, gradient, rtol=1e-7, atol=1e-10)
            numeric = differences(config, *PAIRS[0].tolist())
            found_gradient = compared(config, *PAIRS[0])[1]
            np.testing.assert_allclose(found_gradient, numeric, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("rest", RESTS)
@pytest.mark.parametrize("kind", TOP_K)
@pytest.mark.parametrize(("student", "teacher"), EDGES)
def test_edges_agree_with_the_reference(
    kind: str, rest: str, student: list[float], teacher: list[float]
) -> None:
    for support in _supports(kind, rest)[:2]:
        for own in SUMS if rest == "raw" else SUMS + WHOLE[:1]:
            config = {**own, "support": support}
            found, found_gradient, _ = compared(config, student, teacher)
            value, gradient = autograd(config, student, teacher, teacher)
            assert found == pytest.approx(value, rel=1e-6, abs=1e-9), config
            np.testing.assert_allclose(found_gradient, gradient, rtol=1e-5, atol=1e-8)


_logits = st.lists(st.floats(-60, 60), min_size=VOCABULARY, max_size=VOCABULARY)
_k = st.integers(2, VOCABULARY)
whole_kinds = pytest.mark.parametrize("own", [*SUMS, *WHOLE[:2]], ids=named)


@whole_kinds
@pytest.mark.parametrize("rest", ["tail", "renormalise"])
@settings(max_examples=8)
@given(kind=st.sampled_from(TOP_K), k=_k, logits=_logits)
def test_equal_models_have_a_gradient_of_exactly_nothing(
    own: Config, rest: str, kind: str, k: int, logits: list[float]
) -> None:
    config = {**own, "support": {"kind": kind, "k": k, "rest": rest}}
    value, gradient, _ = compared(config, logits, logits, dtype=torch.float32)
    assert value == 0.0
    assert not gradient.any()


@whole_kinds
@pytest.mark.parametrize("rest", ["tail", "renormalise"])
@settings(max_examples=8)
@given(kind=st.sampled_from(TOP_K), k=_k, student=_logits, teacher=_logits)
def test_reduced_divergences_are_not_negative(
    own: Config, rest: str, kind: str, k: int, student: list[float], teacher: list[float]
) -> None:
    config = {**own, "support": {"kind": kind, "k": k, "rest": rest}}
    assert compared(config, student, teacher)[0] >= -1e-12


@settings(max_examples=60)
@given(
    kind=st.sampled_from(TOP_K),
    rest=st.sampled_from(RESTS),
    k=_k,
    rows=st.lists(
        st.lists(st.floats(-20, 20), min_size=6, max_size=6, unique=True), min_size=2, max_size=2
    ),
    order=st.permutations(range(VOCABULARY)),
)
def test_the_order_of_the_vocabulary_does_not_matter(
    kind: str, rest: str, k: int, rows: list[list[float]], order: list[int]
) -> None:
    """Of logits without ties in float64: among equals, which are the likeliest is anyone's say."""
    config = {"kind": "jsd", "support": {"kind": kind, "k": k, "rest": rest}}
    logits = np.array([*rows, rows[1]])
    probabilities = np.array([softmax(row) for row in logits])
    if min(len(set(row)) for row in probabilities.tolist()) < VOCABULARY:
        return
    value, gradient, mass = compared(config, *logits)
    found, found_gradient, found_mass = compared(config, *logits[:, order])
    assert (found, found_mass) == (pytest.approx(value, abs=1e-12), pytest.approx(mass))
    np.testing.assert_allclose(found_gradient, gradient[order], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("kind", TOP_K)
@pytest.mark.parametrize("rest", RESTS)
def test_the_whole_vocabulary_is_the_full_support(kind: str, rest: str) -> None:
    for own in SUMS if rest == "raw" else [*SUMS, *WHOLE]:
        all_of_it = {"kind": kind, "k": VOCABULARY, "rest": rest}
        for student, teacher, other in PAIRS:
            found = compared({**own, "support": all_of_it}, student, teacher, other)
            expected = compared(own, student, teacher, other)
            assert found[0] == pytest.approx(expected[0], rel=1e-9, abs=1e-12)
            np.testing.assert_allclose(found[1], expected[1], rtol=1e-7, atol=1e-10)
            assert found[2] == pytest.approx(1.0)


@pytest.mark.parametrize("rest", RESTS)
def test_ties_are_broken_alike_on_equal_models(rest: str) -> None:
    config = {"kind": "reverse_kl", "support": {"kind": "student_top_k", "k": 2, "rest": rest}}
    value, gradient, mass = compared(config, [0.0] * 6, [0.0] * 6, [0.0] * 6)
    assert mass == pytest.approx(1 / 3)
    assert value == 0.0
    assert gradient.sum() == pytest.approx(0.0, abs=1e-12)


STUDENT, TEACHER = [0.5, 0.3, 0.15, 0.05], [0.1, 0.4, 0.2, 0.3]


def _select(support: Support) -> tuple[list[float], list[float], float]:
    """Probabilities of student and teacher in each category, and the captured mass."""
    student_NV, teacher_NV = torch.tensor([STUDENT]).log(), torch.tensor([TEACHER]).log()
    found = support.select(student_NV, teacher_NV)
    p_K, q_K = found.student_NK[0].exp(), found.teacher_NK[0].exp()
    return p_K.tolist(), q_K.tolist(), found.mass_N.item()


@pytest.mark.parametrize(
    ("support", "student", "teacher", "mass"),
    [
        (StudentTopK(k=2), [0.5, 0.3, 0.2], [0.1, 0.4, 0.5], 0.8),
        (TeacherTopK(k=2), [0.3, 0.05, 0.65], [0.4, 0.3, 0.3], 0.35),
        (StudentTopK(k=2, rest="raw"), [0.5, 0.3], [0.1, 0.4], 0.8),
        (StudentTopK(k=2, rest="renormalise"), [5 / 8, 3 / 8], [1 / 5, 4 / 5], 0.8),
        # Token 1 alone is among the two likeliest of both.
        (IntersectionTopK(k=2), [0.0, 0.3, 0.7], [0.0, 0.4, 0.6], 0.3),
        # Tokens 0, 1 and, from the teacher, 3; token 1 does not count twice.
        (UnionTopK(k=2), [0.5, 0.3, 0.0, 0.05, 0.15], [0.1, 0.4, 0.0, 0.3, 0.2], 0.85),
        (IntersectionTopK(k=1), [0.0, 1.0], [0.0, 1.0], 0.0),
        (FullSupport(), STUDENT, TEACHER, 1.0),
    ],
    ids=repr,
)
def test_categories_of_a_worked_example(
    support: Support, student: list[float], teacher: list[float], mass: float
) -> None:
    p_K, q_K, found = _select(support)
    assert p_K == pytest.approx(student)
    assert q_K == pytest.approx(teacher)
    assert found == pytest.approx(mass)


@pytest.mark.parametrize("rest", RESTS)
@pytest.mark.parametrize("own", [{"kind": k} for k in ("reverse_kl", "forward_kl", "jsd", "skew")])
def test_a_row_without_categories_contributes_nothing(own: Config, rest: str) -> None:
    """Disjoint likeliest tokens; the row beside it has some."""
    config = {**own, "support": {"kind": "intersection_top_k", "k": 2, "rest": rest}}
    divergence = Divergence.model_validate(config)
    rows = torch.tensor([[3.0, 2.0, 0.0, 0.0], [3.0, 2.0, 0.0, 0.0]])
    student_NV = torch.log_softmax(rows, -1)
    teacher_NV = torch.log_softmax(torch.tensor([[0.0, 0.0, 3.0, 2.0], [1.0, 2.0, 0.0, 0.0]]), -1)
    chosen = divergence.support.select(student_NV, teacher_NV)
    value_N, pull_NK = divergence.compare(
        chosen.student_NK, chosen.teacher_NK, Row(entropy(teacher_NV))
    )
    gradient_NV = divergence.support.spread(chosen, pull_NK, student_NV)
    assert value_N[0].item() == 0.0 and chosen.mass_N[0].item() == 0.0
    assert not gradient_NV[0].any()
    assert value_N[1].item() != 0.0 and gradient_NV[1].abs().max() > 1e-3


@pytest.mark.parametrize("rest", RESTS)
def test_rows_without_categories_contribute_nothing_to_the_last_bit(rest: str) -> None:
    """A tail of everything, summed in float32, would be off by a rounding."""
    support = {"kind": "intersection_top_k", "k": 2, "rest": rest}
    divergence = Divergence.model_validate({"kind": "jsd", "support": support})
    rows = torch.randn(2, 200, 40, generator=torch.Generator().manual_seed(0))
    student_NV, teacher_NV = torch.log_softmax(rows, -1)
    chosen = divergence.support.select(student_NV, teacher_NV)
    row = Row(entropy(teacher_NV))
    value_N, pull_NK = divergence.compare(chosen.student_NK, chosen.teacher_NK, row)
    gradient_NV = divergence.support.spread(chosen, pull_NK, student_NV)
    empty_N = chosen.mass_N == 0
    assert 100 < empty_N.sum() < 200
    assert not value_N[empty_N].any() and not gradient_NV[empty_N].any()


@pytest.mark.parametrize("kind", ["alpha", "reverse_kl"])
def test_a_row_without_categories_has_no_target_to_miss(kind: str) -> None:
    target = {"kind": "veto", "student": "live"} if kind == "reverse_kl" else None
    support = {"kind": "intersection_top_k", "k": 2, "rest": "renormalise"}
    config = {"kind": kind, "target": target, "support": support}
    value, gradient, mass = compared(config, [3.0, 2, 0, 0], [0.0, 0, 3, 2], [0.0] * 4)
    assert (value, mass) == (0.0, 0.0)
    assert not gradient.any()


def test_a_tail_of_next_to_nothing_is_not_rounding() -> None:
    """1 less the mass of the likeliest token is 0 in float32: a KL taken from there is infinite."""
    config = {"kind": "reverse_kl", "support": {"kind": "student_top_k", "k": 1}}
    student, teacher = [30.0, 0.0, 1.0, 0.5], [40.0, 0.0, -1.0, 0.2]
    exact, exact_gradient, _ = compared(config, student, teacher)
    found, gradient, _ = compared(config, student, teacher, dtype=torch.float32)
    assert 0 < exact < 1e-10
    assert found == pytest.approx(exact, abs=1e-11)
    np.testing.assert_allclose(gradient, exact_gradient, rtol=1e-4, atol=1e-16)


def test_a_raw_sum_does_not_vanish_at_equality_and_may_be_negative() -> None:
    """Its gradient there moves the chosen mass M: p (1 - M) for the chosen, - p M for the rest."""
    support = {"kind": "student_top_k", "k": 2, "rest": "raw"}
    logits = np.log(STUDENT)
    value, gradient, _ = compared(
        {"kind": "reverse_kl", "support": support}, logits, logits, logits
    )
    assert value == 0.0
    np.testing.assert_allclose(gradient, [0.5 * 0.2, 0.3 * 0.2, -0.15 * 0.8, -0.05 * 0.8])
    _, gradient, _ = compared({"kind": "forward_kl", "support": support}, logits, logits, logits)
    np.testing.assert_allclose(gradient, [-0.5 * 0.2, -0.3 * 0.2, 0.15 * 0.8, 0.05 * 0.8])
    low = compared({"kind": "forward_kl", "support": support}, logits, np.log(TEACHER), logits)
    # 0.1 log(0.1 / 0.5) + 0.4 log(0.4 / 0.3)
    assert low[0] == pytest.approx(0.1 * math.log(0.2) + 0.4 * math.log(4 / 3))
    assert low[0] < 0


def test_renormalised_is_blind_to_the_mass_it_captures() -> None:
    config = {"kind": "reverse_kl", "support": {"kind": "student_top_k", "k": 2}}
    student, teacher = np.log([0.5, 0.3, 0.15, 0.05]), np.log([0.25, 0.15, 0.4, 0.2])
    blind = {**config, "support": {**config["support"], "rest": "renormalise"}}
    assert compared(blind, student, teacher)[0] == pytest.approx(0.0, abs=1e-12)
    assert compared(config, student, teacher)[0] > 0.1


def test_the_tail_repairs_most_of_a_small_k() -> None:
    """Cosines with the full gradient, over random pairs of models."""

    def cosine(rest: str, k: int) -> float:
        found = []
        for student, teacher in np.random.default_rng(0).normal(0, 1, (50, 2, 7)):
            support = {"kind": "student_top_k", "k": k, "rest": rest}
            own = compared({"kind": "reverse_kl", "support": support}, student, teacher)
            full = compared({"kind": "reverse_kl"}, student, teacher)
            found.append(own[1] @ full[1] / np.linalg.norm(own[1]) / np.linalg.norm(full[1]))
        return float(np.mean(found))

    assert cosine("tail", 4) > 0.95 > cosine("renormalise", 4)
    assert cosine("tail", 2) > cosine("renormalise", 2)


@pytest.mark.parametrize("support", [StudentTopK, TeacherTopK, IntersectionTopK, UnionTopK])
def test_more_tokens_than_there_are_is_an_error_that_names_both(
    support: type[TopKSupport],
) -> None:
    logprob_NV = torch.log_softmax(torch.zeros(2, 5), -1)
    with pytest.raises(ValueError, match=r"k = 6 .* V = 5"):
        support(k=6).select(logprob_NV, logprob_NV)
    assert support(k=5).select(logprob_NV, logprob_NV).mass_N.tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("kind", TOP_K[:3])
def test_one_token_renormalised_is_refused_with_the_reason(kind: str) -> None:
    with pytest.raises(ValidationError, match="gradient is always zero"):
        Support.model_validate({"kind": kind, "k": 1, "rest": "renormalise"})


def test_the_union_of_two_single_tokens_can_be_renormalised() -> None:
    assert _select(UnionTopK(k=1, rest="renormalise"))[0] == pytest.approx([5 / 8, 3 / 8])


@pytest.mark.parametrize("k", [0, -1])
def test_no_tokens_are_refused(k: int) -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Support.model_validate({"kind": "student_top_k", "k": k})


def test_supports_are_read_by_name_or_with_fields() -> None:
    divergence = Divergence.model_validate({"kind": "reverse_kl", "support": "sampled"})
    assert divergence.support == SampledSupport()
    assert Divergence.model_validate({"kind": "jsd", "support": "full"}).support == FullSupport()
    config = {"kind": "jsd", "support": {"kind": "union_top_k", "k": 20, "rest": "raw"}}
    read = Divergence.model_validate(config)
    assert read.support == UnionTopK(k=20, rest="raw")
    assert Divergence.model_validate(read.model_dump(mode="json")) == read


def test_the_gradient_of_float32_is_that_of_float64() -> None:
    for kind in TOP_K:
        config = {"kind": "jsd", "support": {"kind": kind, "k": 3}}
        for rows in PAIRS:
            narrow, exact = compared(config, *rows, dtype=torch.float32), compared(config, *rows)
            np.testing.assert_allclose(narrow[1], exact[1], rtol=1e-4, atol=1e-6)
