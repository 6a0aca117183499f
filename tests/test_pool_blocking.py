"""Environments that wait for something else: on threads, at once, and with a limit of time.

Nothing here sleeps: threads meet at barriers and events. What is meant to be stuck is let go at the
end of its test.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator, Sequence
from threading import Barrier, Event, get_ident
from typing import Any, Literal

import pytest
from scripted import CHATML, ScriptedEnv, ends, play, random_model, says, toy_tokenizer

from agentopd.base.types import EndReason, Trajectory
from agentopd.environment.settings import EnvSettings
from agentopd.environment.wrappers import InvalidLimit
from agentopd.privilege.view import SystemView
from agentopd.privilege.whispered import WhisperingEnv
from agentopd.rollout.calls import InPlace, OnThread, caller
from agentopd.rollout.policies import StudentRollout
from agentopd.rollout.pool import Limits

TOKENIZER = toy_tokenizer(CHATML)
ANSWERS = ["up <|im_end|>", "left <|im_end|>"]
PATIENCE = 60.0
"""Seconds that only a failing test takes."""

Place = Literal["reset", "step", "close"]


class Blocking(ScriptedEnv):
    """Two turns; `calls` names every call and its thread."""

    metadata = {**ScriptedEnv.metadata, "blocking": True}  # noqa: RUF012  (as in gymnasium)

    def __init__(self) -> None:
        super().__init__(("B1", {"task_id": "t"}), [says("B2"), ends()])
        self.calls: list[tuple[str, int]] = []

    def called(self, name: Place) -> None:
        self.calls.append((name, get_ident()))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.called("reset")
        return super().reset(seed=seed, options=options)

    def step(self, action: str) -> Any:
        self.called("step")
        return super().step(action)

    def close(self) -> None:
        self.called("close")
        super().close()


class Stuck(Blocking):
    """Does not come back from its first call of one kind before it is let go."""

    def __init__(self, where: Place, let_go: Event) -> None:
        super().__init__()
        self.where, self.let_go, self.ended = where, let_go, Event()

    def called(self, name: Place) -> None:
        super().called(name)
        if name == self.where:
            self.let_go.wait(PATIENCE)
        if name == "close":
            self.ended.set()


@pytest.fixture
def let_go() -> Iterator[Event]:
    event = Event()
    yield event
    event.set()


def _play(
    envs: Sequence[ScriptedEnv], seconds: float = PATIENCE, slots: int = 8
) -> list[Trajectory]:
    limits = Limits(turns=9, turn_tokens=40, context=999, env_seconds=seconds)
    return play(TOKENIZER, envs, [ANSWERS] * len(envs), limits, slots)[0]


def test_environments_that_block_are_waited_for_at_once() -> None:
    """Each call returns only when all four environments are in it."""
    met = Barrier(4, timeout=PATIENCE)

    class Meeting(Blocking):
        def called(self, name: Place) -> None:
            super().called(name)
            met.wait()

    envs = [Meeting() for _ in range(4)]
    assert [t.end for t in _play(envs)] == [EndReason.TERMINATED] * 4
    assert all(
        [name for name, _ in env.calls] == ["reset", "step", "step", "close"] for env in envs
    )


def test_an_environment_keeps_to_one_thread_of_its_own() -> None:
    envs = [Blocking() for _ in range(3)]
    _play(envs)
    threads = [{thread for _, thread in env.calls} for env in envs]
    assert all(len(own) == 1 for own in threads)
    assert get_ident() not in set.union(*threads)


def test_an_environment_in_process_is_called_in_place_and_in_order() -> None:
    order: list[tuple[int, str]] = []

    class InProcess(Blocking):
        metadata = ScriptedEnv.metadata

        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def called(self, name: Place) -> None:
            super().called(name)
            order.append((self.number, name))

    envs = [InProcess(n) for n in range(3)]
    _play(envs, slots=2)
    assert {thread for env in envs for _, thread in env.calls} == {get_ident()}
    assert order == [
        *((n, name) for name in ("reset", "step", "step", "close") for n in (0, 1)),
        *((2, name) for name in ("reset", "step", "step", "close")),
    ]


def test_the_order_in_which_they_finish_changes_nothing() -> None:
    class Relay(Blocking):
        """Does nothing before its successor has done the same."""

        def __init__(self, after: Relay | None) -> None:
            super().__init__()
            self.after, self.done = after, threading.Semaphore(0)

        def called(self, name: Place) -> None:
            super().called(name)
            if self.after is not None:
                assert self.after.done.acquire(timeout=PATIENCE)
            self.done.release()

    last = Relay(None)
    middle = Relay(last)
    late = _play([Relay(middle), middle, last])
    plain = _play([ScriptedEnv(("B1", {"task_id": "t"}), [says("B2"), ends()]) for _ in range(3)])
    assert [t.episode for t in late] == [0, 1, 2]
    for found, expected in zip(late, plain, strict=True):
        assert found.ids.tolist() == expected.ids.tolist()
        assert (found.turns, found.end, found.seed) == (expected.turns, expected.end, expected.seed)


@pytest.mark.parametrize(("where", "turns"), [("reset", 0), ("step", 1), ("close", 2)])
def test_one_that_exceeds_its_time_costs_its_own_episode(
    where: Place, turns: int, let_go: Event
) -> None:
    stuck = Stuck(where, let_go)
    neighbour = ScriptedEnv(("B1", {}), [says("B2"), ends()])
    failed, good = _play([stuck, neighbour], seconds=0.05)
    assert failed.end is EndReason.ERROR
    assert failed.error.startswith(
        "TimeoutError: the environment did not answer within 0.05 seconds"
    )
    assert len(failed.turns) == turns
    assert (good.end, good.error, len(good.turns)) == (EndReason.TERMINATED, "", 2)
    let_go.set()
    assert stuck.ended.wait(PATIENCE), "closed as soon as the call comes back"


def test_nobody_waits_again_for_one_that_is_stuck(let_go: Event) -> None:
    """Its close is begun and not listened to, or a stuck episode would cost its limit twice."""
    calls = OnThread(0.01, Event())
    call = calls.begin(let_go.wait)
    with pytest.raises(TimeoutError):
        call.result()
    last = calls.end(lambda: None)
    assert last.done and last.result() is None


def test_what_is_raised_on_a_thread_is_recorded() -> None:
    class Raising(Blocking):
        def called(self, name: Place) -> None:
            super().called(name)
            if name == "step":
                raise ConnectionError("gone")

    failed, good = _play([Raising(), Blocking()])
    assert (failed.end, failed.error) == (EndReason.ERROR, "ConnectionError: gone")
    assert good.end is EndReason.TERMINATED


def test_those_in_play_are_closed_when_the_run_itself_fails(let_go: Event) -> None:
    env = Stuck("close", let_go)
    let_go.set()
    with pytest.raises(IndexError):  # the script of answers is too short
        play(TOKENIZER, [env], [ANSWERS[:1]])
    assert env.ended.wait(PATIENCE)


def test_a_stuck_thread_does_not_keep_the_process_from_ending() -> None:
    program = """
        import threading
        from agentopd.rollout.calls import OnThread
        call = OnThread(0.01, threading.Event()).begin(threading.Event().wait)
        try:
            call.result()
        except TimeoutError as error:
            print(error)
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True, text=True, timeout=PATIENCE, check=True,
    )  # fmt: skip
    assert ran.stdout.startswith("the environment did not answer within 0.01 seconds")


def test_a_wrapper_blocks_where_the_environment_in_it_does() -> None:
    whispering = WhisperingEnv(Blocking(), (), SystemView())
    for env in (Blocking(), InvalidLimit().wrap(Blocking()), whispering):
        made = caller(env, 1.0)
        assert isinstance(made, OnThread)
        made.end(env.close).result()
        assert isinstance(env.unwrapped, Blocking) and env.unwrapped.closed
    assert isinstance(caller(ScriptedEnv(("B1", {}), []), 1.0), InPlace)


def test_the_limit_is_a_setting_of_the_rollout() -> None:
    settings = EnvSettings(id="agentopd/Hanoi-v0")
    pool = StudentRollout(env_seconds=7.5).pool(settings, random_model(TOKENIZER), seed=0)
    assert pool.limits.env_seconds == 7.5
    with pytest.raises(ValueError, match="greater than 0"):
        StudentRollout(env_seconds=0)
