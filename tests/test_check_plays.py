"""The environment checker, played on: what only some turns, seeds, splits or calls show."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import broken_envs
import broken_plays
import gymnasium
import pytest

from agentopd.environment.check import Finding, check_env
from agentopd.environment.registry import make

ERRORS = [
    ("MovesAreFree", "turn-limit", "with one answer that can be read and others that cannot"),
    ("GoesOnWhenRead", "turn-limit", "with an answer that can be read in the last turn"),
    ("GoesOnAstray", "turn-limit", "with answers that can be read the episode took 21 turns"),
    ("HalfCharacter", "text", "the observation after reset()"),
    ("HalfCharacterToTeacher", "text", "info['facts'] after reset()"),
    ("UnknownReward", "reward", "return a finite float"),
    ("NeedsNumber", "reset-arguments", "reset() raised TypeError"),
    ("TakesNoOptions", "reset-arguments", "reset(seed=0, options=None) raised TypeError"),
    ("NeedsTask", "reset-arguments", "reset(seed=0, options={}) raised KeyError: 'task' (broken_"),
    ("TellsWhenUnread", "told-to-student", "info['reference'] stands word for word"),
    ("TellsSomeSeeds", "told-to-student", "info['oracle'] stands word for word in"),
    ("OneName", "task-id", "all called 'line'"),
    ("SolvedAtOnce", "success", "true after every reset()"),
    ("SolvedInPassing", "success", "false again"),
    ("SolvedByNonsense", "success", "although no answer can be read"),
    ("PaidForLosing", "success", "are paid 1 or more by their last step, those with success 0"),
    ("RaisesOnBuild", "constructor", "RuntimeError: no data here (broken_plays.py, line"),
    ("RaisesOnClose", "raises", "close() raised OSError"),
    ("Exits", "action-raises", "raised SystemExit: 3"),
    ("ListedRules", "declarations", "system_prompt is ('walk', 'to the goal'): set it to one str"),
    ("TurnsInWords", "declarations", "max_turns is '20': set it to an int"),
    ("FormWithoutPlace", "declarations", "action_form is '<action></action>'"),
    ("NumberBetween", "declarations", "action_between is 3"),
    ("SlipsInSecret", "oracle", "declare stochastic = True"),
    ("OneSplit", "splits", "seed 0 of split='train' and seed 0 of split='validation'"),
    ("RenamedSplit", "splits", "the same observation and info"),
]
OTHERS = [
    ("EndlessMoves", "warning", "endless", "with answers that can be read"),
    ("NeverWins", "warning", "oracle-chance", "on none of 20 seeds"),
    ("Slips", "note", "oracle-chance", "of 20 seeds"),
    ("SeenSplit", "warning", "splits", "the same first observation"),
]
GOOD = ["Told", "Hides", "SpeaksWhenUnread", "HiddenSplit", "OwnSplits"]
STRICT = [
    ("HashedStep", "hash-seed", "first after step 1"),
    ("HashedInfo", "hash-seed", "first after reset"),
    ("CountsInClassLate", "seeding", "keep nothing in the class"),
    ("WrongOnLateSeeds", "oracle", "fails on 5 of 30 seeds, first on seed 25"),
]


def check(name: str, strict: bool = False) -> list[Finding]:
    return check_env(f"{broken_plays.__name__}:{name}", strict=strict)


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> list[broken_envs.Line]:
    """The instances that are open."""
    found: list[broken_envs.Line] = []
    monkeypatch.setattr(broken_plays.Hangs, "__init__", lambda self: found.append(self))
    monkeypatch.setattr(broken_plays.Hangs, "close", lambda self: found.remove(self))
    return found


@pytest.fixture
def limited_line() -> Iterator[str]:
    gymnasium.register("tests/Short-v0", f"{broken_envs.__name__}:Line", max_episode_steps=10)
    yield "tests/Short-v0"
    del gymnasium.registry["tests/Short-v0"]


@pytest.mark.parametrize(("name", "finding", "says"), ERRORS)
def test_an_error_is_found_for_what_it_is(name: str, finding: str, says: str) -> None:
    found = check(name)
    assert {f.name for f in found if f.level == "error"} == {finding}
    assert any(says in f.message for f in found if f.name == finding), found


@pytest.mark.parametrize(("name", "level", "finding", "says"), OTHERS)
def test_what_is_no_error_comes_alone(name: str, level: str, finding: str, says: str) -> None:
    found = check(name)
    assert [(f.level, f.name) for f in found] == [(level, finding)]
    assert says in found[0].message


@pytest.mark.parametrize("name", GOOD)
def test_what_only_looks_broken_has_no_findings(name: str) -> None:
    assert check(name) == []


@pytest.mark.parametrize(("name", "finding", "says"), STRICT)
def test_what_comes_late_or_by_hash_is_found_in_strict_mode(
    name: str, finding: str, says: str
) -> None:
    assert check(name) == []
    found = check(name, strict=True)
    assert any(f.name == finding and says in f.message for f in found), found


def test_the_order_of_names_may_change_with_the_hash_seed() -> None:
    assert check("OrderedByHash", strict=True) == []


def test_more_seeds_find_what_only_late_seeds_show() -> None:
    found = check_env(f"{broken_plays.__name__}:WrongOnLateSeeds", seeds=27)
    assert [f.name for f in found] == ["oracle"]
    assert "fails on 2 of 27 seeds" in found[0].message


def test_a_call_that_never_returns_is_a_finding_and_all_is_closed_when_it_does(
    alive: list[broken_envs.Line],
) -> None:
    broken_plays.Hangs.free.clear()
    found = check_env(f"{broken_plays.__name__}:Hangs", seconds=0.5)
    assert [f.name for f in found] == ["hangs"]
    assert "step('<action>right</action>') has not returned within 0.5 seconds" in found[0].message
    assert "it is at broken_plays.py, line " in found[0].message
    assert ", in step > threading.py, line" in found[0].message
    assert alive
    broken_plays.Hangs.free.set()
    for thread in threading.enumerate():
        if thread.name == "check-env":
            thread.join(10)
    assert not alive


def test_the_process_ends_although_a_call_does_not_return() -> None:
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    words = ["check-env", f"{broken_plays.__name__}:Hangs", "--seconds", "0.5"]
    done = subprocess.run(
        [sys.executable, "-m", "agentopd", *words],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout.count("error: hangs: ")) == (1, 1), done


def test_no_time_for_a_call_is_refused() -> None:
    with pytest.raises(ValueError, match="seconds must be above 0"):
        check_env(f"{broken_envs.__name__}:Line", seconds=0)


def test_of_two_turn_limits_the_smaller_one_is_in_force(limited_line: str) -> None:
    assert check_env(limited_line) == []


@pytest.mark.parametrize(
    ("spec", "option"),
    [("agentopd/FrozenLake-v0", "slippery"), ("toy:FrozenLake-v1", "is_slippery")],
)
def test_best_play_on_slippery_ice_is_no_error(spec: str, option: str) -> None:
    found = check_env(spec, {option: True, "max_turns": 30}, seeds=8)
    assert [(f.level, f.name) for f in found] == [("note", "oracle-chance")]
    for slippery in (True, False):
        assert make(spec, {option: slippery}).get_wrapper_attr("stochastic") is slippery


def test_what_is_no_environment_is_said_to_be_none() -> None:
    found = check("NoEnvironment")
    assert [f.name for f in found] == ["constructor"]
    assert "no gymnasium.Env" in found[0].message


def test_an_answer_that_stands_in_its_question_is_a_warning() -> None:
    found = check("Question")
    assert {(f.level, f.name) for f in found} == {("warning", "told-to-student")}
    assert all("in the first observation" in f.message for f in found)


def test_an_environment_of_numbers_is_told_how_to_come_into_words() -> None:
    found = check_env("gym:CartPole-v1")
    assert {f.name for f in found} == {"spaces"}
    assert all("Textualize" in f.message and "toy:NAME" in f.message for f in found)
