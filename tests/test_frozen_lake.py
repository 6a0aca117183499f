"""FrozenLake in words, against Gymnasium's own lake and chances worked out by hand."""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium
import pytest

from agentopd.environment.splits import split_of
from agentopd.envs.frozen_lake import MOVES, FrozenLake, Ice, canonical, read_map

LAKE = "SFH FFF HFG"


def play(task: str, *moves: str, **options: Any) -> list[tuple[str, float, bool, bool, dict]]:
    env = FrozenLake(**options)
    env.reset(seed=0, options={"task": task})
    return [env.step(f"<action>{move}</action>") for move in moves]


def test_a_lake_move_by_move() -> None:
    env = FrozenLake()
    shown, info = env.reset(options={"task": LAKE})
    assert shown == "You: row 1 column 1. Goal: row 3 column 3. Holes (row,column): 1,3 3,1."
    assert info["oracle"] == info["reference"] == "down right down right"
    assert info["facts"] == {"solvable": True, "moves_left": 4}
    assert info["task_id"] == "frozen_lake/own/SFH FFF HFG"
    shown, reward, terminated, truncated, info = env.step("<action>right</action>")
    assert shown == "You: row 1 column 2. Goal: row 3 column 3. Holes (row,column): 1,3 3,1."
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert (info["feedback"], info["mistake"]) == ("right moves closer, 3 to go.", "")
    for move in ("down", "down"):
        env.step(f"<action>{move}</action>")
    shown, reward, terminated, truncated, info = env.step("<action> R </action>")
    assert shown == "You: row 3 column 3. You are at the goal."
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert info["feedback"] == "right reaches the goal."
    assert info["facts"]["moves_left"] == 0


@pytest.mark.parametrize(
    ("moves", "mistake", "feedback", "over"),
    [
        ("up", "edge", "up hits the edge, 4 to go.", False),
        ("right left", "away", "left moves away, 4 to go.", False),
        ("right right", "hole", "right steps into a hole, it is lost.", True),
        ("right down", "", "down moves closer, 2 to go.", False),
    ],
)
def test_the_comment_on_the_last_of_some_moves(
    moves: str, mistake: str, feedback: str, over: bool
) -> None:
    shown, reward, terminated, truncated, info = play(LAKE, *moves.split())[-1]
    assert (info["mistake"], info["feedback"]) == (mistake, feedback)
    assert (terminated, truncated, reward, info["success"]) == (over, False, 0.0, False)
    facts = info["facts"]
    assert facts["best"] is facts["moves_closer"] is (not mistake)
    assert facts["fell"] is over is ("oracle" not in info)
    assert facts["hit_edge"] is (mistake == "edge") is not facts["moved"]
    assert facts["solvable"] is not over
    assert (shown == "You are in a hole.") is over


def test_a_drawn_map() -> None:
    shown, *_ = play(LAKE, "down", view="grid")[-1]
    assert shown == "..O\n@..\nO.G"


def test_a_word_that_is_no_move() -> None:
    shown, *_, info = play(LAKE, "north")[-1]
    assert shown.startswith("'north' is not a move: use up, down, left or right.\nYou: row 1")
    assert not info["action_valid"]


def walk(rows: tuple[str, ...]) -> int | None:
    """The fewest moves from S to G, by a search over the letters."""
    cells = {(r, c): letter for r, row in enumerate(rows) for c, letter in enumerate(row)}
    start = next(at for at, letter in cells.items() if letter == "S")
    found, queue = {start: 0}, deque([start])
    while queue:
        r, c = queue.popleft()
        for at in ((r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)):
            if cells.get(at, "H") != "H" and at not in found:
                found[at] = found[r, c] + 1
                queue.append(at)
    return next(found.get(at) for at, letter in cells.items() if letter == "G")


@pytest.mark.parametrize("size", [3, 4, 7])
def test_the_oracle_is_a_shortest_way_and_lies_in_the_band(size: int) -> None:
    env = FrozenLake(size=size, holes=size, min_moves=3, max_moves=6)
    for seed in range(30):
        _, info = env.reset(seed=seed)
        rows = env.ice.rows
        assert len(info["oracle"].split()) == walk(rows) == info["facts"]["moves_left"]
        assert 3 <= info["facts"]["moves_left"] <= 6
        letters = "".join(rows)
        assert [letters.count(x) for x in "SGH"] == [1, 1, size]


def test_mirror_images_and_rotations_lie_in_the_same_split() -> None:
    rows = ("SFH", "FFF", "FHG")
    mirrored = ("HFS", "FFF", "GHF")
    turned = ("FFS", "HFF", "GFH")
    flipped = ("FHG", "FFF", "SFH")
    keys = {canonical(r) for r in (rows, mirrored, turned, flipped)}
    assert len(keys) == 1
    assert canonical(("SFH", "FFF", "HFG")) not in keys
    for split in ("train", "validation", "test"):
        env = FrozenLake(split=split)
        for seed in range(20):
            env.reset(seed=seed)
            assert split_of("frozen_lake", canonical(env.ice.rows)) == split


