"""The trainable tokens of a micro-batch, laid end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from agentopd.types import Lesson

# N trainable tokens of the micro-batch


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
        chosen = [lesson.trajectory.trainable for lesson in lessons]

        def joined(values: Sequence[np.ndarray]) -> torch.Tensor:
            return torch.from_numpy(
                np.concatenate([v[m] for v, m in zip(values, chosen, strict=True)])
            ).to(device)

        trajectories = [lesson.trajectory for lesson in lessons]
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


def mean_by(values_N: torch.Tensor, group_N: torch.Tensor, groups: int) -> torch.Tensor:
    """Mean of `values_N` over each group, of shape (groups,); 0 where a group is empty."""
    total = values_N.new_zeros(groups).index_add(0, group_N, values_N)
    count = values_N.new_zeros(groups).index_add(0, group_N, torch.ones_like(values_N))
    return total / count.clamp(min=1)
