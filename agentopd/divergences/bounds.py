"""Estimators that hold what a single token counts within bounds."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field, model_validator

from agentopd.divergences.estimators import K1
from agentopd.signal.surrogate import windowed_gradient
from agentopd.signal.tokens import Tokens

# N tokens of a micro-batch, the student's log-probabilities differentiable


class Windowed(K1, kind="windowed"):
    """k1 times the ratio, detached, where that lies in a window, and nothing elsewhere
    (Nemotron-Cascade 2 2603.19220): a token that student and sampler see too differently is left
    out.

    Args:
        least, most: the window, ends included.

    Raises:
        ValueError: the ratio of what was sampled from the student itself, 1, lies outside.
    """

    least: float = Field(default=0.5, ge=0, le=1)
    most: float = Field(default=2.0, ge=1)

    @property
    def ratio_formula(self) -> str:
        """See `Estimator.ratio_formula`."""
        return f"r 1[r >= {self.least:g}] 1[r <= {self.most:g}]"

    def surrogate(
        self, logprob_N: torch.Tensor, behaviour_N: torch.Tensor, advantage_N: torch.Tensor
    ) -> torch.Tensor:
        """See `Estimator.surrogate`."""
        return windowed_gradient(logprob_N, behaviour_N, advantage_N, (self.least, self.most))


class Bounded(K1, kind="bounded"):
    """k1, held between a floor and a ceiling (REOPOLD 2603.11137): no single token, of which the
    teacher thinks nothing at all, outweighs the others.

    With a weight lambda of the teacher in a mixture of both, the paper's floor is
    log(lambda / (1 - lambda)): -1.386 for 0.2. Held values are a bias: what the student says and
    the teacher never would is pushed down no harder than that.

    Args:
        floor, ceiling: of log q(y) - log p(y), in nats; none if not given.

    Raises:
        ValueError: neither is given.
    """

    baseline_free: ClassVar[bool] = False

    floor: float | None = Field(default=None, lt=0)
    ceiling: float | None = Field(default=None, gt=0)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        held = super().formula
        held = held if self.floor is None else f"max({held}, {self.floor:g})"
        return held if self.ceiling is None else f"min({held}, {self.ceiling:g})"

    @model_validator(mode="after")
    def _holds_something(self) -> Bounded:
        if self.floor is None and self.ceiling is None:
            raise ValueError(
                "estimator: bounded holds the log-ratio between a floor and a ceiling, and neither "
                "is given: set floor: -1.386 (REOPOLD), or use estimator: k1"
            )
        return self

    def per_token(
        self, logprob_N: torch.Tensor, teacher_N: torch.Tensor, tokens: Tokens
    ) -> torch.Tensor:
        """See `Estimator.per_token`."""
        return super().per_token(logprob_N, teacher_N, tokens).clamp(self.floor, self.ceiling)
