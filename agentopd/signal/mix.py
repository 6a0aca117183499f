"""How the distillation and the reinforcement-learning channel share a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, get_args, runtime_checkable

import torch
from pydantic import Field, SerializeAsAny

from agentopd.parts import Part
from agentopd.signal.advantages import Advantage, Grpo, NoReward, Reinforce
from agentopd.signal.channels import Channels
from agentopd.signal.estimators import K1
from agentopd.signal.tokens import Tokens, mean_by
from agentopd.types import Lesson, Trajectory

if TYPE_CHECKING:
    from agentopd.config import RunConfig

# N tokens of a micro-batch, L its lessons

Read = Literal[
    "teacher",
    "unit",
    "divergence",
    "weight",
    "schedule.distil",
    "schedule.rl",
    "schedule.strength",
]
"""What of a method a mix may read, by its place in a configuration."""

_TEACHERS_TERM: frozenset[Read] = frozenset(
    {"teacher", "unit", "divergence", "weight", "schedule.distil"}
)
_REWARDS_TERM: frozenset[Read] = frozenset({"schedule.rl"})


@dataclass(frozen=True)
class Route:
    """How much one episode counts in each channel; `likelihood` makes its tokens likelier,
    whatever its advantage.
    """

    distil: float = 1.0
    rl: float = 1.0
    likelihood: float = 0.0


class Mix(Part, family="mix"):
    """Which channels a step has and how much each counts."""

    linear: ClassVar[bool] = False
    """Whether the teacher has a term of its own: tokens' credits, each times a number known before.
    """
    distils: ClassVar[bool] = True
    """Whether the teacher's credit enters the loss by itself, whatever the advantages are."""

    @property
    def rl_channel(self) -> Advantage | None:
        """How rewards become advantages; None without a reinforcement-learning channel."""
        return None

    @property
    def distil_coefficient(self) -> float:
        """What the distillation term is multiplied by; 0 means that no teacher is asked."""
        return 1.0

    @property
    def scored_by(self) -> Literal["teacher", "unit"] | None:
        """Whose scores of whole episodes `rewards` needs; None where it needs none."""
        return None

    @property
    def several(self) -> bool:
        """Whether a loss can have terms of both channels."""
        return self.distils and bool(self.distil_coefficient) and self.rl_channel is not None

    @property
    def reads(self) -> frozenset[Read]:
        """What of the method enters the loss; a mix that says nothing is taken to read all.

        Of the unit, how it cuts, weighs and scores; how it averages tokens enters always. What the
        unit and the weights themselves look at is theirs to say.
        """
        return frozenset(get_args(Read))

    @property
    def taught_have_advantages(self) -> bool:
        """Whether a token that the teacher's opinion moves can have an advantage."""
        return self.rl_channel is not None

    def check(self, method: RunConfig) -> None:
        """Whether the mix makes sense beside the method's other parts.

        Raises:
            ValueError: it does not; the message says why and what to do.
        """
        self._check_samples(method)
        self._check_advantages(method)
        rl, rollout = self.rl_channel, method.rollout
        if rl is not None and rl.group_relative and rollout.group < 2:
            raise ValueError(
                f"mix: {self.kind} compares the episodes of a group, and rollout.group is "
                f"{rollout.group}: every group would be dead. Set rollout.group to 4 or 8 "
                "(and rollout.tasks so that episodes stay equal)"
            )
        if self.distil_coefficient and not method.privilege:
            raise ValueError(
                "a distilling method needs a privilege; "
                "privilege: none is the control that tells nothing"
            )

    def notices(self, method: RunConfig) -> list[str]:
        """What of the mix changes nothing beside the method's other parts, a sentence each."""
        return []

    def _check_samples(self, method: RunConfig) -> None:
        """What is learnt from the student's chances needs tokens that it has drawn by them."""
        estimated = "divergence" in self.reads and method.divergence.sampled
        if method.rollout.temperature or not (self.rl_channel or estimated):
            return
        what, instead = f"mix: {self.kind}", ""
        if not self.rl_channel:
            what, instead = "divergence.support: sampled", ", or support: full"
        raise ValueError(
            f"{what} learns from tokens as samples of the student, and rollout.temperature: 0 "
            "plays the likeliest ones, which are none: all episodes of a task would be the same. "
            f"Set a temperature above 0 (evaluate.temperature may be 0){instead}"
        )

    def _check_advantages(self, method: RunConfig) -> None:
        """A weight that is about advantages needs some."""
        if "weight" not in self.reads or self.taught_have_advantages:
            return
        for weight in method.weight:
            if "advantage" in weight.looks_at:
                raise ValueError(
                    f"weight: {weight.kind} asks whether the teacher is of the reward's opinion, "
                    f"and under mix: {self.kind} no token that the teacher teaches has an "
                    "advantage: its weights would be the same whatever the teacher says. Use mix: "
                    "multiplicative or auxiliary, or another weight, such as gap_gate"
                )

    def routes(self, lessons: Sequence[Lesson]) -> dict[int, Route]:
        """How much each of the step's episodes, by number, counts in each channel."""
        return {x.trajectory.episode: Route() for x in lessons}

    def reduced(self, gap_N: torch.Tensor, tokens: Tokens) -> torch.Tensor:
        """(L,) the teacher's score of each episode, from log q - log p_behaviour of tokens (N,)."""
        return mean_by(gap_N, tokens.lesson_N, tokens.lessons)

    def rewards(
        self, trajectories: Sequence[Trajectory], scores: Mapping[int, float]
    ) -> dict[int, float]:
        """What advantages are made of, by episode number; an episode left out takes no part."""
        return {t.episode: t.reward for t in trajectories}

    def summands(self, channels: Channels) -> dict[str, torch.Tensor]:
        """What each channel adds to the advantage (N,) of a term that both share; nothing where
        each has a term of its own, or one channel alone has advantages.
        """
        return {}

    def terms(self, channels: Channels) -> dict[str, torch.Tensor]:
        """The loss of a micro-batch, as terms that are summed; each channel that speaks has one."""
        found = {}
        if self.distils and channels.distillation is not None:
            found["distil"] = channels.distil()
        if channels.reinforcement is not None:
            found["rl"] = channels.reinforce()
        return found


