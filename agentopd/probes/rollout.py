"""What a step's episodes were like."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agentopd.probes.answers import truncated
from agentopd.types import Trajectory


def rollout_probes(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Means over a step's episodes, and the shares of answers and ends of each sort."""
    turns = [turn for t in trajectories for turn in t.turns]
    return {
        "success": _share(t.success for t in trajectories),
        "reward": sum(t.reward for t in trajectories) / max(len(trajectories), 1),
        "turns": len(turns) / max(len(trajectories), 1),
        "invalid": _share(not turn.valid for turn in turns),
        "cut": _share(turn.cut for turn in turns),
        "truncated": _share(truncated(t) for t in trajectories),
        "errors": _share(bool(t.error) for t in trajectories),
        "new_segments": sum(len(t.segments) - 1 for t in trajectories) / max(len(trajectories), 1),
    }


def _share(flags: Iterable[bool]) -> float:
    values = list(flags)
    return sum(values) / len(values) if values else 0.0
