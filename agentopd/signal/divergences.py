"""Divergences between student and teacher, token by token.

Each declares what it returns. A *loss* is differentiated through the student's whole next-token
distribution. An *advantage* is a number a sampled token is credited with: it is detached here and
multiplies the gradient of the token's log-probability elsewhere. So a sampled log-ratio
back-propagated as a loss, whose expected gradient is zero, cannot be written down.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal

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
            return kl(student_NV, teacher_NV)
        at_N1 = ids_N[:, None]
        return (teacher_NV.gather(1, at_N1) - student_NV.gather(1, at_N1)).squeeze(1).detach()


class ForwardKL(Divergence, kind="forward_kl"):
    """KL(teacher || student)."""

    def per_token(
        self, student_NV: torch.Tensor, teacher_NV: torch.Tensor, ids_N: torch.Tensor
    ) -> torch.Tensor:
        """See `Divergence.per_token`."""
        return kl(teacher_NV, student_NV)


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
        b = self.beta
        # logaddexp has no gradient where both sides are -inf, so it is not asked there.
        nowhere_NV = (student_NV == -math.inf) & (teacher_NV == -math.inf)
        mixed_NV = torch.logaddexp(
            student_NV.masked_fill(nowhere_NV, 0.0) + math.log(1 - b),
            teacher_NV.masked_fill(nowhere_NV, 0.0) + math.log(b),
        ).masked_fill(nowhere_NV, -math.inf)
        raw_N = b * kl(teacher_NV, mixed_NV) + (1 - b) * kl(student_NV, mixed_NV)
        return raw_N / (b * (1 - b))


def kl(p_NV: torch.Tensor, q_NV: torch.Tensor) -> torch.Tensor:
    """KL(p || q) of log-probabilities, (N,).

    Where p has no mass, or none that its dtype can hold, there is no contribution, whatever q is.
    Where q has none and p has, the divergence is infinite.
    """
    mass_NV = p_NV.exp()
    empty_NV = mass_NV == 0
    ratio_NV = p_NV.masked_fill(empty_NV, 0.0) - q_NV.masked_fill(empty_NV, 0.0)
    return (mass_NV * ratio_NV).sum(-1)


def entropy(p_NV: torch.Tensor) -> torch.Tensor:
    """Entropy in nats, (N,)."""
    return -(p_NV.exp() * p_NV.masked_fill(p_NV == -math.inf, 0.0)).sum(-1)
