"""Some tokens at a time: what is read off their logits, and a loss's gradient by them.

A tile is what the matrix products work on: large, because each product reads all output weights.
A strip is a few of its rows, on which everything else works: small, to stay in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from agentopd.divergences.base import Row
from agentopd.models.head import Speaker
from agentopd.signal.evidence import Kept, Measured, Opinion

if TYPE_CHECKING:
    from agentopd.divergences.question import Question

# N tokens, R rows of a tile, r rows of a strip, H hidden size, V vocabulary, K kept tokens

_STRIP = 2**19
"""Numbers in a strip."""
_EVEN = 8
"""Products of a multiple of so many rows run fastest."""
_BLOCK = 64
"""Tokens of the vocabulary whose largest is compared first, where the likeliest are sought."""
_NO_MASS = -1e3


class Tiles:
    """All tokens, a tile at a time; every tile lies where the one before it lay.

    Args:
        student, teacher, reference: the latter two where there are such.
        most: how many numbers one tensor of logits may hold.
    """

    def __init__(
        self,
        ids_N: torch.Tensor,
        student: Speaker,
        teacher: Speaker | None,
        reference: Speaker | None,
        temperature: float,
        most: int,
    ) -> None:
        self.student, self.teacher, self.reference = student, teacher, reference
        self.ids_N, self.temperature = ids_N, temperature
        self.tokens = student.tokens
        self.rows = _even_share(self.tokens, max(most // student.vocabulary, 1))
        # One, empty, where there are no tokens.
        self.count = max(-(-self.tokens // max(self.rows, 1)), 1)

    def __len__(self) -> int:
        return self.count

    def first(self, count: int) -> Iterator[Tile]:
        """So many of them."""
        makers = [
            None if speaker is None else speaker.logits(self.rows)
            for speaker in (self.student, self.teacher, self.reference)
        ]
        for number in range(count):
            start = number * self.rows
            rows = slice(start, min(start + self.rows, self.tokens))
            student_RV, teacher_RV, reference_RV = (maker and maker(rows) for maker in makers)
            assert student_RV is not None
            yield Tile(self, rows, student_RV, teacher_RV, reference_RV)


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
        teacher_rV, reference_rV = near(self.teacher_RV), near(self.reference_RV)
        student, teacher, reference = (
            None if logits_rV is None else _opinion(logits_rV, ids_r, temperature, ranks)
            for logits_rV in (student_rV, teacher_rV, reference_rV)
        )
        assert student is not None
        if teacher is not None and self.tiles.teacher is not None and not self.tiles.teacher.whole:
            teacher = teacher.narrowed()
        found = Measured(student, teacher, reference)
        strip = Strip(
            found, rows, part, ids_r, student_rV, teacher_rV, reference_rV, question, temperature
        )
        return strip if teacher_rV is None else strip.compared()


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
        student_rV: log-probabilities, as the other models'.
        pull_rV: the divergence's gradient by the student's logits over the temperature.
    """

    measured: Measured
    rows: slice
    part: slice
    ids_r: torch.Tensor
    student_rV: torch.Tensor
    teacher_rV: torch.Tensor | None
    reference_rV: torch.Tensor | None
    question: Question
    temperature: float
    pull_rV: torch.Tensor | None = None

    def compared(self) -> Strip:
        """The same with what the divergence says of student and teacher."""
        student_rV, teacher_rV = self.student_rV, self.teacher_rV
        divergence, teacher = self.question.divergence, self.measured.teacher
        assert teacher_rV is not None and teacher is not None
        found = replace(self.measured, kept=_kept(self.question, student_rV, teacher_rV))
        if divergence is None:
            return replace(self, measured=found)
        support = divergence.support
        chosen = support.select(student_rV, teacher_rV, self.reference_rV)
        acted_N = self.question.acted_N
        acted_r = None if acted_N is None else acted_N[self.rows]
        row = Row(teacher.entropy_N, chosen.reference_NK, acted_r)
        value_r, pull_rK = divergence.compare(chosen.student_NK, chosen.teacher_NK, row)
        found = replace(found, divergence_N=value_r, mass_N=chosen.mass_N)
        return replace(self, measured=found, pull_rV=support.spread(chosen, pull_rK, student_rV))

    def kept(self, measured: Measured) -> Strip:
        """The same without what can be compared again, and with what was measured lying elsewhere:
        see `Gathered`.
        """
        question = replace(self.question, keep=0)
        return replace(self, measured=measured, pull_rV=None, question=question)

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
        pull_rV = self.compared().pull_rV if self.pull_rV is None else self.pull_rV
        assert pull_rV is not None
        torch.mul(pull_rV, divergence_r1, out=into_rV)
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


def _even_share(tokens: int, most: int) -> int:
    """Rows of a tile, `most` at most: tiles of one size, since a short one is slow for its rows."""
    step = _EVEN if most > _EVEN else 1
    most -= most % step
    count = -(-tokens // most)
    share = -(-tokens // max(count, 1))
    return share if count < 2 else share + -share % step
