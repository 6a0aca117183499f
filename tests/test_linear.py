"""The fused divergence against the plain one: all logits at once, float64, autograd."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import agentopd.divergences.alpha  # noqa: F401  (imported for the kind it defines)
from agentopd.divergences import tiles
from agentopd.divergences.base import Divergence
from agentopd.divergences.kl import ForwardKL, JensenShannon, ReverseKL
from agentopd.divergences.linear import measure
from agentopd.divergences.question import Question
from agentopd.divergences.support import Support
from agentopd.divergences.tiles import likeliest
from agentopd.models.head import Head, Logits
from agentopd.signal.evidence import Gathered, Measured
from tests.heads import (
    SUPPORTS,
    H,
    N,
    V,
    assert_close,
    chosen_rows,
    gradients_of,
    logits_of,
    normal,
    some_ids,
    three_heads,
)
from tests.naive import naive_value

# N tokens, H hidden size of the student, G of the other models, V vocabulary

KINDS: list[dict[str, Any]] = [
    {"kind": "reverse_kl"},
    {"kind": "forward_kl"},
    {"kind": "jsd", "beta": 0.3},
    {"kind": "skew"},
    {"kind": "alpha"},
    {"kind": "entropy_switched", "threshold": 1.8},
]
TILES = (1, 3 * V, 2**20)
"""One row a tile, three, and all."""


def _naive(kind: dict[str, Any], support: dict[str, Any], *heads: Head) -> torch.Tensor:
    """(N,) values by their definition in probability space."""
    config = Divergence.model_validate({**kind, "support": support}).model_dump()
    config["support"] = "full" if support["kind"] == "full" else config["support"]
    rows = [logits_of(head, 1.7).unbind(0) for head in heads]
    return torch.stack([naive_value(config, *row) for row in zip(*rows, strict=True)])


def test_every_divergence_and_support_is_tried_here() -> None:
    def ours(family: type[Divergence] | type[Support]) -> set[str]:
        return {x.kind for x in family.members() if x.__module__.startswith("agentopd.")}

    # by_owner asks one of the others for each token: see test_by_owner
    assert {kind["kind"] for kind in KINDS} == ours(Divergence) - {"by_owner"}
    assert {x["kind"] for x in SUPPORTS} == ours(Support) - {"sampled"}


@pytest.mark.parametrize("support", SUPPORTS, ids=lambda x: x["kind"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda x: x["kind"])
def test_values_and_gradients_are_the_naive_ones(
    kind: dict[str, Any], support: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "_STRIP", 2 * V)
    student, teacher, _ = three_heads()
    divergence = Divergence.model_validate({**kind, "support": support})
    weight_N = torch.linspace(-1, 2, N, dtype=torch.float64)
    value_N = _naive(kind, support, student, teacher)
    expected = gradients_of((value_N * weight_N).sum(), student)
    for tile in TILES:
        question = Question(some_ids(), divergence, temperature=1.7, tile=tile)
        for known_N in (weight_N, None):
            measured = measure(question, student, teacher, coefficient_N=known_N)
            assert measured.divergence_N is not None
            assert_close([measured.divergence_N], [value_N])
            assert_close(gradients_of((measured.divergence_N * weight_N).sum(), student), expected)


@pytest.mark.parametrize("kind", ["veto", "extrapolate"])
def test_targets_reach_the_reference_model(kind: str) -> None:
    student, teacher, reference = three_heads()
    divergence = Divergence.model_validate({"kind": "reverse_kl", "target": kind})
    assert divergence.target is not None
    measured = measure(Question(some_ids(), divergence, tile=3 * V), student, teacher, reference)
    config = {**divergence.model_dump(), "support": "full"}
    rows = [logits_of(head).detach().unbind(0) for head in (student, teacher, reference)]
    expected = [naive_value(config, *row) for row in zip(*rows, strict=True)]
    assert measured.divergence_N is not None
    assert_close([measured.divergence_N], [torch.stack(expected)])


@pytest.mark.parametrize("tile", TILES)
def test_what_each_model_says_is_read_off_its_own_distribution(tile: int) -> None:
    heads = three_heads()
    question = Question(some_ids(), ReverseKL(), temperature=0.6, ranks=True, tile=tile)
    measured = measure(question, *heads)
    for head, opinion in zip(
        heads, (measured.student, measured.teacher, measured.reference), strict=True
    ):
        p_NV = torch.softmax(logits_of(head, 0.6), -1)
        at_N = p_NV[torch.arange(N), some_ids()]
        assert opinion is not None and opinion.rank_N is not None
        assert_close(
            [opinion.logprob_N, opinion.entropy_N, opinion.top_N],
            [at_N.log(), -(p_NV * p_NV.log()).sum(-1), p_NV.amax(-1).log()],
        )
        assert opinion.rank_N.tolist() == [
            int((p > a).sum()) for p, a in zip(p_NV, at_N, strict=True)
        ]


@pytest.mark.parametrize("tile", TILES)
def test_gradients_of_log_probability_and_entropy_are_those_of_autograd(tile: int) -> None:
    """Alone, together, and with the divergence; the kept pass serves more than one loss."""
    student, teacher, _ = three_heads()
    weight_N = torch.linspace(-1, 2, N, dtype=torch.float64)
    p_NV = torch.log_softmax(logits_of(student, 0.6), -1)
    q_NV = torch.log_softmax(logits_of(teacher, 0.6), -1)
    parts = {
        "logprob": p_NV[torch.arange(N), some_ids()],
        "entropy": -(p_NV.exp() * p_NV).sum(-1),
        "divergence": (p_NV.exp() * (p_NV - q_NV)).sum(-1),
    }
    question = Question(some_ids(), ReverseKL(), temperature=0.6, tile=tile)
    measured = measure(question, student, teacher)
    assert measured.divergence_N is not None
    found = {
        "logprob": measured.student.logprob_N,
        "entropy": measured.student.entropy_N,
        "divergence": measured.divergence_N,
    }
    chosen: list[tuple[str, ...]] = [("logprob",), ("entropy",), ("logprob", "divergence")]
    for names in [*chosen, tuple(parts)]:
        expected = sum((weight_N * parts[x] ** 2).sum() for x in names)
        loss = sum((weight_N * found[x] ** 2).sum() for x in names)
        assert isinstance(expected, torch.Tensor) and isinstance(loss, torch.Tensor)
        live = [student.hidden_NH, student.weight_VH]
        assert_close(
            list(torch.autograd.grad(loss, live, retain_graph=True)),
            list(torch.autograd.grad(expected, live, retain_graph=True)),
        )


@pytest.mark.parametrize("scale", [1.0, -3.0, 1e-20])
def test_a_promised_loss_may_be_scaled(scale: float) -> None:
    student, teacher, _ = three_heads()
    known_N = torch.linspace(0, 1, N, dtype=torch.float64) * 1e-18
    question = Question(some_ids(), ReverseKL(), tile=3 * V)
    found = []
    for coefficient_N in (known_N, None):
        measured = measure(question, student, teacher, coefficient_N=coefficient_N)
        assert measured.divergence_N is not None
        loss = (measured.divergence_N * known_N).sum() * scale
        found.append([x / (1e-18 * abs(scale)) for x in gradients_of(loss, student)])
    assert_close(*found)
    assert found[0][0].abs().max() > 1e-3


@pytest.mark.parametrize("tile", [3 * V, 2**20])
def test_a_broken_promise_costs_time_and_not_the_gradient(tile: int) -> None:
    student, teacher, _ = three_heads()
    known_N = torch.zeros(N, dtype=torch.float64)
    known_N[2] = 1
    question = Question(some_ids(), ReverseKL(), tile=tile)

    def losses(coefficient_N: torch.Tensor | None) -> list[list[torch.Tensor]]:
        found = []
        for loss in (
            lambda m: m.divergence_N.sum(),
            lambda m: (m.divergence_N * known_N).sum() + m.student.entropy_N.sum(),
            lambda m: m.student.logprob_N.sum(),
        ):
            measured = measure(question, student, teacher, coefficient_N=coefficient_N)
            found.append(gradients_of(loss(measured), student))
        return found

    for coefficient_N in (known_N, torch.zeros_like(known_N)):
        for found, expected in zip(losses(coefficient_N), losses(None), strict=True):
            assert_close(found, expected)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("known", [True, False])
def test_a_second_backward_pass_finds_the_same_gradient(known: bool, tile: int) -> None:
    student, teacher, _ = three_heads()
    known_N = torch.linspace(1, 2, N, dtype=torch.float64)
    measured = measure(
        Question(some_ids(), ReverseKL(), tile=tile),
        student,
        teacher,
        coefficient_N=known_N if known else None,
    )
    assert measured.divergence_N is not None
    loss = (measured.divergence_N * known_N).sum()
    first = torch.autograd.grad(loss, student.hidden_NH, retain_graph=True)
    assert_close(list(first), list(torch.autograd.grad(loss, student.hidden_NH)))


@pytest.mark.parametrize("tile", TILES)
def test_the_backward_pass_makes_no_logits_that_are_still_there(
    tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    call = Logits.__call__

    def counted(self: Logits, rows: slice) -> torch.Tensor:
        made.append(rows.start)
        return call(self, rows)

    monkeypatch.setattr(Logits, "__call__", counted)
    student, teacher, _ = three_heads()
    measured = measure(Question(some_ids(), ReverseKL(), tile=tile), student, teacher)
    forward = made.copy()
    assert len(forward) == 2 * len(set(forward))
    assert measured.divergence_N is not None
    measured.divergence_N.sum().backward()
    # The last tile's are used first; all others are made once more.
    assert made == forward + [start for start in forward if start != max(forward)]


def test_what_is_kept_for_the_backward_pass_leaves_no_small_tensors_about() -> None:
    """Between the large ones that are made meanwhile they would cost as much memory as those."""
    student, teacher, _ = three_heads()
    measured = measure(Question(some_ids(), ReverseKL(), tile=3 * V), student, teacher)
    assert measured.divergence_N is not None
    node: Any = measured.divergence_N.grad_fn
    _, strips = node.backward_pass.last
    said = measured.teacher
    assert said is not None
    for strip in strips:
        assert strip.pull_rV is None
        kept = strip.measured.teacher.entropy_N
        assert kept.untyped_storage().data_ptr() == said.entropy_N.untyped_storage().data_ptr()
        assert torch.equal(kept, said.entropy_N[strip.rows])


@pytest.mark.parametrize("known", [True, False])
def test_beside_rewards_the_teacher_is_asked_once(known: bool) -> None:
    """A term that looks at the student alone makes no teacher logits; nor does the promised
    one a second time.
    """
    student, teacher, _ = three_heads()
    known_N = torch.linspace(1, 2, N, dtype=torch.float64)
    measured = measure(
        Question(some_ids(), ReverseKL(), tile=3 * V),
        student,
        teacher,
        coefficient_N=known_N if known else None,
    )
    assert measured.divergence_N is not None
    with torch.no_grad():
        teacher.hidden_NH.fill_(torch.nan)
    for loss in (measured.student.logprob_N.sum(), measured.student.entropy_N.sum()):
        assert torch.autograd.grad(loss, student.hidden_NH, retain_graph=True)[0].isfinite().all()
    loss = (measured.divergence_N * known_N).sum()
    (found_NH,) = torch.autograd.grad(loss, student.hidden_NH)
    assert found_NH.isfinite().all() == known


@pytest.mark.parametrize("divergence", [ReverseKL(), ForwardKL(), JensenShannon()])
def test_equal_models_pull_nowhere(divergence: Divergence) -> None:
    student = three_heads(dtype=torch.float32)[0]
    twin = Head(*(x.detach().clone() for x in (student.hidden_NH, student.weight_VH)))
    student = replace(student, bias_V=None)
    measured = measure(Question(some_ids(), divergence, tile=3 * V), student, twin)
    assert measured.divergence_N is not None
    assert not measured.divergence_N.any()
    assert not any(x.any() for x in gradients_of(measured.divergence_N.sum(), student))


def test_likeliest_tokens_are_kept_with_both_models_log_probabilities() -> None:
    student, teacher, _ = three_heads()
    measured = measure(Question(some_ids(), None, keep=2, tile=3 * V), student, teacher)
    kept = measured.kept
    assert kept is not None and kept.ids_NK.shape == (N, 4)
    p_NV, q_NV = (torch.log_softmax(logits_of(head), -1).detach() for head in (student, teacher))
    for n in range(N):
        by_p, by_q = (x[n].argsort(descending=True).tolist() for x in (p_NV, q_NV))
        assert kept.ids_NK[n].tolist() == by_p[:2] + by_q[:2]
        assert_close(
            [kept.student_NK[n], kept.teacher_NK[n]],
            [p_NV[n, kept.ids_NK[n]], q_NV[n, kept.ids_NK[n]]],
        )


def test_more_tokens_kept_than_there_are_are_all() -> None:
    student, teacher, _ = three_heads()
    measured = measure(Question(some_ids(), None, keep=99), student, teacher)
    assert measured.kept is not None
    assert measured.kept.ids_NK.shape == (N, 2 * V)


@given(
    vocabulary=st.integers(1, 1500),
    k=st.integers(1, 12),
    seed=st.integers(0, 99),
    few=st.booleans(),
)
def test_likeliest_are_those_of_a_full_sort(vocabulary: int, k: int, seed: int, few: bool) -> None:
    """Values that occur several times may come in any order, so values are compared."""
    k = min(k, vocabulary)
    values = np.random.default_rng(seed).normal(size=(3, vocabulary))
    logprob_NV = torch.from_numpy(values.round() if few else values)
    ids_NK = likeliest(logprob_NV, k)
    assert all(len(set(ids)) == k for ids in ids_NK.tolist())
    expected_NK = logprob_NV.sort(-1, descending=True).values[:, :k]
    assert torch.equal(logprob_NV.gather(1, ids_NK), expected_NK)


def test_tokens_that_no_model_can_say_leave_no_trace() -> None:
    """A vocabulary padded with tokens whose bias is -inf."""
    student, teacher, _ = three_heads()
    padding = torch.full((3,), -torch.inf, dtype=torch.float64)

    def padded(head: Head) -> Head:
        bias_V = head.weight_VH.new_zeros(V) if head.bias_V is None else head.bias_V
        rows = normal(3, head.weight_VH.shape[1], seed=9)
        return Head(head.hidden_NH, torch.cat([head.weight_VH, rows]), torch.cat([bias_V, padding]))

    for divergence in (ReverseKL(), ForwardKL(), JensenShannon()):
        question = Question(some_ids(), divergence, tile=30, keep=2, ranks=True)
        plain, found = (
            measure(question, student, teacher),
            measure(question, padded(student), padded(teacher)),
        )
        _same(plain, found)

        def loss(measured: Measured) -> torch.Tensor:
            assert measured.divergence_N is not None
            said = measured.student
            return (measured.divergence_N + said.entropy_N * said.logprob_N).sum()

        assert_close(gradients_of(loss(found), student), gradients_of(loss(plain), student))


def _same(one: Any, other: Any) -> None:
    """All numbers of two measurements are the same."""
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, torch.Tensor):
            assert torch.allclose(a.double(), b.double(), rtol=1e-9, atol=1e-9), field.name
        elif a is None:
            assert b is None, field.name
        else:
            _same(a, b)


@pytest.mark.parametrize("tile", TILES)
def test_a_token_is_measured_alike_in_any_company(tile: int) -> None:
    student, teacher, reference = three_heads()
    question = Question(some_ids(), JensenShannon(), ranks=True, keep=2, tile=tile)

    def measured(rows: list[int]) -> Measured:
        index = torch.tensor(rows)
        return measure(
            replace(question, ids_N=some_ids()[index]),
            chosen_rows(student, index),
            chosen_rows(teacher, index),
            chosen_rows(reference, index),
        )

    order = [3, 0, 6, 2]
    whole, some = measured(list(range(N))), measured(order)
    pieces = Gathered(len(order))
    for place, n in enumerate(order):
        pieces.add(slice(place, place + 1), measured([n]))
    _same(some, pieces.result())
    assert whole.divergence_N is not None and some.divergence_N is not None
    assert_close([some.divergence_N], [whole.divergence_N[order]])


@pytest.mark.parametrize("coefficients", [True, False])
def test_one_batch_of_eight_is_eight_of_one(coefficients: bool) -> None:
    student, teacher, _ = three_heads(8)
    known_N = torch.linspace(-1, 1, 8, dtype=torch.float64)
    sums = []
    for size in (8, 1):
        for x in (student.weight_VH, student.hidden_NH):
            x.grad = None
        for start in range(0, 8, size):
            rows = torch.arange(start, start + size)
            measured = measure(
                Question(some_ids(8)[rows], ReverseKL(), tile=3 * V),
                chosen_rows(student, rows),
                chosen_rows(teacher, rows),
                coefficient_N=known_N[rows] if coefficients else None,
            )
            assert measured.divergence_N is not None
            (measured.divergence_N * known_N[rows]).sum().backward()
        assert student.weight_VH.grad is not None and student.hidden_NH.grad is not None
        sums.append([student.weight_VH.grad.clone(), student.hidden_NH.grad.clone()])
    assert_close(*sums)


def test_tied_embeddings_gather_both_gradients() -> None:
    weight_VH, teacher = normal(V, H, seed=1).requires_grad_(), three_heads()[1]

    def gradient(fused: bool) -> torch.Tensor:
        hidden_NH = torch.tanh(torch.nn.functional.embedding(some_ids(), weight_VH))
        if fused:
            question = Question(some_ids(), ReverseKL(), tile=3 * V)
            value_N = measure(question, Head(hidden_NH, weight_VH), teacher).divergence_N
        else:
            p_NV = torch.log_softmax(hidden_NH @ weight_VH.T, -1)
            value_N = (p_NV.exp() * (p_NV - torch.log_softmax(logits_of(teacher), -1))).sum(-1)
        assert value_N is not None
        return torch.autograd.grad(value_N.sum(), weight_VH)[0]

    assert_close([gradient(True)], [gradient(False)])


def test_a_teacher_that_is_the_student_itself_gets_no_gradient() -> None:
    student = three_heads()[0]
    other = replace(student, hidden_NH=normal(N, H, seed=7).requires_grad_())
    found = []
    for teacher in (other, other.detached()):
        student.weight_VH.grad = None
        value_N = measure(Question(some_ids(), ReverseKL()), student, teacher).divergence_N
        assert value_N is not None
        value_N.sum().backward()
        assert student.weight_VH.grad is not None and other.hidden_NH.grad is None
        found.append([student.weight_VH.grad.clone()])
    assert_close(*found)
