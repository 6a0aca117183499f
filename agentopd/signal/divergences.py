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
from pydantic import Field, SerializeAsAny, model_validator

from agentopd.parts import Part
from agentopd.signal.estimators import K1, Estimator
from agentopd.signal.evidence import Measured
from agentopd.signal.logprobs import kl, mixture, weighted
from agentopd.signal.support import FullSupport, SampledSupport, Support
from agentopd.signal.targets import Target
from agentopd.signal.tokens import Tokens

# N tokens, K categories; log-probabilities in nats, of the student p and the teacher q


@dataclass(frozen=True)
class Row:
    """What else is known of each token: the teacher's entropy over the whole vocabulary, and the
    reference model's log-probabilities of the categories, where there is one.
    """

    teacher_entropy_N: torch.Tensor
    reference_NK: torch.Tensor | None = None


class Divergence(Part, family="divergence"):
    """Distance from the student to the teacher at each token.

    Args:
        support: the tokens that are compared.
        estimator: with the support `sampled`, how the divergence's gradient is estimated; the
            divergence's own if not given.
        target: what takes the teacher's place; the teacher itself if not given.
    """

    support: SerializeAsAny[Support] = FullSupport()
    estimator: SerializeAsAny[Estimator] | None = None
    target: SerializeAsAny[Target] | None = None

    estimable: ClassVar[str] = ""
    """What of it an estimator must estimate; empty where sampled tokens tell nothing of it."""
    default_estimator: ClassVar[Estimator | None] = None
    additive: ClassVar[bool] = True
    """Whether the value is a sum over categories, which then need not be all there are."""

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
        """Whether a reference model must be asked: the student before its first step."""
        return self.target is not None and self.target.needs_reference

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
        """(N,) the estimator's losses or advantages, with the support `sampled`."""
        estimator, teacher = self.estimated_by, measured.teacher
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
            return self
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
        own, name = self.estimated_by, self.kind or type(self).__name__
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


