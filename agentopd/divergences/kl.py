"""The reverse and the forward KL, their mixtures, and the switch between them."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from pydantic import Field

from agentopd.divergences.base import Divergence, Row
from agentopd.divergences.estimators import K1, Estimator
from agentopd.divergences.logprobs import above_mixture, bend, kl, relative_difference, weighted

# N tokens, K categories; log-probabilities in nats, of the student p and the teacher q


class ReverseKL(Divergence, kind="reverse_kl"):
    """KL(student || teacher) (MiniLLM 2306.08543)."""

    estimable: ClassVar[str] = "reverse_kl"
    default_estimator: ClassVar[Estimator | None] = K1()

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return "KL(p || q)"

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

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return "KL(q || p)"

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

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        own, other = 1 - self.beta, self.beta
        value = f"{other:g} KL(q || M) + {own:g} KL(p || M)"
        value = f"({value}) / {own * other:g}" if self.scaled else value
        return f"{value} with M = {own:g} p + {other:g} q"

    def value(self, p_NK: torch.Tensor, q_NK: torch.Tensor, row: Row) -> torch.Tensor:
        """See `Divergence.value`."""
        near, far = self._divisors
        return (
            _to_mixture(q_NK, p_NK, 1 - self.beta) / far + _to_mixture(p_NK, q_NK, self.beta) / near
        )

    def closed_form(
        self, p_NK: torch.Tensor, q_NK: torch.Tensor, row: Row
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Divergence.closed_form`."""
        near, far = self._divisors
        # The mixture moves with the student, but what that adds to the gradient cancels.
        pull_NK = weighted(p_NK, above_mixture(p_NK, q_NK, self.beta)).div_(near)
        far_N = weighted(q_NK, above_mixture(q_NK, p_NK, 1 - self.beta)).sum(-1)
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

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        first, second = ("q", "p") if self.direction == "forward" else ("p", "q")
        return f"KL({first} || {self.alpha:g} {first} + {1 - self.alpha:g} {second})"

    def value(self, p_NK: torch.Tensor, q_NK: torch.Tensor, row: Row) -> torch.Tensor:
        """See `Divergence.value`."""
        first_NK, second_NK = (q_NK, p_NK) if self.direction == "forward" else (p_NK, q_NK)
        return _to_mixture(first_NK, second_NK, 1 - self.alpha)

    def closed_form(
        self, p_NK: torch.Tensor, q_NK: torch.Tensor, row: Row
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Divergence.closed_form`."""
        alpha = self.alpha
        if self.direction == "forward":
            value_N = weighted(q_NK, above_mixture(q_NK, p_NK, 1 - alpha)).sum(-1)
            pull_NK = weighted(p_NK, relative_difference(p_NK, q_NK, alpha))
            return value_N, pull_NK.mul_((1 - alpha) ** 2)
        above_NK = above_mixture(p_NK, q_NK, 1 - alpha)
        value_N = weighted(p_NK, above_NK).sum(-1)
        # With log p - log m = log(1 + y), less alpha y, which is the mixture's own movement.
        y_NK = (1 - alpha) * relative_difference(p_NK, q_NK, 1 - alpha)
        return value_N, weighted(p_NK, (1 - alpha) * y_NK + bend(y_NK, above_NK))


class BothKLs(Divergence):
    """The reverse and the forward KL, each with a share of its own at every token."""

    def value(self, p_NK: torch.Tensor, q_NK: torch.Tensor, row: Row) -> torch.Tensor:
        """See `Divergence.value`."""
        reverse_N, forward_N = self._shares(row)
        return reverse_N * kl(p_NK, _where(reverse_N, q_NK, p_NK)) + forward_N * kl(
            self._likeliest(_where(forward_N, q_NK, p_NK)), p_NK
        )

    def closed_form(
        self, p_NK: torch.Tensor, q_NK: torch.Tensor, row: Row
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Divergence.closed_form`."""
        reverse_N, forward_N = self._shares(row)
        down_N, down_NK = _reverse(p_NK, _where(reverse_N, q_NK, p_NK))
        up_N, up_NK = self._upward(p_NK, _where(forward_N, q_NK, p_NK))
        pull_NK = down_NK.mul_(reverse_N[:, None]).add_(up_NK.mul_(forward_N[:, None]))
        return reverse_N * down_N + forward_N * up_N, pull_NK

    @abstractmethod
    def _shares(self, row: Row) -> tuple[torch.Tensor, torch.Tensor]:
        """How much the reverse and the forward KL count, (N,) each."""

    def _likeliest(self, q_NK: torch.Tensor) -> torch.Tensor:
        """The teacher's log-probabilities of the categories that the forward KL is summed over."""
        return q_NK

    def _upward(self, p_NK: torch.Tensor, q_NK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The forward KL and its gradient by log p, up to a multiple of p."""
        return _forward(p_NK, q_NK)


class EntropySwitched(BothKLs, kind="entropy_switched"):
    """Reverse KL where the teacher is sure, forward KL where its entropy H is high (EOPD
    2603.07079).

    Sources read it in three ways: `additive` adds the forward to the reverse KL where H is above
    the threshold, as the paper's abstract has it; `switch` puts the one in the other's place;
    `blended` weights them with s and 1 - s, s = sigmoid((H - threshold) / width), a form of ours
    for what a survey calls a continuous blend.

    Args:
        threshold: of the teacher's entropy over the whole vocabulary, in nats; the paper's.
        width: in nats, of the blend; ours.
        forward_top: the forward KL is summed over so many of the teacher's likeliest tokens alone,
            as they are (the paper takes 16): that sum is no divergence, and moves mass to them even
            where the models are equal. Over all of the support if not given.
    """

    looks_further: ClassVar[bool] = True

    reading: Literal["additive", "switch", "blended"] = "additive"
    threshold: float = Field(default=0.8, ge=0)
    width: float = Field(default=0.1, gt=0)
    forward_top: int | None = Field(default=None, ge=1)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        least = f"{self.threshold:g}"
        likely = "q" if self.forward_top is None else f"top(q, {self.forward_top})"
        forward = f"KL({likely} || p)"
        if self.reading == "blended":
            share = f"sigmoid((H(q) - {least}) / {self.width:g})"
            return f"(1 - s) KL(p || q) + s {forward} with s = {share}"
        reverse = "" if self.reading == "additive" else f"1[H(q) <= {least}] "
        return f"{reverse}KL(p || q) + 1[H(q) > {least}] {forward}"

    def _upward(self, p_NK: torch.Tensor, q_NK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `BothKLs._upward`."""
        if self.forward_top is None:
            return super()._upward(p_NK, q_NK)
        likely_NK = self._likeliest(q_NK)
        return weighted(likely_NK, likely_NK - p_NK).sum(-1), -likely_NK.exp()

    def _likeliest(self, q_NK: torch.Tensor) -> torch.Tensor:
        """See `BothKLs._likeliest`; -inf for the others."""
        if self.forward_top is None or self.forward_top >= q_NK.shape[-1]:
            return q_NK
        top_NK = q_NK.topk(self.forward_top).indices
        outside_NK = torch.ones_like(q_NK, dtype=torch.bool).scatter_(1, top_NK, False)
        return q_NK.masked_fill(outside_NK, -torch.inf)

    def _shares(self, row: Row) -> tuple[torch.Tensor, torch.Tensor]:
        """See `BothKLs._shares`."""
        entropy_N = row.teacher_entropy_N
        if self.reading == "blended":
            forward_N = torch.sigmoid((entropy_N - self.threshold) / self.width)
        else:
            forward_N = (entropy_N > self.threshold).to(entropy_N.dtype)
        one_N = torch.ones_like(forward_N)
        return (one_N if self.reading == "additive" else one_N - forward_N), forward_N


class ByOwner(BothKLs, kind="by_owner"):
    """The reverse KL at the tokens that the student wrote, the forward KL at those that the teacher
    wrote (Guided-OPD 2606.15912).

    At whole distributions: of the student's tokens the k1 advantage, of the teacher's their
    likelihood, is each an estimate of it.

    Args:
        share: of the forward KL; the reverse KL has the rest.
    """

    share: float = Field(default=0.5, gt=0, lt=1)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        reverse = f"{1 - self.share:g} KL(p || q) at the student's tokens"
        return f"{reverse}, {self.share:g} KL(q || p) at the teacher's"

    def _shares(self, row: Row) -> tuple[torch.Tensor, torch.Tensor]:
        """See `BothKLs._shares`."""
        like_N = row.teacher_entropy_N
        acted_N = like_N.new_zeros(len(like_N)) if row.acted_N is None else row.acted_N.to(like_N)
        return (1 - self.share) * (1 - acted_N), self.share * acted_N


def _where(share_N: torch.Tensor, q_NK: torch.Tensor, p_NK: torch.Tensor) -> torch.Tensor:
    """q where it counts; elsewhere p, of which an infinite divergence cannot come."""
    return torch.where(share_N[:, None] > 0, q_NK, p_NK)


def _to_mixture(p_NK: torch.Tensor, q_NK: torch.Tensor, share: float) -> torch.Tensor:
    """KL(p || (1 - share) p + share q), (N,), differentiable in both."""
    empty_NK = p_NK.exp() == 0
    own_NK, other_NK = p_NK.masked_fill(empty_NK, 0.0), q_NK.masked_fill(empty_NK, 0.0)
    return (p_NK.exp() * above_mixture(own_NK, other_NK, share)).sum(-1)


def _reverse(p_NK: torch.Tensor, q_NK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(p || q) and its gradient by log p, up to p."""
    pull_NK = weighted(p_NK, p_NK - q_NK)
    return pull_NK.sum(-1), pull_NK


def _forward(p_NK: torch.Tensor, q_NK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(q || p) and its gradient by log p, up to -p."""
    return weighted(q_NK, q_NK - p_NK).sum(-1), p_NK.exp() - q_NK.exp()
