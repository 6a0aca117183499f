"""Estimators of a divergence from the sampled token alone.

Each declares what it returns: a *loss* that is differentiated, or an *advantage*, a detached number
by which the gradient of the token's log-probability is multiplied elsewhere. So the sampled
log-ratio back-propagated as a loss, whose expected gradient is zero, cannot be written down.

All see one token at a time, behind a fixed history: none but `reward_to_go` carries the gradient
that a token has through the tokens after it. With p the student, q the teacher and mu the rollout,
l = log p(y) - log q(y) and ratio = p(y) / mu(y).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator

from agentopd.base.parts import Part
from agentopd.base.rows.symbols import times
from agentopd.signal.surrogate import policy_gradient
from agentopd.signal.tokens import Tokens

# N tokens of a micro-batch, the student's log-probabilities differentiable

_VOID = {
    "k1_loss": "log p - log q of a sampled token, back-propagated, has an expected gradient of "
    "zero: it is noise. Use estimator: k1, the same number as an advantage, or k2, a loss",
    "k3": "back-propagated, it has the forward KL's gradient, not the reverse KL's whose value it "
    "estimates, and neither's once the weights have moved since the rollout (2512.21852). Use "
    "estimator: rho_k3 for the reverse KL, or divergence: {kind: forward_kl, support: sampled, "
    "estimator: importance} for the forward KL",
}


class Estimator(Part, family="estimator"):
    """One way to estimate a divergence's gradient from sampled tokens."""

    returns: ClassVar[Literal["loss", "advantage"]] = "advantage"
    estimates: ClassVar[str] = "reverse_kl"
    baseline_free: ClassVar[bool] = False
    """Whether a number that depends on the history alone, added to the teacher's log-probability,
    leaves the expected gradient on the rollout's own policy as it is."""

    @property
    def corrects(self) -> bool:
        """Whether it weighs a token by how likely the student was to draw it, whoever drew it."""
        return True

    @property
    def ratio_formula(self) -> str:
        """What stands before its advantages in the equation; see `Part.formula`."""
        return "r"

    @property
    def needs_step(self) -> bool:
        """Whether what a token is credited with hangs on all of the step's: then all are credited
        once, before its first pass, by what the models said then.
        """
        return False

    @property
    def clipped_at(self) -> float | None:
        """How far below 1 the importance ratio counts, where it is clipped as PPO's is."""
        return None

    gate: ClassVar[bool] = False
    """Whether its values are those of a gate, which probes show beside the weights'."""

    @abstractmethod
    def per_token(
        self, logprob_N: torch.Tensor, teacher_N: torch.Tensor, tokens: Tokens
    ) -> torch.Tensor:
        """(N,) losses or advantages of the student's (differentiable) and the teacher's
        log-probabilities of the sampled tokens, each by itself.
        """

    def credited(self, value_N: torch.Tensor, kept_N: torch.Tensor, tokens: Tokens) -> torch.Tensor:
        """(N,) what each token is credited with, of all tokens' own values.

        Args:
            kept_N: (N,) bool, the tokens that no weight removes: of the others nothing may be seen.
        """
        return value_N

    def settled(self, value_N: torch.Tensor, kept_N: torch.Tensor) -> torch.Tensor:
        """(N,) the same once all of the step's tokens are credited, see `needs_step`."""
        return value_N

    def surrogate(
        self, logprob_N: torch.Tensor, behaviour_N: torch.Tensor, advantage_N: torch.Tensor
    ) -> torch.Tensor:
        """(N,) losses whose gradient credits the sampled tokens with advantages.

        How the importance ratio enters is the estimator's affair: as it is, unless it says else.
        """
        return policy_gradient(logprob_N, behaviour_N, advantage_N, clip=None)

    @classmethod
    def of_kind(cls, kind: str) -> Any:
        """See `Part.of_kind`; what is known under a name, but void, is refused with the reason."""
        if kind in _VOID:
            raise ValueError(f"estimator {kind}: {_VOID[kind]}")
        return super().of_kind(kind)


class K1(Estimator, kind="k1"):
    """log q(y) - log p(y), an advantage: its policy gradient is the reverse KL's.

    Also when the weights have moved since the rollout, unless `stale`.

    Args:
        stale: take the rollout's log mu(y) in place of the student's log p(y) (OPID 2606.26790,
            OpenClaw-RL 2603.10165). The same on the first update after a rollout.
    """

    baseline_free: ClassVar[bool] = True

    stale: bool = False

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"log q(y) - log {'mu' if self.stale else 'p'}(y)"

    @property
    def corrects(self) -> bool:
        """See `Estimator.corrects`."""
        return not self.stale

    def per_token(
        self, logprob_N: torch.Tensor, teacher_N: torch.Tensor, tokens: Tokens
    ) -> torch.Tensor:
        """See `Estimator.per_token`."""
        own_N = tokens.behaviour_N if self.stale else logprob_N
        return (teacher_N - own_N).detach()


class Truncated(K1, kind="truncated"):
    """k1 times min(ratio, cap), the ratio detached (SDPO 2601.20802): bounded variance, and a bias
    where the student now does what it rarely did in the rollout.

    Args:
        cap: the largest ratio that counts.
    """

    cap: float = Field(default=2.0, gt=0)

    @property
    def ratio_formula(self) -> str:
        """See `Estimator.ratio_formula`."""
        return f"min(r, {self.cap:g})"

    def surrogate(
        self, logprob_N: torch.Tensor, behaviour_N: torch.Tensor, advantage_N: torch.Tensor
    ) -> torch.Tensor:
        """See `Estimator.surrogate`."""
        ratio_N = (logprob_N - behaviour_N).exp().detach().clamp(max=self.cap)
        return -ratio_N * advantage_N.detach() * logprob_N


