"""Rewards of several attempts at one task: returns over attempts, and what is learnt untold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, SerializeAsAny, model_validator

from agentopd.base.rows.symbols import times
from agentopd.base.types import Attempt, Lesson, Trajectory
from agentopd.mixes.advantages import Advantage, Grpo, check_finite
from agentopd.mixes.base import Route
from agentopd.mixes.channels import Channels
from agentopd.mixes.shared import RlOnly
from agentopd.signal.groups import groups
from agentopd.signal.schedules import History

# N tokens of a micro-batch, G episodes of a group


class AttemptReturns(Advantage, kind="attempts"):
    """An attempt's return less a baseline: its reward, and those of the attempts after it, each
    discounted once more (RLTF 2602.02482).

    Where a task is attempted once, this is `grpo`, with the deviation or without.

    Args:
        discount: gamma; 0 is each attempt's own reward.
        baseline: `group`: the mean over the same attempts of the group. `first`: of told attempts,
            the mean reward of the group's first attempts, which no told attempt has a part in;
            first attempts have none but their own mean. `none`.
        untold_baseline: of answers that are learnt as if nothing had been told: their own reward,
            less the mean of the `first` attempts, or of the `group` of such answers.
        std: divide what is taken off the group's mean by its deviation too, as GRPO does.
        epsilon: is added to that deviation.

    Raises:
        ValueError: `std` without the group's mean as baseline.
    """

    discount: float = Field(default=0.1, ge=0, le=1)
    baseline: Literal["group", "first", "none"] = "group"
    untold_baseline: Literal["first", "group"] = "first"
    std: bool = False
    epsilon: float = Field(default=1e-6, gt=0)

    @model_validator(mode="after")
    def _has_a_deviation(self) -> AttemptReturns:
        if self.std and self.baseline != "group":
            raise ValueError(
                f"mix.rl: attempts with std: true divides by the deviation from the group's mean, "
                f"and baseline: {self.baseline} takes something else off: set baseline: group, or "
                "leave std out"
            )
        return self

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        own = f"the attempt's reward + {self.discount:g} the next one's + ..."
        if self.baseline == "none":
            return own
        whose = "its group" if self.baseline == "group" else "the group's first attempts"
        centred = f"{own} - the mean of {whose}"
        return f"({centred}) / (the group's deviation + {self.epsilon:g})" if self.std else centred

    def unread(self) -> dict[str, str]:
        """See `Settings.unread`."""
        return super().unread() | ({} if self.std else {"epsilon": "std: true"})

    def of(
        self,
        trajectories: Sequence[Trajectory],
        rewards: Mapping[int, float] | None = None,
        history: History = (),
    ) -> dict[int, float]:
        """See `Advantage.of`; the advantages of all attempts that are given, also of those that are
        not learnt from.
        """
        known = {t.episode: t.reward for t in trajectories} if rewards is None else rewards
        check_finite(known)
        returns = _returns([t for t in trajectories if t.episode in known], known, self.discount)
        firsts = _first_means(trajectories, known)
        found = {t.episode: 0.0 for t in trajectories}
        for group in groups([t for t in trajectories if t.episode in known]):
            own_G = np.array([returns[t.episode] for t in group])
            apart_G = own_G - self._baseline(group[0], own_G, firsts)
            if self.std and self._chosen(group[0]) == "group":
                apart_G = apart_G / (own_G.std() + self.epsilon)
            found |= {t.episode: float(a) for t, a in zip(group, apart_G, strict=True)}
        return found

    def relative(
        self, rewards: Sequence[npt.NDArray[np.float64]], history: History
    ) -> list[npt.NDArray[np.float64]]:
        """See `Advantage.relative`: of attempts that nothing follows."""
        return Grpo(std=False).relative(rewards, history)

    def _chosen(self, member: Trajectory) -> str:
        """The baseline of a group, by one of it."""
        return self.untold_baseline if _kind(member) == "untold" else self.baseline

    def _baseline(
        self, member: Trajectory, own_G: npt.NDArray[np.float64], firsts: Mapping[int, float]
    ) -> float:
        """What is taken off the returns of a group."""
        own, chosen = member.attempt, self._chosen(member)
        if chosen == "none":
            return 0.0
        if chosen == "first" and own and own.number and own.kind in ("played", "untold"):
            return firsts.get(member.task, 0.0)
        # Equal numbers' mean may be off by a rounding.
        return float(own_G.mean()) if np.ptp(own_G) else float(own_G[0])


class Retried(RlOnly, kind="retried"):
    """Rewards of several attempts, and told attempts learnt once more as if nothing had been told:
    for `rollout: {kind: retry, learn_under: both}`. What was said of an attempt, where the rollout
    learns it (`learn: [..., feedback]`), is made likelier too (RLTF-FM); so are two attempts in one
    history (`joined`) of which the second solved the task.

    Args:
        untold: what becomes of those answers: `likelihood`, they are made likelier where the task
            was solved (ERL 2602.13949); `advantage`, they count with an advantage in the history
            without what was told (RLTF-SD 2602.02482).
        coefficient: by which they count, and what was said.
        floor: of an answer's tokens under the plain history, log p in nats below which one is left
            out as too far away; none if not given.
    """

    imitation = "beside"

    rl: SerializeAsAny[Advantage] = AttemptReturns()
    untold: Literal["likelihood", "advantage"] = "likelihood"
    coefficient: float = Field(default=1.0, gt=0)
    floor: float | None = Field(default=None, lt=0)

    @model_validator(mode="after")
    def _has_a_floor_to_read(self) -> Retried:
        if self.floor is not None and self.untold == "likelihood":
            raise ValueError(
                "mix: retried with untold: likelihood makes answers likelier however unlikely they "
                "are, and floor would leave the unlikeliest out: leave floor away, or set untold: "
                "advantage"
            )
        return self

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        likelier = times(self.coefficient, "grad log p(y)")
        again = f"{likelier} in solved answers"
        if self.untold == "advantage":
            again = f"{times(self.coefficient, 'R')} in answers"
        return f"R in attempts as they were read, {again} learnt untold, {likelier} in feedback"

    def chosen(self, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        """See `Mix.chosen`: answers that are to be likelier were solved."""
        solved = {"joined", *(["untold"] if self.untold == "likelihood" else [])}
        return [t for t in trajectories if t.success or _kind(t) not in solved]

    def routes(self, lessons: Sequence[Lesson]) -> dict[int, Route]:
        """See `Mix.routes`."""
        likelier = Route(distil=0.0, rl=0.0, likelihood=self.coefficient)
        rewarded = Route(distil=0.0, rl=self.coefficient)
        routes = {
            "untold": likelier if self.untold == "likelihood" else rewarded,
            "foreseen": likelier,
            "joined": likelier,
        }
        return {
            x.trajectory.episode: routes.get(_kind(x.trajectory), Route(distil=0.0))
            for x in lessons
        }

    def terms(self, channels: Channels) -> dict[str, torch.Tensor]:
        """See `Mix.terms`."""
        own = channels.reinforcement
        assert own is not None
        # What nobody sampled has no log-probability, and no advantage either.
        channels = replace(channels, behaviour_N=channels.behaviour_N.nan_to_num())
        advantage_N = own.scale_N * own.advantage_N
        if self.floor is not None:
            far_N = own.told_N & (channels.behaviour_N < self.floor)
            advantage_N = advantage_N.masked_fill(far_N, 0.0)
        return {"rl": channels.reinforce(advantage_N), "likelihood": channels.imitate()}


def _kind(trajectory: Trajectory) -> str:
    return trajectory.attempt.kind if trajectory.attempt else "played"


def _returns(
    trajectories: Sequence[Trajectory], rewards: Mapping[int, float], discount: float
) -> dict[int, float]:
    """Each attempt's discounted return, by episode number; of what is none, its reward."""
    played = {
        (own.first, own.number): rewards[t.episode]
        for t in trajectories
        if (own := t.attempt) is not None and own.kind == "played"
    }

    def of(own: Attempt) -> float:
        found, number = [], own.number
        while (own.first, number) in played:
            found.append(played[own.first, number] * discount ** len(found))
            number += 1
        return math.fsum(found)

    return {
        t.episode: of(t.attempt) if t.attempt and t.acts else rewards[t.episode]
        for t in trajectories
    }


def _first_means(
    trajectories: Sequence[Trajectory], rewards: Mapping[int, float]
) -> dict[int, float]:
    """The mean reward of each task's first attempts."""
    found: dict[int, list[float]] = {}
    for t in trajectories:
        if t.acts and t.episode in rewards and not (t.attempt and t.attempt.number):
            found.setdefault(t.task, []).append(rewards[t.episode])
    return {task: math.fsum(own) / len(own) for task, own in found.items()}
