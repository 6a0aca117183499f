"""Mixes that send each episode down one channel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from pydantic import Field

from agentopd.base.rows.symbols import times
from agentopd.base.types import Lesson, Trajectory
from agentopd.environment.contract import parse_action, without_reasoning
from agentopd.mixes.advantages import Advantage, NoReward
from agentopd.mixes.base import Mix, Route
from agentopd.mixes.channels import Channels
from agentopd.mixes.shared import Additive, Auxiliary
from agentopd.signal.beside import Beside
from agentopd.signal.groups import dead, groups

Channel = Literal["rl", "distil", "likelihood", "nothing"]


@runtime_checkable
class AveragesApart(Protocol):
    """A mix whose channels are averaged over the episodes alone that count in each, instead of over
    all that are learnt from.
    """

    def counted(
        self,
        lessons: Sequence[Lesson],
        routes: Mapping[int, Route],
        channel: Literal["distil", "rl"],
    ) -> Sequence[Lesson]:
        """The lessons that a channel is averaged over; what is made likelier counts as `rl`."""
        ...


class Routed(Auxiliary, kind="routed"):
    """Solved episodes down one channel, failed ones down another.

    It reads whether the episode was solved and whether the teacher was asked about it. As set by
    default: failures learn from the teacher, successes from their reward, as do failures that have
    no lesson (SRPO 2604.02288). With `success: likelihood`, the tokens of solved episodes are made
    likelier and failed ones learn from the teacher (SCOPE 2604.10688; its weight on failures is
    weight: teacher_perplexity). An episode counts in its channel what it would count without
    routing: nothing is rescaled to the episodes that are left there.

    Args:
        success, failure: the channel of solved and of failed episodes.
        coefficient: of the distillation term.
        perplexity_temperature: with `likelihood`, episodes count in proportion to the student's
            perplexity of its own tokens to the power 1 / this, 1 on average over the solved
            episodes of their group. All count 1 if not given.
        prefers: whether those it was least sure of count most (`unsure`, as SCOPE's text has it),
            or those it was surest of (`sure`, the sign in its code): the power is -1 / temperature.
    """

    success: Channel = "rl"
    failure: Channel = "distil"
    coefficient: float = Field(default=1.0, gt=0)
    perplexity_temperature: float | None = Field(default=None, gt=0)
    prefers: Literal["unsure", "sure"] = "unsure"

    def unread(self) -> dict[str, str]:
        """See `Settings.unread`."""
        return {"prefers": "perplexity_temperature"} if self.perplexity_temperature is None else {}

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        share = "" if self.perplexity_temperature is None else "the episode's perplexity of "
        said = {"rl": "R", "distil": times(self.coefficient, "T"), "nothing": "0"}
        said["likelihood"] = f"{share}grad log p(y)"
        return f"{said[self.success]} in solved episodes, {said[self.failure]} in failed ones"

    def check(self, beside: Beside) -> None:
        """See `Mix.check`."""
        super().check(beside)
        if "distil" not in (self.success, self.failure):
            raise ValueError(
                f"mix: routed sends solved episodes to {self.success} and failed ones to "
                f"{self.failure}, so none learns from the teacher it asks. Send one of them to "
                "distil, or use mix: rl"
            )
        if self.perplexity_temperature is not None and "likelihood" not in (
            self.success,
            self.failure,
        ):
            raise ValueError(
                "mix: routed weighs episodes by perplexity in the likelihood channel only, and "
                "sends none there. Set success: likelihood, or leave perplexity_temperature out"
            )

    def routes(self, lessons: Sequence[Lesson]) -> dict[int, Route]:
        """See `Mix.routes`."""
        chosen = {x.trajectory.episode: self._channel(x) for x in lessons}
        found = {
            episode: Route(
                distil=float(channel == "distil"),
                rl=float(channel == "rl"),
                likelihood=float(channel == "likelihood"),
            )
            for episode, channel in chosen.items()
        }
        if self.perplexity_temperature is None:
            return found
        sign = 1.0 if self.prefers == "unsure" else -1.0
        for group in groups([x.trajectory for x in lessons]):
            likely = [t for t in group if chosen[t.episode] == "likelihood"]
            for trajectory, share in _shares(likely, sign * self.perplexity_temperature):
                found[trajectory.episode] = Route(distil=0.0, rl=0.0, likelihood=share)
        return found

    def terms(self, channels: Channels) -> dict[str, torch.Tensor]:
        """See `Mix.terms`."""
        found = super().terms(channels)
        if "likelihood" in (self.success, self.failure):
            found["likelihood"] = channels.imitate()
        return found

    def _channel(self, lesson: Lesson) -> Channel:
        chosen = self.success if lesson.trajectory.success else self.failure
        return "rl" if chosen == "distil" and not lesson.taught else chosen


class DeadGroupFallback(Auxiliary, kind="dead_group_fallback"):
    """Rewards where they tell episodes apart, the teacher where they do not.

    It reads the environment's rewards. Episodes of a group whose rewards are all equal, which
    teaches nothing by comparison, learn from the teacher alone; all others, and those without a
    lesson, from their advantage alone.

    Args:
        coefficient: of the distillation term.
    """

    coefficient: float = Field(default=1.0, gt=0)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"{times(self.coefficient, 'T')} in groups of equal rewards, R in all others"

    def routes(self, lessons: Sequence[Lesson]) -> dict[int, Route]:
        """See `Mix.routes`."""
        taught = {x.trajectory.episode for x in lessons if x.taught}
        found = {}
        for group in groups([x.trajectory for x in lessons]):
            for t in group:
                distil = dead(group) and t.episode in taught
                found[t.episode] = Route(distil=float(distil), rl=float(not distil))
        return found


class Crossed(Additive, kind="crossed"):
    """Some tasks are another student's, which is the teacher there; in all others rewards count
    alone (CoPD 2604.27083).

    Both are advantages of one policy gradient. Episodes of the other's tasks that have no lesson
    teach nothing.

    Args:
        coefficient: of the teacher's advantage; the paper does not tell its own.
        tags: of the other's tasks: what the environment's `info` says under `by` as a task begins,
            or the environment's own id where it says nothing.
        share: where no tags are given, the share of tasks that are the other's.
    """

    coefficient: float = Field(default=1.0, gt=0)
    tags: tuple[str, ...] = ()
    by: str = "skill"
    share: float = Field(default=0.5, gt=0, lt=1)

    def unread(self) -> dict[str, str]:
        """See `Settings.unread`."""
        return {"share": "tags: []"} if self.tags else {"by": "tags"}

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        which = f"tagged {', '.join(self.tags)}" if self.tags else f"of {self.share:g} of the tasks"
        credit = times(self.coefficient, "C")
        return f"(PG({credit}) in episodes {which}, PG(A) in all others){self.rl.regularisers}"

    def routes(self, lessons: Sequence[Lesson]) -> dict[int, Route]:
        """See `Mix.routes`."""
        crossed = {x.trajectory.episode: self._is_crossed(x.trajectory) for x in lessons}
        return {e: Route(distil=float(other), rl=float(not other)) for e, other in crossed.items()}

    def _is_crossed(self, trajectory: Trajectory) -> bool:
        if self.tags:
            return str(trajectory.prompt.get(self.by, trajectory.env)) in self.tags
        # Of any tasks in a row, as many as the share says.
        task = trajectory.task
        return int((task + 1) * self.share) > int(task * self.share)


class HintedDistilled(Auxiliary, kind="hinted_distilled"):
    """Episodes that were sampled under a hint learn from the teacher, all others from their reward
    (HDPO 2603.23871): where the student fails alone, it learns what it does when it is told.

    It reads which episodes were sampled by who was told more than stands in their history: those of
    `rollout: {kind: hinted, learn_under: plain}`.

    Args:
        coefficient: of the distillation term.
    """

    coefficient: float = Field(default=0.1, gt=0)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"{times(self.coefficient, 'T')} in episodes played under a hint, R in all others"

    def routes(self, lessons: Sequence[Lesson]) -> dict[int, Route]:
        """See `Mix.routes`."""
        told = {x.trajectory.episode: x.trajectory.told is not None for x in lessons}
        return {e: Route(distil=float(hint), rl=float(not hint)) for e, hint in told.items()}


class Consensus(Mix, kind="consensus"):
    """Told episodes are made likelier, untold ones learn from the teacher, both where enough of the
    task's told episodes agree (GATES 2602.20574): no reward is looked at.

    It reads which episodes were sampled by who was told more than stands in their history, as those
    of `rollout: {kind: hinted, when: beside, learn_under: plain}` are. Of a task they agree in so
    far as they end alike; the largest set that does must be a `share` of them, or the task teaches
    nothing. What is told apart from that set is not learnt either. Each of the two terms is
    averaged over its own episodes that are left.

    Args:
        share: of a task's told episodes; the paper's is 4 of 8.
        by: what an episode ends with: its last `answer`, as the environment reads it, or its
            `outcome`, the sum of its rewards.
        likelihood: coefficient of the told episodes' term.
        coefficient: of the distillation term.
    """

    share: float = Field(default=0.5, ge=0, le=1)
    by: Literal["answer", "outcome"] = "answer"
    likelihood: float = Field(default=1.0, ge=0)
    coefficient: float = Field(default=0.1, gt=0)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        told = f"{times(self.likelihood, 'grad log p(y)')} in told episodes that end alike"
        gate = f"where these are at least {self.share:g} of the task's"
        return f"{told}, {times(self.coefficient, 'T')} in untold ones, {gate}"

    def check(self, beside: Beside) -> None:
        """See `Mix.check`."""
        super().check(beside)
        if not beside.plainly_told:
            raise ValueError(
                "mix: consensus learns where told episodes agree, and the rollout has none that "
                "are learnt as if nothing had been told: use rollout={kind: hinted, when: beside, "
                "learn_under: plain}"
            )

    @property
    def rl_channel(self) -> Advantage:
        """See `Mix.rl_channel`: rewards count for nothing in it."""
        return NoReward()

    @property
    def learns_from_samples(self) -> bool:
        """See `Mix.learns_from_samples`: of itself it makes tokens likelier, whoever drew them."""
        return False

    @property
    def distil_coefficient(self) -> float:
        """See `Mix.distil_coefficient`."""
        return self.coefficient

    def routes(self, lessons: Sequence[Lesson]) -> dict[int, Route]:
        """See `Mix.routes`; a task is known by its seed, which told and untold episodes share."""
        played = [x.trajectory for x in lessons]
        told: dict[int, list[Trajectory]] = {}
        for trajectory in played:
            if trajectory.told is not None:
                told.setdefault(trajectory.seed, []).append(trajectory)
        agreed = {seed: self._agreed(group) for seed, group in told.items()}
        found = {}
        for t in played:
            own = agreed.get(t.seed, set[int]())
            if t.told is None:
                found[t.episode] = Route(distil=float(bool(own)), rl=0.0)
            else:
                likelier = self.likelihood * (t.episode in own)
                found[t.episode] = Route(distil=0.0, rl=0.0, likelihood=likelier)
        return found

    def terms(self, channels: Channels) -> dict[str, torch.Tensor]:
        """See `Mix.terms`."""
        found = {"likelihood": channels.imitate()}
        if channels.distillation is not None:
            found["distil"] = channels.distil()
        return found

    def counted(
        self,
        lessons: Sequence[Lesson],
        routes: Mapping[int, Route],
        channel: Literal["distil", "rl"],
    ) -> Sequence[Lesson]:
        """See `AveragesApart`; all where none is left, which then weighs nothing."""

        def counts(route: Route) -> float:
            return route.distil if channel == "distil" else route.likelihood

        return [x for x in lessons if counts(routes[x.trajectory.episode])] or lessons

    def _agreed(self, told: Sequence[Trajectory]) -> set[int]:
        """The episodes of the largest set that end alike, the first of several; none where it is
        too small.
        """
        sets: dict[str, set[int]] = {}
        for t in told:
            sets.setdefault(self._ending(t), set()).add(t.episode)
        largest = max(sets.values(), key=len)
        return largest if len(largest) >= self.share * len(told) else set()

    def _ending(self, trajectory: Trajectory) -> str:
        if self.by == "outcome":
            return repr(trajectory.reward)
        said = without_reasoning(trajectory.turns[-1].action) if trajectory.turns else ""
        return parse_action(said) or said.strip()


def _shares(
    trajectories: Sequence[Trajectory], temperature: float
) -> list[tuple[Trajectory, float]]:
    """Each trajectory with its power of the student's perplexity, relative to their mean."""
    surprise = [-float(t.logprob[t.trainable].mean(dtype=np.float64)) for t in trajectories]
    most = (max if temperature > 0 else min)(surprise, default=0.0)
    powers = [math.exp((value - most) / temperature) for value in surprise]
    mean = math.fsum(powers) / max(len(powers), 1)
    return [(t, power / mean) for t, power in zip(trajectories, powers, strict=True)]
