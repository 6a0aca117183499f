"""Logits of some tokens at a time, whoever makes them; the output layer, and the gradient by it.

All products with an output layer's weights are made here, of many rows at once, because each reads
all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch

# N tokens, R rows of a tile, H hidden size, V vocabulary, v some of the vocabulary

_COLUMNS = 768
"""Products of so many tokens of the vocabulary run fastest."""


class Speaker(Protocol):
    """A model's next-token distributions of N tokens, whatever they are made of."""

    @property
    def tokens(self) -> int:
        """N."""
        ...

    @property
    def vocabulary(self) -> int:
        """V."""
        ...

    @property
    def whole(self) -> bool:
        """Whether all of each distribution is known."""
        ...

    def detached(self) -> Self:
        """The same, of which nothing is differentiated."""
        ...

    def check(self, name: str) -> None:
        """Its parts must fit together.

        Raises:
            ValueError: they do not; `name` says whose they are.
        """
        ...

    def logits(self, rows: int) -> Callable[[slice], torch.Tensor]:
        """What makes the logits (R, V) of at most `rows` tokens at a time, in the same memory."""
        ...


@dataclass(frozen=True)
class Head:
    """Hidden states and the output layer that makes logits of them; the sizes of two models' hidden
    states may differ, their vocabularies not.
    """

    hidden_NH: torch.Tensor
    weight_VH: torch.Tensor
    bias_V: torch.Tensor | None = None

    @property
    def tokens(self) -> int:
        """See `Speaker.tokens`."""
        return len(self.hidden_NH)

    @property
    def vocabulary(self) -> int:
        """See `Speaker.vocabulary`."""
        return len(self.weight_VH)

    @property
    def whole(self) -> bool:
        """See `Speaker.whole`."""
        return True

    def logits(self, rows: int) -> Logits:
        """See `Speaker.logits`."""
        return Logits(self, rows)

    def detached(self) -> Head:
        """See `Speaker.detached`."""
        bias_V = self.bias_V
        return Head(
            self.hidden_NH.detach(),
            self.weight_VH.detach(),
            None if bias_V is None else bias_V.detach(),
        )

    def check(self, name: str) -> None:
        """See `Speaker.check`.

        Raises:
            ValueError: shapes, dtypes or devices differ.
        """
        hidden_NH, weight_VH, bias_V = self.hidden_NH, self.weight_VH, self.bias_V
        if hidden_NH.dim() != 2 or weight_VH.dim() != 2 or hidden_NH.shape[1] != weight_VH.shape[1]:
            raise ValueError(
                f"the {name}'s hidden states are of shape {tuple(hidden_NH.shape)} and its output "
                f"weights of shape {tuple(weight_VH.shape)}: give (tokens, hidden size) and "
                "(vocabulary, hidden size)"
            )
        if bias_V is not None and bias_V.shape != weight_VH.shape[:1]:
            raise ValueError(
                f"the {name}'s bias is of shape {tuple(bias_V.shape)}, but its output weights "
                f"score {len(weight_VH)} tokens: give one number for each"
            )
        parts = [x for x in (hidden_NH, weight_VH, bias_V) if x is not None]
        if len({x.dtype for x in parts}) > 1 or len({x.device for x in parts}) > 1:
            found = ", ".join(f"{x.dtype} on {x.device}" for x in parts)
            raise ValueError(
                f"the {name}'s hidden states and output layer are {found}: bring them to one dtype "
                "and one device"
            )


class Logits:
    """One model's logits of one tile at a time, in the same memory."""

    def __init__(self, head: Head, rows: int) -> None:
        self.head = head
        weight_VH, shape = head.weight_VH, (rows, len(head.weight_VH))
        self.wide_RV = weight_VH.new_empty(shape, dtype=_wide(weight_VH.dtype))
        same = self.wide_RV.dtype == weight_VH.dtype
        self.narrow_RV = self.wide_RV if same or _widens(weight_VH) else weight_VH.new_empty(shape)

    def __call__(self, rows: slice) -> torch.Tensor:
        dtype, weight_VH, bias_V = self.narrow_RV.dtype, self.head.weight_VH, self.head.bias_V
        hidden_RH = self.head.hidden_NH[rows].to(dtype)
        narrow_RV = self.narrow_RV[: len(hidden_RH)]
        for part in _parts(weight_VH):
            weight_Hv, into_Rv = weight_VH[part].to(dtype).T, narrow_RV[:, part]
            if bias_V is None:
                torch.mm(hidden_RH, weight_Hv, out=into_Rv)
            else:
                torch.addmm(bias_V[part].to(dtype), hidden_RH, weight_Hv, out=into_Rv)
            if _widens(weight_VH):
                # Rounded as the model rounds its own logits, from which the tokens were sampled.
                into_Rv.copy_(into_Rv.to(weight_VH.dtype))
        wide_RV = self.wide_RV[: len(hidden_RH)]
        return wide_RV if wide_RV.dtype == dtype else wide_RV.copy_(narrow_RV)


