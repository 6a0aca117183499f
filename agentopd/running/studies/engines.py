"""Where the runs of a study are carried out: beside each other here, by Ray, or by Slurm.

The folders, what `resume` does and the page are the same. Other machines must see the study's
folder, the models and the current folder under the same paths, and have the same agentopd.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Protocol

import yaml
from pydantic import Field

from agentopd.base.parts import Part
from agentopd.base.written import ConfigError
from agentopd.running.config import thread_count
from agentopd.running.studies.workers import Job, hired


class Crew(Protocol):
    """Who does jobs; see `agentopd.running.studies.workers.Workers`."""

    def do(
        self, jobs: Sequence[Job], asked: threading.Event, beat: Callable[[], None]
    ) -> list[Any]:
        """The answers, in the jobs' order."""
        ...


class Engine(Part, family="engine"):
    """What a study's runs are given to."""

    @abstractmethod
    def crew(
        self, count: int, folder: Path, environment: Mapping[str, str]
    ) -> AbstractContextManager[Crew]:
        """Who carries runs out, `count` at a time, until the block is left.

        Args:
            folder: the study's.
            environment: variables of those who carry them out.

        Raises:
            ConfigError: the engine is not installed, or cannot be reached.
        """

    @abstractmethod
    def threads(self, written: int | None, count: int) -> int:
        """Torch's threads in each run, where `written` may stand in its configuration."""


class LocalEngine(Engine, kind="local"):
    """Processes of our own on this machine."""

    def crew(
        self, count: int, folder: Path, environment: Mapping[str, str]
    ) -> AbstractContextManager[Crew]:
        """See `Engine.crew`."""
        return hired(count, environment)

    def threads(self, written: int | None, count: int) -> int:
        """See `agentopd.running.config.thread_count`."""
        return thread_count(written, count)


class _Placed(Engine):
    """An engine that finds places by what a run takes.

    Args:
        cpus, gpus: that each run takes.
    """

    cpus: int = Field(default=1, ge=1)
    gpus: float = Field(default=0, ge=0)

    def threads(self, written: int | None, count: int) -> int:
        """As many as processors, where none are written."""
        return written or self.cpus


class RayEngine(_Placed, kind="ray"):
    """Tasks of a Ray cluster.

    Args:
        address: of the cluster, "auto" for one that runs here; without one, a cluster of this
            machine's own for as long as the study takes.
        retries: how often a run whose worker is lost is given to another, who goes on from its
            last checkpoint.
        resources: of the cluster's own names, that each run takes.
    """

    address: str | None = None
    retries: int = Field(default=1, ge=0)
    resources: dict[str, float] = Field(default_factory=dict)

    def crew(
        self, count: int, folder: Path, environment: Mapping[str, str]
    ) -> AbstractContextManager[Crew]:
        """See `Engine.crew`."""
        from agentopd.running.studies.ray_crew import ray_crew

        return ray_crew(self, count, folder, environment)


class SlurmEngine(_Placed, kind="slurm"):
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

    def crew(
        self, count: int, folder: Path, environment: Mapping[str, str]
    ) -> AbstractContextManager[Crew]:
        """See `Engine.crew`."""
        from agentopd.running.studies.slurm_crew import slurm_crew

        return slurm_crew(self, count, folder, environment)


def read_engine(written: str) -> Engine:
    """An engine as a command line names it: its kind, or a mapping with its settings.

    Raises:
        ConfigError: there is none of that kind, or a setting is wrong.
    """
    try:
        return Engine.model_validate(yaml.safe_load(written))
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"--engine {written}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if "Value error" in line or "Input should" in line), "")
    return told.partition("[type")[0].strip() or lines[0]
