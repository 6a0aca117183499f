"""A supervision unit of your own: only the turns in which the agent made a mistake are taught."""

import sys
from pathlib import Path

from agentopd import Span, Trajectory, Unit, load_config, train


class MistakeUnit(Unit, kind="mistake"):
    """The turns that the environment calls a mistake; turns without one carry nothing.

    With `reduce: sum` each of a turn's tokens carries all of its turn.
    """

    def spans(self, trajectory: Trajectory) -> list[Span]:
        return [Span(t.start, t.stop, "mistake") for t in trajectory.turns if t.info.get("mistake")]


if __name__ == "__main__":
    changes = [
        "unit={kind: mistake, reduce: sum}",
        "steps=2",
        "rollout.tasks=8",
        "evaluate.episodes=8",
    ]
    config = load_config("configs/quickstart.yaml", changes)
    print(train(config, Path(sys.argv[1] if len(sys.argv) > 1 else "runs/custom_unit")))
