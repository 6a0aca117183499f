"""What a training step costs alone, and beside two other processes at full load.

    python tests/benchmarks/busy_machine.py [STEPS]

Each line is a process of its own: wall-clock and processor seconds a step of the quickstart, with
one thread, with two that sleep while they wait for each other (as `agentopd` has them) and with two
that spin (OpenMP's own way), alone and beside two `yes`; and the ratio of the two. On a machine of
more than two cores, bind it to two: `taskset -c 0,1 python ...`.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WAYS = {
    "one thread": {"OMP_NUM_THREADS": "1"},
    "two threads that sleep": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"},
    "two threads that spin": {"OMP_NUM_THREADS": "2"},
}
_LIMIT = 600
"""Seconds after which a way is given up."""


def main() -> None:
    steps = sys.argv[1] if len(sys.argv) > 1 else "3"
    print("seconds of a step       alone: wall, processor   busy: wall, processor   busy / alone")
    for name, environment in WAYS.items():
        alone = _measured(steps, environment)
        with _two_others():
            busy = _measured(steps, environment)
        if alone is None or busy is None:
            print(f"{name:24} given up after {_LIMIT} s")
            continue
        print(
            f"{name:24}{alone[0]:11.2f}{alone[1]:11.2f}{busy[0]:13.2f}{busy[1]:11.2f}"
            f"{busy[0] / alone[0]:15.2f}{busy[1] / alone[1]:8.2f}"
        )


def _measured(steps: str, environment: dict[str, str]) -> tuple[float, float] | None:
    """Wall-clock and processor seconds of a step, in a process with those variables."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, __file__, "--steps", steps]
    try:
        done = subprocess.run(
            command, env=inherited | environment, timeout=_LIMIT,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None
    wall, processor = json.loads(done.stdout)
    return wall, processor


@contextmanager
def _two_others() -> Iterator[None]:
    others = [subprocess.Popen(["yes"], stdout=subprocess.DEVNULL) for _ in range(2)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def _steps(count: int) -> tuple[float, float]:
    """Mean seconds of some steps, after one that warms up."""
    from agentopd.running.reading import load_config
    from agentopd.running.run import Run

    changes = ["evaluate.episodes=1", "save.trajectories_every=0"]
    with tempfile.TemporaryDirectory() as folder:
        config = load_config("configs/quickstart.yaml", changes)
        run = Run(config, Path(folder) / "run", False, lambda _: None)
        began, used = 0.0, 0.0
        for step in range(count + 1):
            trajectories = run.roll_out(step)
            run.learn(trajectories, run.ask_teacher(trajectories, step), step)
            if step == 0:
                began, used = time.perf_counter(), _used()
        return (time.perf_counter() - began) / count, (_used() - used) / count


def _used() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    if sys.argv[1:2] == ["--steps"]:
        print(json.dumps(_steps(int(sys.argv[2]))))
    else:
        main()
