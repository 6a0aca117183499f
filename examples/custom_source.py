"""A source of privileged information of your own: the teacher is told the best next moves before
each answer.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from agentopd.base.types import Privilege, Trajectory
from agentopd.privilege.sources import Source
from agentopd.running.reading import load_config
from agentopd.running.train import train


class OraclePlan(Source, kind="oracle_plan"):
    """The rest of the best plan, recomputed by the environment at every turn."""

    def whisper(
        self, trajectory: Trajectory, batch: Sequence[Trajectory]
    ) -> tuple[Privilege, ...] | None:
        before = [trajectory.prompt, *(turn.info for turn in trajectory.turns)]
        told = [
            Privilege(source=self.kind, text=f"Solution: {info['oracle']}", turn=turn.index)
            for turn, info in zip(trajectory.turns, before, strict=False)
            if info.get("oracle")
        ]
        return tuple(told) or None


if __name__ == "__main__":
    changes = ["privilege=oracle_plan", "view=every_turn", "steps=2", "evaluate.episodes=8"]
    config = load_config("configs/quickstart.yaml", changes)
    print(train(config, Path(sys.argv[1] if len(sys.argv) > 1 else "runs/custom_source")))
