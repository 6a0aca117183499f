"""Reinforcement learning from the episode's reward: advantages and the policy-gradient loss."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from agentopd.base.parts import Part
from agentopd.base.types import Trajectory
from agentopd.signal.evidence import SignalError
from agentopd.signal.groups import groups
from agentopd.signal.schedules import History
from agentopd.signal.surrogate import policy_gradient, windowed_gradient

# N tokens, G episodes of a group


class Advantage(Part, family="rl"):
    """How episodes' rewards become advantages, and the rest of the reinforcement-learning loss.

    Args:
        clip: PPO's clip of the importance ratio below 1, and above it unless `clip_high` is given
            (1707.06347); only matters when the weights have moved since the rollout, as they have
            from the second of `learner.epochs` on.
        clip_high: how far above 1 the ratio may go.
        window: in place of the clip: a token counts with its ratio where that lies in the window,
            and not at all elsewhere (MOPD 2601.02780).
        kl_coefficient: of the divergence from the student as it was before its first step, which is
            added to the loss.
        kl_estimator: of that divergence, from the sampled tokens. `k3` is GRPO's (2402.03300); on
            the student's own tokens its gradient is that of KL(reference || student). `rho_k3` is
            k3 times the live importance ratio, whose gradient is that of KL(student || reference).
        entropy_bonus: the student's entropy in nats, times this, is taken off the loss.
    """

    group_relative: ClassVar[bool] = True
    """Whether an episode is measured against the others of its task alone."""

    clip: float = Field(default=0.2, gt=0)
    clip_high: float | None = Field(default=None, gt=0)
    window: tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=1)]] | None = None
    kl_coefficient: float = Field(default=0.0, ge=0)
    kl_estimator: Literal["k3", "rho_k3"] = "k3"
    entropy_bonus: float = Field(default=0.0, ge=0)

    def surrogate(
        self, logprob_N: torch.Tensor, behaviour_N: torch.Tensor, advantage_N: torch.Tensor
    ) -> torch.Tensor:
        """(N,) losses whose gradient credits the sampled tokens with advantages."""
        if self.window:
            return windowed_gradient(logprob_N, behaviour_N, advantage_N, self.window)
        return policy_gradient(logprob_N, behaviour_N, advantage_N, self.clip, self.clip_high)

    @property
    def surrogate_formula(self) -> str:
        """What the equation has as the policy gradient of advantages x; see `Part.formula`."""
        if self.window:
            least, most = self.window
            return f"r 1[r >= {least:g}] 1[r <= {most:g}] x grad log p(y)"
        high = 1 + (self.clip if self.clip_high is None else self.clip_high)
        return f"grad min(r x, clip(r, {1 - self.clip:g}, {high:g}) x)"

    def unread(self) -> dict[str, str]:
        """See `Settings.unread`."""
        return dict.fromkeys(("clip", "clip_high"), "window: null") if self.window else {}

    @property
    def needs_reference(self) -> bool:
        """Whether the student as it was before its first step is asked."""
        return self.kl_coefficient > 0

    @property
    def regularisers(self) -> str:
        """What the equation adds to the policy gradient, with its sign; see `Part.formula`."""
        kl = {"k3": "KL(p_0 || p)", "rho_k3": "KL(p || p_0)"}[self.kl_estimator]
        said = f" - {self.kl_coefficient:g} grad {kl}" if self.kl_coefficient else ""
        bonus = f" + {self.entropy_bonus:g} grad H(p)" if self.entropy_bonus else ""
        return said + bonus

    @property
    def regularised(self) -> bool:
        """Whether there is something to learn where every advantage is zero."""
        return self.kl_coefficient > 0 or self.entropy_bonus > 0

    def of(
        self,
        trajectories: Sequence[Trajectory],
        rewards: Mapping[int, float] | None = None,
        history: History = (),
    ) -> dict[int, float]:
        """The advantage of each trajectory, by episode number.

        Args:
            rewards: by episode number, in place of the environment's. An episode without one takes
                no part: its advantage is zero, and no other is measured against it.
            history: what the steps before were like.

        Raises:
            SignalError: a reward is infinite or no number.
        """
        known = {t.episode: t.reward for t in trajectories} if rewards is None else rewards
        check_finite(known)
        judged = groups([t for t in trajectories if t.episode in known])
        rewards_by_group = [np.array([known[t.episode] for t in group]) for group in judged]
        found = {t.episode: 0.0 for t in trajectories}
        for group, own_G in zip(judged, self.relative(rewards_by_group, history), strict=True):
            found |= {t.episode: float(a) for t, a in zip(group, own_G, strict=True)}
        return found

    def of_turns(
        self,
        trajectories: Sequence[Trajectory],
        rewards: Mapping[int, Mapping[int, float]],
        history: History = (),
    ) -> dict[int, dict[int, float]]:
        """The advantages of single turns, by episode number and turn: all turns of a group's
        episodes are compared with one another, whatever their depth.

        Args:
            rewards: by episode number and turn; an episode without any takes no part.
            history: what the steps before were like.
        """
        judged = groups([t for t in trajectories if rewards.get(t.episode)])
        places = [
            [(t.episode, turn) for t in group for turn in rewards[t.episode]] for group in judged
        ]
        own = [np.array([rewards[e][turn] for e, turn in group]) for group in places]
        found: dict[int, dict[int, float]] = {}
        for group, own_G in zip(places, self.relative(own, history), strict=True):
            for (episode, turn), advantage in zip(group, own_G.tolist(), strict=True):
                found.setdefault(episode, {})[turn] = advantage
        return found

    @abstractmethod
    def relative(
        self, rewards: Sequence[npt.NDArray[np.float64]], history: History
    ) -> list[npt.NDArray[np.float64]]:
        """The advantages (G,) of each group of episodes, from their rewards (G,)."""


class Grpo(Advantage, kind="grpo"):
    """Reward less the group's mean (GRPO 2402.03300).

    Over the group's standard deviation, unless `std` is off. A group whose rewards are all equal is
    dead: its advantages are exactly zero and it teaches nothing.
    """

    std: bool = True
    epsilon: float = Field(default=1e-6, gt=0)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        centred = "reward - the group's mean"
        return f"({centred}) / (the group's deviation + {self.epsilon:g})" if self.std else centred

    def relative(
        self, rewards: Sequence[npt.NDArray[np.float64]], history: History
    ) -> list[npt.NDArray[np.float64]]:
        """See `Advantage.relative`."""
        return [
            _centred(own_G) / (own_G.std() + self.epsilon if self.std else 1.0) for own_G in rewards
        ]


class Rloo(Advantage, kind="rloo"):
    """Reward less the mean of the group's other episodes (RLOO 2402.14740), unbiased for any size.

    It is GRPO's centred reward times G / (G - 1). An episode alone in its group has no other to be
    compared with: its advantage is zero.
    """

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return "reward - the mean of the group's other episodes"

    def relative(
        self, rewards: Sequence[npt.NDArray[np.float64]], history: History
    ) -> list[npt.NDArray[np.float64]]:
        """See `Advantage.relative`."""
        return [_centred(own_G) * len(own_G) / max(len(own_G) - 1, 1) for own_G in rewards]


class Reinforce(Advantage, kind="reinforce"):
    """Reward less a baseline that all tasks share (REINFORCE).

    Args:
        baseline: `none`; `batch`, the mean over the step's episodes; or `running`, the exponential
            moving average of the mean rewards of the steps before, which starts at the first one's.
            The first step itself has no step before it and takes the batch's mean.
        decay: by which the moving average keeps its past.
    """

    group_relative = False

    baseline: Literal["none", "batch", "running"] = "batch"
    decay: float = Field(default=0.9, ge=0, lt=1)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        of = {
            "none": "",
            "batch": " - the step's mean",
            "running": f" - its past mean, decay {self.decay:g}",
        }
        return f"reward{of[self.baseline]}"

    def relative(
        self, rewards: Sequence[npt.NDArray[np.float64]], history: History
    ) -> list[npt.NDArray[np.float64]]:
        """See `Advantage.relative`."""
        if self.baseline == "none":
            return list(rewards)
        past = [line["reward"] for line in history]
        means = [mean for mean in past if mean is not None]
        if self.baseline == "running" and means:
            running = means[0]
            for mean in means[1:]:
                running = self.decay * running + (1 - self.decay) * mean
            return [own_G - running for own_G in rewards]
        if not rewards:
            return []
        centred = _centred(np.concatenate(rewards))
        return np.split(centred, np.cumsum([len(own_G) for own_G in rewards])[:-1])


class NoReward(Advantage):
    """Every advantage is zero: what regularises is all there is.

    It has no kind, because no file names it; a mix without rewards has it.
    """

    group_relative = False

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return "0"

    def relative(
        self, rewards: Sequence[npt.NDArray[np.float64]], history: History
    ) -> list[npt.NDArray[np.float64]]:
        """See `Advantage.relative`."""
        return [np.zeros(len(own_G)) for own_G in rewards]


def check_finite(rewards: Mapping[int, float]) -> None:
    """Whether advantages can be made of rewards, by episode number.

    Raises:
        SignalError: one is infinite or no number.
    """
    for episode, reward in rewards.items():
        if not math.isfinite(reward):
            raise SignalError(
                f"episode {episode}: its reward is {reward}, which no advantage can be made of."
                " Look at what the environment's step, or the score in its place, returns"
            )


def _centred(rewards_G: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rewards less their mean; exactly zero where they are equal, or alone.

    The mean of equal numbers may be off by a rounding, which a division would magnify.
    """
    return rewards_G - rewards_G.mean() if np.ptp(rewards_G) else np.zeros(len(rewards_G))
