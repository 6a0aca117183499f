"""Weights that sum up a turn or an episode, and where a token stands in it."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from pydantic import Field, model_validator

from agentopd.base.rows.symbols import times
from agentopd.signal.evidence import Evidence, Opinion
from agentopd.signal.groups import groups as groups_of
from agentopd.signal.tokens import mean_by, sum_by
from agentopd.weights.base import (
    Per,
    Renormalise,
    SpanWeight,
    Weight,
    groups,
)

# N tokens of a micro-batch, G groups of them: turns or episodes

_FLAT = 1e-8


class Perplexity(SpanWeight):
    """A power of a model's perplexity of the student's tokens, exp(mean -log probability) (SCOPE
    2604.10688).

    The paper gives one weight a rollout and divides by the sum over the prompt's rollouts that
    learn in the same way. But for a factor, which makes their mean 1, that is `per: episode,
    relative_to: group, renormalise: off`.

    Args:
        temperature: the power is 1 over this.
        most: a greater perplexity counts as this.
        relative_to: `group` divides by the mean over the turns, or episodes, of all the task's
            episodes that learn from the teacher.

    Raises:
        ValueError: what is compared within its group is rescaled within its episode.
    """

    temperature: float = Field(default=1.0, ge=0.25)
    most: float = Field(default=100.0, gt=1, le=1_000)
    relative_to: Literal["group"] | None = None

    @model_validator(mode="after")
    def _keeps_what_it_compares(self) -> Perplexity:
        if self.relative_to == "group" and self.renormalise == "episode":
            raise ValueError(
                f"{self.kind} with relative_to: group compares the episodes of a group, and "
                "renormalise: episode brings each of them to the same mean: nothing would be left "
                "of the comparison. Set renormalise: off"
            )
        return self

    @property
    def _compared(self) -> str:
        """How a formula says what it is relative to."""
        return " over its mean in the group" if self.relative_to == "group" else ""

    @property
    def needs_step(self) -> bool:
        """See `Weight.needs_step`."""
        return super().needs_step or self.relative_to == "group"

    def raw(self, evidence: Evidence) -> torch.Tensor:
        """See `Weight.raw`."""
        group_N, count = self.groups(evidence.tokens)
        surprise_G = mean_by(self.surprise(evidence), group_N, count)
        power_G = self.power(surprise_G.exp().clamp(max=self.most))
        if self.relative_to == "group":
            power_G = power_G / self._mean_of_task(power_G, group_N, evidence)
        return power_G[group_N]

    def _mean_of_task(
        self, power_G: torch.Tensor, group_N: torch.Tensor, evidence: Evidence
    ) -> torch.Tensor:
        """(G,) over those of the same task that learn from the teacher; 1 where none does."""
        lesson_N, tasks = evidence.tokens.lesson_N, [x.trajectory.task for x in evidence.lessons]
        number = {task: i for i, task in enumerate(dict.fromkeys(tasks))}
        task_L = torch.tensor([number[task] for task in tasks], device=lesson_N.device)
        lesson_G = lesson_N.new_zeros(len(power_G)).scatter(0, group_N, lesson_N)
        task_G, heard_G = task_L[lesson_G], (evidence.route_L > 0)[lesson_G].to(power_G.dtype)
        total = sum_by(power_G * heard_G, task_G, len(number))
        heard = sum_by(heard_G, task_G, len(number))
        return torch.where(heard > 0, total / heard.clamp(min=1), 1.0)[task_G]

    @abstractmethod
    def surprise(self, evidence: Evidence) -> torch.Tensor:
        """(N,) the model's -log probability, in nats."""

    @abstractmethod
    def power(self, perplexity_G: torch.Tensor) -> torch.Tensor:
        """(G,) the weights."""


class TeacherPerplexity(Perplexity, kind="teacher_perplexity"):
    """perplexity^(-1 / temperature) of the teacher: what is strange to it, it corrects badly
    (SCOPE 2604.10688, for failures). See `Perplexity`.
    """

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"ppl_q^{-1 / self.temperature:g} of each {self.per}{self._compared}"

    def surprise(self, evidence: Evidence) -> torch.Tensor:
        """See `Perplexity.surprise`."""
        return -evidence.teacher.logprob_N

    def power(self, perplexity_G: torch.Tensor) -> torch.Tensor:
        """See `Perplexity.power`."""
        return perplexity_G ** (-1 / self.temperature)


class StudentPerplexity(Perplexity, kind="student_perplexity"):
    """perplexity^(1 / temperature) of the student: what it has mastered teaches it little (SCOPE
    2604.10688, for successes). See `Perplexity`.
    """

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"ppl_p^{1 / self.temperature:g} of each {self.per}{self._compared}"

    def surprise(self, evidence: Evidence) -> torch.Tensor:
        """See `Perplexity.surprise`."""
        return -evidence.student.logprob_N

    def power(self, perplexity_G: torch.Tensor) -> torch.Tensor:
        """See `Perplexity.power`."""
        return perplexity_G ** (1 / self.temperature)


