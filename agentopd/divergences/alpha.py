"""The divergences of order alpha, between the forward and the reverse KL."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from agentopd.divergences.base import Divergence, Row
from agentopd.divergences.logprobs import log_ratio

# N tokens, K categories; log-probabilities in nats, of the student p and the teacher q


class AlphaDivergence(Divergence, kind="alpha"):
    """Divergences of order alpha, from S = sum p^alpha q^(1-alpha) and over alpha (1-alpha), which
    makes both forms the forward KL as alpha -> 0 and the reverse KL as alpha -> 1.

    `renyi` is -log(S) / (alpha (1-alpha)): Renyi's divergence of the student from the teacher, over
    alpha. `amari` is (1 - S) / (alpha (1-alpha)), at one half four times the squared Hellinger
    distance. The latter alone is finite where the two share no token. The ends are kinds of their
    own.
    """

    additive: ClassVar[bool] = False

    alpha: float = Field(default=0.5, gt=0, lt=1)
    form: Literal["renyi", "amari"] = "renyi"

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        value = "-log(S)" if self.form == "renyi" else "(1 - S)"
        shared = f"sum(p^{self.alpha:g} q^{1 - self.alpha:g})"
        return f"{value} / {self.alpha * (1 - self.alpha):g} with S = {shared}"

    def value(self, p_NK: torch.Tensor, q_NK: torch.Tensor, row: Row) -> torch.Tensor:
        """See `Divergence.value`."""
        lack_N = self._lack(p_NK, q_NK)
        if self.form == "renyi":
            lack_N = -self._log_shared(lack_N, p_NK, q_NK)
        return lack_N / (self.alpha * (1 - self.alpha))

    def closed_form(
        self, p_NK: torch.Tensor, q_NK: torch.Tensor, row: Row
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Divergence.closed_form`."""
        lack_N = self._lack(p_NK, q_NK)
        log_shared_N = self._log_shared(lack_N, p_NK, q_NK)
        renyi = self.form == "renyi"
        value_N = -log_shared_N if renyi else lack_N
        # p less p^alpha q^(1-alpha), which Renyi normalises.
        tilt_NK = (1 - self.alpha) * (q_NK - p_NK)
        tilt_NK = tilt_NK - log_shared_N[:, None] if renyi else tilt_NK
        pull_NK = torch.where(
            tilt_NK < 1,
            -p_NK.exp() * tilt_NK.clamp(max=1.0).expm1(),
            p_NK.exp() - (p_NK + tilt_NK).exp(),
        )
        pull_NK = pull_NK.masked_fill_(p_NK == -torch.inf, 0.0)
        return value_N / (self.alpha * (1 - self.alpha)), pull_NK.div_(1 - self.alpha)

    def _lack(self, p_NK: torch.Tensor, q_NK: torch.Tensor) -> torch.Tensor:
        """1 - S, precise where that is small."""
        if self.alpha < 0.5:
            power_NK = -self.alpha * log_ratio(q_NK, p_NK)
            return -(q_NK.exp() * power_NK.expm1()).sum(-1)
        power_NK = -(1 - self.alpha) * log_ratio(p_NK, q_NK)
        return -(p_NK.exp() * power_NK.expm1()).sum(-1)

    def _log_shared(
        self, lack_N: torch.Tensor, p_NK: torch.Tensor, q_NK: torch.Tensor
    ) -> torch.Tensor:
        """log S, precise where S is nearly 1 and where it is nearly 0."""
        product_NK = self.alpha * p_NK + (1 - self.alpha) * q_NK
        near_N = torch.log1p(-lack_N.clamp(max=0.5))
        return torch.where(lack_N < 0.5, near_N, product_NK.logsumexp(-1))