class Clipped(K1, kind="clipped"):
    """k1 under PPO's clip of the ratio (1707.06347): a token moves no further in its advantage's
    direction once its ratio has left the bounds.

    Args:
        clip: the bounds are 1 - clip and 1 + clip.
    """

    clip: float = Field(default=0.2, gt=0)

    @property
    def ratio_formula(self) -> str:
        """See `Estimator.ratio_formula`."""
        return f"clip(r, {1 - self.clip:g}, {1 + self.clip:g})"

    @property
    def clipped_at(self) -> float:
        """See `Estimator.clipped_at`."""
        return self.clip

    def surrogate(
        self, logprob_N: torch.Tensor, behaviour_N: torch.Tensor, advantage_N: torch.Tensor
    ) -> torch.Tensor:
        """See `Estimator.surrogate`."""
        return policy_gradient(logprob_N, behaviour_N, advantage_N, self.clip)


class K2(Estimator, kind="k2"):
    """l^2 / 2, a loss: its gradient is the reverse KL's, though its value is not.

    Args:
        corrected: multiply by the detached ratio, without which this holds on-policy only
            (2512.21852).
    """

    returns: ClassVar[Literal["loss", "advantage"]] = "loss"

    corrected: bool = True

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        ratio = "r " if self.corrected else ""
        return f"{ratio}(log p(y) - log q(y))^2 / 2"

    @property
    def corrects(self) -> bool:
        """See `Estimator.corrects`."""
        return self.corrected

    def per_token(
        self, logprob_N: torch.Tensor, teacher_N: torch.Tensor, tokens: Tokens
    ) -> torch.Tensor:
        """See `Estimator.per_token`."""
        loss_N = 0.5 * (logprob_N - teacher_N) ** 2
        if not self.corrected:
            return loss_N
        return (logprob_N - tokens.behaviour_N).exp().detach() * loss_N


class RhoK3(Estimator, kind="rho_k3"):
    """ratio (exp(-l) - 1 + l), a loss with a live ratio (Skill-SD 2604.10674).

    Its value and its gradient are the reverse KL's, also off-policy; token by token the gradient is
    that of k1. Were the ratio detached, it would be the forward KL's.
    """

    returns: ClassVar[Literal["loss", "advantage"]] = "loss"

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return "r (q(y) / p(y) - 1 - log(q(y) / p(y)))"

    def per_token(
        self, logprob_N: torch.Tensor, teacher_N: torch.Tensor, tokens: Tokens
    ) -> torch.Tensor:
        """See `Estimator.per_token`."""
        gap_N = teacher_N - logprob_N
        return (logprob_N - tokens.behaviour_N).exp() * (gap_N.expm1() - gap_N)


class Gated(Estimator, kind="gated"):
    """sigmoid(beta (log q(y) - log p(y))), an advantage without a ratio: the likelihood of what the
    teacher likes better (SDAR 2605.15155).

    The paper calls it a reverse KL. It is neither KL: never negative, it pushes no token down but
    through the softmax. With beta 0 every advantage would be 1/2 and the expected gradient zero.

    Args:
        beta: steepness of the gate.

    Raises:
        ValueError: with a beta of 0 there is nothing to learn.
    """

    estimates: ClassVar[str] = "neither"
    gate: ClassVar[bool] = True

    beta: float = Field(default=5.0, ge=0)

    @property
    def ratio_formula(self) -> str:
        """See `Estimator.ratio_formula`."""
        return ""

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"sigmoid({times(self.beta, '(log q(y) - log p(y))')})"

    @property
    def corrects(self) -> bool:
        """See `Estimator.corrects`."""
        return False

    @field_validator("beta")
    @classmethod
    def _tells_tokens_apart(cls, value: float) -> float:
        if value == 0:
            raise ValueError(
                "with beta: 0 every advantage is one half, whatever the teacher says, and the "
                "expected gradient is zero: noise, which the paper's baseline of this kind is "
                "(SDAR 2605.15155). Use control: zero_signal for a run in which the teacher has no "
                "say, or estimator: k1 for one without a gate"
            )
        return value

    def per_token(
        self, logprob_N: torch.Tensor, teacher_N: torch.Tensor, tokens: Tokens
    ) -> torch.Tensor:
        """See `Estimator.per_token`."""
        return torch.sigmoid(self.beta * (teacher_N - logprob_N)).detach()

    def surrogate(
        self, logprob_N: torch.Tensor, behaviour_N: torch.Tensor, advantage_N: torch.Tensor
    ) -> torch.Tensor:
        """See `Estimator.surrogate`."""
        return -advantage_N.detach() * logprob_N


class Importance(Estimator, kind="importance"):
    """q(y) / p(y) - 1, an advantage: weighted to the teacher's distribution, the student's tokens
    give the forward KL's gradient, also off-policy.

    The 1 is a baseline, so that nothing moves where the models are equal. Tokens that the teacher
    would say and the student never does are missing however many are sampled.

    Args:
        cap: the largest weight q(y) / p(y) that counts; none by default, for a cap is a bias.
    """

    estimates: ClassVar[str] = "forward_kl"

    cap: float | None = Field(default=None, gt=0)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        ratio = "q(y) / p(y)" if self.cap is None else f"min(q(y) / p(y), {self.cap:g})"
        return f"{ratio} - 1"

    def per_token(
        self, logprob_N: torch.Tensor, teacher_N: torch.Tensor, tokens: Tokens
    ) -> torch.Tensor:
        """See `Estimator.per_token`."""
        advantage_N = (teacher_N - logprob_N).detach().expm1()
        return advantage_N if self.cap is None else advantage_N.clamp(max=self.cap - 1)
