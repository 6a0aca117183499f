"""A study's runs as jobs of Slurm, handed over by submitit."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from agentopd.base.written import ConfigError
from agentopd.running.studies.engine import Crew, PlacedEngine
from agentopd.running.studies.remote import Errand, RemoteCrew, lost
from agentopd.running.studies.workers import Job


class SlurmEngine(PlacedEngine, kind="slurm"):
    """Jobs of Slurm, through submitit; their logs lie in the study's `jobs/`.

    A job that is preempted or runs out of time is queued again and goes on from its last
    checkpoint.

    Args:
        executor: `local` runs the jobs here as Slurm would.
        minutes: a job's limit.
        memory_gb: a job's.
        partition: of the cluster.
        options: further parameters of submitit's executor, such as slurm_account.
    """

    executor: Literal["slurm", "local"] = "slurm"
    minutes: int = Field(default=24 * 60, ge=1)
    memory_gb: float | None = Field(default=None, gt=0)
    partition: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    @contextmanager
    def crew(self, count: int, folder: Path, environment: Mapping[str, str]) -> Iterator[Crew]:
        """See `Engine.crew`."""
        if find_spec("submitit") is None:
            raise ConfigError(
                "submitit is not installed; install it with: pip install 'agentopd[slurm]'"
            )
        if self.gpus != int(self.gpus):
            raise ConfigError(f"--engine slurm: a job takes whole GPUs, not {self.gpus}")
        try:
            crew = SlurmCrew(self, count, folder, environment)
        except (RuntimeError, ValueError, NameError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ConfigError(f"--engine slurm: {reason}") from error
        try:
            yield crew
        finally:
            crew.leash.loosen()


@dataclass(frozen=True)
class Requeued:
    """An errand that submitit may stop and hand in again: what was saved is gone on with."""

    errand: Errand

    def __call__(self) -> Any:
        """Do it."""
        return self.errand()

    def checkpoint(self) -> Any:
        """What is handed in again when the job is preempted or out of time."""
        return importlib.import_module("submitit").helpers.DelayedSubmission(self)


class SlurmCrew(RemoteCrew):
    """Gives errands to Slurm; each is a job."""

    def __init__(
        self, engine: SlurmEngine, count: int, folder: Path, environment: Mapping[str, str]
    ) -> None:
        self.submitit = importlib.import_module("submitit")
        logs = folder.resolve() / "jobs"
        self.executor = self.submitit.AutoExecutor(folder=logs, cluster=engine.executor)
        self.executor.update_parameters(
            timeout_min=engine.minutes,
            cpus_per_task=engine.cpus,
            gpus_per_node=int(engine.gpus),
            tasks_per_node=1,
            **({"mem_gb": engine.memory_gb} if engine.memory_gb else {}),
            **({"slurm_partition": engine.partition} if engine.partition else {}),
            **engine.options,
        )
        super().__init__(count, folder, environment)

    def start(self, job: Job, errand: Errand) -> Any:
        """See `RemoteCrew.start`."""
        self.executor.update_parameters(name=_plain(job.name))
        return self.executor.submit(Requeued(errand))

    def done(self, task: Any) -> bool:
        """See `RemoteCrew.done`."""
        return task.done()

    def answer(self, job: Job, task: Any) -> Any:
        """See `RemoteCrew.answer`."""
        errors = self.submitit.core.utils
        try:
            return task.result()
        except (errors.UncompletedJobError, errors.FailedJobError):
            return lost(job, f"{task.state}; its log: {task.paths.stderr}")

    def withdraw(self, task: Any) -> None:
        """See `RemoteCrew.withdraw`."""
        task.cancel()


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)
