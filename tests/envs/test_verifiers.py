"""The adapter to verifiers: who plays by calling a model waits for what is stepped."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from broken import Broken

from agentopd.envs.adapters.verifiers.endpoint import Asked, Ended, Player


def test_the_environment_is_answered_by_what_is_stepped(build: Any) -> None:
    env = build("verifiers:verified_sums", forms=["#### {}"])
    shown, info = env.reset(seed=8)
    assert shown == "What is 2 + 1?" and env.system_prompt == "Add. End with #### NUMBER."
    assert info["oracle"] == info["reference"] == "3"
    shown, *_, info = env.step("<think>#### 3</think>three")
    assert shown == "Answer in the form #### ...." and not info["action_valid"]
    _, reward, terminated, truncated, info = env.step("<think>no</think> So #### 3")
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)
    assert info["metrics"]["letters"] == len("So #### 3"), "thoughts stay with the student"
    assert info["facts"]["reward right"] == 1


def test_what_the_environment_says_is_the_next_observation_alone(build: Any) -> None:
    env = build("verifiers:verified_guess", answer="number")
    shown, info = env.reset(seed=3)
    assert shown == "Guess a number from 1 to 9." and env.system_prompt == "A game."
    assert info["oracle"] == "4"
    first = [env.step(guess)[0] for guess in "789"]
    assert [text.partition(" Hint")[0] for text in first] == ["Not 7.", "Not 8.", "Not 9."]
    env.reset(seed=3)
    assert [env.step(guess)[0] for guess in "789"] == first, "its draws are the episode's own"
    *_, info = env.step("4")
    assert info["success"] and info["metrics"]["turns"] == 4


def test_its_own_limit_and_ours_are_one(build: Any) -> None:
    env = build("verifiers:verified_guess", max_turns=2)
    env.reset(seed=0)
    assert [env.step("9")[2:4] for _ in range(2)] == [(False, False), (False, True)]
    with pytest.raises(ValueError, match="call reset"):
        env.step("9")


def test_tasks_are_the_data_sets_and_may_be_held_out(build: Any) -> None:
    def tasks(**options: Any) -> list[str]:
        env = build("verifiers:verified_sums", **options)
        return [env.reset(seed=seed)[1]["task_id"] for seed in range(6)]

    everything = tasks()
    assert len(set(everything)) == 6
    assert tasks(limit=2) == everything[:2] * 3 and tasks(skip=4) == everything[4:] * 3
    assert not {*tasks(taskset={"split": "test"})} & {*everything}


def test_an_environment_that_fails_costs_its_episode(build: Any) -> None:
    env = build("verifiers:verified_guess")
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match="EnvError: the game is broken"):
        env.step("break")
    env.reset(seed=0)
    assert env.step("1")[4]["success"]


def test_what_is_left_is_ended(build: Any) -> None:
    def running() -> int:
        return sum(thread.name.startswith("verifiers") for thread in threading.enumerate())

    env = build("verifiers:verified_guess")
    for seed in range(3):
        env.reset(seed=seed)
        assert running() == 3, "an endpoint, who plays, and what it waits for"
    env.close()
    while running():
        time.sleep(0.01)
    assert Broken.started == 3 == Broken.closed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"NEEDS_CONTAINER": True}, "works in a container"),
        ({"toolsets": classmethod(lambda cls, config: ["search"])}, "offers tools"),
    ],
)
def test_what_needs_more_than_messages_is_refused(
    build: Any, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
) -> None:
    build("verifiers:verified_sums")
    import verified_sums

    for name, value in change.items():
        monkeypatch.setattr(verified_sums.SumsTask, name, value)
    with pytest.raises(ValueError, match=message):
        build("verifiers:verified_sums")


def test_tasks_that_cannot_be_had_here_say_so(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    build("verifiers:verified_sums")
    import verified_sums

    def far(self: Any) -> None:
        raise ConnectionError("cannot reach a hub")

    monkeypatch.setattr(verified_sums.SumsTaskset, "load", far)
    with pytest.raises(ValueError, match=r"cannot reach a hub; only environments whose tasks lie"):
        build("verifiers:verified_sums")


def played(play: Callable[[str], Any]) -> Player:
    async def main(url: str) -> Any:
        return play(url)

    return Player(main)


def test_a_player_that_does_nothing_is_told_by_its_time() -> None:
    going = threading.Event()
    player = played(lambda url: going.wait(60))
    with pytest.raises(TimeoutError, match=r"neither a question nor an end in 0\.01 seconds"):
        player.wait(0.01)
    going.set()
    assert player.wait(60) == Ended(True)
    player.close()


def test_a_call_whose_player_is_ended_gets_no_answer() -> None:
    def call(url: str) -> str:
        with urllib.request.urlopen(f"{url}/chat/completions", b'{"messages": []}') as answer:
            return answer.read().decode()

    player = played(call)
    assert isinstance(player.wait(60), Asked)
    player.close()
    ended = player.wait(60)
    assert isinstance(ended, Ended) and isinstance(ended.error, OSError)
