"""Several processes that talk over Gloo, as a launcher would start them, and what each comes to."""

from __future__ import annotations

import pickle
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch.distributed as dist
from warm import WARM

from agentopd.parallel.group import Group
from agentopd.parallel.processes import Processes

PATIENCE = timedelta(minutes=2)


def together(
    work: Callable[..., Any], *arguments: Any, count: int = 2, lost: int | None = None
) -> list[Any]:
    """What `work(processes, *arguments)` gives in each of `count` processes, or what it raised.

    Args:
        lost: the process that is to die of it, and gives nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        ends, running = [], []
        for rank in range(count):
            here, there = WARM.Pipe(duplex=False)
            told = (there, Path(folder) / "store", rank, count, work, arguments)
            running.append(WARM.Process(target=_member, args=told))
            running[-1].start()
            there.close()
            ends.append(here)
        found = [
            None if rank == lost else pickle.loads(end.recv_bytes())
            for rank, end in enumerate(ends)
        ]
        for process in running:
            process.join(PATIENCE.total_seconds())
            assert process.exitcode is not None, "a process is left behind"
    for answer in found:
        if isinstance(answer, str) and answer.startswith("Traceback"):
            raise AssertionError(answer)
    return found


def _member(
    told: Connection,
    store: Path,
    rank: int,
    count: int,
    work: Callable[[Processes], Any],
    arguments: tuple[Any, ...],
) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=count, timeout=PATIENCE
    )
    try:
        answer = work(Group(rank, count, count), *arguments)
    except Exception:  # whatever it is, the test has to be told
        answer = traceback.format_exc()
    # As bytes: multiprocessing's own way leaves tensors with the process that sent them.
    told.send_bytes(pickle.dumps(answer))
