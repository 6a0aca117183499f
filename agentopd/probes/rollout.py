"""What a step's episodes were like."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agentopd.base.types import EndReason, Trajectory
from agentopd.probes.answers import truncated


def rollout_probes(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Means over a step's episodes, the shares of answers and ends of each sort, and the
    environment's own numbers; of what was played in it alone, all attempts alike.
    """
    trajectories = [t for t in trajectories if t.acts]
    turns = [turn for t in trajectories for turn in t.turns]
    return {
        "success": _share(t.success for t in trajectories),
        "reward": sum(t.reward for t in trajectories) / max(len(trajectories), 1),
        "turns": len(turns) / max(len(trajectories), 1),
        "invalid": _share(not turn.valid for turn in turns),
        "cut": _share(turn.cut for turn in turns),
        "truncated": _share(truncated(t) for t in trajectories),
        "errors": _share(bool(t.error) or t.end is EndReason.ERROR for t in trajectories),
        "new_segments": sum(max(len(t.segments) - 1, 0) for t in trajectories)
        / max(len(trajectories), 1),
        **env_metrics(trajectories),
    }


def depths(
    trajectories: Sequence[Trajectory], by_turn: Mapping[str, Sequence[float | None]]
) -> dict[str, list[Any]]:
    """Of each turn, how many `episodes` got there and how many were `solved` in it, beside the mean
    `divergence` at its tokens; what `Schedule.reads_depth` is about.

    Args:
        by_turn: the probes' means.
    """
    turns = [len(t.turns) for t in trajectories if t.acts and t.end is not EndReason.ERROR]
    solved = [len(t.turns) for t in trajectories if t.acts and t.success]
    each = range(1, max(turns, default=0) + 1)
    return {
        "divergence": list(by_turn.get("divergence", ())),
        "episodes": [sum(count >= turn for count in turns) for turn in each],
        "solved": [sum(count == turn for count in solved) for turn in each],
    }


def env_metrics(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Means, by name, of the environment's `info["metrics"]`; the names begin with `env/`.

    An episode's are those of its last step. What is no finite number takes no part.
    """
    found: dict[str, list[float]] = {}
    for trajectory in trajectories:
        told = trajectory.turns[-1].info.get("metrics") if trajectory.turns else None
        for name, value in told.items() if isinstance(told, Mapping) else ():
            if isinstance(value, int | float) and math.isfinite(value):
                found.setdefault(f"env/{name}", []).append(float(value))
    return {name: sum(values) / len(values) for name, values in sorted(found.items())}


def _share(flags: Iterable[bool]) -> float:
    values = list(flags)
    return sum(values) / len(values) if values else 0.0
