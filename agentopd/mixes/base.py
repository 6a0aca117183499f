"""How the distillation and the reinforcement-learning channel share a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from agentopd.base.parts import Part
from agentopd.base.types import Lesson, Trajectory
from agentopd.mixes.advantages import Advantage
from agentopd.mixes.channels import Channels
from agentopd.signal.beside import Beside
from agentopd.signal.evidence import Measured
from agentopd.signal.tokens import Tokens, mean_by

# N tokens of a micro-batch, L its lessons


@dataclass(frozen=True)
class Route:
    """How much one episode counts in each channel; `likelihood` makes its tokens likelier,
    whatever its advantage.
    """

    distil: float = 1.0
    rl: float = 1.0
    likelihood: float = 0.0


class Mix(Part, family="mix"):
    """Which channels a step has and how much each counts: `terms`, and what it needs for them.

    A mix of your own makes the loss's terms of both channels; here it shares them out:

        class Shared(Mix, kind="shared"):
            share: float = Field(default=0.5, gt=0, lt=1)

            @property
            def rl_channel(self) -> Advantage:
                return Grpo()

            def terms(self, channels: Channels) -> dict[str, torch.Tensor]:
                found = {"rl": (1 - self.share) * channels.reinforce()}
                if channels.distillation is not None:
                    found["distil"] = self.share * channels.distil()
                return found
    """

    def terms(self, channels: Channels) -> dict[str, torch.Tensor]:
        """The loss of a micro-batch, as terms that are summed; each channel that speaks has one."""
        found = {}
        if self.distils and channels.distillation is not None:
            found["distil"] = channels.distil()
        if channels.reinforcement is not None:
            found["rl"] = channels.reinforce()
        return found

    @property
    def formula(self) -> str:
        """See `Part.formula`: T is the teacher's term, R that of the rewards."""
        terms = ["T"] if self.distils and self.distil_coefficient else []
        terms += ["R"] if self.rl_channel is not None else []
        return f"{super().formula} of {' and '.join(terms) or 'nothing'}"

    @property
    def rl_channel(self) -> Advantage | None:
        """How rewards become advantages; None without a reinforcement-learning channel."""
        return None

    @property
    def distil_coefficient(self) -> float:
        """What the distillation term is multiplied by; 0 means that no teacher is asked."""
        return 1.0

    imitation: ClassVar[Literal["none", "beside", "all"]] = "none"
    """Whether tokens that nobody sampled are made likelier: beside what others are rewarded for, or
    as all of the loss, which weights may then multiply."""
    distils: ClassVar[bool] = True
    """Whether the teacher's credit enters the loss by itself, whatever the advantages are. Where it
    does not, episodes without an advantage are left out."""

    @property
    def regularised(self) -> bool:
        """Whether there is something to learn from episodes whose advantages are all zero."""
        return self.rl_channel is not None and self.rl_channel.regularised

    @property
    def learns_from_samples(self) -> bool:
        """Whether tokens are learnt from as samples of the student, whatever the teacher says."""
        return self.rl_channel is not None

    def chosen(self, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        """Those of a step's episodes that are learnt from, with the tokens that are; the others
        are as if they had not been played.
        """
        return list(trajectories)

    def routes(self, lessons: Sequence[Lesson]) -> dict[int, Route]:
        """How much each of the step's episodes, by number, counts in each channel."""
        return {x.trajectory.episode: Route() for x in lessons}

    def rewards(
        self, trajectories: Sequence[Trajectory], scores: Mapping[int, float]
    ) -> dict[int, float]:
        """What advantages are made of, by episode number; an episode left out takes no part.

        Args:
            scores: of the episodes that have one, by their number; see `scored_by`.
        """
        return {t.episode: t.reward for t in trajectories}

    def check(self, beside: Beside) -> None:
        """Whether the mix makes sense beside the method's other parts.

        Raises:
            ValueError: it does not; the message says why and what to do.
        """
        self._check_samples(beside)
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

    def summands(self, channels: Channels) -> dict[str, torch.Tensor]:
        """What each channel adds to the advantage (N,) of a term that both share; nothing where
        each has a term of its own, or one channel alone has advantages.
        """
        return {}

    @property
    def scored_by(self) -> Literal["teacher", "student", "unit"] | None:
        """Whose scores of whole episodes `rewards` needs; None where it needs none. For those of
        `teacher` and `student` the models are asked before the step, see `scored`; those of the
        `student` are of episodes without a lesson.
        """
        return None

    def scored(self, said: Measured, tokens: Tokens, lessons: Sequence[Lesson]) -> torch.Tensor:
        """(L,) the score of each episode, from what the models said of its tokens before the step:
        the mean of log q - log p_behaviour, unless a mix says otherwise.
        """
        assert said.teacher is not None
        gap_N = said.teacher.logprob_N - tokens.behaviour_N
        return mean_by(gap_N, tokens.lesson_N, tokens.lessons)

    def _check_samples(self, beside: Beside) -> None:
        """What is learnt from the student's chances needs tokens that it has drawn by them."""
        asked = self.learns_from_samples or (self.distils and beside.sampled)
        if beside.temperature or not asked:
            return
        what, instead = f"mix: {self.kind}", ""
        if not self.learns_from_samples:
            what, instead = "divergence.support: sampled", ", or support: full"
        raise ValueError(
            f"{what} learns from tokens as samples of the student, and rollout.temperature: 0 "
            "plays the likeliest ones, which are none: all episodes of a task would be the same. "
            f"Set a temperature above 0 (evaluate.temperature may be 0){instead}"
        )
