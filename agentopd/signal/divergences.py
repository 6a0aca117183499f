"""Divergences between student and teacher, token by token.

Each declares what it returns. A *loss* is differentiated through the student's whole next-token
distribution. An *advantage* is a number a sampled token is credited with: it is detached here and
multiplies the gradient of the token's log-probability elsewhere. So a sampled log-ratio
back-propagated as a loss, whose expected gradient is zero, cannot be written down.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from agentopd.parts import Part

# N tokens, V vocabulary; log-probabilities in nats, of the student p and the teacher q


class Divergence(Part, family="divergence"):
    """Distance from the student to the teacher at each token.

    Args:
        support: all of the vocabulary, or the sampled token alone.
    """

    support: Literal["full", "sampled"] = "full"

    @property
    def returns(self) -> Literal["loss", "advantage"]:
        """What `per_token` gives."""
        return "loss"

    @abstractmethod
    def per_token(
        self, student_NV: torch.Tensor, teacher_NV: torch.Tensor, ids_N: torch.Tensor
    ) -> torch.Tensor:
        """(N,) values of normalised log-probabilities (N, V); `ids_N` are the sampled tokens."""

    @model_validator(mode="after")
    def _support_makes_sense(self) -> Divergence:
        if self.support == "sampled" and self.returns == "loss":
            raise ValueError(
                f"{self.kind or type(self).__name__} cannot be estimated from the sampled token: "
                "the tokens come from the student, and an average over the student's tokens "
                "estimates the reverse KL alone. Use support: full, or reverse_kl"
            )
        return self


class ReverseKL(Divergence, kind="reverse_kl"):
    """KL(student || teacher) (MiniLLM 2306.08543).

    With full support an exact loss. Sampled, the advantage `log q(y) - log p(y)`, whose policy
    gradient has the same expectation.
    """

    @property
    def returns(self) -> Literal["loss", "advantage"]:
        """See `Divergence.returns`."""
        return "loss" if self.support == "full" else "advantage"

    def per_token(
        self, student_NV: torch.Tensor, teacher_NV: torch.Tensor, ids_N: torch.Tensor
    ) -> torch.Tensor:
        """See `Divergence.per_token`."""
        if self.support == "full":
            p_NV = student_NV.detach()
            pull_NV = p_NV.exp() * _log_ratio(p_NV, teacher_NV)
            return _Given.value(student_NV, pull_NV.sum(-1), pull_NV)
        at_N1 = ids_N[:, None]
        return (teacher_NV.gather(1, at_N1) - student_NV.gather(1, at_N1)).squeeze(1).detach()


class ForwardKL(Divergence, kind="forward_kl"):
    """KL(teacher || student)."""

    def per_token(
        self, student_NV: torch.Tensor, teacher_NV: torch.Tensor, ids_N: torch.Tensor
    ) -> torch.Tensor:
        """See `Divergence.per_token`."""
        p_NV = student_NV.detach()
        return _Given.value(student_NV, kl(teacher_NV, p_NV), p_NV.exp() - teacher_NV.exp())


class JensenShannon(Divergence, kind="jsd"):
    """Generalised Jensen-Shannon divergence (GKD 2306.13649): with m = (1-beta) p + beta q,

        [beta KL(q || m) + (1-beta) KL(p || m)] / (beta (1-beta)).

    The division makes it continuous with its ends: the forward KL as beta -> 0, the reverse KL as
    beta -> 1.
    """

    beta: float = Field(default=0.5, gt=0, lt=1)

    def per_token(
        self, student_NV: torch.Tensor, teacher_NV: torch.Tensor, ids_N: torch.Tensor
    ) -> torch.Tensor:
        """See `Divergence.per_token`."""
        b, p_NV = self.beta, student_NV.detach()
        mixed_NV = _mixture(p_NV, teacher_NV, b)
        # The mixture moves with the student, but what that adds to the gradient cancels.
        pull_NV = p_NV.exp() * _log_ratio(p_NV, mixed_NV) / b
        value_N = kl(teacher_NV, mixed_NV) / (1 - b) + pull_NV.sum(-1)
        return _Given.value(student_NV, value_N, pull_NV)


def kl(p_NV: torch.Tensor, q_NV: torch.Tensor) -> torch.Tensor:
    """KL(p || q) of log-probabilities, (N,).

    Where p has no mass, or none that its dtype can hold, there is no contribution, whatever q is.
    Where q has none and p has, the divergence is infinite.
    """
    return (p_NV.exp() * _log_ratio(p_NV, q_NV)).sum(-1)


def entropy(p_NV: torch.Tensor) -> torch.Tensor:
    """Entropy in nats, (N,)."""
    return -(p_NV.exp() * p_NV.masked_fill(p_NV == -math.inf, 0.0)).sum(-1)


class _Given(torch.autograd.Function):
    """Values of the student's log-probabilities whose gradient is given in closed form.

    A gradient is given up to what a normalised distribution ignores, a multiple of its
    probabilities, such that it is exactly zero where student and teacher are equal. Rounding would
    leave some 1e-8, which an optimizer that normalises gradients makes into full steps.
    """

    @staticmethod
    def value(
        student_NV: torch.Tensor, value_N: torch.Tensor, gradient_NV: torch.Tensor
    ) -> torch.Tensor:
        """`value_N`, differentiated by `student_NV` as `gradient_NV` says."""
        found = _Given.apply(student_NV, value_N, gradient_NV)
        assert isinstance(found, torch.Tensor)
        return found

    @staticmethod
    def forward(
        ctx: Any, student_NV: torch.Tensor, value_N: torch.Tensor, gradient_NV: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(gradient_NV)
        return value_N.clone()

    @staticmethod
    def backward(ctx: Any, *grads_N: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient_NV,) = ctx.saved_tensors
        return grads_N[0][:, None] * gradient_NV, None, None


def _log_ratio(p_NV: torch.Tensor, q_NV: torch.Tensor) -> torch.Tensor:
    """log p - log q, and 0 where p has no mass."""
    empty_NV = p_NV.exp() == 0
    return p_NV.masked_fill(empty_NV, 0.0) - q_NV.masked_fill(empty_NV, 0.0)


def _mixture(p_NV: torch.Tensor, q_NV: torch.Tensor, beta: float) -> torch.Tensor:
    """log((1 - beta) p + beta q), which is p to the last bit where p and q are equal.

    NaN where neither has any mass: there no divergence from the mixture looks.
    """
    gap_NV = q_NV - p_NV
    from_p_NV = p_NV + torch.log1p(beta * torch.expm1(gap_NV.clamp(max=0.0)))
    from_q_NV = q_NV + torch.log1p((1 - beta) * torch.expm1(-gap_NV.clamp(min=0.0)))
    return torch.where(gap_NV <= 0, from_p_NV, from_q_NV)