class Spike(SpanWeight, kind="spike"):
    """exp(-(strength / beta) log mean exp(beta s)): one great surprise spoils the whole (G_spike of
    Pedagogical RL).

    s = log p(likeliest token) - log p(y), of the student, is no less than zero. As beta goes to 0
    the mean of s counts, as it grows the greatest alone.

    Args:
        per: what shares one weight; the episode, in the source.
    """

    renormalise: Renormalise = False
    per: Per = "episode"
    strength: float = Field(default=1.0, gt=0)
    beta: float = Field(default=1.0, gt=0)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        power = f"{-self.strength / self.beta:g}"
        return (
            f"(mean exp({times(self.beta, '(log max p - log p(y))')}))^{power} of each {self.per}"
        )

    def raw(self, evidence: Evidence) -> torch.Tensor:
        """See `Weight.raw`."""
        group_N, count = self.groups(evidence.tokens)
        return spike(evidence.student, group_N, count, self.strength, self.beta)[group_N]


def spike(
    said: Opinion, group_N: torch.Tensor, count: int, strength: float, beta: float
) -> torch.Tensor:
    """(G,) G_spike of each group of tokens, see `Spike`, by what a model says of them."""
    scaled_N = beta * (said.top_N - said.logprob_N).clamp(min=0)
    top_G = scaled_N.new_zeros(count).scatter_reduce(0, group_N, scaled_N, "amax")
    mean_G = mean_by((scaled_N - top_G[group_N]).exp(), group_N, count)
    return (-strength / beta * (top_G + mean_G.log())).exp()


class EarlyTokens(Weight, kind="early_tokens"):
    """1 + gamma (1 - share of sum |a| that came before the token) (IW-OPD).

    a = log q(y) - log(behaviour probability): where little disagreement has gone before, the state
    is still one that the teacher knows. The first token has 1 + gamma. The paper does not rescale:
    for its numbers set `renormalise: off`.

    Args:
        per: the sum starts anew with each of these; a paper of single answers does not say.
    """

    reads_behaviour = True

    gamma: float = Field(default=0.5, ge=0)
    per: Per = "episode"

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"1 + {self.gamma:g} (1 - share of the {self.per}'s |log q(y) - log mu(y)| before y)"

    def raw(self, evidence: Evidence) -> torch.Tensor:
        """See `Weight.raw`."""
        group_N, count = groups(self.per, evidence.tokens)
        gap_N = (evidence.teacher.logprob_N - evidence.tokens.behaviour_N).abs().double()
        total_G = sum_by(gap_N, group_N, count)
        before_N = gap_N.cumsum(0) - gap_N - (total_G.cumsum(0) - total_G)[group_N]
        share_N = before_N / total_G.clamp(min=_FLAT)[group_N]
        weight_N = 1 + self.gamma * (1 - share_N.clamp(0, 1))
        return weight_N.to(evidence.gap_N.dtype)


class SuccessRate(Weight, kind="success_rate"):
    """Outcomes that are rare count more (RESD 2605.12741): solved episodes (1 - s)^power and failed
    ones s^power, s being the share that is solved.

    Where all are solved, or none, all count alike.

    Args:
        among: the episodes that s is the share of: all taught ones of the `step`, or those of the
            task's `group`.
    """

    renormalise: Renormalise = "step"
    power: float = Field(default=1.0, gt=0)
    among: Literal["step", "group"] = "step"

    @property
    def needs_step(self) -> bool:
        """See `Weight.needs_step`."""
        return True

    @model_validator(mode="after")
    def _keeps_what_it_compares(self) -> SuccessRate:
        if self.renormalise == "episode":
            raise ValueError(
                "weight: success_rate gives all tokens of an episode one weight, and renormalise: "
                "episode divides it by itself: every weight would be 1. Set renormalise: step or "
                "off"
            )
        return self

    def raw(self, evidence: Evidence) -> torch.Tensor:
        """See `Weight.raw`."""
        played = [x.trajectory for x in evidence.lessons]
        pools = [played] if self.among == "step" else groups_of(played)
        found = dict[int, float]()
        for pool in pools:
            rate = sum(t.success for t in pool) / len(pool)
            for t in pool:
                alone = rate in (0.0, 1.0)
                chance = 1 - rate if t.success else rate
                found[t.episode] = 1.0 if alone else chance**self.power
        weight_L = evidence.tokens.behaviour_N.new_tensor([found[t.episode] for t in played])
        return weight_L[evidence.tokens.lesson_N]
