"""Environments that have processes of their own: these end with whoever plays in them."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from signal import SIGHUP, SIGKILL, SIGTERM, Signals

from hard import small
from hard.forked import Ended, children, command
from hard.row import Row
from hard.trials import scratch

DESK = {"id": "agentopd/Desk-v0", "options": {"mode": "code", "logins": "open", "max_turns": 3}}
"""Its Python runs in a process of its own."""
WAYS = (("train", "the run"), ("compare", "a worker"), ("compare", "the study"))
"""A command, and who is killed while an environment of it has a process."""


def row(pool: ProcessPoolExecutor, folder: Path) -> Row:
    """Each way, by each signal."""
    config = small.write_config(
        folder / "desk.yaml", folder / "model", env=DESK, privilege=[], mix="rl", steps=10_000
    )
    waiting = [
        pool.submit(_killed, name, config, whom, number)
        for name, whom in WAYS
        for number in (SIGKILL, SIGTERM, SIGHUP)
    ]
    found = [each.result() for each in waiting]
    assert all(ended.code for ended in found), "nobody was killed"
    left, slowest = sum(ended.left for ended in found), max(ended.waited for ended in found)
    tried = f"{len(found)} kills while an environment has a process of its own: processes left"
    return Row("kills", tried, f"{left}, the last gone after {slowest:.1f} s", "none", not left)


def _killed(name: str, config: Path, whom: str, number: Signals) -> Ended:
    out = scratch()
    small.emptied(out)

    def before() -> None:
        leader = os.getpid()

        def watch() -> None:
            victim = os.getpid() if whom == "a worker" else leader
            threading.Thread(target=_kill, args=(victim, number), daemon=True).start()

        if name == "compare":
            os.register_at_fork(after_in_child=watch)
        else:
            watch()

    return command(name, config, "--out", out, folder=out.parent, before=before)


def _kill(victim: int, number: Signals) -> None:
    """As soon as this process has a child."""
    while not children():
        time.sleep(0.01)
    with suppress(ProcessLookupError):  # another worker was faster
        os.kill(victim, number)