class DistilOnly(Mix, kind="distil"):
    """The teacher alone; rewards are not looked at.

    Args:
        kl_coefficient: of KL(reference || student), the reference being the student as it was
            before its first step, which is then added to the loss (Stable-OPD 2604.08527). It is
            estimated as in `rl.kl_coefficient`, and the schedule `rl` multiplies it.
    """

    linear = True

    kl_coefficient: float = Field(default=0.0, ge=0)

    @property
    def rl_channel(self) -> Advantage | None:
        """See `Mix.rl_channel`: rewards count for nothing in it."""
        return NoReward(kl_coefficient=self.kl_coefficient) if self.kl_coefficient else None

    @property
    def reads(self) -> frozenset[Read]:
        """See `Mix.reads`."""
        return _TEACHERS_TERM | (_REWARDS_TERM if self.kl_coefficient else frozenset())

    @property
    def taught_have_advantages(self) -> bool:
        """See `Mix.taught_have_advantages`: all are zero."""
        return False


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

    @property
    def reads(self) -> frozenset[Read]:
        """See `Mix.reads`."""
        return _REWARDS_TERM


class Auxiliary(RlOnly, kind="auxiliary"):
    """Reinforcement learning, plus `coefficient` times the distillation term (Skill-SD 2604.10674).

    Both are averaged the same way; the metrics hold each channel's gradient norm on its own.
    """

    linear = True

    coefficient: float = Field(default=0.1, gt=0)

    @property
    def distil_coefficient(self) -> float:
        """See `Mix.distil_coefficient`."""
        return self.coefficient

    @property
    def reads(self) -> frozenset[Read]:
        """See `Mix.reads`."""
        return _TEACHERS_TERM | _REWARDS_TERM


