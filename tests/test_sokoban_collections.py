"""Collections of Sokoban levels as an environment: which are played, for how many turns."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopd.environment.check import check_env
from agentopd.envs.sokoban import collection
from agentopd.envs.sokoban.collection import SEARCHED_WHOLE
from agentopd.envs.sokoban.env import Sokoban
from agentopd.envs.sokoban.generate import SPLITS, LevelSpec, generate
from agentopd.envs.sokoban.levels import LevelError, _board, board_key, parse_level

LEVELS = Path(__file__).parent / "levels"
CORRIDOR = "######\n#@_$.#\n######"
ROOM = "######\n#____#\n#@$__#\n#___.#\n######"


def test_a_collection_is_played_by_its_number(tmp_path: Path) -> None:
    (tmp_path / "levels.txt").write_text(f"{CORRIDOR}\n\n{ROOM}\n")
    env = Sokoban(levels=str(tmp_path))
    boards = [env.reset(seed=seed)[0] for seed in range(4)]
    assert boards == [CORRIDOR, ROOM, CORRIDOR, ROOM]
    ids = [env.reset(seed=seed)[1]["task_id"] for seed in range(4)]
    assert ids[:2] == ids[2:]
    assert ids[0] != ids[1]


def test_a_public_collection_is_solved_by_following_the_oracle() -> None:
    env = Sokoban(levels=str(LEVELS), search_limit=60_000)
    assert env.collection is not None
    assert len(env.collection) == 12
    for seed in range(12):
        _, info = env.reset(seed=seed)
        assert env.max_turns == 2 * len(info["oracle"].split()) > 12
        terminated = truncated = False
        while not (terminated or truncated):
            action = info["oracle"].partition(" ")[0]
            _, _, terminated, truncated, info = env.step(f"<action>{action}</action>")
        assert info["success"]


def test_the_turns_suffice_for_the_best_plan_of_a_level_of_your_own(tmp_path: Path) -> None:
    wide = f"{'#' * 12}\n#@$_______.#\n{'#' * 12}"
    (tmp_path / "levels.txt").write_text(f"{CORRIDOR}\n\n{wide}\n")

    def limits(**options: Any) -> list[int]:
        env = Sokoban(levels=str(tmp_path), **options)
        return [env.reset(seed=seed) and env.turn_limit for seed in (0, 1, 0)]

    assert limits() == [12, 16, 12], "eight pushes"
    assert limits(moves_per_turn=3) == [12, 12, 12]
    assert limits(search_limit=0) == [200] * 3, "no plan is looked for"
    assert limits(max_turns=5) == [5] * 3
    env = Sokoban()
    env.reset(options={"level": wide})
    assert env.turn_limit == 16
    env.reset(seed=0)
    assert env.turn_limit == 12, "generated"


def test_the_checker_finds_nothing_wrong_with_a_collection(tmp_path: Path) -> None:
    rooms = (f"{'#' * n}\n#@$_{'_' * (n - 6)}.#\n{'#' * n}" for n in (12, 13, 14))
    (tmp_path / "levels.txt").write_text("\n\n".join(rooms))
    assert check_env("agentopd/Sokoban-v0", {"levels": str(tmp_path)}, seeds=3) == []


def test_a_collection_is_divided_into_splits_only_where_one_is_named(tmp_path: Path) -> None:
    boards = [generate(LevelSpec(), seed, split)[0].render() for split in SPLITS for seed in (1, 2)]
    file = tmp_path / "levels.txt"
    file.write_text("\n\n".join(boards))

    def played(split: Any) -> list[str]:
        env = Sokoban(levels=str(file), split=split)
        return [env.reset(seed=seed)[0] for seed in range(6)]

    assert played(None) == boards
    for place, split in enumerate(SPLITS):
        assert played(split) == boards[2 * place : 2 * place + 2] * 3


def test_a_collection_without_a_level_of_the_split_is_refused(tmp_path: Path) -> None:
    level, _ = generate(LevelSpec(), 0, "test")
    (tmp_path / "one.txt").write_text(level.render())
    with pytest.raises(ValueError, match=r"none of the 1 levels .* the split 'train'"):
        Sokoban(levels=str(tmp_path), split="train")


def _played(levels: Path, seeds: range = range(6), **options: Any) -> list[str]:
    env = Sokoban(levels=str(levels), **options)
    return [env.reset(seed=seed)[0] for seed in seeds]


def test_the_levels_of_a_collection_are_chosen_by_what_they_show_and_how_hard_they_are(
    tmp_path: Path,
) -> None:
    two = "#######\n#@$.$.#\n#_____#\n#######"
    file = tmp_path / "levels.txt"
    file.write_text("\n\n".join((CORRIDOR, ROOM, two)))
    assert _played(file, boxes=2) == [two] * 6
    assert _played(file, height=3) == [CORRIDOR] * 6
    assert _played(file, width=6) == [CORRIDOR, ROOM] * 3
    assert _played(file, max_moves=2) == [CORRIDOR] * 6, "its plan takes two moves"
    assert _played(file, min_moves=3, boxes=1) == [ROOM] * 6
    assert _played(file, max_pushes=2) == [CORRIDOR, two] * 3
    env = Sokoban(levels=str(file), max_moves=2)
    assert env.reset(seed=0)[1]["oracle"] == "right right"
    assert env.turn_limit == 12


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"boxes": 3}, "none of the 2 levels of .* has boxes=3"),
        ({"min_moves": 50}, "none of 2 levels of .* has a plan with min_moves=50: widen the band"),
        ({"min_moves": 5, "max_moves": 4}, "no plan lies between min_moves=5 and max_moves=4"),
        ({"max_moves": 4, "search_limit": 0}, "search_limit=0 looks for none"),
        ({"boxez": 3}, "did you mean 'boxes'"),
    ],
)
def test_where_no_level_is_left_that_is_said(
    options: dict[str, Any], says: str, tmp_path: Path
) -> None:
    (tmp_path / "levels.txt").write_text(f"{CORRIDOR}\n\n{ROOM}\n")
    with pytest.raises(ValueError, match=says):
        _played(tmp_path, **options)


def test_of_many_levels_a_random_one_of_the_band_is_played(tmp_path: Path) -> None:
    def corridor(length: int) -> str:
        return f"{'#' * (length + 4)}\n#@${'_' * (length - 1)}.#\n{'#' * (length + 4)}"

    lengths = [1 + n % 40 for n in range(SEARCHED_WHOLE + 1)]
    (tmp_path / "levels.txt").write_text("\n\n".join(map(corridor, lengths)))
    found = _played(tmp_path, range(40), min_pushes=3, max_pushes=6)
    assert set(found) == {corridor(length) for length in (3, 4, 5, 6)}
    assert found == _played(tmp_path, range(40), min_pushes=3, max_pushes=6)


def test_files_are_read_once_until_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    real = collection.read_boards
    monkeypatch.setattr(collection, "read_boards", lambda path: read.append(path) or real(path))
    file = tmp_path / "levels.txt"
    file.write_text(CORRIDOR)
    for _ in range(3):
        assert _played(tmp_path, range(1)) == [CORRIDOR]
    assert len(read) == 1
    file.write_text(f"{ROOM}\n")
    assert _played(tmp_path, range(1)) == [ROOM]
    assert len(read) == 2


@given(st.lists(st.lists(st.sampled_from("#.$*@+ -_"), min_size=1, max_size=7), max_size=6))
def test_what_is_counted_in_order_is_what_is_parsed_in_order(rows: list[list[str]]) -> None:
    """Levels that are only counted are those that parsing accepts, and look the same."""
    block = ["#" + "".join(row) + "#" for row in rows]
    expected = found = None
    with contextlib.suppress(LevelError):
        expected = parse_level("\n".join(block)).render() if block else None
    with contextlib.suppress(LevelError):
        found = _board(block) if block else None
    assert found == expected
    if found is not None:
        assert board_key(found) == parse_level(found).key
