"""Commands in forks of an interpreter that has imported everything: a trial takes a second."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import ForkContext, ForkProcess
from pathlib import Path
from typing import Any

_LIMIT = 120.0
"""Seconds from which a command counts as one that never ends."""
_MINUTE = 60.0
_BECOME_SUBREAPER = 36


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code, or minus a signal; None where it had to be stopped.
        seconds: of processor time.
        megabytes: by which it grew at most, beyond the interpreter it was forked from.
        left: how many of its processes were there a minute later.
        waited: seconds until the last of them was gone.
    """

    code: int | None
    out: str
    err: str
    seconds: float
    megabytes: float
    left: int
    waited: float

    @property
    def errors(self) -> list[str]:
        """The lines on stderr that are no warnings."""
        lines = self.err.splitlines()
        return [line for line in lines if line.strip() and not line.startswith("warning:")]

    @property
    def traceback(self) -> bool:
        """Whether somebody's stack was shown."""
        return "Traceback (most recent call last)" in self.err + self.out


def warm() -> None:
    """Import all that commands import, once; orphans of our forks become our own children."""
    import torch

    from agentopd.base.console import quiet_libraries

    torch.set_num_threads(1)
    quiet_libraries()
    import agentopd.cli
    import agentopd.looking.replay.compare
    import agentopd.looking.report
    import agentopd.looking.verdicts
    import agentopd.running.studies.study  # noqa: F401

    ctypes.CDLL(None).prctl(_BECOME_SUBREAPER, 1)


def command(
    *words: object,
    folder: Path,
    before: Callable[[], None] = lambda: None,
    megabytes: int | None = None,
) -> Ended:
    """Run `agentopd` with some words in a fork and a process group of its own.

    Args:
        folder: for what it prints.
        before: called in the fork, first.
        megabytes: that it may have beyond what it is forked with.
    """
    out, err = folder / "stdout", folder / "stderr"
    if (pid := os.fork()) == 0:
        _live([str(word) for word in words], out, err, before, megabytes)
    code, seconds, peak = _ended(pid)
    left, waited = _left()
    said, told = (path.read_text(errors="replace") for path in (out, err))
    return Ended(code, said, told, seconds, peak, left, waited)


def _live(
    words: Sequence[str], out: Path, err: Path, before: Callable[[], None], megabytes: int | None
) -> None:
    """The fork's whole life."""
    code = 70
    try:
        os.setsid()
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        if megabytes is not None:
            most = _status("VmSize") + megabytes * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        _fork_workers()
        before()
        code = _run(words)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(words: Sequence[str]) -> int:
    from agentopd.cli import app

    try:
        app(list(words))
    except SystemExit as stopped:
        return stopped.code if isinstance(stopped.code, int) else 1
    return 0


def _ended(pid: int) -> tuple[int | None, float, float]:
    """Wait for a fork: its exit code, the seconds it took and the megabytes by which it grew."""
    # What the fork has of our files' pages counts as grown: the bound is an upper one.
    own, end = _status("RssAnon"), time.monotonic() + _LIMIT
    while time.monotonic() < end:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            grown = usage.ru_maxrss / 1024 - own / 2**20
            spent = usage.ru_utime + usage.ru_stime
            return os.waitstatus_to_exitcode(status), spent, max(grown, 0.0)
        time.sleep(0.005)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None, _LIMIT, 0.0


def _left() -> tuple[int, float]:
    """The processes that are there after a minute, which then end; and the seconds until none is.

    All orphans are children of ours, so that to have no child is to have left nobody.
    """
    began = time.monotonic()
    while time.monotonic() < began + _MINUTE:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return 0, time.monotonic() - began
        time.sleep(0.01)
    orphans = children()
    for pid in orphans:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return len(orphans), _MINUTE


def children() -> list[int]:
    """The processes that this one has started or adopted."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            told = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        found += [int(path.name)] * (int(told[1]) == os.getpid())
    return found


def _status(name: str) -> int:
    """Bytes, of a line of our own /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


class _Afresh(ForkProcess):
    """A worker that is forked and has no more of its giver than one that was started anew."""

    def run(self) -> None:
        """Let go of all that was inherited but the worker's own pipes."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        own: Any = self
        kept = {0, 1, 2, *(connection.fileno() for connection in own._args)}
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in map(int, os.listdir("/proc/self/fd")):
            if number not in kept and Path(f"/proc/self/fd/{number}").exists():
                os.dup2(nothing, number)
        super().run()


class _ForkedContext(ForkContext):
    Process = _Afresh


def _fork_workers() -> None:
    """A study's workers are forked too, for a start of seconds is no part of what is tried."""
    from agentopd.running.studies import workers

    def context(method: str) -> Any:
        return _ForkedContext() if method == "spawn" else get_context(method)

    workers.get_context = context
