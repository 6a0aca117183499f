"""Whether the other processes of a run are still there. Whoever waits for a process that was ended
is told at once; of a machine that has vanished from the network, or a process that stands still,
nobody tells, and one would wait for half an hour.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

SILENCE = 120.0
"""Seconds without a sign of life after which a process counts as gone."""
_EVERY = 5.0
"""Seconds between two signs of life."""
_LEFT = 2**40
"""What one who leaves adds to its number: more signs than anybody gives."""


class Store(Protocol):
    """A store of torch.distributed that several processes share, as far as it is needed here."""

    def add(self, key: str, amount: int, /) -> int:
        """Add to a number, which begins at 0, and say what it is then."""
        ...


@dataclass
class Heartbeat:
    """What one process knows of the others: each adds to a number of its own in a common store.

    Args:
        store: a connection that nothing else waits on.
        now: seconds of a clock that does not run while the machine sleeps.
    """

    store: Store
    rank: int
    size: int
    now: Callable[[], float] = time.monotonic
    _counts: dict[int, int] = field(default_factory=dict)
    _heard: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._counts = dict.fromkeys(range(self.size), 0)
        self._heard = dict.fromkeys(range(self.size), self.now())

    def beat(self) -> None:
        """Give a sign of life, and see who else has given one.

        Raises:
            RuntimeError: whoever kept the store has ended.
        """
        self.store.add(_key(self.rank), 1)
        for rank in range(self.size):
            count = self.store.add(_key(rank), 0)
            if count != self._counts[rank]:
                self._counts[rank] = count
                self._heard[rank] = math.inf if count >= _LEFT else self.now()

    def leave(self) -> None:
        """Say that this process has done its part, and is not to be missed."""
        with suppress(RuntimeError):  # nobody is left to be told
            self.store.add(_key(self.rank), _LEFT)

    def lost(self, silence: float) -> list[int]:
        """Who has been silent for so many seconds. Where this process itself has not come through
        to the store for as long, that is the first, who keeps it.
        """
        now = self.now()
        if now - self._heard[self.rank] > silence:
            return [0]
        return [rank for rank, heard in self._heard.items() if now - heard > silence]


@contextmanager
def watched(
    store: Store, rank: int, size: int, silence: float = SILENCE, every: float = _EVERY
) -> Iterator[None]:
    """Give signs of life to the end of the `with` block, and end this process, with one line, once
    another gives none: it may be waiting for it, where nothing else can wake it.
    """
    heartbeat, over = Heartbeat(store, rank, size), threading.Event()
    threads = [
        threading.Thread(target=_beat, args=(heartbeat, over, every), daemon=True),
        threading.Thread(target=_listen, args=(heartbeat, over, silence, every), daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(every)
        heartbeat.leave()


def _beat(heartbeat: Heartbeat, over: threading.Event, every: float) -> None:
    while not over.is_set():
        try:
            heartbeat.beat()
        except RuntimeError:
            over.set()  # a process that has ended is told by whoever waits for it
        over.wait(every)


def _listen(heartbeat: Heartbeat, over: threading.Event, silence: float, every: float) -> None:
    while not over.wait(every):
        lost = [rank for rank in heartbeat.lost(silence) if rank != heartbeat.rank]
        if not lost:
            continue
        if heartbeat.rank == 0 or 0 in lost:  # the first speaks for all, where it is there
            os.write(2, _told(lost, silence).encode())
        os._exit(1)


def _told(lost: list[int], silence: float) -> str:
    who = ", ".join(str(rank) for rank in lost)
    return (
        f"error: nothing was heard of process {who} of this run for {silence:g} seconds: its "
        "machine may have gone, or it was stopped. What was learnt since the last checkpoint is "
        "lost; agentopd resume FOLDER goes on from there, with any number of processes\n"
    )


def _key(rank: int) -> str:
    return f"agentopd/beat/{rank}"
