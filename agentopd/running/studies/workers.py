"""Processes that work through jobs, and that never outlive the process which gives them out.

A worker is asked to stop, and learns that its giver is gone, by a pipe of its own, the leash: the
system closes the giver's end however the giver dies. Then the worker ends its job as if it had been
asked to, and itself after half a minute in any case. Signals are left to the giver where they come
from a keyboard, which sends them to all.

Little is imported above, so that a worker is on its leash before it imports what takes seconds.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from agentopd.base.stopping import Interrupted

_GRACE = 30.0
"""Seconds that a worker whose giver is gone has to finish what it does."""
_BEAT = 0.5
"""Seconds between two looks at what the workers have done."""


class WorkerLost(ValueError):
    """A worker ended without an answer; the message says what it was doing."""


@dataclass(frozen=True)
class Job:
    """One call for a worker: `work(*arguments, stop)`, with an event that asks it to stop.

    `work` is known by its module and name there; arguments and answer travel pickled.
    """

    name: str
    work: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Failed:
    """In place of an answer: what the job raised."""

    error: Exception


class Answers:
    """What jobs have come to so far.

    Args:
        count: of the jobs.
        asked: set where one was lost, or was interrupted by itself: then the others stop too.
    """

    def __init__(self, count: int, asked: threading.Event) -> None:
        self.count, self.asked = count, asked
        self.failures: list[Exception] = []
        self._answers: dict[int, Any] = {}

    def note(self, place: int, answer: Any) -> None:
        """The job at a place has ended."""
        if not isinstance(answer, Failed):
            self._answers[place] = answer
            return
        self.failures.append(answer.error)
        if isinstance(answer.error, Interrupted | WorkerLost):
            self.asked.set()

    def all(self) -> list[Any]:
        """The answers, in the jobs' order.

        Raises:
            Interrupted: not every job was done, because somebody asked.
            Exception: what the first job that failed has raised.
        """
        for error in self.failures:
            if not isinstance(error, Interrupted):
                raise error
        if len(self._answers) < self.count:
            raise Interrupted(0)
        return [self._answers[place] for place in range(self.count)]


class Workers:
    """Processes that take jobs, each one at a time; `hired` makes them and ends them.

    Args:
        count: jobs at a time.
        environment: variables that the workers have beside ours, from before they import anything.
    """

    def __init__(self, count: int, environment: Mapping[str, str]) -> None:
        self.count, self.environment = count, environment
        self._workers: list[_Worker] = []

    def do(
        self, jobs: Sequence[Job], asked: threading.Event, beat: Callable[[], None]
    ) -> list[Any]:
        """Give out all jobs, in order; returns their answers, in the same order.

        After a failure nothing new is begun, and what is running comes to its own end.

        Args:
            asked: once it is set, running jobs are asked to stop and no other is begun. A worker
                that is lost or was interrupted by itself sets it.
            beat: called every now and then, and at the end.

        Raises:
            Interrupted: not every job was done, because somebody asked.
            WorkerLost: a worker was killed.
            Exception: what a job raised.
        """
        left, found = deque(enumerate(jobs)), Answers(len(jobs), asked)
        while True:
            if asked.is_set():
                self._ask_to_stop()
            elif not found.failures:
                self._hand_out(left)
            if not (busy := [worker for worker in self._workers if worker.task]):
                break
            for worker in _answering(busy):
                found.note(*worker.answer())
            beat()
        return found.all()

    def dismiss(self) -> None:
        """End all workers: idle ones by a closed pipe, those at work by force."""
        for worker in self._workers:
            worker.calls.close()
            worker.leash.close()
        for worker in self._workers:
            if not worker.task:
                worker.process.join(_GRACE)
            worker.process.kill()
            worker.process.join()
        self._workers.clear()

    def _ask_to_stop(self) -> None:
        for worker in self._workers:
            worker.ask_to_stop()

    def _hand_out(self, left: deque[tuple[int, Job]]) -> None:
        """Give jobs to idle workers, and to new ones as long as there are too few."""
        idle = [worker for worker in self._workers if not worker.task]
        while left and (idle or len(self._workers) < self.count):
            if not idle:
                with _environment(self.environment), _without_ctrl_c():
                    self._workers.append(_Worker())
                idle.append(self._workers[-1])
            idle.pop().take(*left.popleft())


@contextmanager
def hired(count: int, environment: Mapping[str, str]) -> Iterator[Workers]:
    """Workers for as long as they are needed; whatever ends that ends them too."""
    workers = Workers(count, environment)
    try:
        yield workers
    finally:
        workers.dismiss()


class _Worker:
    """A worker as its giver sees it; `task` is the job that it does and its place among all."""

    def __init__(self) -> None:
        spawn = get_context("spawn")
        self.task: tuple[int, Job] | None = None
        self.calls, calls = spawn.Pipe()
        leash, self.leash = spawn.Pipe(duplex=False)
        self.process: BaseProcess = spawn.Process(target=_serve, args=(calls, leash))
        self.process.start()
        # What the worker holds is open there alone, or its end would not be seen here.
        calls.close()
        leash.close()

    def take(self, place: int, job: Job) -> None:
        """Begin a job."""
        self.task = place, job
        with suppress(ConnectionError):  # a worker that is gone is noticed when it should answer
            self.calls.send(job)

    def answer(self) -> tuple[int, Any]:
        """What its job has come to, and that job's place."""
        assert self.task is not None
        (place, job), self.task = self.task, None
        try:
            return place, self.calls.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            return place, Failed(_lost(job, self.process.exitcode or 0))

    def ask_to_stop(self) -> None:
        """Have its job end early; to be asked again changes nothing."""
        with suppress(ConnectionError):  # as in `take`
            self.leash.send_bytes(b"stop")


