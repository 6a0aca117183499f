"""Processes as the tests of kills see them: who is there, who is left."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path


def until(
    happened: Callable[[], bool],
    process: subprocess.Popen[str] | None = None,
    seconds: float = 120,
) -> None:
    """Wait for something that `process` does; a busy machine takes its time."""
    end = time.monotonic() + seconds
    while not happened():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether a process is there, and not only its exit code."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return _state(pid)[0] not in "ZX"


def members(group: int) -> list[int]:
    """The living processes of a group."""
    pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [pid for pid in pids if _state(pid)[1] == group and alive(pid)]


def _state(pid: int) -> tuple[str, int]:
    """A process's state and group, as /proc tells it."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "X", 0
    state, _, group = told.rpartition(")")[2].split()[:3]
    return state, int(group)
