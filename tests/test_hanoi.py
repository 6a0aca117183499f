"""Hanoi: distances against the recursion everybody knows, and rules by hand."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from agentopd.environment.splits import split_of
from agentopd.envs.hanoi import PEGS, Hanoi, canonical, distances, moves


def play(task: str, *actions: str, **options: Any) -> list[tuple[str, float, bool, bool, dict]]:
    env = Hanoi(**options)
    env.reset(options={"task": task})
    return [env.step(f"<action>{action}</action>") for action in actions]


def test_two_disks_move_by_move() -> None:
    env = Hanoi(disks=2)
    shown, info = env.reset(options={"task": "AA>CC"})
    assert shown == "A: 2 1\nB: -\nC: -\nGoal: A: -; B: -; C: 2 1"
    assert info["oracle"] == info["reference"] == "AB AC BC"
    assert info["facts"] == {"moves_left": 3, "disks_placed": 0, "largest_placed": False}
    shown, reward, terminated, _, info = env.step("<action>AB</action>")
    assert shown == "A: 2\nB: 1\nC: -\nGoal: A: -; B: -; C: 2 1"
    assert (reward, terminated, info["feedback"]) == (0.0, False, "AB moves closer, 2 to go.")
    *_, info = env.step("<action>ac</action>")
    assert info["facts"] == {
        "moves_left": 1,
        "disks_placed": 1,
        "largest_placed": True,
        "well_formed": True,
        "moves_closer": True,
        "legal": True,
        "same_disk": False,
    }
    shown, reward, terminated, truncated, info = env.step("<action>B to C</action>")
    assert shown == "A: -\nB: -\nC: 2 1\nGoal: A: -; B: -; C: 2 1"
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)
    assert info["feedback"] == "BC solves it."


@pytest.mark.parametrize(
    ("actions", "note", "mistake", "feedback"),
    [
        ("BA", "Not allowed: B is empty.", "illegal", "BA is not allowed, 3 to go."),
        ("AA", "Not allowed: A is named twice.", "illegal", "AA is not allowed, 3 to go."),
        (
            "AB AB",
            "Not allowed: disk 2 is larger than disk 1.",
            "illegal",
            "AB is not allowed, 2 to go.",
        ),
        ("AC", "", "detour", "AC is a detour, 3 to go."),
        ("AB BA", "", "away", "BA moves away, 3 to go."),
        ("AC CB", "", "", "CB moves closer, 2 to go."),
    ],
)
def test_the_comment_on_the_last_of_some_moves(
    actions: str, note: str, mistake: str, feedback: str
) -> None:
    shown, _, terminated, _, info = play("AA>CC", *actions.split(), disks=2)[-1]
    assert shown.startswith(note or "A: ")
    assert (info["mistake"], info["feedback"], terminated) == (mistake, feedback, False)
    assert info["action_valid"], "a move against the rules can be read"
    assert info["facts"]["legal"] is (mistake != "illegal")
    assert info["facts"]["same_disk"] is (actions in ("AB BA", "AC CB"))


@pytest.mark.parametrize("action", ["AC", "ac", "A C", "A->C", "A > C", "a to c", "A,C", "A-C"])
def test_ways_to_write_a_move(action: str) -> None:
    *_, info = play("AA>CC", action, disks=2)[-1]
    assert info["action_valid"] and info["facts"]["legal"]


@pytest.mark.parametrize("action", ["A", "AD", "ACB", "1 to 3", "", "A C B", "A\0C"])
def test_what_is_no_move_is_explained(action: str) -> None:
    shown, *_, info = play("AA>CC", action, disks=2)[-1]
    assert "is not a move: name two of the pegs ABC, as in AC.\nA: 2 1" in shown
    assert not info["action_valid"]


def to_tower(position: tuple[int, ...], peg: int) -> int:
    """The fewest moves to bring all disks to `peg`: the largest first, the rest out of its way."""
    if not position:
        return 0
    *rest, largest = position
    if largest == peg:
        return to_tower(tuple(rest), peg)
    aside = 3 - largest - peg
    return to_tower(tuple(rest), aside) + 2 ** len(rest)


@pytest.mark.parametrize("peg", range(3))
def test_distances_to_a_tower_are_those_of_the_recursion(peg: int) -> None:
    found = distances((peg,) * 5, 3)
    assert len(found) == 3**5
    for position in itertools.product(range(3), repeat=5):
        assert found[position] == to_tower(position, peg)
    assert max(found.values()) == 2**5 - 1


@pytest.mark.parametrize(("disks", "most"), [(3, 5), (4, 9), (5, 13), (6, 17)])
def test_four_pegs_take_the_moves_of_frame_and_stewart(disks: int, most: int) -> None:
    assert distances((3,) * disks, 4)[(0,) * disks] == most


def test_a_move_never_puts_a_disk_on_a_smaller_one() -> None:
    """From every position of three disks, by stacks instead of pegs of disks."""
    for position in itertools.product(range(3), repeat=3):
        stacks = [[disk for disk in (2, 1, 0) if position[disk] == peg] for peg in range(3)]
        allowed = {
            (a, b)
            for a, b in itertools.permutations(range(3), 2)
            if stacks[a] and (not stacks[b] or stacks[b][-1] > stacks[a][-1])
        }
        assert {move for move, _ in moves(position, 3)} == allowed
        for (a, b), after in moves(position, 3):
            disk = stacks[a][-1]
            assert after[disk] == b
            assert [after[d] for d in range(3) if d != disk] == [
                position[d] for d in range(3) if d != disk
            ]


def test_other_names_for_the_pegs_are_the_same_task() -> None:
    assert canonical(((0, 0, 1), (2, 2, 2)), 3) == canonical(((1, 1, 2), (0, 0, 0)), 3)
    assert canonical(((0, 0, 1), (2, 2, 2)), 3) != canonical(((0, 0, 1), (1, 1, 1)), 3)
    for split in ("train", "validation", "test"):
        env = Hanoi(split=split)
        for seed in range(20):
            env.reset(seed=seed)
            assert split_of("hanoi", canonical((env.start, env.goal), 3)) == split


def test_towers_and_bands() -> None:
    env = Hanoi(disks=5, goal="tower", min_moves=8, max_moves=12)
    for seed in range(30):
        _, info = env.reset(seed=seed)
        assert len(set(env.goal)) == 1
        assert 8 <= len(info["oracle"].split()) == to_tower(env.start, env.goal[0]) <= 12


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("AAA", "a task names 3 of the pegs ABC on either side"),
        ("AAA>CC", "a task names 3"),
        ("AAD>CCC", "a task names 3"),
        ("ABC>abc", "starts at its goal"),
    ],
)
def test_tasks_that_cannot_be_played(task: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Hanoi().reset(options={"task": task})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"disks": 0}, "disks is a whole number from 1 to 12"),
        ({"pegs": 6}, "pegs is a whole number from 3 to 5"),
        ({"disks": 9}, "9 disks on 3 pegs have 19683 positions"),
        ({"start": "A"}, "start is one of any, tower"),
        ({"max_moves": 15}, "15 moves cannot be solved in 12 turns"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Hanoi(**options)


def test_a_split_without_a_task_is_refused() -> None:
    """From tower to tower there is one task up to the names of the pegs."""
    empty = 0
    for split in ("train", "validation", "test"):
        try:
            Hanoi(disks=3, start="tower", goal="tower", split=split).reset(seed=0)
        except ValueError as error:
            assert "enlarge the puzzle" in str(error)
            empty += 1
    assert empty == 2


def test_there_are_names_for_the_most_pegs() -> None:
    assert len(set(PEGS)) == 5