class ReverseKL(Divergence, kind="reverse_kl"):
    """KL(student || teacher) (MiniLLM 2306.08543)."""

    estimable: ClassVar[str] = "reverse_kl"
    default_estimator: ClassVar[Estimator | None] = K1()

    def value(self, p_NK: torch.Tensor, q_NK: torch.Tensor, row: Row) -> torch.Tensor:
        """See `Divergence.value`."""
        return kl(p_NK, q_NK)

    def closed_form(
        self, p_NK: torch.Tensor, q_NK: torch.Tensor, row: Row
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Divergence.closed_form`."""
        return _reverse(p_NK, q_NK)


class ForwardKL(Divergence, kind="forward_kl"):
    """KL(teacher || student)."""

    estimable: ClassVar[str] = "forward_kl"

    def value(self, p_NK: torch.Tensor, q_NK: torch.Tensor, row: Row) -> torch.Tensor:
        """See `Divergence.value`."""
        return kl(q_NK, p_NK)

    def closed_form(
        self, p_NK: torch.Tensor, q_NK: torch.Tensor, row: Row
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Divergence.closed_form`."""
        return _forward(p_NK, q_NK)


class JensenShannon(Divergence, kind="jsd"):
    """Generalised Jensen-Shannon divergence (GKD 2306.13649): with m = (1-beta) p + beta q,

        JSD_beta = beta KL(q || m) + (1-beta) KL(p || m).

    Args:
        beta: the teacher's share in m.
        scaled: over beta (1-beta), which makes it continuous with its ends: the forward KL as beta
            -> 0, the reverse KL as beta -> 1. Papers that add it to another loss (SDPO 2601.20802,
            SRPO 2604.02288) mean JSD_beta itself: at one half, a quarter of it.
    """

    beta: float = Field(default=0.5, gt=0, lt=1)
    scaled: bool = True

    def value(self, p_NK: torch.Tensor, q_NK: torch.Tensor, row: Row) -> torch.Tensor:
        """See `Divergence.value`."""
        near, far = self._divisors
        mixed_NK = mixture(p_NK, q_NK, self.beta)
        return kl(q_NK, mixed_NK) / far + kl(p_NK, mixed_NK) / near

    def closed_form(
        self, p_NK: torch.Tensor, q_NK: torch.Tensor, row: Row
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Divergence.closed_form`."""
        near, far = self._divisors
        mixed_NK = mixture(p_NK, q_NK, self.beta)
        # The mixture moves with the student, but what that adds to the gradient cancels.
        pull_NK = weighted(p_NK, p_NK - mixed_NK).div_(near)
        far_N = weighted(q_NK, q_NK - mixed_NK).sum(-1)
        return far_N / far + pull_NK.sum(-1), pull_NK

    @property
    def _divisors(self) -> tuple[float, float]:
        """Of the student's and of the teacher's divergence from the mixture."""
        near, far = self.beta, 1 - self.beta
        return (near, far) if self.scaled else (1 / far, 1 / near)


class SkewKL(Divergence, kind="skew"):
    """KL to a mixture with the other side (DistiLLM 2402.03898): `forward` is
    KL(q || alpha q + (1-alpha) p), `reverse` is KL(p || alpha p + (1-alpha) q).

    Finite whatever lacks mass. As alpha -> 0 it is the KL of that direction.

    Args:
        alpha: the share of the first argument in the mixture.
    """

    direction: Literal["forward", "reverse"] = "forward"
    alpha: float = Field(default=0.1, gt=0, lt=1)

    def value(self, p_NK: torch.Tensor, q_NK: torch.Tensor, row: Row) -> torch.Tensor:
        """See `Divergence.value`."""
        first_NK, second_NK = (q_NK, p_NK) if self.direction == "forward" else (p_NK, q_NK)
        return kl(first_NK, mixture(first_NK, second_NK, 1 - self.alpha))

    def closed_form(
        self, p_NK: torch.Tensor, q_NK: torch.Tensor, row: Row
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Divergence.closed_form`."""
        alpha, forward = self.alpha, self.direction == "forward"
        mixed_NK = mixture(p_NK, q_NK, alpha if forward else 1 - alpha)
        # (p - q) p / m: what is left of the mixture's own movement.
        drag_NK = weighted(p_NK, (p_NK - mixed_NK).exp() - (q_NK - mixed_NK).exp())
        if forward:
            value_N = weighted(q_NK, q_NK - mixed_NK).sum(-1)
            return value_N, drag_NK.mul_((1 - alpha) ** 2)
        pull_NK = weighted(p_NK, p_NK - mixed_NK)
        return pull_NK.sum(-1), pull_NK - drag_NK.mul_(alpha * (1 - alpha))


class EntropySwitched(Divergence, kind="entropy_switched"):
    """Reverse KL where the teacher is sure, forward KL where its entropy H is high (EOPD
    2603.07079).

    Sources read it in three ways: `additive` adds the forward to the reverse KL where H is above
    the threshold, as the paper's abstract has it; `switch` puts the one in the other's place;
    `blended` weights them with s and 1 - s, s = sigmoid((H - threshold) / width), a form of ours
    for what a survey calls a continuous blend. The paper takes the forward KL over the teacher's
    likeliest tokens; here both share the support. Neither threshold nor width is the paper's.

    Args:
        threshold: of the teacher's entropy over the whole vocabulary, in nats.
        width: in nats, of the blend.
    """

    reading: Literal["additive", "switch", "blended"] = "additive"
    threshold: float = Field(default=0.8, ge=0)
    width: float = Field(default=0.1, gt=0)

    def unread(self) -> dict[str, str]:
        """See `Settings.unread`."""
        return {} if self.reading == "blended" else {"width": "reading: blended"}

    def value(self, p_NK: torch.Tensor, q_NK: torch.Tensor, row: Row) -> torch.Tensor:
        """See `Divergence.value`."""
        reverse_N, forward_N = self._shares(row)
        return reverse_N * kl(p_NK, _where(reverse_N, q_NK, p_NK)) + forward_N * kl(
            _where(forward_N, q_NK, p_NK), p_NK
        )

    def closed_form(
        self, p_NK: torch.Tensor, q_NK: torch.Tensor, row: Row
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Divergence.closed_form`."""
        reverse_N, forward_N = self._shares(row)
        down_N, down_NK = _reverse(p_NK, _where(reverse_N, q_NK, p_NK))
        up_N, up_NK = _forward(p_NK, _where(forward_N, q_NK, p_NK))
        pull_NK = down_NK.mul_(reverse_N[:, None]).add_(up_NK.mul_(forward_N[:, None]))
        return reverse_N * down_N + forward_N * up_N, pull_NK

    def _shares(self, row: Row) -> tuple[torch.Tensor, torch.Tensor]:
        """How much the reverse and the forward KL count, (N,) each."""
        entropy_N = row.teacher_entropy_N
        if self.reading == "blended":
            forward_N = torch.sigmoid((entropy_N - self.threshold) / self.width)
        else:
            forward_N = (entropy_N > self.threshold).to(entropy_N.dtype)
        one_N = torch.ones_like(forward_N)
        return (one_N if self.reading == "additive" else one_N - forward_N), forward_N


def _where(share_N: torch.Tensor, q_NK: torch.Tensor, p_NK: torch.Tensor) -> torch.Tensor:
    """q where it counts; elsewhere p, of which an infinite divergence cannot come."""
    return torch.where(share_N[:, None] > 0, q_NK, p_NK)


def _reverse(p_NK: torch.Tensor, q_NK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(p || q) and its gradient by log p, up to p."""
    pull_NK = weighted(p_NK, p_NK - q_NK)
    return pull_NK.sum(-1), pull_NK


def _forward(p_NK: torch.Tensor, q_NK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(q || p) and its gradient by log p, up to -p."""
    return weighted(q_NK, q_NK - p_NK).sum(-1), p_NK.exp() - q_NK.exp()


def _differentiated(
    value_of: Callable[[torch.Tensor], torch.Tensor], p_NK: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values (N,) of log-probabilities (N, K) and their gradient; 0 where there is no mass."""
    with torch.enable_grad():
        live_NK = p_NK.detach().requires_grad_()
        value_N = value_of(live_NK)
        (pull_NK,) = torch.autograd.grad(value_N.sum(), live_NK)
    return value_N.detach(), pull_NK.masked_fill(p_NK == -torch.inf, 0.0)
