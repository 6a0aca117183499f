"""Supports: which tokens of the vocabulary a divergence compares.

A support makes categories of tokens, compares no others, and carries a gradient by categories back
to the logits.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator

from agentopd.base.parts import Part

# N tokens, V vocabulary, K categories; log-probabilities in nats


@dataclass(frozen=True)
class Selected:
    """Both models' log-probabilities of the categories, and what it takes to go back.

    A row may have fewer categories than another: -inf stands on all sides where it has none.

    Attributes:
        index_NK: the vocabulary's ids that are categories of their own; None where all are.
        mass_N: the share of the student's probability on them.
        kept_NK: which of `index_NK` count in their row; None where all do.
    """

    student_NK: torch.Tensor
    teacher_NK: torch.Tensor
    reference_NK: torch.Tensor | None
    index_NK: torch.Tensor | None
    mass_N: torch.Tensor
    kept_NK: torch.Tensor | None = None


class Support(Part, family="support"):
    """Which tokens are compared."""

    @property
    def normalised(self) -> bool:
        """Whether the categories' probabilities sum to 1."""
        return True

    @property
    def teacher_top(self) -> int | None:
        """How many of the teacher's likeliest tokens are looked at, beside the sum of the others;
        None where others of them are looked at one by one.
        """
        return None

    @abstractmethod
    def select(
        self,
        student_NV: torch.Tensor,
        teacher_NV: torch.Tensor,
        reference_NV: torch.Tensor | None = None,
    ) -> Selected:
        """The categories of normalised log-probabilities (N, V).

        Raises:
            ValueError: the vocabulary is too small.
        """

    @abstractmethod
    def spread(
        self, selected: Selected, pull_NK: torch.Tensor, student_NV: torch.Tensor
    ) -> torch.Tensor:
        """(N, V) the gradient by the student's logits, of one by its categories' log-probabilities.

        Where the categories are normalised, it does not matter if a multiple of their probabilities
        is added to the latter. Where a row has no category, the latter must be 0.
        """


class FullSupport(Support, kind="full"):
    """The whole vocabulary."""

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return "the whole vocabulary"

    def select(
        self,
        student_NV: torch.Tensor,
        teacher_NV: torch.Tensor,
        reference_NV: torch.Tensor | None = None,
    ) -> Selected:
        """See `Support.select`."""
        whole_N = student_NV.new_ones(len(student_NV))
        return Selected(student_NV, teacher_NV, reference_NV, None, whole_N)

    def spread(
        self, selected: Selected, pull_NK: torch.Tensor, student_NV: torch.Tensor
    ) -> torch.Tensor:
        """See `Support.spread`."""
        return student_NV.exp().mul_(-pull_NK.sum(-1, keepdim=True)).add_(pull_NK)


class SampledSupport(Support, kind="sampled"):
    """The sampled token alone; an estimator takes the divergence's place."""

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return "the sampled token"

    @property
    def teacher_top(self) -> int:
        """See `Support.teacher_top`."""
        return 0

    def select(
        self,
        student_NV: torch.Tensor,
        teacher_NV: torch.Tensor,
        reference_NV: torch.Tensor | None = None,
    ) -> Selected:
        """Never asked for."""
        raise AssertionError("a sampled support is served by an estimator")

    def spread(
        self, selected: Selected, pull_NK: torch.Tensor, student_NV: torch.Tensor
    ) -> torch.Tensor:
        """Never asked for."""
        raise AssertionError("a sampled support is served by an estimator")


