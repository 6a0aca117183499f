"""A study's runs as tasks of Ray."""

from __future__ import annotations

import importlib
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agentopd.base.written import ConfigError
from agentopd.running.studies.engines import RayEngine
from agentopd.running.studies.remote import Errand, RemoteCrew, lost
from agentopd.running.studies.workers import Job


class RayCrew(RemoteCrew):
    """Gives errands to Ray; each is done by a process of its own, which ends with it."""

    def __init__(
        self, engine: RayEngine, count: int, folder: Path, environment: Mapping[str, str]
    ) -> None:
        super().__init__(count, folder, environment)
        self.ray = importlib.import_module("ray")
        self.task = self.ray.remote(
            num_cpus=engine.cpus,
            num_gpus=engine.gpus,
            resources=engine.resources,
            max_retries=engine.retries,
            max_calls=1,
        )(_done_by_ray)

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
def ray_crew(
    engine: RayEngine, count: int, folder: Path, environment: Mapping[str, str]
) -> Iterator[RayCrew]:
    """See `agentopd.running.studies.engines.Engine.crew`."""
    if find_spec("ray") is None:
        raise ConfigError(
            "Ray is not installed; install it with: pip install 'agentopd[ray]', here and on the "
            "cluster's machines"
        )
    ray = importlib.import_module("ray")
    heard = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(address=engine.address, log_to_driver=False, logging_level="error")
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"--engine ray: no cluster at {engine.address or 'this machine'} ({reason}); start one "
            "with `ray start --head`, or name another address"
        ) from error
    for number, handler in heard.items():  # Ray has put its own in their place
        signal.signal(number, handler)
    try:
        crew = RayCrew(engine, count, folder, environment)
        try:
            yield crew
        finally:
            crew.leash.loosen()
    finally:
        ray.shutdown()
