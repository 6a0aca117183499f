"""Countdown: the search against a search over expressions, and sums by hand."""

from __future__ import annotations

import itertools
import random
from functools import cache
from typing import Any

import pytest

from agentopd.environment.splits import split_of
from agentopd.envs.countdown import Countdown, Search, sums


def play(task: str, *steps: str, **options: Any) -> list[tuple[str, float, bool, bool, dict]]:
    env = Countdown(**options)
    env.reset(options={"task": task})
    return [env.step(f"<action>{step}</action>") for step in steps]


def test_a_task_step_by_step() -> None:
    env = Countdown()
    shown, info = env.reset(options={"task": "9 3 7 > 34"})
    assert shown == "Numbers: 3 7 9. Target: 34."
    assert info["oracle"] == info["reference"] == "9*3 27+7"
    assert info["task_id"] == "countdown/own/3 7 9 > 34"
    assert info["facts"] == {"solvable": True, "steps_left": 2, "numbers_left": 3, "nearest": 25}
    shown, reward, terminated, _, info = env.step("<action>3 x 9 = 27</action>")
    assert shown == "3*9 = 27.\nNumbers: 7 27. Target: 34."
    assert (reward, terminated) == (0.0, False)
    assert (info["feedback"], info["oracle"]) == ("3*9 helps, 1 to go.", "27+7")
    shown, reward, terminated, truncated, info = env.step("<action>27+7</action>")
    assert shown == "27+7 = 34.\nNumbers: 34. Target: 34."
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)
    assert (info["feedback"], info["mistake"]) == ("27+7 solves it.", "")


def test_the_oracle_takes_a_dead_end_back() -> None:
    *_, (_, _, terminated, _, info) = play("9 3 7 > 34", "9-7")
    assert (info["mistake"], info["feedback"], terminated) == (
        "dead end",
        "9-7 is a dead end, 3 to go.",
        False,
    )
    assert info["oracle"] == "undo 9*3 27+7"
    assert (info["facts"]["solvable"], info["facts"]["steps_left"]) == (False, 3)
    shown, *_, info = play("9 3 7 > 34", "9-7", "undo")[-1]
    assert shown == "Undone.\nNumbers: 3 7 9. Target: 34."
    assert info["feedback"] == "undo helps, 2 to go."
    assert info["facts"]["undone"] and info["facts"]["moves_closer"] and info["facts"]["legal"]
    *_, info = play("9 3 7 > 34", "9-7", "3-2")[-1]
    assert info["oracle"] == "undo undo 9*3 27+7"


def test_the_oracle_takes_back_what_costs_more_to_go_on_from() -> None:
    """From 1 3 5 7 the way on takes three steps, 3-1, 7+2 and 9*5; back and 9*5 are two."""
    *_, info = play("1 2 3 5 9 > 45", "9-2")[-1]
    assert info["oracle"] == "undo 9*5"
    assert (info["mistake"], info["feedback"]) == ("away", "9-2 does not help, 2 to go.")
    assert info["facts"]["solvable"] is True


def test_taking_a_good_step_back_is_a_mistake() -> None:
    *_, info = play("9 3 7 > 34", "9*3", "UNDO")[-1]
    assert (info["mistake"], info["feedback"]) == ("away", "undo does not help, 2 to go.")


@pytest.mark.parametrize(
    ("step", "note", "mistake"),
    [
        ("3+8", "3 and 8 are not both there.", "missing number"),
        ("9+9", "9 and 9 are not both there.", "missing number"),
        ("3-7", "3-7 is no whole number above 0.", "no whole number"),
        ("9/7", "9/7 is no whole number above 0.", "no whole number"),
        ("9*3=28", "9*3 is not 28.", "arithmetic"),
        ("undo", "There is nothing to undo.", "illegal"),
    ],
)
def test_steps_against_the_rules_change_nothing(step: str, note: str, mistake: str) -> None:
    shown, reward, terminated, truncated, info = play("9 3 7 > 34", step)[-1]
    assert shown == f"{note}\nNumbers: 3 7 9. Target: 34."
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert (info["mistake"], info["action_valid"]) == (mistake, True)
    assert info["feedback"] == f"{step.split('=')[0]} is not allowed ({mistake}), 2 to go."
    assert info["facts"]["legal"] is info["facts"]["moves_closer"] is False


@pytest.mark.parametrize("step", ["9x3", "9 X 3", "9\u00d73", "9 * 3=27", "3*9"])
def test_ways_to_write_a_product(step: str) -> None:
    shown, *_, info = play("9 3 7 > 34", step)[-1]
    assert "= 27.\nNumbers: 7 27." in shown
    assert info["action_valid"]


@pytest.mark.parametrize("step", ["9", "9**3", "-9+3", "9+3+7", "9*3=", "", "9" * 5_000 + "+1"])
def test_what_is_no_step_is_explained(step: str) -> None:
    shown, *_, info = play("9 3 7 > 34", step)[-1]
    assert shown.startswith(f"{step[:20]!r} is not a step: write a+b, a-b, a*b or a/b.\n")
    assert not info["action_valid"]


