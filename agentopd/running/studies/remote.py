"""Jobs that an engine of others carries out, on this machine or another.

The engine finds the places; what a job is, how it is asked to stop and what becomes of a failure is
as with processes of our own. Folders must be seen under the same paths everywhere.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentopd.base.stopping import Interrupted
from agentopd.running.studies.leash import Leash, on_leash
from agentopd.running.studies.workers import Answers, Failed, Job, WorkerLost, attempt

_BEAT = 0.5
"""Seconds between two looks at what has been done."""


@dataclass(frozen=True)
class Errand:
    """A job on its way to another process: called there, it gives the answer or a `Failed`.

    Args:
        job: pickled, so that nothing is imported before the environment is as it should be.
        leash: the folder by which it is held; `name` is the job's own there.
        cwd: where it is done, and what modules of the user's own are found from.
        environment: variables beside those of the place where it is done.
    """

    job: bytes
    leash: Path
    name: str
    cwd: str
    environment: Mapping[str, str]

    def __call__(self) -> Any:
        """Do it."""
        os.environ.update(self.environment)
        os.chdir(self.cwd)
        if self.cwd not in sys.path:
            sys.path.insert(0, self.cwd)
        with on_leash(self.leash, self.name) as stop:
            if stop.is_set():
                return Failed(Interrupted(0))
            return attempt(pickle.loads(self.job), stop)


class RemoteCrew(ABC):
    """Gives errands to an engine; see `Workers` for what is promised.

    Args:
        count: errands at a time.
        folder: the study's, in which the leash lies.
        environment: variables of those who work.
    """

    def __init__(self, count: int, folder: Path, environment: Mapping[str, str]) -> None:
        self.count, self.environment = count, environment
        self.leash = Leash(folder)

    @abstractmethod
    def start(self, job: Job, errand: Errand) -> Any:
        """Hand an errand over; returns what it is known by."""

    @abstractmethod
    def done(self, task: Any) -> bool:
        """Whether it has ended, well or not."""

    @abstractmethod
    def answer(self, job: Job, task: Any) -> Any:
        """What it has come to; a `Failed` with `WorkerLost` where whoever did it is lost."""

    @abstractmethod
    def withdraw(self, task: Any) -> None:
        """Take back an errand that nobody has begun."""

    def do(
        self, jobs: Sequence[Job], asked: threading.Event, beat: Callable[[], None]
    ) -> list[Any]:
        """See `agentopd.running.studies.workers.Workers.do`."""
        left, found = deque(enumerate(jobs)), Answers(len(jobs), asked)
        tasks: dict[int, tuple[Errand, Any]] = {}
        while True:
            if asked.is_set():
                self.leash.ask_to_stop()
                self._withdraw(tasks)
            elif not found.failures:
                while left and len(tasks) < self.count:
                    place, job = left.popleft()
                    errand = self._errand(job)
                    tasks[place] = errand, self.start(job, errand)
            if not tasks:
                break
            for place in [place for place, (_, task) in tasks.items() if self.done(task)]:
                found.note(place, self.answer(jobs[place], tasks.pop(place)[1]))
            self.leash.pull()
            beat()
            time.sleep(_BEAT)
        return found.all()

    def _errand(self, job: Job) -> Errand:
        name = f"job-{time.monotonic_ns()}"
        return Errand(pickle.dumps(job), self.leash.folder, name, os.getcwd(), self.environment)

    def _withdraw(self, tasks: dict[int, tuple[Errand, Any]]) -> None:
        for place, (errand, task) in list(tasks.items()):
            if not self.leash.begun(errand.name):
                self.withdraw(task)
                del tasks[place]


def lost(job: Job, why: object) -> Failed:
    """Whoever did a job is gone, and with them its answer."""
    return Failed(
        WorkerLost(
            f"whoever did {job.name} is lost ({why}); what it saved is kept, and --resume goes on "
            "from there"
        )
    )
