"""Mixes in which rewards say where to and the teacher how far."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from agentopd.mixes.channels import Channels
from agentopd.mixes.shared import RlOnly

# N tokens of a micro-batch


class Multiplicative(RlOnly, kind="multiplicative"):
    """The advantage A becomes A ((1 - strength) + strength w), w the product of the method's
    weights: rewards give the direction, the teacher the size (RLSD 2604.03128 with a weight of
    tokens, StepOPSD 2605.27140 of steps, AgentOPSD 2608.05987 of turns).

    A unit's tokens share their mean weight, whatever `unit.reduce` says: a sum would multiply by
    the span's length. The schedule `strength` multiplies `strength`. Where every reward of a group
    is the same, A is zero and the teacher cannot be heard; tokens without a lesson, and those that
    no span of the unit covers, keep A.
    """

    distils = False

    strength: float = Field(default=0.5, ge=0, le=1)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"PG(A ({1 - self.strength:g} + {self.strength:g} W)){self.rl.regularisers}"

    @property
    def distil_coefficient(self) -> float:
        """See `Mix.distil_coefficient`: the teacher is asked for the weights."""
        return 1.0

    def terms(self, channels: Channels) -> dict[str, torch.Tensor]:
        """See `Mix.terms`."""
        rewards, teacher = channels.reinforcement, channels.distillation
        assert rewards is not None
        if teacher is None:
            return {"rl": channels.reinforce()}
        strength = min(self.strength * channels.strength, 1.0)
        modulation_N = (1 - strength) + strength * teacher.weight_N
        advantage_N = rewards.scale_N * rewards.advantage_N * modulation_N
        return {"rl": channels.reinforce(advantage_N)}


class TrustRatio(RlOnly, kind="trust_ratio"):
    """PPO's clipped ratio, measured from a mixture of behaviour policy and teacher instead of from
    the behaviour policy: where the advantage asks for a move that brings the student nearer to the
    teacher the clip is far, elsewhere it is near (trust-region ratios of RLAD 2602.22495).

    The paper's is the geometric mixture, r = p / (mu^(1 - share) q^share); `arithmetic` is what a
    summary leaves open. Tokens without a lesson have the plain ratio.

    Args:
        share: of the teacher in the mixture; 0 is plain PPO. The schedule `strength` multiplies it.
        mixture: of log-probabilities (`geometric`) or of probabilities (`arithmetic`).
        clamp: log p - log q counts as no further from zero than this in the ratio, in nats, so that
            a token that the teacher never says is not clipped from the start; no limit if not
            given.
    """

    distils = False

    share: float = Field(default=0.5, ge=0, le=1)
    mixture: Literal["geometric", "arithmetic"] = "geometric"
    clamp: float | None = Field(default=None, gt=0)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        own, other = f"{1 - self.share:g}", f"{self.share:g}"
        mixed = f"mu(y)^{own} q(y)^{other}"
        if self.mixture == "arithmetic":
            mixed = f"{own} mu(y) + {other} q(y)"
        return f"PG(A){self.rl.regularisers} with p(y) / ({mixed}) in place of r"

    @property
    def distil_coefficient(self) -> float:
        """See `Mix.distil_coefficient`: the teacher is asked for the mixture."""
        return 1.0

    def terms(self, channels: Channels) -> dict[str, torch.Tensor]:
        """See `Mix.terms`."""
        teacher, before_N = channels.measured.teacher, channels.behaviour_N
        if teacher is None:
            return {"rl": channels.reinforce()}
        share, teacher_N = min(self.share * channels.strength, 1.0), teacher.logprob_N
        if self.clamp is not None:
            own_N = channels.measured.student.logprob_N
            gap_N = own_N - teacher_N
            # Live: what is held moves with the student, and its ratio by the rest alone.
            held_N = own_N - gap_N.clamp(-self.clamp, self.clamp)
            teacher_N = torch.where(gap_N.abs() > self.clamp, held_N, teacher_N)
        if self.mixture == "geometric":
            anchor_N = torch.lerp(before_N, teacher_N, share)
        else:
            anchor_N = torch.lerp(before_N.exp(), teacher_N.exp(), share).log()
        return {"rl": channels.reinforce(anchor_N=anchor_N)}
