"""The fused divergence's memory, precision and refusals, and what it leaves out."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from agentopd.divergences.base import Divergence
from agentopd.divergences.kl import JensenShannon, ReverseKL
from agentopd.divergences.linear import measure
from agentopd.divergences.question import Question
from agentopd.models.head import Head
from tests.heads import (
    SUPPORTS,
    H,
    N,
    V,
    assert_close,
    gradients_of,
    parts_of,
    some_ids,
    three_heads,
)

# N tokens, H hidden size of the student, G of the other models, V vocabulary


def test_a_frozen_output_layer_costs_no_gradient_of_it() -> None:
    student, teacher, _ = three_heads()
    frozen = replace(student, weight_VH=student.weight_VH.detach())
    question = Question(some_ids(), ReverseKL(), tile=3 * V)
    for coefficient_N in (torch.ones(N, dtype=torch.float64), None):
        found = []
        for head in (frozen, student):
            with _watched() as made:
                value_N = measure(question, head, teacher, coefficient_N=coefficient_N).divergence_N
                assert value_N is not None
                found.append(list(torch.autograd.grad(value_N.sum(), [head.hidden_NH])))
            assert ((V, H) in made) == (head is student)
        assert_close(*found)


def test_nothing_is_kept_where_nothing_is_to_be_learnt() -> None:
    student, teacher, _ = three_heads()
    with torch.no_grad():
        measured = measure(Question(some_ids(), ReverseKL()), student, teacher)
    for found in (
        measured,
        measure(Question(some_ids(), ReverseKL()), student.detached(), teacher),
    ):
        assert found.divergence_N is not None and not found.divergence_N.requires_grad
        assert not found.student.logprob_N.requires_grad
    measured = measure(Question(some_ids(), ReverseKL(), keep=1), student, teacher)
    assert measured.teacher is not None and measured.mass_N is not None
    assert not measured.teacher.logprob_N.requires_grad and not measured.mass_N.requires_grad
    assert not measured.student.top_N.requires_grad


def test_the_tensors_go_when_the_numbers_go() -> None:
    """No cycle of references keeps a tile alive until the garbage collector comes by."""
    student, teacher, _ = three_heads()
    gc.disable()
    try:
        known_N = torch.ones(N, dtype=torch.float64)
        for coefficient_N in (None, known_N):
            measured = measure(
                Question(some_ids(), ReverseKL()), student, teacher, coefficient_N=coefficient_N
            )
            assert measured.divergence_N is not None
            function: Any = measured.divergence_N.grad_fn
            node = weakref.ref(function.backward_pass)
            del function
            assert node() is not None
            del measured
            assert node() is None
    finally:
        gc.enable()


def test_no_tokens_are_no_numbers_and_no_gradient() -> None:
    student, teacher, reference = three_heads(0)
    for coefficient_N in (None, torch.zeros(0, dtype=torch.float64)):
        question = Question(some_ids(0), JensenShannon(), ranks=True, keep=2, tile=V)
        measured = measure(question, student, teacher, reference, coefficient_N)
        assert measured.divergence_N is not None and measured.kept is not None
        assert measured.divergence_N.shape == (0,) and measured.kept.ids_NK.shape == (0, 4)
        hidden_NH, weight_VH, bias_V = gradients_of(measured.divergence_N.sum(), student)
        assert hidden_NH.shape == (0, H) and weight_VH.shape == (V, H)
        assert not weight_VH.any() and not bias_V.any()


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_lower_precision_stays_near_the_exact_numbers(dtype: torch.dtype, within: float) -> None:
    """The logits of a bfloat16 model are in bfloat16; all that follows is not."""
    student, teacher, _ = three_heads(64, dtype=dtype)
    exact_s, exact_t = (
        Head(*(x.detach().double().requires_grad_() for x in parts_of(head)))
        for head in (student, teacher)
    )
    found = []
    for tile, (one, other) in ((2 * V, (student, teacher)), (2**20, (exact_s, exact_t))):
        for known_N in (torch.ones(64), None):
            measured = measure(
                Question(some_ids(64), ReverseKL(), tile=tile), one, other, coefficient_N=known_N
            )
            assert measured.divergence_N is not None
            found.append([measured.divergence_N, *gradients_of(measured.divergence_N.sum(), one)])
    assert found[0][0].dtype == torch.float32 and found[0][2].dtype == dtype
    for numbers in found[:2]:
        for one, other in zip(numbers, found[2], strict=True):
            assert (one.double() - other).norm() <= within * other.norm()


def test_a_bfloat16_weight_gradient_is_summed_in_float32() -> None:
    """257 equal tiles, one a token: rounded one by one they would stop adding up at 256."""
    tokens = 257
    hidden_NH = torch.ones(tokens, 1, dtype=torch.bfloat16)
    weight_VH = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    measured = measure(
        Question(torch.zeros(tokens, dtype=torch.long), None, tile=2), Head(hidden_NH, weight_VH)
    )
    (gradient,) = torch.autograd.grad(measured.student.logprob_N.sum() * 2, weight_VH)
    assert gradient[0].item() == pytest.approx(257, abs=1)


class _Watch(TorchDispatchMode):
    """Notes the shape of every tensor that an operation makes in memory of its own."""

    def __init__(self, made: list[tuple[int, ...]]) -> None:
        super().__init__()
        self.made = made

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        known = {_place(x) for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        result = func(*args, **kwargs)
        made = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        self.made += [tuple(x.shape) for x in made if _place(x) not in known]
        return result


def _place(x: torch.Tensor) -> int:
    return x.untyped_storage().data_ptr()


@contextmanager
def _watched() -> Iterator[list[tuple[int, ...]]]:
    made: list[tuple[int, ...]] = []
    with _Watch(made):
        yield made


@pytest.mark.parametrize("support", SUPPORTS, ids=lambda x: x["kind"])
@pytest.mark.parametrize("coefficients", [True, False])
def test_no_tensor_is_larger_than_a_tile(support: dict[str, Any], coefficients: bool) -> None:
    tokens, vocabulary, tile = 30, 40, 80
    student, teacher, reference = three_heads(tokens, vocabulary)
    divergence = Divergence.model_validate({"kind": "jsd", "support": support})
    question = Question(some_ids(tokens, vocabulary), divergence, ranks=True, keep=2, tile=tile)
    known_N = torch.ones(tokens, dtype=torch.float64) if coefficients else None
    with _watched() as made:
        measured = measure(question, student, teacher, reference, known_N)
        assert measured.divergence_N is not None
        loss = measured.divergence_N.sum()
        if not coefficients:
            loss = loss + measured.student.entropy_N.sum() + measured.student.logprob_N.sum()
        loss.backward()
    gradients, kept = {(tokens, H), (vocabulary, H)}, {(tokens, 4)}
    large = {x for x in made if np.prod(x) > tile}
    assert gradients <= large <= gradients | kept


def _question(**changes: Any) -> Question:
    return replace(Question(some_ids(), ReverseKL()), **changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tile": 0}, "tile is 0, but counts: give 1 or more"),
        ({"keep": -2}, "keep is -2"),
        ({"temperature": 0.0}, "temperature of 0.0"),
        ({"temperature": float("nan")}, "temperature of nan"),
        ({"divergence": ReverseKL.model_validate({"support": "sampled"})}, "divergence=None"),
    ],
)
def test_a_question_out_of_bounds_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        _question(**changes)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s, t: (_question(ids_N=some_ids(3)), s, t), r"ids_N is of shape \(3,\)"),
        (lambda s, t: (_question(ids_N=some_ids() - 1), s, t), "token ids go from -1 to"),
        (
            lambda s, t: (_question(ids_N=some_ids() + 4), s, t),
            "the output layer scores those from 0",
        ),
        (
            lambda s, t: (_question(), s, three_heads(N + 1)[1]),
            "of 8 tokens of the teacher and of 7",
        ),
        (lambda s, t: (_question(), s, three_heads(N, V + 1)[1]), "12 tokens and the student's 11"),
        (lambda s, t: (_question(), s, replace(t, hidden_NH=s.hidden_NH)), "the teacher's hidden"),
        (lambda s, t: (_question(), replace(s, bias_V=torch.ones(3)), t), "bias is of shape"),
        (lambda s, t: (_question(), replace(s, bias_V=torch.ones(V)), t), "to one dtype"),
        (lambda s, t: (_question(), replace(s, hidden_NH=torch.ones(N)), t), "student's hidden"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    change: Callable[[Head, Head], tuple[Question, Head, Head]], told: str
) -> None:
    student, teacher, _ = three_heads()
    with pytest.raises(ValueError, match=told):
        measure(*change(student, teacher))


def test_coefficients_are_one_a_token() -> None:
    student, teacher, _ = three_heads()
    with pytest.raises(ValueError, match=r"coefficient_N is of shape \(2,\)"):
        measure(_question(), student, teacher, coefficient_N=torch.ones(2))


def test_without_a_teacher_nothing_is_compared() -> None:
    student = three_heads()[0]
    measured = measure(_question(keep=2), student, coefficient_N=torch.ones(N))
    assert measured.divergence_N is None and measured.kept is None and measured.teacher is None
    assert gradients_of(measured.student.logprob_N.sum(), student)[0].any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
def test_a_gpu_finds_what_the_cpu_finds(dtype: torch.dtype, within: float) -> None:
    found = []
    for device in ("cuda", "cpu"):
        student, teacher, _ = (
            Head(*(x.detach().to(device).requires_grad_() for x in parts_of(head)))
            for head in three_heads(64, dtype=dtype)
        )
        for known_N in (torch.ones(64, device=device), None):
            question = Question(some_ids(64).to(device), JensenShannon(), keep=2, tile=9 * V)
            measured = measure(question, student, teacher, coefficient_N=known_N)
            assert measured.divergence_N is not None
            numbers = [measured.divergence_N, *gradients_of(measured.divergence_N.sum(), student)]
            found.append([x.cpu() for x in numbers])
    for numbers in found[:3]:
        for one, other in zip(numbers, found[3], strict=True):
            assert (one - other).norm() <= within * other.norm()
