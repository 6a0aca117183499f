"""A rollout of your own: the tasks grow harder as the run goes on."""

import sys
from pathlib import Path

from agentopd import EnvSettings, LanguageModel, Rollout, Sampler, Trajectory, load_config, train


class Growing(Rollout, kind="growing"):
    """The student acts on levels of at most `first` moves, one more every `every` steps.

    Args:
        first, last: the most moves of a level's solution, at the start and in the end.
    """

    first: int = 3
    last: int = 8
    every: int = 2

    def collect(
        self, env: EnvSettings, student: LanguageModel, sampler: Sampler, seed: int, step: int
    ) -> list[Trajectory]:
        moves = min(self.first + step // self.every, self.last)
        pool = self.pool(env, student, seed, max_moves=moves)
        return pool.play(self.schedule(seed, step), sampler)


if __name__ == "__main__":
    changes = [
        "rollout={kind: growing, every: 1}",
        "steps=2",
        "rollout.tasks=8",
        "evaluate.episodes=8",
    ]
    config = load_config("configs/quickstart.yaml", changes)
    print(train(config, Path(sys.argv[1] if len(sys.argv) > 1 else "runs/custom_rollout")))
