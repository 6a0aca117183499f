"""The loop: roll out, ask the teacher, learn, record."""

from __future__ import annotations

import threading
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from agentopd.base.files import held_alone
from agentopd.base.stopping import Interrupted, interruptible
from agentopd.parallel.processes import ALONE, Processes
from agentopd.running.config import RunConfig
from agentopd.running.records import Watch
from agentopd.running.run import Run
from agentopd.running.stages.staged import train_stages


def train(
    config: RunConfig,
    out: Path,
    resume: bool = False,
    watch: Watch | None = None,
    untrained: dict[str, Any] | None = None,
    stop: threading.Event | None = None,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Train a student and leave a run folder; of a method in stages, one within which each stage
    has a run folder of its own, in `stages/`.

    Args:
        out: the run's folder: `config.yaml`, `metrics.jsonl`, `trajectories/`, `checkpoints/`,
            `summary.json`.
        resume: go on from the folder's last checkpoint.
        watch: called with each line of `metrics.jsonl` as it is written.
        untrained: the student's evaluation before its first step, where it is known already.
        stop: asks the run to stop when it is set, as Ctrl-C does.
        processes: who share the run's work, as `agentopd.parallel.launched.launched` gives them;
            the first alone writes the folder and calls `watch`.

    Returns:
        What is written to `summary.json`.

    Raises:
        ConfigError: the folder holds another run, or there is nothing to resume.
        ValueError: several processes are to go through stages together.
        Interrupted: Ctrl-C or SIGTERM came, or `stop` was set, in whichever process; the current
            step was finished and saved.
        ProcessLost: another of the processes is gone.
        EveryEpisodeFailed: no episode of a step, or of an evaluation, could be played.
        SamplerFailed: what runs the student while it acts is gone; the steps before are saved.
        ServerError: a served teacher is gone.
    """
    look = watch or (lambda _: None)
    with ExitStack() as held:
        if resume and processes.first:
            held.enter_context(held_alone(out))
        if config.stages:
            processes.refuse("a method in stages")
            return train_stages(config, out, resume, look, untrained, stop, train)
        run = held.enter_context(closing(Run(config, out, resume, look, processes)))
        if not resume and processes.first:
            held.enter_context(held_alone(out))
        with interruptible(stop) as asked, run.records.tracked():
            if processes.any(asked.is_set()):  # nothing was done that is not saved
                raise Interrupted(run.step)
            run.begin(untrained)
            for step in range(run.step, config.steps):
                if processes.any(asked.is_set()):
                    run.save()
                    raise Interrupted(step)
                trajectories = run.roll_out(step)
                lessons = run.ask_teacher(trajectories, step)
                update = run.learn(trajectories, lessons, step)
                run.record(step, trajectories, update)
        summary = run.finish()
        processes.any(False)  # what the first writes is there for all who come back
        return summary
