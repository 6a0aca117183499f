"""Demonstrations: folders of episodes that somebody played once, to learn from or to follow.

A store is a folder of trajectories as runs save them, whoever wrote the answers: a run's own
`trajectories/` is one too.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from agentopd.base.parts import Settings
from agentopd.base.types import Trajectory
from agentopd.stored.trajectories import load_trajectories, trajectory_files


class Kept(Settings):
    """Which episodes are kept, by how they ended.

    Args:
        success: solved ones alone.
        reward: those whose rewards sum to this or more; all if not given.
    """

    success: bool = False
    reward: float | None = None

    def keeps(self, trajectory: Trajectory) -> bool:
        """Whether an episode is kept."""
        solved = trajectory.success or not self.success
        return solved and (self.reward is None or trajectory.reward >= self.reward)


class Selection(Kept):
    """Which of several episodes are learnt from.

    Args:
        drop_shortest: the share of those kept that is left out again, those with the fewest tokens
            to learn from, rounded down to whole episodes.
    """

    drop_shortest: float = Field(default=0.0, ge=0, lt=1)

    def of(self, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        """The chosen ones, in their order."""
        kept = [t for t in trajectories if self.keeps(t)]
        by_length = sorted(range(len(kept)), key=lambda i: int(kept[i].trainable.sum()))
        dropped = set(by_length[: int(self.drop_shortest * len(kept))])
        return [t for i, t in enumerate(kept) if i not in dropped]


class Choice(Selection):
    """Which episodes of a store are learnt from.

    Args:
        divergent: of those kept, the share with the largest mean of log q(y) - log p(y) over the
            tokens to learn from (DASD 2601.09088), rounded up to whole episodes: q is whoever drew
            them, p the student before its first step. The others say little that it would not.
    """

    divergent: float | None = Field(default=None, gt=0, lt=1)


def most_divergent(
    trajectories: Sequence[Trajectory], gaps: Sequence[float], share: float
) -> list[Trajectory]:
    """The share of episodes with the largest gaps, in their order; the first of equal ones."""
    by_gap = sorted(range(len(gaps)), key=lambda i: -gaps[i])
    kept = set(by_gap[: math.ceil(share * len(gaps))])
    return [t for i, t in enumerate(trajectories) if i in kept]


def read_demonstrations(folder: Path, keep: Selection | None = None) -> list[Trajectory]:
    """The episodes of a store that can be learnt from, in the order of its files.

    Args:
        folder: of Parquet files, as `agentopd collect` writes it; or a run's.

    Raises:
        ValueError: there is no such folder, a file in it is damaged, or nothing is left to learn
            from; one line.
    """
    files = trajectory_files(folder)
    if not files:
        raise ValueError(
            f"{folder} holds no demonstrations: name a folder that `agentopd collect` wrote, or a "
            "run's with saved trajectories"
        )
    read = [t for path in files for t in load_trajectories(path)]
    usable = [t for t in read if t.acts and t.learnable]
    chosen = (keep or Selection()).of(usable)
    if not chosen:
        raise ValueError(
            f"of {len(read)} episodes in {folder} none is left to learn from: "
            f"{len(read) - len(usable)} could not be played, and the others are not kept; keep "
            "more of them, or collect others"
        )
    return chosen


@dataclass(frozen=True)
class ByTask:
    """The demonstrations of a store by the task that they were played on, which their environment's
    seed tells.
    """

    path: str
    episodes: Mapping[int, Sequence[Trajectory]]

    @classmethod
    def of(cls, store: Sequence[Trajectory], path: str) -> ByTask:
        """Those of a store that was read from `path`, each task's in their order."""
        found: dict[int, list[Trajectory]] = defaultdict(list)
        for trajectory in store:
            found[trajectory.seed].append(trajectory)
        return cls(path, dict(found))

    def on(self, played: Trajectory) -> Sequence[Trajectory]:
        """Those on the task of an episode; there may be none.

        Raises:
            ValueError: under the same seed they began otherwise: they are of another environment,
                or of one with other options.
        """
        known = self.episodes.get(played.seed, ())
        if known and played.turns and _beginning(known[0]) != _beginning(played):
            raise ValueError(
                f"{self.path} holds demonstrations of {known[0].env} that begin otherwise than "
                f"{played.env} does here under the same seed, {played.seed}: collect them in this "
                "very environment, with the same env.options"
            )
        return known


def _beginning(trajectory: Trajectory) -> tuple[str, str]:
    """By what two episodes of one task agree: where they are played, and what is seen first."""
    return trajectory.env, trajectory.turns[0].observation