class TopKSupport(Support):
    """The likeliest tokens of a model, and one of three things done with the rest.

    `tail` makes one more category of all other tokens together, on both sides: a coarser comparison
    of whole distributions (SDPO 2601.20802). `renormalise` compares the distributions within the
    chosen tokens and is blind to the mass that they have together (Revisit-OPD 2603.25562); a row
    with a single chosen token teaches nothing. `raw` sums over the chosen tokens as they are (OPCD
    2602.12275): that sum is no divergence, may be negative, and its gradient does not vanish where
    the models are equal, but moves mass between the chosen tokens and the rest.

    Args:
        k: how many likeliest tokens.
        rest: what is done with all others.
    """

    k: int = Field(default=100, ge=1)
    rest: Literal["tail", "renormalise", "raw"] = "tail"

    likeliest: ClassVar[str] = ""
    """Whose likeliest tokens they are, as a formula says it."""
    single: ClassVar[bool] = True
    """Whether k = 1 chooses one token at most."""

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        ends = {
            "tail": "and the rest as one",
            "renormalise": "alone, renormalised",
            "raw": "as they are",
        }
        return f"the {self.likeliest} {self.k} likeliest tokens {ends[self.rest]}"

    @property
    def normalised(self) -> bool:
        """See `Support.normalised`."""
        return self.rest != "raw"

    @abstractmethod
    def chosen(
        self, student_NV: torch.Tensor, teacher_NV: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids (N, K), and which of them count; no id counts twice in its row."""

    def select(
        self,
        student_NV: torch.Tensor,
        teacher_NV: torch.Tensor,
        reference_NV: torch.Tensor | None = None,
    ) -> Selected:
        """See `Support.select`."""
        vocabulary = student_NV.shape[-1]
        if self.k > vocabulary:
            raise ValueError(
                f"support: {self.kind} asks for the k = {self.k} likeliest tokens, and the "
                f"vocabulary has V = {vocabulary}: set k to {vocabulary} at most, or use support: "
                "full"
            )
        chosen = self.chosen(student_NV, teacher_NV)
        return self.categories(*chosen, student_NV, teacher_NV, reference_NV)

    def categories(
        self,
        index_NK: torch.Tensor,
        kept_NK: torch.Tensor,
        student_NV: torch.Tensor,
        teacher_NV: torch.Tensor,
        reference_NV: torch.Tensor | None = None,
    ) -> Selected:
        """The categories that chosen tokens, as `chosen` gives them, and the rest make."""
        own_NK = _own(student_NV, index_NK, kept_NK)
        return Selected(
            student_NK=self._reduced(student_NV, index_NK, kept_NK),
            teacher_NK=self._reduced(teacher_NV, index_NK, kept_NK),
            reference_NK=None
            if reference_NV is None
            else self._reduced(reference_NV, index_NK, kept_NK),
            index_NK=index_NK,
            mass_N=own_NK.exp().sum(-1).clamp(max=1.0),
            kept_NK=kept_NK,
        )

    def spread(
        self, selected: Selected, pull_NK: torch.Tensor, student_NV: torch.Tensor
    ) -> torch.Tensor:
        """See `Support.spread`."""
        index_NK, kept_NK = selected.index_NK, selected.kept_NK
        assert index_NK is not None and kept_NK is not None
        pull_N1 = pull_NK.sum(-1, keepdim=True)
        if self.rest == "renormalise":
            pull_NK = pull_NK - selected.student_NK.exp() * pull_N1
            return torch.zeros_like(student_NV).scatter_add_(1, index_NK, pull_NK)
        by_logits_NV = student_NV.exp().mul_(-pull_N1)
        if self.rest == "tail":
            # Each other token pulls by its share of the tail.
            tail_N1 = selected.student_NK[:, -1:]
            share_NV = _others(student_NV, index_NK, kept_NK)
            share_NV = share_NV.sub_(tail_N1.masked_fill(tail_N1 == -math.inf, 0.0)).exp_()
            by_logits_NV.add_(share_NV.mul_(pull_NK[:, -1:]))
            pull_NK = pull_NK[:, :-1]
        return by_logits_NV.scatter_add_(1, index_NK, pull_NK)

    def _reduced(
        self, logprob_NV: torch.Tensor, index_NK: torch.Tensor, kept_NK: torch.Tensor
    ) -> torch.Tensor:
        own_NK = _own(logprob_NV, index_NK, kept_NK)
        if self.rest == "raw":
            return own_NK
        if self.rest == "renormalise":
            total_N1 = own_NK.logsumexp(-1, keepdim=True)
            return own_NK - total_N1.masked_fill(total_N1 == -math.inf, 0.0)
        # Summed over the others: 1 less the chosen mass would be rounding where that is nearly 1.
        tail_N1 = _others(logprob_NV, index_NK, kept_NK).logsumexp(-1, keepdim=True)
        # A tail of everything is certain; its log is 0, not a rounding.
        tail_N1 = tail_N1.masked_fill(~kept_NK.any(-1, keepdim=True), 0.0)
        return torch.cat([own_NK, tail_N1], -1)

    @model_validator(mode="after")
    def _compares_something(self) -> TopKSupport:
        if self.k == 1 and self.rest == "renormalise" and self.single:
            raise ValueError(
                f"{self.kind} with k: 1, renormalised, is one token of probability 1 on both "
                "sides: its gradient is always zero and nothing would be learnt. Use rest: tail, "
                "or a larger k"
            )
        return self


class StudentTopK(TopKSupport, kind="student_top_k"):
    """The student's k likeliest tokens."""

    likeliest: ClassVar[str] = "student's"

    def chosen(
        self, student_NV: torch.Tensor, teacher_NV: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `TopKSupport.chosen`."""
        index_NK = student_NV.topk(self.k).indices
        return index_NK, torch.ones_like(index_NK, dtype=torch.bool)


class TeacherTopK(TopKSupport, kind="teacher_top_k"):
    """The teacher's k likeliest tokens."""

    likeliest: ClassVar[str] = "teacher's"

    @property
    def teacher_top(self) -> int:
        """See `Support.teacher_top`."""
        return self.k

    def chosen(
        self, student_NV: torch.Tensor, teacher_NV: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `TopKSupport.chosen`."""
        index_NK = teacher_NV.topk(self.k).indices
        return index_NK, torch.ones_like(index_NK, dtype=torch.bool)


class IntersectionTopK(TopKSupport, kind="intersection_top_k"):
    """The tokens among the k likeliest of student and teacher both (Rethinking-OPD).

    A row where there are none contributes nothing, and its captured mass is 0.
    """

    likeliest: ClassVar[str] = "two models' common"

    def chosen(
        self, student_NV: torch.Tensor, teacher_NV: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `TopKSupport.chosen`."""
        index_NK = student_NV.topk(self.k).indices
        return index_NK, _among(index_NK, teacher_NV.topk(self.k).indices, student_NV)


class UnionTopK(TopKSupport, kind="union_top_k"):
    """The tokens among the k likeliest of student or teacher."""

    likeliest: ClassVar[str] = "two models'"

    single: ClassVar[bool] = False

    def chosen(
        self, student_NV: torch.Tensor, teacher_NV: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `TopKSupport.chosen`."""
        first_NK, second_NK = student_NV.topk(self.k).indices, teacher_NV.topk(self.k).indices
        new_NK = ~_among(second_NK, first_NK, student_NV)
        return torch.cat([first_NK, second_NK], -1), torch.cat(
            [torch.ones_like(new_NK), new_NK], -1
        )


def _among(index_NK: torch.Tensor, others_NK: torch.Tensor, like_NV: torch.Tensor) -> torch.Tensor:
    """(N, K) whether each id is among the others of its row."""
    member_NV = torch.zeros_like(like_NV, dtype=torch.bool).scatter_(1, others_NK, True)
    return member_NV.gather(1, index_NK)


def _own(logprob_NV: torch.Tensor, index_NK: torch.Tensor, kept_NK: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (N, K) of the chosen tokens; -inf for those that do not count."""
    return logprob_NV.gather(1, index_NK).masked_fill(~kept_NK, -math.inf)


def _others(
    logprob_NV: torch.Tensor, index_NK: torch.Tensor, kept_NK: torch.Tensor
) -> torch.Tensor:
    """A copy of log-probabilities (N, V) that is -inf at the chosen tokens."""
    # Added, since an id that does not count may stand beside the same one that does.
    nothing_NK = torch.zeros_like(index_NK, dtype=logprob_NV.dtype)
    return logprob_NV.scatter_add(1, index_NK, nothing_NK.masked_fill(kept_NK, -math.inf))
