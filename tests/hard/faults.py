"""Faults at a chosen change on the disk: a signal, or a disk that is full from there on.

`faults.c` is compiled and preloaded, because much is written by libraries that Python does not see.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

_LIBRARY = "AGENTOPD_HARD_FAULTS"
_SOURCE = Path(__file__).with_name("faults.c")


class Whom(IntEnum):
    """Who is sent the signal: who makes the change, the command itself, or all its processes."""

    ITSELF = 0
    LEADER = 1
    GROUP = 2


@dataclass(frozen=True)
class Fault:
    """What happens at change number `at`, counted from 1; without a signal the disk is full."""

    at: int
    signal: signal.Signals | None = None
    whom: Whom = Whom.ITSELF

    def __str__(self) -> str:
        if self.signal is None:
            return f"a full disk at change {self.at}"
        return f"{self.signal.name} to {self.whom.name.lower()} at change {self.at}"


def build(folder: Path) -> dict[str, str]:
    """Compile the library; returns the variables with which a process has it.

    Raises:
        ValueError: there is no C compiler.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise ValueError("kills and full disks are made by a small library: install a C compiler")
    library = folder / "faults.so"
    command = [compiler, "-shared", "-fPIC", "-O2", "-o", library, _SOURCE, "-ldl"]
    subprocess.run(command, check=True)
    return {"LD_PRELOAD": str(library), _LIBRARY: str(library)}


def arm(root: Path, fault: Fault | None) -> None:
    """Count the changes below a folder from now on, here and in all that is forked."""
    _library().faults_arm(
        os.fsencode(root),
        ctypes.c_long(fault.at if fault else 0),
        0 if fault is None else 2 if fault.signal is None else 1,
        int(fault.signal or 0) if fault else 0,
        int(fault.whom) if fault else 0,
    )


def places() -> list[str]:
    """The changes since `arm`: what was done to which file, in order."""
    library = _library()
    library.faults_place.restype = ctypes.c_char_p
    count = range(1, library.faults_count() + 1)
    return [os.fsdecode(library.faults_place(ctypes.c_long(n))) for n in count]


def _library() -> Any:
    return ctypes.CDLL(os.environ[_LIBRARY])