class Additive(Auxiliary, kind="additive"):
    """One policy gradient of A + `coefficient` times the teacher's credit (OPID 2606.26790, ATOD
    2606.27814).

    The clip looks at the sum and takes the place of the estimator's own rule for the importance
    ratio, so the teacher moves no token further than rewards alone could. The schedules `rl` and
    `distil` multiply one summand each, which is how ATOD passes from the teacher to rewards. Tokens
    without a lesson keep A.
    """

    linear = False

    @property
    def several(self) -> bool:
        """See `Mix.several`: the one term holds both."""
        return False

    def check(self, method: RunConfig) -> None:
        """See `Mix.check`."""
        super().check(method)
        if method.unit.returns(method.divergence) == "loss":
            raise ValueError(
                f"mix: additive adds the teacher's term to the sampled token's advantage, and "
                f"{method.divergence.kind} as it is set up is a loss with a gradient of its own, "
                "not an advantage. Use divergence: {kind: reverse_kl, support: sampled}, or "
                "mix: auxiliary, which adds losses"
            )

    def notices(self, method: RunConfig) -> list[str]:
        """See `Mix.notices`."""
        estimator = method.divergence.estimated_by
        if not isinstance(estimator, K1) or type(estimator) is K1:
            return []
        return [
            f"divergence.estimator: {estimator.kind} is k1 under mix: additive, which bounds the "
            "sum by mix.rl.clip in the place of the estimator's own rule. Use mix: auxiliary for "
            "that, or estimator: k1"
        ]

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


@runtime_checkable
class Scoring(Protocol):
    """A unit that scores whole episodes, as rubrics do."""

    def score(self, trajectory: Trajectory) -> float | None:
        """The episode's score; None where nothing can be said of it."""
        ...


class RewardReplacement(RlOnly, kind="reward"):
    """The episode's reward becomes a score, of which advantages are made.

    Episodes without a score have no advantage, and no other is measured against them.

    Args:
        score: `teacher`: log q - log p_behaviour of the episode's own tokens, in nats; the models
            are asked twice, before the step and in it. `unit`: what the unit says of the episode,
            sum(v w) / sum(w) over a rubric's criteria (ROPD 2605.07396); then no teacher is asked.
        reduce: of the teacher's tokens over the episode. A sum grows with the episode's length.
        environment: the environment's own reward is added, times this.
    """

    distils = False

    score: Literal["teacher", "unit"] = "teacher"
    reduce: Literal["mean", "sum"] = "mean"
    environment: float = Field(default=0.0, ge=0)

    def unread(self) -> dict[str, str]:
        """See `Settings.unread`."""
        return {} if self.score == "teacher" else {"reduce": "score: teacher"}

    @property
    def distil_coefficient(self) -> float:
        """See `Mix.distil_coefficient`: the teacher is asked for the score."""
        return 1.0 if self.score == "teacher" else 0.0

    @property
    def reads(self) -> frozenset[Read]:
        """See `Mix.reads`."""
        return frozenset({self.score, "schedule.rl"})

    @property
    def scored_by(self) -> Literal["teacher", "unit"]:
        """See `Mix.scored_by`."""
        return self.score

    def check(self, method: RunConfig) -> None:
        """See `Mix.check`."""
        super().check(method)
        if self.score == "unit" and not isinstance(method.unit, Scoring):
            raise ValueError(
                f"mix: reward with score: unit takes the episode's reward from the unit, and "
                f"unit: {method.unit.kind} scores no episodes. Use unit: rubric_span, or "
                "score: teacher"
            )
        if isinstance(self.rl, Reinforce) and self.rl.baseline == "running":
            raise ValueError(
                "mix: reward with rl.baseline: running would measure scores against the past of "
                "the environment's rewards, which are another quantity. Use baseline: batch"
            )

    def reduced(self, gap_N: torch.Tensor, tokens: Tokens) -> torch.Tensor:
        """See `Mix.reduced`."""
        if self.reduce == "mean":
            return super().reduced(gap_N, tokens)
        return gap_N.new_zeros(tokens.lessons).index_add(0, tokens.lesson_N, gap_N)

    def rewards(
        self, trajectories: Sequence[Trajectory], scores: Mapping[int, float]
    ) -> dict[int, float]:
        """See `Mix.rewards`."""
        return {
            t.episode: scores[t.episode] + self.environment * t.reward
            for t in trajectories
            if t.episode in scores
        }
