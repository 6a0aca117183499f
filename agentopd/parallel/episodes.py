"""A step's episodes among the processes that learn from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agentopd.base.types import Lesson, Trajectory
from agentopd.parallel.processes import Processes


def own_episodes(processes: Processes, trajectories: Sequence[Trajectory]) -> set[int]:
    """The numbers of the episodes that this process asks the teacher about and learns from: whole
    tasks, with about as many tokens in each process.
    """
    own = processes.share(trajectories, lambda t: t.task, lambda t: len(t.ids))
    return {trajectory.episode for trajectory in own}


def known_elsewhere(lesson: Lesson) -> Lesson:
    """What other processes are told of a lesson: that there is one, and all but the teacher's
    hidden states, in whose place stands a tensor of their shape that holds nothing.
    """
    hidden_NH, untold_N = lesson.hidden_NH, lesson.untold_N
    return replace(
        lesson,
        hidden_NH=None if hidden_NH is None else hidden_NH.to("meta"),
        untold_N=None if untold_N is None else untold_N.cpu(),
    )
