"""Episodes a second of two processes of one thread each beside one process of one thread.

    python tests/benchmarks/processes.py [CONFIG] [KEY=VALUE ...] [rounds=2] [measured=4]

The runs take turns and play the same episodes. Evaluations and the first step, in which memory is
found, are left out. By the clock, a step takes what it takes until the last process is done; by the
processors, what the busiest process computes, which is the same where nothing else wants the cores,
and the figure to look at where something does. Without a configuration it is the quickstart's token
arm.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

sys.path.append(str(Path(__file__).parents[1]))

import torch
from together import together

from agentopd.base.console import quiet_libraries
from agentopd.parallel.processes import ALONE, Processes
from agentopd.running.reading import load_config
from agentopd.running.run import Run

STAGES = ("rollout", "teacher", "learner")


def main() -> None:
    config, overrides = "configs/quickstart.yaml", sys.argv[1:]
    if overrides and "=" not in overrides[0]:
        config, *overrides = overrides
    rounds, steps = (_taken(overrides, name, n) for name, n in (("rounds", 2), ("measured", 4)))
    taken: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for _ in range(rounds):
        for count, found in taken.items():
            everyone = together(_steps, config, overrides, steps, count=count)
            found += [_busiest(one) for one in zip(*everyone, strict=True)]
    episodes = load_config(config, overrides).rollout.episodes
    print(f"{config} {' '.join(overrides)}: {episodes} episodes a step, {rounds} x {steps} steps")
    for count, found in taken.items():
        said = ", ".join(f"{s} {median(step[s] for step in found):.2f}" for s in STAGES)
        print(f"{count} process(es), processor seconds a step of the busiest: {said}")
    for what, name in (("clock", "by the clock"), ("processor", "by the processors")):
        one, two = (median(step[what] for step in found) for found in taken.values())
        rates = f"{episodes / one:.2f} episodes/s with one, {episodes / two:.2f} with two"
        print(f"{name}: {rates}: {one / two:.2f} times")


def _taken(given: list[str], name: str, default: int) -> int:
    """A number of the benchmark's own, taken out of what is given."""
    found = [one for one in given if one.startswith(f"{name}=")]
    given[:] = [one for one in given if one not in found]
    return int(found[-1].partition("=")[2]) if found else default


def _busiest(steps: Sequence[dict[str, float]]) -> dict[str, float]:
    """The most of each that any process took for one step."""
    return {name: max(step[name] for step in steps) for name in steps[0]}


def _steps(
    processes: Processes, config: str, overrides: list[str], steps: int
) -> list[dict[str, float]]:
    """Processor seconds of each step by stage and in all, and seconds by the clock."""
    torch.set_num_threads(1)
    quiet_libraries()
    changes = ["threads=1", "save.trajectories_every=0", "probe.pi_effect_every=0"]
    read = load_config(config, [*changes, *overrides])
    found = list[dict[str, float]]()
    with tempfile.TemporaryDirectory() as folder:
        members = processes if processes.size > 1 else ALONE
        run = Run(read, Path(folder) / f"run-{processes.rank}", False, lambda _: None, members)
        for step in range(1 + steps):
            processes.any(False)  # all begin at once
            began, marks = time.perf_counter(), [time.process_time()]
            trajectories = run.roll_out(step)
            marks.append(time.process_time())
            lessons = run.ask_teacher(trajectories, step)
            marks.append(time.process_time())
            run.learn(trajectories, lessons, step)
            marks.append(time.process_time())
            spent = dict(zip(STAGES, (b - a for a, b in pairwise(marks)), strict=True))
            whole = {"clock": time.perf_counter() - began, "processor": marks[-1] - marks[0]}
            found.append(spent | whole)
    return found[1:]


if __name__ == "__main__":
    main()
