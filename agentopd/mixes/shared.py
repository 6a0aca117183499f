"""One channel, or both as terms or summands of one loss."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, SerializeAsAny

from agentopd.base.rows.symbols import times
from agentopd.mixes.advantages import Advantage, Grpo, NoReward
from agentopd.mixes.base import Mix
from agentopd.mixes.channels import Channels
from agentopd.signal.beside import Beside

# N tokens of a micro-batch


class DistilOnly(Mix, kind="distil"):
    """The teacher alone; rewards are not looked at.

    Args:
        kl_coefficient: of KL(reference || student), the reference being the student as it was
            before its first step, which is then added to the loss (Stable-OPD 2604.08527). It is
            estimated as in `rl.kl_coefficient`, and the schedule `rl` multiplies it.
    """

    kl_coefficient: float = Field(default=0.0, ge=0)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        rl = self.rl_channel
        return f"T{rl.regularisers}" if rl is not None else "T"

    @property
    def rl_channel(self) -> Advantage | None:
        """See `Mix.rl_channel`: rewards count for nothing in it."""
        return NoReward(kl_coefficient=self.kl_coefficient) if self.kl_coefficient else None


class RlOnly(Mix, kind="rl"):
    """Rewards alone; no teacher is asked."""

    rl: SerializeAsAny[Advantage] = Grpo()

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return "R"

    @property
    def rl_channel(self) -> Advantage:
        """See `Mix.rl_channel`."""
        return self.rl

    @property
    def distil_coefficient(self) -> float:
        """See `Mix.distil_coefficient`."""
        return 0.0


class PaidByTeacher(RlOnly):
    """Rewards that a teacher's opinion of whole episodes makes; it is asked before the step and in
    it, and gives no credit of its own.
    """

    distils = False

    @property
    def distil_coefficient(self) -> float:
        """See `Mix.distil_coefficient`: the teacher is asked."""
        return 1.0

    @property
    def scored_by(self) -> Literal["teacher"]:
        """See `Mix.scored_by`."""
        return "teacher"


class Auxiliary(RlOnly, kind="auxiliary"):
    """Reinforcement learning, plus `coefficient` times the distillation term (Skill-SD 2604.10674).

    Both are averaged the same way; the metrics hold each channel's gradient norm on its own.
    """

    coefficient: float = Field(default=0.1, gt=0)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"R + {times(self.coefficient, 'T')}"

    @property
    def distil_coefficient(self) -> float:
        """See `Mix.distil_coefficient`."""
        return self.coefficient


class Additive(Auxiliary, kind="additive"):
    """One policy gradient of A + `coefficient` times the teacher's credit (OPID 2606.26790, ATOD
    2606.27814).

    The clip looks at the sum and takes the place of the estimator's own rule for the importance
    ratio, so the teacher moves no token further than rewards alone could. The schedules `rl` and
    `distil` multiply one summand each, which is how ATOD passes from the teacher to rewards. Tokens
    without a lesson keep A.
    """

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"PG(A + {times(self.coefficient, 'C')}){self.rl.regularisers}"

    def check(self, beside: Beside) -> None:
        """See `Mix.check`."""
        super().check(beside)
        if beside.credits == "loss":
            raise ValueError(
                f"mix: additive adds the teacher's term to the sampled token's advantage, and "
                f"{beside.divergence} as it is set up is a loss with a gradient of its own, "
                "not an advantage. Use divergence: {kind: reverse_kl, support: sampled}, or "
                "mix: auxiliary, which adds losses"
            )

    def summands(self, channels: Channels) -> dict[str, torch.Tensor]:
        """See `Mix.summands`."""
        rewards, teacher = channels.reinforcement, channels.distillation
        assert rewards is not None
        found = {"rl": rewards.scale_N * rewards.advantage_N}
        if teacher is not None:
            found["distil"] = teacher.scale_N * teacher.credit_N
        return found

    def terms(self, channels: Channels) -> dict[str, torch.Tensor]:
        """See `Mix.terms`."""
        own, *others = self.summands(channels).values()
        return {"rl": channels.reinforce(sum(others, own))}
