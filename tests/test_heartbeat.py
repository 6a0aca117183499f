"""Signs of life: who is missed, when, and by whom."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

from processes import until
from torch.distributed import FileStore, HashStore  # pyright: ignore[reportPrivateImportUsage]

from agentopd.parallel.heartbeat import Heartbeat, watched

SILENCE = 10.0


class Clock:
    """Seconds, as a test has them pass."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def _three() -> tuple[Clock, list[Heartbeat]]:
    clock, store = Clock(), HashStore()
    return clock, [Heartbeat(store, rank, 3, clock) for rank in range(3)]


def test_who_beats_is_not_missed_and_who_stands_still_is() -> None:
    clock, (first, second, third) = _three()
    for at in range(0, 40, 4):
        clock.seconds = at
        for one in (first, second, third) if at < 20 else (second, first):
            one.beat()
        missed = [2] if at - 20 > SILENCE else []  # its last sign, at 16, was seen at 20
        assert first.lost(SILENCE) == second.lost(SILENCE) == missed


def test_who_has_never_been_heard_is_missed_after_as_long() -> None:
    clock, (first, *_) = _three()
    clock.seconds = 10.0
    first.beat()
    assert first.lost(SILENCE) == []
    clock.seconds = 10.5
    assert first.lost(SILENCE) == [1, 2]


def test_who_leaves_is_not_missed() -> None:
    clock, (first, second, third) = _three()
    for one in (first, second, third):
        one.beat()
    third.leave()
    clock.seconds = 100.0
    for one in (second, first):
        one.beat()
    assert first.lost(SILENCE) == []


def test_who_does_not_come_through_misses_the_first_who_keeps_the_store() -> None:
    clock, (first, second, _) = _three()
    for one in (first, second):
        one.beat()
    clock.seconds = 11.0
    assert second.lost(SILENCE) == [0]


def _member(rank: int, folder: Path) -> None:
    """Waits for the other, which has stopped."""
    with (folder / f"told-{rank}").open("w") as told:
        os.dup2(told.fileno(), 2)
    store = FileStore(str(folder / "store"), 2)
    with watched(store, rank, 2, silence=1.0, every=0.1):
        time.sleep(0.3)
        if rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(60)


def test_who_waits_for_one_that_stands_still_ends_and_says_so(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    waiting, still = (fork.Process(target=_member, args=(rank, tmp_path)) for rank in range(2))
    waiting.start()
    still.start()
    try:
        until(lambda: waiting.exitcode is not None, seconds=30)
    finally:
        for one in (waiting, still):
            one.kill()
            one.join()
    assert waiting.exitcode == 1
    told = (tmp_path / "told-0").read_text()
    assert told.startswith("error: nothing was heard of process 1 of this run for 1 seconds")
    assert told.count("\n") == 1 and "agentopd resume FOLDER" in told
