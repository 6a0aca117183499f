"""Branches: an episode's state once more, and what would have come of another turn there.

A state is restored by playing the turns before it again in a fresh environment of the same seed.
One that says something else than it did is named in the branch's error.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agentopd.base.types import EndReason, Owner, Trajectory
from agentopd.models.model import LanguageModel
from agentopd.models.passes import logprobs_before
from agentopd.parallel.processes import Processes
from agentopd.rollout.acting.roles import STUDENT, STUDENTS, Direction, Voice
from agentopd.rollout.acting.scripts import Replayed

# N trainable tokens of an episode


def branch(
    trajectory: Trajectory,
    turns: int,
    further: int,
    voice: Voice = STUDENT,
    learnt: Collection[Owner] = STUDENTS,
) -> Direction:
    """How an episode is acted that goes on from where another one was.

    Args:
        turns: of the other one that are played again, token for token.
        further: turns behind these, at most.
        voice: who writes them.
        learnt: whose tokens are learnt from.
    """
    script = Replayed(trajectory, turns)
    return Direction(voices=(voice,), script=script, turns=turns + further, learnt=learnt)


def whole(trajectory: Trajectory, turns: int) -> bool:
    """Whether a branch came to so many turns, replayed ones included, and the environment could
    read those that were not.
    """
    if trajectory.end is EndReason.ERROR or len(trajectory.turns) != turns:
        return False
    fresh = [t for t in trajectory.turns if trajectory.owner[t.start] != Owner.DEMO]
    return all(turn.valid for turn in fresh)


@dataclass(frozen=True)
class Opinions:
    """What two models think of the tokens that are learnt from, each in the student's context.

    Args:
        budget: padded tokens of a call of a model.
        processes: who ask together, whole tasks each.
    """

    student: LanguageModel
    teacher: LanguageModel
    temperature: float
    budget: int
    processes: Processes

    def gaps(self, trajectories: Sequence[Trajectory]) -> dict[int, npt.NDArray[np.float32]]:
        """(N,) log q - log p of each episode that has such tokens, by its number: positive where
        the teacher wants more of the token.
        """
        some = [t for t in trajectories if t.trainable.any()]
        own = self.processes.share(some, lambda t: t.task, lambda t: len(t.ids))
        found = list[tuple[int, npt.NDArray[np.float32]]]()
        if own:
            p, q = (
                logprobs_before(model, own, self.budget, self.temperature)
                for model in (self.student, self.teacher)
            )
            pairs = zip(own, p, q, strict=True)
            found = [(t.episode, q_N - p_N) for t, p_N, q_N in pairs]
        return dict(self.processes.gather(found))
