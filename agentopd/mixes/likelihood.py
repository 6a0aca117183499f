"""Likelihood: tokens that somebody wrote are made likelier, whatever a teacher would say of them.

On demonstrations it is supervised fine-tuning (SFT), on a teacher's episodes sequence-level
distillation (SeqKD 1606.07947), on the student's own solved ones rejection fine-tuning. The
gradient of -log p at a token is that of the forward KL to a teacher that gives this token all of
its probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from agentopd.base.parts import Settings
from agentopd.base.types import Lesson, Owner, Trajectory
from agentopd.mixes.advantages import Advantage, NoReward
from agentopd.mixes.base import Mix, Route
from agentopd.mixes.channels import Channels
from agentopd.signal.beside import Beside
from agentopd.signal.evidence import Opinion
from agentopd.stored.demonstrations import Selection

# T tokens of a trajectory, N tokens of a micro-batch

Author = Literal["student", "teacher", "demo"]


class Discriminant(Settings):
    """How far each token is of the student's own distribution (IDFT, DDT 2602.12222):
    clip(exp(-phi / beta), least, most), where phi = log p(y) + H(p) is zero on average over what
    the student says itself, and far below where somebody else would have said it.

    Args:
        beta: of phi, in nats.
        least, most: the bounds.
    """

    beta: float = Field(default=1.0, gt=0)
    least: float = Field(default=0.1, ge=0)
    most: float = Field(default=2.0, gt=0)

    def powers(self, student: Opinion) -> torch.Tensor:
        """(N,) of what the student says of tokens; nothing of it is differentiated."""
        phi_N = student.logprob_N.detach() + student.entropy_N.detach()
        return (-phi_N / self.beta).exp().clamp(self.least, self.most)


class Likelihood(Mix, kind="nll"):
    """The mean of -log p over the tokens of chosen episodes; no teacher is asked.

    It is averaged as the unit's `normalise` says, over the chosen tokens alone. Weights that look
    at where a token stands multiply it; the schedule `rl` multiplies all of it.

    Args:
        owners: whose tokens are learnt from; everybody's who wrote answers if not given.
        keep: which of a step's episodes are learnt from.
        power: each token counts with its own probability to this power: 0 is the likelihood, 1
            learns where the student already believes (DFT). With `beta`, `least` and `most` it is
            each token's own, larger the less the token is of the student's distribution (IDFT).
    """

    owners: tuple[Author, ...] | None = None
    keep: Selection = Selection()
    power: Annotated[float, Field(ge=0)] | Discriminant = 0.0

    imitation = "all"
    distils = False

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        if isinstance(self.power, Discriminant):
            own = self.power
            scaled = "" if own.beta == 1 else f" / {own.beta:g}"
            power = f"p(y)^clip(exp(-(log p(y) + H(p)){scaled}), {own.least:g}, {own.most:g}) "
        else:
            power = f"p(y)^{self.power:g} " if self.power else ""
        whose = (
            "every answer"
            if self.owners is None
            else " and ".join(f"the {owner}" for owner in self.owners)
        )
        return f"w {power}grad log p(y) at the tokens of {whose}"

    def check(self, beside: Beside) -> None:
        """See `Mix.check`."""
        super().check(beside)
        if self.owners is not None and not self.owners:
            raise ValueError(
                "mix: nll with owners: [] learns from nobody. Name some of student, teacher and "
                "demo, or leave owners out for all of them"
            )

    @property
    def learns_from_samples(self) -> bool:
        """See `Mix.learns_from_samples`: tokens count whoever wrote them."""
        return False

    @property
    def rl_channel(self) -> Advantage:
        """See `Mix.rl_channel`: rewards count for nothing in it."""
        return NoReward()

    @property
    def distil_coefficient(self) -> float:
        """See `Mix.distil_coefficient`."""
        return 0.0

    def chosen(self, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        """See `Mix.chosen`."""
        return self.keep.of([authored(t, self.owners) for t in trajectories])

    def routes(self, lessons: Sequence[Lesson]) -> dict[int, Route]:
        """See `Mix.routes`."""
        only = Route(distil=0.0, rl=0.0, likelihood=1.0)
        return {x.trajectory.episode: only for x in lessons}

    def terms(self, channels: Channels) -> dict[str, torch.Tensor]:
        """See `Mix.terms`."""
        power = self.power
        if isinstance(power, Discriminant):
            power = power.powers(channels.measured.student)
        return {"nll": channels.imitate(power)}


def authored(trajectory: Trajectory, owners: Sequence[Author] | None) -> Trajectory:
    """The episode, of which the tokens of these owners are learnt from; all answers for None."""
    if owners is None:
        own_T = trajectory.owner != Owner.TEMPLATE
    else:
        own_T = np.isin(trajectory.owner, [Owner[name.upper()] for name in owners])
    return replace(trajectory, trainable=own_T)
