"""Success on held-out tasks: the same tasks, with the same random numbers, for every model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentopd.model import LanguageModel
from agentopd.rollout.policies import EnvSettings, Rollout
from agentopd.rollout.pool import Task
from agentopd.rollout.sampler import Sampler
from agentopd.statistics import wilson
from agentopd.types import Trajectory

# An evaluation's sampling is apart from any run's, whose seeds count from 0.
_SEED = 2**31 - 1


def play_tasks(
    env: EnvSettings, student: LanguageModel, sampler: Sampler, rollout: Rollout, episodes: int, options: dict[str, Any], seed: int = 0
) -> list[Trajectory]:
    """One episode on each of `episodes` tasks, with environment seeds `seed`, `seed + 1`, ..."""
    tasks = [Task(i, i, seed + i) for i in range(episodes)]
    return rollout.pool(env, student, _SEED, **options).play(tasks, sampler)


def score(trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """Success with its 95 % interval, reward and turns of played episodes."""
    solved = sum(t.success for t in trajectories)
    played = len(trajectories)
    return {
        "success": solved / max(played, 1),
        "interval": list(wilson(solved, played)),
        "episodes": played,
        "reward": sum(t.reward for t in trajectories) / max(played, 1),
        "turns": sum(len(t.turns) for t in trajectories) / max(played, 1),
        "errors": sum(bool(t.error) for t in trajectories),
    }
