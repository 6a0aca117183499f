"""How the distillation and the reinforcement-learning channel share a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from agentopd.base.parts import Part
from agentopd.base.types import Lesson, Trajectory
from agentopd.mixes.advantages import Advantage
from agentopd.mixes.channels import Channels
from agentopd.signal.beside import Beside
from agentopd.signal.tokens import Tokens, mean_by

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

    def check(self, beside: Beside) -> None:
        """Whether the mix makes sense beside the method's other parts.

        Raises:
            ValueError: it does not; the message says why and what to do.
        """
        self._check_samples(beside)
        self._check_advantages(beside)
        rl = self.rl_channel
        if rl is not None and rl.group_relative and beside.group < 2:
            raise ValueError(
                f"mix: {self.kind} compares the episodes of a group, and rollout.group is "
                f"{beside.group}: every group would be dead. Set rollout.group to 4 or 8 "
                "(and rollout.tasks so that episodes stay equal)"
            )
        if self.distil_coefficient and not beside.told:
            raise ValueError(
                "a distilling method needs a privilege; "
                "privilege: none is the control that tells nothing"
            )

    def _check_samples(self, beside: Beside) -> None:
        """What is learnt from the student's chances needs tokens that it has drawn by them."""
        estimated = "divergence" in self.reads and beside.sampled
        if beside.temperature or not (self.rl_channel or estimated):
            return
        what, instead = f"mix: {self.kind}", ""
        if not self.rl_channel:
            what, instead = "divergence.support: sampled", ", or support: full"
        raise ValueError(
            f"{what} learns from tokens as samples of the student, and rollout.temperature: 0 "
            "plays the likeliest ones, which are none: all episodes of a task would be the same. "
            f"Set a temperature above 0 (evaluate.temperature may be 0){instead}"
        )

    def _check_advantages(self, beside: Beside) -> None:
        """A weight that is about advantages needs some."""
        if "weight" not in self.reads or self.taught_have_advantages:
            return
        for kind in beside.advised:
            raise ValueError(
                f"weight: {kind} asks whether the teacher is of the reward's opinion, and under "
                f"mix: {self.kind} no token that the teacher teaches has an advantage: its weights "
                "would be the same whatever the teacher says. Use mix: multiplicative or "
                "auxiliary, or another weight, such as gap_gate"
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
