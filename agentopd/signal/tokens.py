"""The trainable tokens of a micro-batch, laid end to end, and the turns they belong to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from agentopd.base.types import Lesson, Owner, Trajectory

# N trainable tokens of the micro-batch, K turns that have some, G groups of any kind


@dataclass(frozen=True)
class Tokens:
    """What is known of each token before any model is asked.

    Attributes:
        ids_N: the sampled ids.
        turn_N: the turn, counted from 0 in its own episode.
        lesson_N: which lesson of the micro-batch the token belongs to.
        behaviour_N: behaviour log-probability in nats.
        place_N: where the token stands in its trajectory.
    """

    ids_N: torch.Tensor
    turn_N: torch.Tensor
    lesson_N: torch.Tensor
    behaviour_N: torch.Tensor
    place_N: torch.Tensor
    lessons: int

    @classmethod
    def of(cls, lessons: Sequence[Lesson], device: torch.device) -> Tokens:
        """The trainable tokens of `lessons`, in order."""
        trajectories = [lesson.trajectory for lesson in lessons]

        def joined(values: Sequence[np.ndarray]) -> torch.Tensor:
            return _trainable(lessons, values, device)

        return cls(
            ids_N=joined([t.ids for t in trajectories]),
            turn_N=joined([t.turn for t in trajectories]).long(),
            lesson_N=joined([np.full(len(t.ids), i) for i, t in enumerate(trajectories)]),
            behaviour_N=joined([t.logprob for t in trajectories]),
            place_N=joined([np.arange(len(t.ids)) for t in trajectories]),
            lessons=len(lessons),
        )

    def __len__(self) -> int:
        return len(self.ids_N)

    @cached_property
    def turns(self) -> Turns:
        """The turns that have trainable tokens, by episode and then by depth."""
        span = int(self.turn_N.max()) + 1 if len(self) else 1
        keys_K, at_N = torch.unique(self.lesson_N * span + self.turn_N, return_inverse=True)
        return Turns(at_N=at_N, lesson_K=keys_K // span, depth_K=keys_K % span)


def acted(lessons: Sequence[Lesson], device: torch.device) -> torch.Tensor:
    """(N,) bool, which trainable tokens the teacher wrote."""
    teachers = [x.trajectory.owner == Owner.TEACHER for x in lessons]
    return _trainable(lessons, teachers, device)


def foreign(lessons: Sequence[Lesson], device: torch.device) -> torch.Tensor:
    """(N,) bool, which trainable tokens another policy has drawn than the student in the history
    that it learns under: their behaviour log-probability is not the student's.
    """
    others = [x.trajectory.owner != Owner.STUDENT for x in lessons]
    return _trainable(lessons, others, device) | told(lessons, device)


def told(lessons: Sequence[Lesson], device: torch.device) -> torch.Tensor:
    """(N,) bool, which trainable tokens were sampled by who was told more than stands in the
    history that they are learnt under.
    """
    trajectories = [lesson.trajectory for lesson in lessons]
    marks = [np.zeros(len(t.ids), bool) if t.told is None else t.told for t in trajectories]
    return _trainable(lessons, marks, device)


def _trainable(
    lessons: Sequence[Lesson], values: Sequence[np.ndarray], device: torch.device
) -> torch.Tensor:
    """(N,) of each trajectory's values (T,), those at its trainable tokens."""
    pairs = zip(lessons, values, strict=True)
    return torch.from_numpy(np.concatenate([v[x.trajectory.trainable] for x, v in pairs])).to(
        device
    )


@dataclass(frozen=True)
class Turns:
    """The turns of a micro-batch; an episode's turns are neighbours, in the order of play.

    Attributes:
        at_N: which turn each token belongs to.
        lesson_K: which lesson a turn belongs to.
        depth_K: its number in its own episode, counted from 0.
    """

    at_N: torch.Tensor
    lesson_K: torch.Tensor
    depth_K: torch.Tensor

    def __len__(self) -> int:
        return len(self.lesson_K)

    @cached_property
    def first_K(self) -> torch.Tensor:
        """The first turn of each turn's episode."""
        return torch.searchsorted(self.lesson_K, self.lesson_K)

    def mean(self, values_N: torch.Tensor) -> torch.Tensor:
        """(K,) the mean over each turn's tokens."""
        return mean_by(values_N, self.at_N, len(self))

    def sum(self, values_N: torch.Tensor) -> torch.Tensor:
        """(K,) the sum over each turn's tokens."""
        return sum_by(values_N, self.at_N, len(self))

    def fold(
        self, values_K: torch.Tensor, start: float, step: Callable[[float, float], float]
    ) -> torch.Tensor:
        """(K,) float64: `step(what came before, value)` along each episode, begun with `start`."""
        found: list[float] = []
        before = list(zip(self.lesson_K.tolist(), values_K.double().tolist(), strict=True))
        for k, (lesson, value) in enumerate(before):
            fresh = k == 0 or before[k - 1][0] != lesson
            found.append(step(start if fresh else found[-1], value))
        return torch.tensor(found, dtype=torch.float64, device=values_K.device)


def sum_by(values_N: torch.Tensor, group_N: torch.Tensor, groups: int) -> torch.Tensor:
    """(G,) the sum of `values_N` over each group; 0 where a group is empty."""
    return values_N.new_zeros(groups).index_add(0, group_N, values_N)


def mean_by(values_N: torch.Tensor, group_N: torch.Tensor, groups: int) -> torch.Tensor:
    """(G,) the mean of `values_N` over each group; 0 where a group is empty."""
    count_G = sum_by(torch.ones_like(values_N), group_N, groups)
    return sum_by(values_N, group_N, groups) / count_G.clamp(min=1)


def relearnt(trajectory: Trajectory, own_N: np.ndarray) -> Trajectory:
    """The trajectory as the student would have sampled it from the history that is kept."""
    assert trajectory.told is not None
    own_T = np.full_like(trajectory.logprob, np.nan)
    own_T[trajectory.trainable] = own_N
    logprob = np.where(trajectory.told & trajectory.trainable, own_T, trajectory.logprob)
    return replace(trajectory, logprob=logprob)