def test_gymnasium_moves_the_player() -> None:
    """Slips included, every step is the one that Gymnasium's own environment makes."""
    env = FrozenLake(slippery=True, max_turns=60)
    for seed in range(20):
        env.reset(seed=seed)
        theirs = gymnasium.make("FrozenLake-v1", desc=list(env.ice.rows), is_slippery=True)
        assert theirs.reset(seed=seed)[0] == env.cell
        terminated = False
        for turn in range(60):
            move = MOVES[turn * 7 % 4]
            _, reward, terminated, *_ = env.step(f"<action>{move}</action>")
            there, paid, over, *_ = theirs.step(MOVES.index(move))
            assert (env.cell, reward, terminated) == (there, paid, over)
            if terminated:
                break


def test_chances_on_slippery_ice_by_hand() -> None:
    """On `SG`, right, up and down each slide onto the goal with 1/3; left never does."""
    ice = Ice(("SG",), slippery=True, success_rate=1 / 3, turns=3)
    assert [ice.chance(0, k) for k in range(4)] == pytest.approx([0, 1 / 3, 5 / 9, 19 / 27])
    assert [ice.is_best(0, action, 3) for action in range(4)] == [False, True, True, True]
    # 0.8 forwards and 0.1 to either side: only right is best, and up goes right in 0.1
    ice = Ice(("SG",), slippery=True, success_rate=0.8, turns=2)
    assert [ice.chance(0, k) for k in range(3)] == pytest.approx([0, 0.8, 0.96])
    assert ice.best(0, 2) == MOVES.index("right")


def test_the_best_move_beside_a_hole_is_away_from_it() -> None:
    """Over a hole, up slides left, up or right: along a lake of one open row it is safe for ever.

    Right may slide down into the hole, so up is better as soon as there is time for it.
    """
    env = FrozenLake(slippery=True, max_turns=50)
    _, info = env.reset(seed=1, options={"task": "SFG HHH"})
    assert info["oracle"] == "up"
    assert info["facts"]["chance"] > 0.99
    assert info["reference"] == "up up G\nH H H"
    *_, info = env.step("<action>right</action>")
    assert (info["mistake"], info["facts"]["best"]) == ("risk", False)
    assert info["feedback"].startswith("right was not the best move")


def test_a_good_move_that_ends_badly_is_no_mistake() -> None:
    """In a lane between holes, right slides into one with 2/3, down with 1/3 alone.

    Down from the start stays, falls or reaches the middle, from where it reaches the goal with
    1/3: in two turns that is 1/9.
    """
    fallen = set()
    for seed in range(20):
        env = FrozenLake(slippery=True, max_moves=2, max_turns=2)
        _, info = env.reset(seed=seed, options={"task": "HHH SFG HHH"})
        assert info["oracle"] == "down"
        assert info["facts"]["chance"] == pytest.approx(1 / 9)
        *_, info = env.step("<action>down</action>")
        assert info["mistake"] == ""
        assert info["facts"]["best"]
        assert info["facts"]["slipped"] is not info["facts"]["fell"]
        said = "it ends in a hole." if info["facts"]["fell"] else "the chance is "
        assert said in info["feedback"]
        assert ("slid" in info["feedback"]) is info["facts"]["slipped"]
        fallen.add(info["facts"]["fell"])
    assert fallen == {True, False}


def test_a_move_is_judged_with_the_turns_it_had() -> None:
    """With two turns left, left in that lane never reaches the goal; with one, no move does."""
    *_, info = play("HHH SFG HHH", "left", slippery=True, max_moves=2, max_turns=2)[-1]
    assert (info["mistake"], info["facts"]["best"]) == ("risk", False)


def test_the_oracle_on_slippery_ice_succeeds_as_often_as_it_says() -> None:
    env = FrozenLake(slippery=True, min_chance=0.3, max_turns=20)
    promised = solved = 0.0
    for seed in range(400):
        _, info = env.reset(seed=seed)
        assert info["facts"]["chance"] >= 0.3
        promised += info["facts"]["chance"]
        over = False
        while not over:
            *_, terminated, truncated, info = env.step(f"<action>{info['oracle']}</action>")
            over = terminated or truncated
        solved += info["success"]
    assert solved / 400 == pytest.approx(promised / 400, abs=0.08), "4 standard errors"


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("SFG FF", "rows of equal length"),
        ("SXG", "rows of equal length"),
        ("", "rows of equal length"),
        ("SFF", "one start S and one goal G"),
        ("SSG", "one start S and one goal G"),
        ("SHG", "cannot be reached in 12 turns"),
    ],
)
def test_maps_that_cannot_be_played(task: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrozenLake().reset(options={"task": task})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 1}, "size is a whole number from 2 to 16, not 1"),
        ({"holes": 15}, "holes is a whole number from 0 to 14, not 15"),
        ({"view": "map"}, "view is one of words, grid"),
        ({"min_moves": 9}, "max_moves is a whole number at least 9, not 8"),
        ({"max_moves": 13}, "13 moves cannot be solved in 12 turns"),
        ({"success_rate": 0.0}, "success_rate lies above 0"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrozenLake(**options)


def test_a_band_that_no_lake_fits_is_refused() -> None:
    with pytest.raises(ValueError, match="no task of frozen_lake in the split 'train' fits size=2"):
        FrozenLake(size=2, holes=0, min_moves=3, max_moves=3).reset(seed=0)


def test_a_map_is_read_in_either_case() -> None:
    assert read_map("sf\nhg") == ("SF", "HG")
