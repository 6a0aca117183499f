"""Logits of some tokens at a time: what is read off them, and the gradient by them.

A tile is what the matrix products work on: large, because each product reads all output weights.
A strip is a few of its rows, on which everything else works: small, to stay in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from agentopd.signal.divergences import Row
from agentopd.signal.evidence import Kept, Measured, Opinion

if TYPE_CHECKING:
    from agentopd.signal.linear import Question

# N tokens, R rows of a tile, r rows of a strip, H hidden size, V vocabulary, K kept tokens

_STRIP = 2**19
"""Numbers in a strip."""
_EVEN, _COLUMNS = 64, 1024
"""Products of so many rows, a multiple, and of so many columns of the vocabulary run fastest."""
_BLOCK = 64
"""Tokens of the vocabulary whose largest is compared first, where the likeliest are sought."""
_NO_MASS = -1e3


@dataclass(frozen=True)
class Head:
    """Hidden states and the output layer that makes logits of them; the sizes of two models' hidden
    states may differ, their vocabularies not.
    """

    hidden_NH: torch.Tensor
    weight_VH: torch.Tensor
    bias_V: torch.Tensor | None = None

    def detached(self) -> Head:
        """The same, of which nothing is differentiated."""
        bias_V = self.bias_V
        return Head(
            self.hidden_NH.detach(),
            self.weight_VH.detach(),
            None if bias_V is None else bias_V.detach(),
        )

    def check(self, name: str) -> None:
        """Its parts must fit together.

        Raises:
            ValueError: they do not; `name` says whose they are.
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


