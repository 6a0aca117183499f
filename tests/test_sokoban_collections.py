"""Collections of Sokoban levels as an environment: which are played, for how many turns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentopd.environment.check import check_env
from agentopd.envs.sokoban.env import Sokoban
from agentopd.envs.sokoban.generate import SPLITS, LevelSpec, generate

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
