"""A study's runs as tasks of Ray."""

from __future__ import annotations

import importlib
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import Field

from agentopd.base.written import ConfigError
from agentopd.running.studies.engine import Crew, PlacedEngine
from agentopd.running.studies.remote import Errand, RemoteCrew, lost
from agentopd.running.studies.workers import Job


class RayEngine(PlacedEngine, kind="ray"):
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

    @contextmanager
    def crew(self, count: int, folder: Path, environment: Mapping[str, str]) -> Iterator[Crew]:
        """See `Engine.crew`."""
        if find_spec("ray") is None:
            raise ConfigError(
                "Ray is not installed; install it with: pip install 'agentopd[ray]', here and on "
                "the cluster's machines"
            )
        ray = importlib.import_module("ray")
        try:
            with _own_signals():
                ray.init(address=self.address, log_to_driver=False, logging_level="error")
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ConfigError(
                f"--engine ray: no cluster at {self.address or 'this machine'} ({reason}); start "
                "one with `ray start --head`, or name another address"
            ) from error
        try:
            crew = RayCrew(self, count, folder, environment)
            try:
                yield crew
            finally:
                crew.leash.loosen()
        finally:
            ray.shutdown()


class RayCrew(RemoteCrew):
    """Gives errands to Ray; each is done by a process of its own, which ends with it."""

    def __init__(
        self, engine: RayEngine, count: int, folder: Path, environment: Mapping[str, str]
    ) -> None:
        self.ray = importlib.import_module("ray")
        self.task = self.ray.remote(
            num_cpus=engine.cpus,
            num_gpus=engine.gpus,
            resources=engine.resources,
            max_retries=engine.retries,
            max_calls=1,
        )(_done_by_ray)
        super().__init__(count, folder, environment)

    def start(self, job: Job, errand: Errand) -> Any:
        """See `RemoteCrew.start`."""
        return self.task.options(name=job.name).remote(errand)

    def done(self, task: Any) -> bool:
        """See `RemoteCrew.done`."""
        return bool(self.ray.wait([task], timeout=0)[0])

    def answer(self, job: Job, task: Any) -> Any:
        """See `RemoteCrew.answer`."""
        try:
            return self.ray.get(task)
        except self.ray.exceptions.RayError as error:
            return lost(job, str(error).strip().partition("\n")[0])

    def withdraw(self, task: Any) -> None:
        """See `RemoteCrew.withdraw`."""
        self.ray.cancel(task, force=True)


def _done_by_ray(errand: Errand) -> Any:
    return errand()


@contextmanager
def _own_signals() -> Iterator[None]:
    """What is done on Ctrl-C and SIGTERM stays as it is; Ray puts its own in their place."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)
