"""Seconds of a training step by stage, beside the bare arithmetic it contains, in one run.

    python tests/benchmarks/step_time.py [THREADS]

The bare baseline is one forward and backward pass of the student over the same tokens, in one
padded batch a step, with a loss that is a plain sum: no rollout, no teacher, no divergence.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from agentopd.base.types import Trajectory
from agentopd.models.batching import padded
from agentopd.models.model import LanguageModel
from agentopd.running.reading import load_config
from agentopd.running.run import Run

STEPS = 20


def main() -> None:
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    changes = [f"threads={threads}", "evaluate.episodes=1", "save.trajectories_every=0"]
    seconds: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(load_config("configs/quickstart.yaml", changes), Path(folder) / "run", False, _no)
        for step in range(STEPS):
            before = dict(run.clock.stages)
            trajectories = run.roll_out(step)
            lessons = run.ask_teacher(trajectories, step)
            run.learn(trajectories, lessons, step)
            for stage in ("rollout", "privilege", "teacher", "learner"):
                seconds[stage].append(run.clock.stages[stage] - before[stage])
            seconds["bare"].append(_bare(run.student, trajectories))
    total = [sum(s[i] for name, s in seconds.items() if name != "bare") for i in range(STEPS)]
    for name, spent in (*seconds.items(), ("step", total)):
        ratio = sum(spent) / sum(seconds["bare"])
        print(
            f"{name:10} mean {sum(spent) / STEPS:.2f} s, first {spent[0]:.2f} s, last "
            f"{spent[-1]:.2f} s, {ratio:.2f} times the bare pass"
        )


def _bare(student: LanguageModel, trajectories: list[Trajectory]) -> float:
    ids_BT = padded([t.ids for t in trajectories], student.device)
    began = time.perf_counter()
    student.hidden(ids_BT).sum().backward()
    spent = time.perf_counter() - began
    student.module.zero_grad(set_to_none=True)
    return spent


def _no(line: object) -> None:
    del line


if __name__ == "__main__":
    main()