def _lost(job: Job, code: int) -> Exception:
    """What became of a job whose worker ended with exit code `code`, before it could answer."""
    if code == -signal.SIGTERM:  # sent while it loaded; later it would have answered first
        return Interrupted(0)
    how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    memory = ", as a system does that runs out of memory" if code == -signal.SIGKILL else ""
    return WorkerLost(
        f"the process of {job.name} was ended {how}{memory}; what it saved is kept, and --resume"
        " goes on from there"
    )


def _answering(busy: Sequence[_Worker]) -> list[_Worker]:
    """Those who have an answer, or are gone; soon nobody, if so."""
    ready = wait([worker.calls for worker in busy], timeout=_BEAT)
    return [worker for worker in busy if worker.calls in ready]


@contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    """Variables that processes started meanwhile inherit."""
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Processes started meanwhile do not hear Ctrl-C; this one hears it afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(calls: Connection, leash: Connection) -> None:
    """The worker's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    stop = threading.Event()
    threading.Thread(target=_hold, args=(leash, stop), daemon=True).start()
    with suppress(EOFError, ConnectionError):  # the giver is gone, or has nothing more to give
        while True:
            job = calls.recv()
            calls.send(attempt(job, stop))


def _hold(leash: Connection, stop: threading.Event) -> None:
    """Pass on the word to stop. Where the leash is loose nobody is left: then this process ends,
    whatever it does.
    """
    with suppress(EOFError, ConnectionError):
        while True:
            leash.recv_bytes()
            stop.set()
    stop.set()
    time.sleep(_GRACE)
    os._exit(1)


def attempt(job: Job, stop: threading.Event) -> Any:
    """A job's answer, or what it raised, where the job is done."""
    try:
        return job.work(*job.arguments, stop)
    except Exception as error:  # whatever it is, whoever gave the job has to be told
        error.add_note(traceback.format_exc())
        return Failed(_portable(error))


def _portable(error: Exception) -> Exception:
    """An exception that can be pickled and made again."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:  # exceptions of others may be made of anything
        return RuntimeError("".join(traceback.format_exception_only(error)))
