"""A source of privileged information of your own: what a peer did that solved the same task."""

import sys
from collections.abc import Sequence
from pathlib import Path

from agentopd import Privilege, Source, Trajectory, load_config, parse_action, train


class SolvedPeer(Source, kind="solved_peer"):
    """The actions of a solved episode of the same group; without one there is no lesson."""

    def whisper(
        self, trajectory: Trajectory, batch: Sequence[Trajectory]
    ) -> tuple[Privilege, ...] | None:
        for peer in batch:
            if peer.task == trajectory.task and peer is not trajectory and peer.success:
                actions = " ".join(parse_action(turn.action) or "" for turn in peer.turns)
                return (Privilege(source="solved_peer", text=f"Solution: {actions}"),)
        return None


if __name__ == "__main__":
    changes = ["privilege=[solved_peer]", "rollout.tasks=4", "rollout.group=4"]
    config = load_config("configs/quickstart.yaml", [*changes, "steps=2", "evaluate.episodes=8"])
    print(train(config, Path(sys.argv[1] if len(sys.argv) > 1 else "runs/custom_source")))