class Tiles:
    """All tokens, a tile at a time; every tile lies where the one before it lay.

    Args:
        heads: of the student, and of the teacher and the reference where there are such.
        most: how many numbers one tensor of logits may hold.
    """

    def __init__(
        self, ids_N: torch.Tensor, heads: Sequence[Head | None], temperature: float, most: int
    ) -> None:
        self.student, self.teacher, self.reference = heads
        assert self.student is not None
        self.ids_N, self.temperature = ids_N, temperature
        self.tokens, self.vocabulary = len(self.student.hidden_NH), len(self.student.weight_VH)
        rows = max(most // self.vocabulary, 1)
        rows -= rows % _EVEN if rows > _EVEN else 0
        self.rows = min(rows, self.tokens)
        # One, empty, where there are no tokens.
        self.count = max(-(-self.tokens // rows), 1)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Tile]:
        makers = [
            head and _Logits(head, self.rows)
            for head in (self.student, self.teacher, self.reference)
        ]
        for number in range(self.count):
            start = number * self.rows
            rows = slice(start, min(start + self.rows, self.tokens))
            student_RV, teacher_RV, reference_RV = (maker and maker(rows) for maker in makers)
            assert student_RV is not None
            yield Tile(self, rows, student_RV, teacher_RV, reference_RV)


class _Logits:
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


@dataclass(frozen=True)
class Tile:
    """All models' logits of the tokens `rows`; strips make log-probabilities of them in place."""

    tiles: Tiles
    rows: slice
    student_RV: torch.Tensor
    teacher_RV: torch.Tensor | None
    reference_RV: torch.Tensor | None

    def strips(self, question: Question) -> Iterator[Strip]:
        """The tile, a few rows at a time, measured."""
        count, vocabulary = self.student_RV.shape
        # A GPU has no cache of this sort, and would wait for the many small kernels.
        small = self.student_RV.device.type == "cpu"
        size = max(_STRIP // vocabulary, 1) if small else max(count, 1)
        for start in range(0, max(count, 1), size):
            yield self._strip(question, slice(start, min(start + size, count)))

    def _strip(self, question: Question, part: slice) -> Strip:
        temperature, student_rV = self.tiles.temperature, self.student_RV[part]
        device, dtype = student_rV.device, student_rV.dtype

        def near(logits_RV: torch.Tensor | None) -> torch.Tensor | None:
            # Another model may live on another device: only its strip comes over.
            return None if logits_RV is None else logits_RV[part].to(device, dtype)

        rows = slice(self.rows.start + part.start, self.rows.start + part.stop)
        ids_r, ranks = self.tiles.ids_N[rows], question.ranks
        student = _opinion(student_rV, ids_r, temperature, ranks)
        teacher_rV, reference_rV = near(self.teacher_RV), near(self.reference_RV)
        teacher = reference = pull_rV = None
        if reference_rV is not None:
            reference = _opinion(reference_rV, ids_r, temperature, ranks)
        found = Measured(student, reference=reference)
        if teacher_rV is not None:
            teacher = _opinion(teacher_rV, ids_r, temperature, ranks)
            value_r, mass_r, pull_rV = _compared(
                question, student_rV, teacher_rV, reference_rV, teacher
            )
            found = Measured(
                student,
                teacher,
                reference,
                value_r,
                mass_r,
                _kept(question, student_rV, teacher_rV),
            )
        return Strip(found, rows, part, ids_r, student_rV, pull_rV, temperature)


def _opinion(
    logits_RV: torch.Tensor, ids_R: torch.Tensor, temperature: float, ranks: bool
) -> Opinion:
    """What a model says of some tokens; its logits become log-probabilities in place."""
    if temperature != 1:
        logits_RV /= temperature
    logits_RV -= logits_RV.amax(-1, keepdim=True)
    weight_RV = logits_RV.exp()
    sum_R1 = weight_RV.sum(-1, keepdim=True)
    log_R1 = sum_R1.log()
    # What has no probability has no part in the mean, where it would be 0 times -inf.
    mean_R = weight_RV.mul_(logits_RV).nansum(-1) / sum_R1.squeeze(1)
    logits_RV -= log_R1
    at_R1 = logits_RV.gather(1, ids_R[:, None])
    rank_R = (logits_RV > at_R1).sum(-1) if ranks else None
    return Opinion(at_R1.squeeze(1), log_R1.squeeze(1) - mean_R, -log_R1.squeeze(1), rank_R)


def _compared(
    question: Question,
    student_RV: torch.Tensor,
    teacher_RV: torch.Tensor,
    reference_RV: torch.Tensor | None,
    teacher: Opinion,
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """The divergence, the mass it captures, and its gradient by the student's logits (R, V)."""
    divergence = question.divergence
    if divergence is None:
        return None, None, None
    chosen = divergence.support.select(student_RV, teacher_RV, reference_RV)
    row = Row(teacher.entropy_N, chosen.reference_NK)
    value_R, pull_RK = divergence.compare(chosen.student_NK, chosen.teacher_NK, row)
    return value_R, chosen.mass_N, divergence.support.spread(chosen, pull_RK, student_RV)


def _kept(question: Question, student_RV: torch.Tensor, teacher_RV: torch.Tensor) -> Kept | None:
    """Both models' likeliest tokens."""
    most = min(question.keep, student_RV.shape[1])
    if not most:
        return None
    ids_RK = torch.cat([likeliest(student_RV, most), likeliest(teacher_RV, most)], -1)
    return Kept(ids_RK, student_RV.gather(1, ids_RK), teacher_RV.gather(1, ids_RK))


def likeliest(logprob_RV: torch.Tensor, k: int) -> torch.Tensor:
    """The ids (R, k) of the k likeliest tokens, in order.

    A token among the k largest lies in one of the k blocks with the largest maxima: so only these
    blocks are sorted, which on a CPU is several times as fast as sorting everything.
    """
    rows, vocabulary = logprob_RV.shape
    blocks = vocabulary // _BLOCK
    if logprob_RV.device.type != "cpu" or blocks <= 2 * k:
        return logprob_RV.topk(k).indices
    whole = blocks * _BLOCK
    blocks_RBb = logprob_RV[:, :whole].view(rows, blocks, _BLOCK)
    best_Rk1 = blocks_RBb.amax(-1).topk(k).indices[:, :, None]
    # The rest of the vocabulary, too short for a block, is always looked at.
    offset_b = torch.arange(_BLOCK, device=logprob_RV.device)
    rest = torch.arange(whole, vocabulary, device=logprob_RV.device).expand(rows, -1)
    ids_RC = torch.cat([(best_Rk1 * _BLOCK + offset_b).flatten(1), rest], -1)
    return ids_RC.gather(1, logprob_RV.gather(1, ids_RC).topk(k).indices)


@dataclass(frozen=True)
class Strip:
    """A few tokens, measured, and what their gradient is made of.

    Attributes:
        rows: which of all tokens they are; `part`, which of their tile's.
        student_rV: log-probabilities.
        pull_rV: the divergence's gradient by the student's logits over the temperature.
    """

    measured: Measured
    rows: slice
    part: slice
    ids_r: torch.Tensor
    student_rV: torch.Tensor
    pull_rV: torch.Tensor | None
    temperature: float

    def differentiate(
        self,
        into_RV: torch.Tensor,
        logprob_N: torch.Tensor | None,
        entropy_N: torch.Tensor | None,
        divergence_N: torch.Tensor | None,
    ) -> None:
        """Write a loss's gradient by the logits into the tile's tensor `into_RV`, which may be
        that of the log-probabilities, from its gradients by what was measured.
        """
        into_rV, scale = into_RV[self.part], 1 / self.temperature
        logprob_r1, entropy_r1, divergence_r1 = (
            None if x is None else x[self.rows, None] * scale
            for x in (logprob_N, entropy_N, divergence_N)
        )
        by_models_rV = self._by_student(logprob_r1, entropy_r1)
        if divergence_r1 is None:
            into_rV.copy_(by_models_rV) if by_models_rV is not None else into_rV.zero_()
            return
        assert self.pull_rV is not None
        torch.mul(self.pull_rV, divergence_r1, out=into_rV)
        if by_models_rV is not None:
            into_rV += by_models_rV

    def _by_student(
        self, logprob_r1: torch.Tensor | None, entropy_r1: torch.Tensor | None
    ) -> torch.Tensor | None:
        """The part of the gradient that comes through log-probability and entropy."""
        if logprob_r1 is None and entropy_r1 is None:
            return None
        factor_rV: torch.Tensor | float = 0.0
        p_rV = self.student_rV.exp()
        if entropy_r1 is not None:
            # d entropy / d logit = -p (log p + entropy); p is 0 where log p is cut off.
            surprise_rV = self.student_rV.clamp(min=_NO_MASS)
            surprise_rV += self.measured.student.entropy_N[:, None]
            factor_rV = surprise_rV.mul_(entropy_r1)
        if logprob_r1 is not None:
            factor_rV = factor_rV + logprob_r1
        by_logits_rV = p_rV.mul_(factor_rV).neg_()
        if logprob_r1 is not None:
            by_logits_rV.scatter_add_(1, self.ids_r[:, None], logprob_r1)
        return by_logits_rV


class Gradient:
    """The gradient by the student's hidden states, weights and bias, gathered tile by tile.

    Args:
        needed: which of the three.
    """

    def __init__(self, tiles: Tiles, needed: Sequence[bool]) -> None:
        assert tiles.student is not None
        self.head, self.needs_weight = tiles.student, needed[1]
        self.hidden_NH = torch.empty_like(self.head.hidden_NH) if needed[0] else None
        self.weight_VH: torch.Tensor | None = None
        self.bias_V = None
        if needed[2]:
            self.bias_V = self.head.weight_VH.new_zeros(
                tiles.vocabulary, dtype=_wide(self.head.weight_VH.dtype)
            )

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
