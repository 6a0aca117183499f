"""Divergences of the student from the teacher, token by token.

A divergence compares two distributions over categories, which its support has made of the
vocabulary, and gives its value and its gradient. With the support `sampled` an estimator takes its
place. A target takes the teacher's.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import SerializeAsAny, model_validator

from agentopd.base.parts import Part
from agentopd.divergences.estimators import Estimator
from agentopd.divergences.support import FullSupport, SampledSupport, Support
from agentopd.divergences.targets import Target
from agentopd.models.model import LanguageModel
from agentopd.signal.evidence import Measured
from agentopd.signal.tokens import Tokens

# N tokens, K categories; log-probabilities in nats, of the student p and the teacher q


@dataclass(frozen=True)
class Row:
    """What else is known of each token: the teacher's entropy over the whole vocabulary, the
    reference model's log-probabilities of the categories, where there is one, and whether the
    teacher wrote it; where that is None it wrote none.
    """

    teacher_entropy_N: torch.Tensor
    reference_NK: torch.Tensor | None = None
    acted_N: torch.Tensor | None = None


class Divergence(Part, family="divergence"):
    """Distance from the student to the teacher at each token: `value`, and the rest is optional.

    A divergence of your own compares two distributions; here it is bounded:

        class Bounded(Divergence, kind="bounded"):
            additive = False

            most: float = Field(default=2.0, gt=0)

            def value(self, p_NK: torch.Tensor, q_NK: torch.Tensor, row: Row) -> torch.Tensor:
                return self.most * torch.tanh(kl(p_NK, q_NK) / self.most)

    Its gradient is found by differentiating it, unless it says how it is in closed form.

    Args:
        support: the tokens that are compared.
        estimator: with the support `sampled`, how the divergence's gradient is estimated; the
            divergence's own if not given.
        target: what takes the teacher's place; the teacher itself if not given.
        plus: where whole distributions are compared, an estimator from the sampled tokens whose
            term is added, weighed alike: `reward_to_go` beside the exact divergence of each token,
            which knows nothing of what the token leads to (MiniLLM 2306.08543).
    """

    support: SerializeAsAny[Support] = FullSupport()
    estimator: SerializeAsAny[Estimator] | None = None
    target: SerializeAsAny[Target] | None = None
    plus: SerializeAsAny[Estimator] | None = None

    @abstractmethod
    def value(self, p_NK: torch.Tensor, q_NK: torch.Tensor, row: Row) -> torch.Tensor:
        """(N,) values of log-probabilities (N, K), differentiable in both."""

    def closed_form(
        self, p_NK: torch.Tensor, q_NK: torch.Tensor, row: Row
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Values (N,) and their gradient (N, K) by `p_NK`, of normalised categories.

        A gradient may be given up to what a normalised distribution ignores, a multiple of its
        probabilities. It should be exactly zero where student and teacher are equal: rounding would
        leave some 1e-8, which an optimizer that normalises gradients makes into full steps.
        """
        return _differentiated(lambda live_NK: self.value(live_NK, q_NK, row), p_NK)

    additive: ClassVar[bool] = True
    """Whether the value is a sum over categories, which then need not be all there are."""
    looks_further: ClassVar[bool] = False
    """Whether it reads more of the teacher than the support shows: `Row.teacher_entropy_N`."""
    estimable: ClassVar[str] = ""
    """What of it an estimator must estimate; empty where sampled tokens tell nothing of it."""
    default_estimator: ClassVar[Estimator | None] = None

    @property
    def sampled(self) -> bool:
        """Whether only the sampled token is looked at."""
        return isinstance(self.support, SampledSupport)

    @property
    def estimated_by(self) -> Estimator | None:
        """The estimator in use; None where distributions are compared."""
        return (self.estimator or self.default_estimator) if self.sampled else None

    @property
    def returns(self) -> Literal["loss", "advantage"]:
        """Whether tokens' values are differentiated, or credited to the sampled tokens."""
        return self.estimated_by.returns if self.estimated_by else "loss"

    @property
    def needs_reference(self) -> bool:
        """Whether a reference model must be asked, see `reference`."""
        return self.target is not None and self.target.needs_reference

    def reference(self, student: LanguageModel) -> LanguageModel:
        """The reference model, made before the student's first step.

        Raises:
            ValueError: it is not over the student's tokens.
        """
        return student.snapshot() if self.target is None else self.target.reference(student)

    @property
    def own_reference(self) -> bool:
        """Whether the reference is another model than the student before its first step."""
        return self.target is not None and self.target.own_reference

    def aimed(self, factor: float) -> Divergence:
        """The same with the number in its target multiplied.

        Raises:
            ValueError: it has no target, or one without such a number.
        """
        if self.target is None:
            raise ValueError(
                "the schedule target multiplies the number in divergence.target, and divergence: "
                f"{self.kind} has no target: set one, such as veto, or leave the schedule out"
            )
        return self.model_copy(update={"target": self.target.times(factor)})

    def compare(
        self, p_NK: torch.Tensor, q_NK: torch.Tensor, row: Row
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Values (N,) of the student and the target, and their gradient (N, K) by `p_NK`, as the
        support's `spread` takes it. Nothing is differentiated further.
        """
        target, reference_NK = self.target, row.reference_NK
        if target is not None and target.moves:
            return _differentiated(
                lambda p: self.value(p, target.of(p, q_NK, reference_NK), row), p_NK
            )
        if target is not None:
            q_NK = target.of(p_NK, q_NK, reference_NK)
        if not self.support.normalised:
            return _differentiated(lambda p: self.value(p, q_NK, row), p_NK)
        return self.closed_form(p_NK, q_NK, row)

    def estimated(self, measured: Measured, tokens: Tokens) -> torch.Tensor:
        """(N,) the losses or advantages of the estimator from the sampled tokens."""
        estimator, teacher = from_samples(self), measured.teacher
        assert estimator is not None and teacher is not None
        logprob_N, teacher_N = measured.student.logprob_N, teacher.logprob_N
        if self.target is not None:
            reference_N = measured.reference.logprob_N if measured.reference else None
            teacher_N = self.target.mixed(logprob_N.detach(), teacher_N, reference_N)
        return estimator.per_token(logprob_N, teacher_N, tokens)

    @model_validator(mode="after")
    def _makes_sense(self) -> Divergence:
        if self.sampled:
            self._can_be_estimated()
            if self.plus is not None:
                raise ValueError(
                    "support: sampled has an estimator in the divergence's place, and plus: "
                    f"{self.plus.kind} is one beside it: leave plus out, or use support: full"
                )
            return self
        if self.plus is not None:
            self._can_be_estimated()
        if self.estimator is not None:
            raise ValueError(
                f"estimator: {self.estimator.kind} estimates from the sampled token, and support: "
                f"{self.support.kind} compares distributions exactly. Leave the estimator out, or "
                "use support: sampled"
            )
        if not self.support.normalised and not (self.additive and self.target is None):
            what = self.kind if self.target is None else f"target: {self.target.kind}"
            raise ValueError(
                f"{what} is defined for whole distributions, and rest: raw leaves a part of one. "
                "Use rest: tail"
            )
        return self

    def _can_be_estimated(self) -> None:
        own, name = from_samples(self), self.kind or type(self).__name__
        if own is None or not self.estimable:
            raise ValueError(
                f"{name} cannot be estimated from the sampled token: the tokens come from the "
                "student, and an average over the student's tokens estimates the reverse KL alone. "
                "Use support: full or teacher_top_k, reverse_kl, or forward_kl with estimator: "
                "importance, which weights the tokens"
            )
        if own.estimates not in (self.estimable, "neither"):
            raise ValueError(
                f"estimator: {own.kind} estimates the {own.estimates}, and the divergence is {name}"
            )
        if self.target is None:
            return
        if self.target.moves or not own.baseline_free:
            raise ValueError(
                f"target: {self.target.kind} is known at the sampled token up to its normaliser "
                f"and as a number; estimator: {own.kind} and a live student need more. Use "
                "estimator: k1, truncated or clipped with a detached target, or support: full"
            )


def from_samples(divergence: Divergence) -> Estimator | None:
    """The estimator that learns from the sampled tokens, in the divergence's place or beside it."""
    return divergence.estimated_by or divergence.plus


def _differentiated(
    value_of: Callable[[torch.Tensor], torch.Tensor], p_NK: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values (N,) of log-probabilities (N, K) and their gradient; 0 where there is no mass."""
    with torch.enable_grad():
        live_NK = p_NK.detach().requires_grad_()
        value_N = value_of(live_NK)
        (pull_NK,) = torch.autograd.grad(value_N.sum(), live_NK)
    return value_N.detach(), pull_NK.masked_fill(p_NK == -torch.inf, 0.0)
