"""Episodes of who was told the solution, as thoughts that the student might have had itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from agentopd.base.types import Lesson, Trajectory
from agentopd.mixes.advantages import Advantage
from agentopd.mixes.base import Mix
from agentopd.mixes.channels import Channels
from agentopd.signal.beside import Beside
from agentopd.signal.evidence import Measured
from agentopd.signal.groups import groups
from agentopd.signal.schedules import History
from agentopd.signal.tokens import Tokens, mean_by

# N tokens of a micro-batch, L its lessons, G episodes of a group


class Latent(Mix, kind="latent"):
    """The likelihood of a task's solved episodes, in proportion to how much likelier they are to
    the student than to who played them: the bound of variational reasoning (2509.22637).

    Of K episodes of one task, drawn from the posterior q, which was told the solution, number k
    counts

        w_k = K s_k (p / q)_k^(1 / its tokens) / sum over j of the same

    s being 1 where the task was solved, else 0, and p the student, told nothing, before the step.
    Where q is p and all are solved every w_k is 1, and it is `nll`.
    """

    distils = False

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        ratio = "the group's share of exp mean (log p(y) - log mu(y))"
        return f"K grad log p(y) times {ratio} in solved episodes, K being the group's size"

    @property
    def rl_channel(self) -> Advantage:
        """See `Mix.rl_channel`: an episode's weight stands in its advantage's place."""
        return _AsTheyAre()

    @property
    def distil_coefficient(self) -> float:
        """See `Mix.distil_coefficient`."""
        return 0.0

    @property
    def scored_by(self) -> Literal["student"]:
        """See `Mix.scored_by`."""
        return "student"

    def check(self, beside: Beside) -> None:
        """See `Mix.check`."""
        super().check(beside)
        if beside.recomputes:
            raise ValueError(
                "mix: latent weighs episodes by the student's probability over that of whoever "
                "drew them, and under rollout.ratio: recomputed both would be the student's: set "
                "rollout.ratio: sampled"
            )

    def scored(self, said: Measured, tokens: Tokens, lessons: Sequence[Lesson]) -> torch.Tensor:
        """See `Mix.scored`: (L,) the mean of log p - log q over each episode's tokens."""
        gap_N = said.student.logprob_N - tokens.behaviour_N
        return mean_by(gap_N, tokens.lesson_N, tokens.lessons)

    def rewards(
        self, trajectories: Sequence[Trajectory], scores: Mapping[int, float]
    ) -> dict[int, float]:
        """See `Mix.rewards`: w, by episode number."""
        found = dict[int, float]()
        for group in groups([t for t in trajectories if t.episode in scores]):
            most = max(scores[t.episode] for t in group)
            odds = [math.exp(scores[t.episode] - most) * t.success for t in group]
            total = math.fsum(odds) or 1.0
            pairs = zip(group, odds, strict=True)
            found |= {t.episode: len(group) * one / total for t, one in pairs}
        return found

    def terms(self, channels: Channels) -> dict[str, torch.Tensor]:
        """See `Mix.terms`."""
        own, logprob_N = channels.reinforcement, channels.measured.student.logprob_N
        assert own is not None
        weight_N = own.average_N * own.scale_N * own.advantage_N
        return {"nll": -(weight_N * logprob_N).sum()}


class _AsTheyAre(Advantage):
    """Rewards as they are. It has no kind, because no file names it."""

    group_relative = False

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return "reward"

    def relative(
        self, rewards: Sequence[npt.NDArray[np.float64]], history: History
    ) -> list[npt.NDArray[np.float64]]:
        """See `Advantage.relative`."""
        return list(rewards)
