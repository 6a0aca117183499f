"""Reinforcement learning from the episode's reward: advantages and the policy-gradient loss."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field

from agentopd.parts import Part
from agentopd.types import EndReason, Trajectory

# N tokens


class Advantage(Part, family="rl"):
    """How episodes' rewards become advantages.

    Args:
        clip: PPO's clip of the importance ratio, the same on both sides (1707.06347); only matters
            when the weights have moved since the rollout.
    """

    clip: float = Field(default=0.2, gt=0)

    @abstractmethod
    def of(self, trajectories: Sequence[Trajectory]) -> dict[int, float]:
        """The advantage of each trajectory, by episode number."""


class Grpo(Advantage, kind="grpo"):
    """Reward less the group's mean (GRPO 2402.03300).

    Over the group's standard deviation, unless `std` is off. A group whose rewards are all equal is
    dead: its advantages are exactly zero and it teaches nothing.
    """

    std: bool = True
    epsilon: float = Field(default=1e-6, gt=0)

    def of(self, trajectories: Sequence[Trajectory]) -> dict[int, float]:
        """See `Advantage.of`."""
        found: dict[int, float] = {}
        for group in groups(trajectories):
            rewards = np.array([t.reward for t in group])
            # The mean of equal numbers may be off by a rounding, which the division would magnify.
            centred = rewards - rewards.mean() if np.ptp(rewards) else np.zeros(len(rewards))
            scaled = centred / (rewards.std() + self.epsilon) if self.std else centred
            found |= {t.episode: float(a) for t, a in zip(group, scaled, strict=True)}
        return found


def groups(trajectories: Sequence[Trajectory]) -> list[list[Trajectory]]:
    """Trajectories by task, in order of their first appearance."""
    found: dict[int, list[Trajectory]] = defaultdict(list)
    for trajectory in trajectories:
        found[trajectory.task].append(trajectory)
    return list(found.values())


def dead_groups(trajectories: Sequence[Trajectory]) -> float | None:
    """The share of groups whose rewards are all equal; None when no group has two episodes.

    Episodes that ended in an error take no part, as they take none in learning.
    """
    played = [t for t in trajectories if t.end is not EndReason.ERROR]
    shared = [group for group in groups(played) if len(group) > 1]
    if not shared:
        return None
    return sum(len({t.reward for t in group}) == 1 for group in shared) / len(shared)


def policy_gradient(
    logprob_N: torch.Tensor,
    behaviour_N: torch.Tensor,
    advantage_N: torch.Tensor,
    clip: float | None,
) -> torch.Tensor:
    """(N,) surrogate losses whose gradient is `-ratio * advantage * grad log p`.

    The advantage is a number: nothing is differentiated through it. With `clip`, PPO's pessimistic
    bound (1707.06347).
    """
    advantage_N = advantage_N.detach()
    ratio_N = (logprob_N - behaviour_N).exp()
    plain_N = ratio_N * advantage_N
    if clip is None:
        return -plain_N
    return -torch.minimum(plain_N, ratio_N.clamp(1 - clip, 1 + clip) * advantage_N)
