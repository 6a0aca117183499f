"""A mix of your own: rewards choose whom the teacher teaches."""

import sys
from collections.abc import Sequence
from pathlib import Path

from agentopd import Lesson, Mix, Route, load_config, train


class TeachFailures(Mix, kind="teach_failures"):
    """Distillation on failed episodes; those that were solved are left as they are."""

    def routes(self, lessons: Sequence[Lesson]) -> dict[int, Route]:
        played = [lesson.trajectory for lesson in lessons]
        return {t.episode: Route(distil=0.0 if t.success else 1.0) for t in played}


if __name__ == "__main__":
    changes = ["mix=teach_failures", "steps=2", "rollout.tasks=8", "evaluate.episodes=8"]
    config = load_config("configs/quickstart.yaml", changes)
    print(train(config, Path(sys.argv[1] if len(sys.argv) > 1 else "runs/custom_mix")))
