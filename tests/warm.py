"""Processes forked from one that has imported what takes seconds: as empty as new ones, and cheap.

Of tests that are about what several processes do, and not about how they are started or what they
import.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType

WARM = get_context("forkserver")
WARM.set_forkserver_preload(["agentopd.cli", "agentopd.running.studies.study"])


def python(
    *words: str, cwd: Path | None = None, typed: str = ""
) -> subprocess.CompletedProcess[str]:
    """What `python WORDS` would do: a script, or `-c CODE`, with its arguments.

    An exit code below zero is a signal's, as `subprocess.run` has it.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "in").write_text(typed, encoding="utf-8")
        process = WARM.Process(target=_run, args=(words, str(cwd or Path.cwd()), folder))
        process.start()
        process.join()
        out, err = ((place / name).read_text(encoding="utf-8") for name in ("out", "err"))
    assert process.exitcode is not None
    return subprocess.CompletedProcess(["python", *words], process.exitcode, out, err)


def _run(words: Sequence[str], cwd: str, folder: str) -> None:
    for number, name, flags in (
        (0, "in", os.O_RDONLY),
        (1, "out", os.O_WRONLY | os.O_CREAT),
        (2, "err", os.O_WRONLY | os.O_CREAT),
    ):
        os.dup2(os.open(Path(folder) / name, flags, 0o600), number)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  (to the process's end)
    os.chdir(cwd)
    sys.argv = [words[0], *words[2:]] if words[0] == "-c" else [*words]
    if words[0] == "-c":
        sys.path.insert(0, "")
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec"), main.__dict__)
    else:
        sys.path.insert(0, str(Path(cwd, words[0]).parent))
        runpy.run_path(str(Path(cwd, words[0])), run_name="__main__")
