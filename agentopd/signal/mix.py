"""How the distillation and the reinforcement-learning channel share a step."""

from __future__ import annotations

from pydantic import Field, SerializeAsAny

from agentopd.parts import Part
from agentopd.signal.advantages import Advantage, Grpo


class Mix(Part, family="mix"):
    """Which channels a step has and how much each counts."""

    @property
    def rl_channel(self) -> Advantage | None:
        """How rewards become advantages; None without a reinforcement-learning channel."""
        return None

    @property
    def distil_coefficient(self) -> float:
        """What the distillation term is multiplied by; 0 means that no teacher is asked."""
        return 1.0


class DistilOnly(Mix, kind="distil"):
    """The teacher alone; rewards are not looked at."""


class RlOnly(Mix, kind="rl"):
    """Rewards alone; no teacher is asked."""

    rl: SerializeAsAny[Advantage] = Grpo()

    @property
    def rl_channel(self) -> Advantage:
        """See `Mix.rl_channel`."""
        return self.rl

    @property
    def distil_coefficient(self) -> float:
        """See `Mix.distil_coefficient`."""
        return 0.0


class Auxiliary(RlOnly, kind="auxiliary"):
    """Reinforcement learning, plus `coefficient` times the distillation term (Skill-SD 2604.10674).

    Both are averaged the same way; the metrics hold each channel's gradient norm on its own.
    """

    coefficient: float = Field(default=0.1, gt=0)

    @property
    def distil_coefficient(self) -> float:
        """See `Mix.distil_coefficient`."""
        return self.coefficient
