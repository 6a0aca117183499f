"""Episodes of the same task, which are compared with one another.

Where a task is attempted again, an attempt is compared with the same attempts of others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from agentopd.base.types import EndReason, Trajectory


def groups(trajectories: Sequence[Trajectory]) -> list[list[Trajectory]]:
    """Trajectories by task and attempt, in order of their first appearance."""
    found: dict[Hashable, list[Trajectory]] = defaultdict(list)
    for trajectory in trajectories:
        own = trajectory.attempt
        which = (own.number, own.kind, own.version) if own else None
        found[trajectory.task, which].append(trajectory)
    return list(found.values())


def group_success(trajectories: Sequence[Trajectory]) -> dict[int, float]:
    """The share of solved episodes in each episode's group, by episode number."""
    return {
        t.episode: sum(other.success for other in group) / len(group)
        for group in groups(trajectories)
        for t in group
    }


def dead(group: Sequence[Trajectory]) -> bool:
    """Whether a group's rewards are all equal, so that nothing can be learnt by comparing them."""
    return len({t.reward for t in group}) == 1


def dead_groups(trajectories: Sequence[Trajectory]) -> float | None:
    """The share of groups whose rewards are all equal; None when no group has two episodes.

    Episodes that ended in an error take no part, as they take none in learning.
    """
    played = [t for t in trajectories if t.end is not EndReason.ERROR]
    shared = [group for group in groups(played) if len(group) > 1]
    return sum(map(dead, shared)) / len(shared) if shared else None
