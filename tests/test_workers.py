"""Workers: answers in order, failures told, and no process that outlives the one it works for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from givers import JOBS, double, fail, fail_oddly, kill, leave, variable, wait_for_word
from processes import alive, until

from agentopd.base.stopping import Interrupted, interruptible
from agentopd.running.studies.workers import Job, WorkerLost, hired


def jobs(*calls: tuple[Callable[..., Any], Any]) -> list[Job]:
    return [Job(f"job {i}", work, (argument,)) for i, (work, argument) in enumerate(calls)]


def nothing() -> None:
    return


def test_answers_come_in_the_order_of_the_jobs_and_workers_are_used_again() -> None:
    beats = list[int]()
    with hired(2, {}) as workers:
        never = threading.Event()
        found = workers.do(jobs(*((double, n) for n in range(6))), never, lambda: beats.append(1))
        (again,) = workers.do(jobs((double, 21)), never, nothing)
        pids = {pid for _, pid in found}
        assert all(alive(pid) for pid in pids)
    assert [doubled for doubled, _ in found] == [0, 2, 4, 6, 8, 10]
    assert again[0] == 42 and again[1] in pids
    assert os.getpid() not in pids and 1 <= len(pids) <= 2
    assert beats and not any(alive(pid) for pid in pids)


def test_an_environment_is_the_workers_alone() -> None:
    with hired(1, {"AGENTOPD_TRIED": "yes"}) as workers:
        found = workers.do(jobs((variable, "AGENTOPD_TRIED")), threading.Event(), nothing)
    assert found == ["yes"] and "AGENTOPD_TRIED" not in os.environ


def test_a_failure_is_told_as_it_was_raised_once_the_others_have_ended() -> None:
    with hired(2, {}) as workers, pytest.raises(ValueError, match=r"^7 is wrong") as raised:
        workers.do(jobs((fail, 7), (double, 1), *[(double, 2)] * 9), threading.Event(), nothing)
    assert "in fail" in "".join(raised.value.__notes__)


def test_a_failure_that_cannot_travel_is_told_in_words() -> None:
    with hired(1, {}) as workers, pytest.raises(RuntimeError, match="Odd: 5 and 5"):
        workers.do(jobs((fail_oddly, 5)), threading.Event(), nothing)


@pytest.mark.parametrize(
    ("work", "code", "how"), [(leave, 3, "exit code 3"), (kill, 9, "SIGKILL.*memory")]
)
def test_a_lost_worker_is_named_and_stops_the_others(
    work: Callable[..., Any], code: int, how: str, tmp_path: Path
) -> None:
    asked = threading.Event()
    with hired(2, {}) as workers, pytest.raises(WorkerLost, match=f"job 1 .*{how}"):
        workers.do(jobs((wait_for_word, tmp_path), (work, code)), asked, nothing)
    assert (tmp_path / "saved").is_file() and asked.is_set()


def test_who_is_asked_to_stop_saves_and_nothing_new_is_begun(tmp_path: Path) -> None:
    asked = threading.Event()

    def ask() -> None:
        if (tmp_path / "computing").is_file():
            asked.set()

    with hired(1, {}) as workers, pytest.raises(Interrupted):
        workers.do(jobs((wait_for_word, tmp_path), (fail, 1)), asked, ask)
    assert (tmp_path / "saved").is_file()


def test_a_worker_ended_by_a_scheduler_is_an_interruption() -> None:
    with hired(1, {}) as workers, pytest.raises(Interrupted):
        workers.do(jobs((kill, signal.SIGTERM)), threading.Event(), nothing)


def test_leaving_at_once_leaves_nobody(tmp_path: Path) -> None:
    def press_twice() -> None:
        if (tmp_path / "deaf").is_file():
            raise KeyboardInterrupt

    with hired(1, {}) as workers, pytest.raises(KeyboardInterrupt):
        workers.do(jobs((JOBS["deaf"], tmp_path)), threading.Event(), press_twice)
    assert not alive(int((tmp_path / "deaf").read_text()))


def test_no_worker_outlives_a_giver_that_is_killed_at_any_moment(tmp_path: Path) -> None:
    """All moments side by side: the one that hears nothing takes half a minute."""
    moments, givers = ["starting", *JOBS], dict[str, subprocess.Popen[bytes]]()
    script = Path(__file__).with_name("givers.py")
    try:
        for moment in moments:
            (tmp_path / moment).mkdir()
            command = [sys.executable, str(script), str(tmp_path / moment), moment]
            givers[moment] = subprocess.Popen(command)
        for moment in moments:
            until((tmp_path / moment / moment).is_file)
    finally:
        for giver in givers.values():
            giver.kill()
            giver.wait()
    workers = {moment: int((tmp_path / moment / moment).read_text()) for moment in moments}
    until(lambda: not any(alive(pid) for pid in workers.values()), seconds=60)
    assert (tmp_path / "computing" / "saved").is_file()


def test_the_first_ctrl_c_and_any_sigterm_ask_and_the_second_ctrl_c_stops_at_once() -> None:
    with interruptible() as asked:
        assert not asked.is_set()
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(number)
            assert asked.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible() as asked:
            signal.raise_signal(signal.SIGINT)
            assert not asked.is_set()
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_event_of_ones_own_is_set_and_asks_no_less() -> None:
    own = threading.Event()
    with interruptible(own) as asked:
        assert asked is own
        own.set()
        signal.raise_signal(signal.SIGINT)  # the first Ctrl-C, though it was asked before
