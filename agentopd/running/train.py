"""The loop: roll out, ask the teacher, learn, record."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from agentopd.running.config import RunConfig
from agentopd.running.run import Run, Watch


class Interrupted(Exception):
    """The run was asked to stop and has saved a checkpoint; `step` steps are done."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step

    def __str__(self) -> str:
        return f"stopped after {self.step} steps"


def train(
    config: RunConfig, out: Path, resume: bool = False, watch: Watch | None = None
) -> dict[str, Any]:
    """Train a student and leave a run folder.

    Args:
        out: the run's folder: `config.yaml`, `metrics.jsonl`, `trajectories/`, `checkpoints/`,
            `summary.json`.
        resume: go on from the folder's last checkpoint.
        watch: called with each line of `metrics.jsonl` as it is written.

    Returns:
        What is written to `summary.json`.

    Raises:
        ConfigError: the folder holds another run, or there is nothing to resume.
        Interrupted: Ctrl-C or SIGTERM came; the current step was finished and saved.
        EveryEpisodeFailed: no episode of a step, or of an evaluation, could be played.
    """
    run = Run(config, out, resume, watch or (lambda _: None))
    with _interruptible() as stop:
        run.begin()
        for step in range(run.step, config.steps):
            trajectories = run.roll_out(step)
            lessons = run.ask_teacher(trajectories, step)
            update = run.learn(trajectories, lessons, step)
            run.record(step, trajectories, update)
            if stop.is_set() and step + 1 < config.steps:
                run.save()
                raise Interrupted(step + 1)
    return run.finish()


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Turns the first Ctrl-C, or a scheduler's SIGTERM, into an event, so that a step is finished
    and saved; a second one stops at once.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