def test_a_quotient_and_a_difference() -> None:
    shown, *_ = play("8 2 9 > 13", "8/2")[-1]
    assert shown == "8/2 = 4.\nNumbers: 4 9. Target: 13."
    shown, *_ = play("8 2 9 > 13", "8-2")[-1]
    assert shown == "8-2 = 6.\nNumbers: 6 9. Target: 13."


def test_all_numbers_must_be_used_where_that_is_asked_for() -> None:
    _, reward, terminated, _, info = play("2 3 4 6 > 7", "3+4")[-1]
    assert (reward, terminated) == (1.0, True)
    env = Countdown(use_all=True, max_steps=3)
    _, info = env.reset(options={"task": "2 3 4 6 > 7"})
    assert len(info["oracle"].split()) == 3
    _, reward, terminated, _, info = env.step("<action>3+4</action>")
    assert (reward, terminated, info["success"]) == (0.0, False, False)
    assert "using up all" in env.system_prompt


def values(numbers: tuple[int, ...]) -> set[int]:
    """What expressions come to that use every one of the numbers: by splitting them in two."""
    return set(_values(tuple(sorted(numbers))))


@cache
def _values(numbers: tuple[int, ...]) -> frozenset[int]:
    if len(numbers) == 1:
        return frozenset(numbers)
    found: set[int] = set()
    places = range(len(numbers))
    for size in range(1, len(numbers) // 2 + 1):
        for chosen in itertools.combinations(places, size):
            one = tuple(numbers[i] for i in chosen)
            two = tuple(numbers[i] for i in places if i not in chosen)
            for a, b in itertools.product(values(one), values(two)):
                found |= {a + b, a * b, abs(a - b)} - {0}
                found |= {x // y for x, y in ((a, b), (b, a)) if x % y == 0}
    return frozenset(found)


def fewest(numbers: tuple[int, ...], target: int, use_all: bool) -> int | None:
    """The fewest sums: one less than the numbers of the smallest expression."""
    sizes = [len(numbers)] if use_all else range(1, len(numbers) + 1)
    for size in sizes:
        if any(target in values(part) for part in itertools.combinations(numbers, size)):
            return size - 1
    return None


@pytest.mark.parametrize("use_all", [False, True])
def test_plans_are_as_short_as_the_smallest_expression(use_all: bool) -> None:
    rng = random.Random(5)
    lengths = set()
    for _ in range(150):
        numbers = tuple(sorted(rng.randint(1, 12) for _ in range(rng.randint(2, 4))))
        target = rng.randint(2, 60)
        plan = Search(target, use_all).plan(numbers)
        assert (None if plan is None else len(plan)) == fewest(numbers, target, use_all)
        lengths.add(plan and len(plan))
    assert {None, 1, 2, 3} <= lengths if not use_all else {None, 3} <= lengths


def test_steps_are_all_that_the_rules_allow_and_no_more() -> None:
    found = {f"{a}{sign}{b}": after for (a, sign, b), after in sums((2, 2, 6))}
    assert found == {
        "2+2": (4, 6),
        "2*2": (4, 6),
        "2/2": (1, 6),
        "6+2": (2, 8),
        "6-2": (2, 4),
        "6*2": (2, 12),
        "6/2": (2, 3),
    }


def test_tasks_lie_in_the_band_and_the_split() -> None:
    for split in ("train", "validation", "test"):
        env = Countdown(split=split, numbers=4, min_steps=3, max_steps=3, max_target=30)
        for seed in range(15):
            _, info = env.reset(seed=seed)
            assert fewest(env.start, env.target, False) == 3 == len(info["oracle"].split())
            assert len(env.start) == 4 and max(env.start) <= 10 and 1 < env.target <= 30
            numbers = " ".join(map(str, env.start))
            assert split_of("countdown", f"{numbers} > {env.target}") == split


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("1 1 > 50", "has no solution"),
        ("3 4 > 4", "is solved at its start"),
        ("3 4", "a task is two to five numbers"),
        ("3 0 > 3", "a task is two to five numbers"),
        ("1 2 3 4 5 6 > 7", "a task is two to five numbers"),
        ("3 \u00b2 > 3", "a task is two to five numbers"),
    ],
)
def test_tasks_that_cannot_be_played(task: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Countdown().reset(options={"task": task})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"numbers": 6}, "numbers is a whole number from 2 to 5"),
        ({"numbers": 2}, "2 numbers take at most 1 steps, which is not in 2-3"),
        ({"use_all": True, "max_steps": 2}, "4 numbers take exactly 3 steps"),
        ({"max_turns": 2}, "3 steps cannot be solved in 2 turns"),
        ({"max_target": 1}, "max_target is a whole number from 2"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Countdown(**options)
