"""Divergences of saved tokens, from the likeliest tokens that were kept of the vocabulary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from agentopd.divergences.base import Divergence, Row
from agentopd.divergences.support import TopKSupport
from agentopd.signal.evidence import Kept
from agentopd.signal.scores import Scored, join_scores
from agentopd.signal.tokens import Tokens, acted

# N tokens, K kept ids, W columns: the kept ids, the sampled one, and all others as one if need be

_IMPOSSIBLE = -math.inf


@dataclass(frozen=True)
class Rows:
    """Both models' log-probabilities of some columns of the vocabulary, in nats.

    Attributes:
        at_N: the column of the sampled token.
        whole: whether nothing of the vocabulary is missing.
        acted_N: bool, whether the teacher wrote the token; None for none.
    """

    student_NW: torch.Tensor
    teacher_NW: torch.Tensor
    at_N: torch.Tensor
    whole: bool
    reference_NW: torch.Tensor | None = None
    acted_N: torch.Tensor | None = None

    @classmethod
    def of(cls, kept: Kept, scored: Sequence[Scored], tokens: Tokens) -> Rows:
        """The kept columns and the sampled token's; a column that repeats an id is impossible to
        both models, which every divergence ignores.
        """
        measured, ids_N = join_scores(scored), tokens.ids_N
        assert measured.teacher is not None
        ids_NW = torch.cat([kept.ids_NK, ids_N[:, None]], 1)
        again_NW = _repeated(ids_NW)

        def columns(kept_NK: torch.Tensor, sampled_N: torch.Tensor) -> torch.Tensor:
            return torch.cat([kept_NK, sampled_N[:, None]], 1).masked_fill(again_NW, _IMPOSSIBLE)

        return cls(
            student_NW=columns(kept.student_NK, measured.student.logprob_N),
            teacher_NW=columns(kept.teacher_NK, measured.teacher.logprob_N),
            at_N=((ids_NW == ids_N[:, None]) & ~again_NW).int().argmax(1),
            whole=kept.ids_NK.shape[1] // 2 >= scored[0].vocabulary,
            acted_N=acted([one.lesson for one in scored], tokens.ids_N.device),
        )

    def closed(self) -> Rows:
        """With all missing tokens as one more column."""
        if self.whole:
            return self
        return replace(
            self, student_NW=_closed(self.student_NW), teacher_NW=_closed(self.teacher_NW)
        )


@dataclass(frozen=True)
class Compared:
    """What a divergence makes of each token.

    Attributes:
        pull_N: its gradient by the sampled token's logit.
        mass_N: the share of the student's probability that it looked at.
        exact: whether the whole vocabulary would have given the same.
    """

    value_N: torch.Tensor
    pull_N: torch.Tensor
    mass_N: torch.Tensor
    exact: bool


def compare_kept(divergence: Divergence, scored: Sequence[Scored]) -> Compared:
    """A divergence from what was kept of the vocabulary.

    A support that looks at the likeliest tokens finds them all; in place of the full vocabulary
    stand the kept tokens, the sampled one and all others as one, which gives a lower bound.
    What the others have together is 1 less the rest, so less than 1e-7 of it is not seen.

    Raises:
        ValueError: the support looks at more tokens than were kept, or at another model.
    """
    measured = join_scores(scored)
    kept, teacher = measured.kept, measured.teacher
    assert kept is not None and teacher is not None
    if divergence.needs_reference:
        raise ValueError(
            f"divergence: {divergence.kind} looks at a third model, of which nothing was kept: "
            "--rescore"
        )
    most, wanted = kept.ids_NK.shape[1] // 2, getattr(divergence.support, "k", 1)
    if wanted > most:
        raise ValueError(
            f"divergence.support.k is {wanted}, and the run kept the {most} likeliest tokens: "
            f"run it with save.scores_top_k={wanted}, or --rescore"
        )
    tokens = Tokens.of([one.lesson for one in scored], torch.device("cpu"))
    rows = Rows.of(kept, scored, tokens)
    compared = compare_rows(divergence, rows, teacher.entropy_N)
    if rows.whole or isinstance(divergence.support, TopKSupport):
        return compared
    return replace(compared, mass_N=rows.student_NW.exp().sum(-1), exact=False)


@torch.no_grad()
def compare_rows(divergence: Divergence, rows: Rows, teacher_entropy_N: torch.Tensor) -> Compared:
    """A divergence of the columns; the likeliest are looked for among single tokens."""
    support, closed = divergence.support, rows.closed()
    everything = closed.student_NW, closed.teacher_NW, closed.reference_NW
    if isinstance(support, TopKSupport):
        chosen = support.categories(*support.chosen(rows.student_NW, rows.teacher_NW), *everything)
    else:
        chosen = support.select(*everything)
    row = Row(teacher_entropy_N, chosen.reference_NK, rows.acted_N)
    value_N, pull_NK = divergence.compare(chosen.student_NK, chosen.teacher_NK, row)
    pull_NW = support.spread(chosen, pull_NK, closed.student_NW)
    return Compared(
        value_N=value_N,
        pull_N=pull_NW.gather(1, rows.at_N[:, None]).squeeze(1),
        mass_N=chosen.mass_N,
        exact=True,
    )


def _repeated(ids_NW: torch.Tensor) -> torch.Tensor:
    """(N, W) where an id stands that stands further left already."""
    sorted_NW, order_NW = ids_NW.sort(dim=1, stable=True)
    again_NW = torch.zeros_like(ids_NW, dtype=torch.bool)
    again_NW[:, 1:] = sorted_NW[:, 1:] == sorted_NW[:, :-1]
    return torch.zeros_like(again_NW).scatter_(1, order_NW, again_NW)


def _closed(logprob_NW: torch.Tensor) -> torch.Tensor:
    # In double precision: what is missing may be less than a rounding of what is there.
    missing_N = 1 - logprob_NW.double().exp().sum(-1, keepdim=True)
    # Not impossible even then: one model's doubts would be infinitely far from the other's none.
    return torch.cat([logprob_NW, missing_N.clamp(min=1e-8).log().to(logprob_NW)], 1)
