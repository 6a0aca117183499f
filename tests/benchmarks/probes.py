"""What probes cost: the same training with and without them, step by step in turns, in one run.

    python tests/benchmarks/probes.py [KEY=VALUE ...]

The values go over `configs/quickstart.yaml`: `probe.pi_effect_every=1`, `steps=40`, or another
student. Probes change nothing that is learnt, so both train the same weights on the same episodes;
the ratio is of the time that both spend on that, by the clock and, for a busy machine, of the
processor. A look at the privilege's effect takes another pass of the teacher, so the steps with one
stand apart.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch

from agentopd.running.reading import load_config
from agentopd.running.run import Run

ARMS = ("without", "with")


def main() -> None:
    """Print the seconds of a step with and without probes, and their ratio."""
    given = ["steps=21", "evaluate.episodes=1", "save.trajectories_every=0", *sys.argv[1:]]
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ARMS}
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: _run(Path(folder) / name, given, name == "with") for name in ARMS}
        config = runs["with"].config
        for step in range(config.steps):
            # Whoever goes first leaves warm caches behind.
            for name in ARMS if step % 2 else ARMS[::-1]:
                seconds[name].append(_step(runs[name], step))
        ends = [next(run.student.module.parameters()).detach() for run in runs.values()]
    assert torch.equal(*ends), "the probes changed what was learnt"
    looks = [config.probe.pi_effect_due(step, config.steps) for step in range(config.steps)]
    for label, chosen in (
        ("all steps", [True, False]),
        ("with a look at the privilege's effect", [True]),
        ("without one", [False]),
    ):
        spent = [
            [sum(times) for times in zip(*(t for t, look in known if look in chosen), strict=True)]
            for known in (list(zip(seconds[name], looks, strict=True)) for name in ARMS)
        ]
        if all(spent):
            (wall, cpu), (watched_wall, watched_cpu) = spent
            print(
                f"{label}: {sum(look in chosen for look in looks)} steps; {wall:.2f} s without "
                f"probes, {watched_wall:.2f} s with, ratio {watched_wall / wall:.3f}; processor "
                f"{cpu:.2f} s and {watched_cpu:.2f} s, ratio {watched_cpu / cpu:.3f}"
            )


def _run(out: Path, given: list[str], enabled: bool) -> Run:
    changes = [*given, f"probe.enabled={str(enabled).lower()}"]
    return Run(load_config("configs/quickstart.yaml", changes), out, False, lambda _: None)


def _step(run: Run, step: int) -> tuple[float, float]:
    """Seconds of one step, by the clock and of the processor."""
    began = time.perf_counter(), time.process_time()
    trajectories = run.roll_out(step)
    lessons = run.ask_teacher(trajectories, step)
    run.record(step, trajectories, run.learn(trajectories, lessons, step))
    return time.perf_counter() - began[0], time.process_time() - began[1]


if __name__ == "__main__":
    main()
