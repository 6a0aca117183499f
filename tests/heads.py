"""Small models' hidden states and output layers, and the plain way to their logits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from agentopd.models.head import Head

# N tokens, H hidden size of the student, G of the other models, V vocabulary

N, H, G, V = 7, 5, 3, 11
SUPPORTS: list[dict[str, Any]] = [
    {"kind": "full"},
    {"kind": "student_top_k", "k": 4},
    {"kind": "teacher_top_k", "k": 4},
    {"kind": "intersection_top_k", "k": 6},
    {"kind": "union_top_k", "k": 3},
]


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """The same normal numbers for the same seed, whatever the dtype."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def three_heads(
    tokens: int = N, vocabulary: int = V, dtype: torch.dtype = torch.float64
) -> tuple[Head, Head, Head]:
    """A student with gradients, a teacher and a reference."""
    student = Head(
        *(
            x.requires_grad_()
            for x in (
                normal(tokens, H, seed=0, dtype=dtype),
                normal(vocabulary, H, seed=1, dtype=dtype),
                normal(vocabulary, seed=2, dtype=dtype),
            )
        )
    )
    teacher = Head(
        normal(tokens, G, seed=3, dtype=dtype), normal(vocabulary, G, seed=4, dtype=dtype)
    )
    reference = Head(
        normal(tokens, G, seed=5, dtype=dtype), normal(vocabulary, G, seed=6, dtype=dtype)
    )
    return student, teacher, reference


def some_ids(tokens: int = N, vocabulary: int = V) -> torch.Tensor:
    """An id for each token."""
    return torch.arange(tokens) * 5 % vocabulary


def logits_of(head: Head, temperature: float = 1.0) -> torch.Tensor:
    """All logits at once."""
    bias_V = 0.0 if head.bias_V is None else head.bias_V
    return (head.hidden_NH @ head.weight_VH.T + bias_V) / temperature


def gradients_of(loss: torch.Tensor, head: Head) -> list[torch.Tensor]:
    """By hidden states, weights and bias; zeros where there is none."""
    live = [x for x in (head.hidden_NH, head.weight_VH, head.bias_V) if x is not None]
    return list(torch.autograd.grad(loss, live, materialize_grads=True))


def assert_close(
    found: list[torch.Tensor], expected: list[torch.Tensor], within: float = 1e-9
) -> None:
    """Every tensor is near its counterpart."""
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=within, atol=within)


def chosen_rows(head: Head, index: torch.Tensor) -> Head:
    """The head of some of its tokens."""
    return replace(head, hidden_NH=head.hidden_NH[index])


def parts_of(head: Head) -> list[torch.Tensor]:
    """The tensors that a head consists of."""
    return [x for x in (head.hidden_NH, head.weight_VH, head.bias_V) if x is not None]