def _parts(weight_VH: torch.Tensor) -> Iterator[slice]:
    """The vocabulary, as many tokens at a time as products are fastest with."""
    size = _COLUMNS if weight_VH.device.type == "cpu" else len(weight_VH)
    return (slice(start, start + size) for start in range(0, len(weight_VH), size))


def _widens(weight_VH: torch.Tensor) -> bool:
    """Whether products are made in float32 though the weights are narrower: a CPU without units for
    bfloat16 is up to a hundred times slower with it.
    """
    return weight_VH.device.type == "cpu" and _wide(weight_VH.dtype) != weight_VH.dtype


def _wide(dtype: torch.dtype) -> torch.dtype:
    """What is summed in: never less than float32."""
    return torch.promote_types(dtype, torch.float32)


class Gradient:
    """The gradient by the student's hidden states, weights and bias, gathered tile by tile.

    Args:
        needed: which of the three.
    """

    def __init__(self, student: Head, needed: Sequence[bool]) -> None:
        self.head, self.needs_weight = student, needed[1]
        self.hidden_NH = torch.empty_like(student.hidden_NH) if needed[0] else None
        self.weight_VH: torch.Tensor | None = None
        self.bias_V = None
        if needed[2]:
            weight_VH = student.weight_VH
            self.bias_V = weight_VH.new_zeros(len(weight_VH), dtype=_wide(weight_VH.dtype))

    def add(self, rows: slice, by_logits_RV: torch.Tensor) -> None:
        """Take in a tile's gradient by the logits."""
        hidden_RH, weight_VH = self.head.hidden_NH[rows], self.head.weight_VH
        widens = _widens(weight_VH)
        narrow_RV = by_logits_RV if widens else by_logits_RV.to(weight_VH.dtype)
        if self.bias_V is not None:
            self.bias_V += by_logits_RV.sum(0)
        if self.hidden_NH is not None and widens:
            total_RH = by_logits_RV.new_zeros(hidden_RH.shape)
            for part in _parts(weight_VH):
                total_RH.addmm_(by_logits_RV[:, part], weight_VH[part].to(total_RH.dtype))
            self.hidden_NH[rows] = total_RH
        elif self.hidden_NH is not None:
            torch.mm(narrow_RV, weight_VH, out=self.hidden_NH[rows])
        if self.needs_weight:
            self.weight_VH = _plus_product(self.weight_VH, by_logits_RV, narrow_RV, hidden_RH)

    def result(self) -> list[torch.Tensor | None]:
        """The three, in the parameters' dtype; None where one is not needed."""
        dtype = self.head.weight_VH.dtype
        parts = (self.hidden_NH, self.weight_VH, self.bias_V)
        return [None if x is None else x.to(dtype) for x in parts]


def _plus_product(
    total_VH: torch.Tensor | None,
    by_logits_RV: torch.Tensor,
    narrow_RV: torch.Tensor,
    hidden_RH: torch.Tensor,
) -> torch.Tensor:
    """The weights' gradient with one tile more, in place; the first tile makes it.

    Summed in float32: tiles that are rounded one by one do not add up.
    """
    wide = by_logits_RV.dtype
    if not hidden_RH.is_cuda or hidden_RH.dtype == wide:
        wide_RH = hidden_RH.to(wide)
        if total_VH is None:
            return by_logits_RV.T @ wide_RH
        return total_VH.addmm_(by_logits_RV.T, wide_RH)
    if total_VH is None:
        return torch.mm(narrow_RV.T, hidden_RH, out_dtype=wide)
    return torch.addmm(total_VH, narrow_RV.T, hidden_RH, out_dtype=wide, out=total_VH)
