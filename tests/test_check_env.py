"""The environment checker: every broken environment is caught by the check made for it."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import broken_envs
import gymnasium
import numpy as np
import pytest

from agentopd.environment.check import Finding, check_env

SOKOBAN = "agentopd.envs.sokoban.env:Sokoban"

ERRORS = [
    ("AlphanumericSpace", "spaces", "agentopd.Text()"),
    ("ResetReturnsText", "reset-result", "the pair (observation, info)"),
    ("ObservesNumbers", "reset-result", "return a str"),
    ("FourResults", "step-result", "(observation, reward, terminated, truncated, info)"),
    ("NumpyBool", "step-result", "terminated is np.False_, not a Python bool"),
    ("TextReward", "step-result", "the reward is '1.0'"),
    ("EndsTwice", "step-result", "both true"),
    ("NoTaskId", "info-required", "info['task_id'] after reset() is missing"),
    ("NestedFacts", "info-form", "info['facts']"),
    ("ArrayInInfo", "info-form", "info['board']"),
    ("OracleIsList", "info-form", "info['oracle']"),
    ("OneInfo", "info-reused", "a new info each time"),
    ("Unseeded", "seeding", "self.np_random"),
    ("Unseeded", "seeding", "first after reset in observation: "),
    ("TellsTheTime", "seeding", "first after step 2 in info['facts']: "),
    ("CountsInClass", "seeding", "keep nothing in the class"),
    ("ReadsGlobalRandom", "global-random", "self.np_random"),
    ("SeedsGlobalRandom", "global-random", "self.np_random"),
    ("ReadsGlobalRandom", "global-random", "shares, after reset in observation: "),
    ("SeedsGlobalNumpy", "global-random", "self.np_random"),
    ("CarriesTurnsOver", "carry-over", "set in reset()"),
    ("SharesPlace", "interleaving", "into the instance"),
    ("RaisesOnUnreadable", "action-raises", "KeyError: '' (broken_envs.py, line"),
    ("RaisesOnReset", "raises", "RuntimeError: no such level (broken_envs.py, line"),
    ("AcceptsAnything", "unreadable-valid", "info['action_valid'] to False"),
    ("LateLimit", "turn-limit", "took 21 turns or more, its limit is 20"),
    ("NonsenseIsFree", "turn-limit", "count the turns whose answer cannot be read"),
    ("WrongOracle", "oracle", "fails on 20 of 20 seeds"),
    ("StaleOracle", "oracle", "from there"),
    ("LinedOracle", "oracle", "what action_between declares"),
    ("ShortLimit", "oracle", "within the turns that are left"),
    ("TellsOracle", "told-to-student", "info['oracle'] stands word for word"),
    ("TellsReference", "told-to-student", "system_prompt"),
]
WARNINGS = [
    ("DiesOfNonsense", "unreadable-ends", "step('')"),
    ("DiesOfRepeatedNonsense", "unreadable-ends", "3 answers that cannot be read end"),
    ("PlaysThoughts", "plays-thoughts", "inside an unfinished <think>"),
    ("HasOnePlace", "limits-instances", "beside an open instance reset(seed=1) raised"),
    ("OneTask", "one-task", "20 seeds"),
    ("NoLimit", "endless", "set max_turns"),
    ("NoOracle", "no-oracle", "info['oracle']"),
    ("TellsFeedback", "told-to-student", "info['feedback']"),
    ("TellsFacts", "told-to-student", "facts"),
    ("LongObservation", "long-observation", "characters long"),
]


def check(name: str, strict: bool = False) -> list[Finding]:
    return check_env(f"{broken_envs.__name__}:{name}", strict=strict)


@pytest.fixture
def limited_line() -> Iterator[str]:
    gymnasium.register("tests/Line-v0", f"{broken_envs.__name__}:Line", max_episode_steps=7)
    yield "tests/Line-v0"
    del gymnasium.registry["tests/Line-v0"]


def test_a_good_environment_has_no_findings() -> None:
    assert check("Line") == []


def test_a_slow_step_is_noted_and_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = time.process_time
    monkeypatch.setattr(time, "process_time", lambda: clock() + broken_envs.SlowStep.computed)
    found = check_env(f"{broken_envs.__name__}:SlowStep", seeds=2)
    assert [(f.level, f.name) for f in found] == [("note", "slow-step")]


def test_options_that_no_other_process_could_be_given_are_named() -> None:
    found = check_env(f"{broken_envs.__name__}:Optional", {"what": object()}, strict=True)
    assert [f.name for f in found] == ["options"]


def test_sokoban_has_no_findings_in_strict_mode() -> None:
    assert check_env(SOKOBAN, strict=True) == []


@pytest.mark.parametrize(
    "options",
    [
        {"stop_when_stuck": True, "prompt": "brief"},
        {"moves_per_turn": 4, "max_turns": 20},
        {"boxes": 2, "max_moves": 60, "max_turns": 60},
    ],
)
def test_sokoban_has_no_findings_with_other_options(options: dict[str, int]) -> None:
    assert check_env(SOKOBAN, options, seeds=10) == []


@pytest.mark.parametrize(("name", "finding", "says"), ERRORS)
def test_an_error_is_caught_by_its_own_check_alone(name: str, finding: str, says: str) -> None:
    found = check(name)
    assert {f.name for f in found if f.level == "error"} == {finding}
    assert any(says in f.message for f in found if f.name == finding)


@pytest.mark.parametrize(("name", "finding", "says"), WARNINGS)
def test_a_warning_comes_without_errors(name: str, finding: str, says: str) -> None:
    found = check(name)
    assert [(f.level, f.name) for f in found] == [("warning", finding)]
    assert says in found[0].message


def test_a_drift_is_called_so_wherever_it_is_met(monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[str] = []
    for every in range(9, 60, 5):
        monkeypatch.setattr(broken_envs.DriftsLater, "every", every)
        broken_envs.DriftsLater.resets.clear()
        found = [f for f in check("DriftsLater") if f.level == "error"]
        assert all("first after reset in info['clock']: " in f.message for f in found)
        met += [f.name for f in found]
    assert set(met) == {"seeding"}
    assert len(met) > 5, "what changes between two comparisons cannot be seen"


def test_tasks_that_depend_on_the_hash_seed_are_found_in_strict_mode_only() -> None:
    assert "hash-seed" not in {f.name for f in check("HashSeeded")}
    assert [f.name for f in check("HashSeeded", strict=True)] == ["hash-seed"]


def test_an_environment_another_process_cannot_build_is_found(limited_line: str) -> None:
    assert "not-importable" in {f.name for f in check_env(limited_line, strict=True)}


def test_actions_of_several_words_are_fine_where_what_parts_them_is_declared() -> None:
    assert check("DeclaredLines", strict=True) == []


def test_a_registered_step_limit_is_in_force(limited_line: str) -> None:
    assert "oracle" in {f.name for f in check_env(limited_line)}


def test_errors_come_before_warnings() -> None:
    found = [(f.level, f.name) for f in check("OneWrongTask")]
    assert found == [("error", "oracle"), ("warning", "one-task")]


def test_what_is_wrong_with_every_task_is_said_once() -> None:
    assert len(check("NestedFacts")) == 2, "once of reset() and once of step()"


def test_the_checker_leaves_the_global_random_state_alone() -> None:
    random.seed(5)
    np.random.seed(5)
    expected = random.random(), np.random.random()
    random.seed(5)
    np.random.seed(5)
    check("SeedsGlobalRandom")
    check("SeedsGlobalNumpy")
    assert (random.random(), np.random.random()) == expected


def test_an_unknown_environment_is_the_callers_error() -> None:
    with pytest.raises(ValueError, match="cannot be imported"):
        check_env("no_such_package.maze:Maze")


def test_one_seed_is_too_few_to_compare_tasks() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        check_env(SOKOBAN, seeds=1)


@pytest.mark.parametrize("strict", [False, True])
def test_no_more_than_two_instances_are_open_at_once(
    strict: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place each is all that many servers have, and a Java machine each is much."""
    counts: list[int] = []
    make, alive = broken_envs.Line.__init__, set[int]()

    def counted(self: broken_envs.Line, *args: object, **kwargs: object) -> None:
        make(self, *args, **kwargs)
        alive.add(id(self))
        counts.append(len(alive))

    monkeypatch.setattr(broken_envs.Line, "__init__", counted)
    close = lambda self: alive.discard(id(self))  # noqa: E731
    monkeypatch.setattr(broken_envs.Line, "close", close, raising=False)
    assert check_env("broken_envs:Line", strict=strict) == []
    assert max(counts) == 2


def test_every_instance_is_closed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One may hold a place on a server, and there may be few of them."""
    alive: list[broken_envs.Line] = []
    make = broken_envs.Line.__init__

    def counted(self: broken_envs.Line, *args: object, **kwargs: object) -> None:
        make(self, *args, **kwargs)
        alive.append(self)

    monkeypatch.setattr(broken_envs.Line, "__init__", counted)
    monkeypatch.setattr(broken_envs.Line, "close", lambda self: alive.remove(self), raising=False)
    for name in ("Line", "RaisesOnReset", "RaisesOnUnreadable", "Unseeded"):
        check_env(f"broken_envs:{name}")
        assert alive == []
