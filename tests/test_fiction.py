"""TextWorld's games: made from a seed, mapped to the contract, followed by the oracle, garbage."""

from __future__ import annotations

import json
import pickle
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from garbage import answers, many
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopd import make
from agentopd.environment.check import check_env
from agentopd.environment.splits import split_of
from agentopd.envs.adapters import fiction_games
from agentopd.envs.adapters.fiction_games import KINDS

pytest.importorskip("textworld")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("games"))


def build(kind: str, cache: str | None, **options: Any) -> Any:
    return make(f"fiction:{kind}", {"cache": cache, **options})


def act(env: Any, command: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
    return env.step(f"<action>{command}</action>")


def follow(env: Any, info: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """What is earned by the oracle's first command of every turn, and the last info."""
    earned = 0.0
    while "oracle" in info:
        left = info["facts"]["steps_to_go"]
        assert left == len(info["oracle"].splitlines())
        command = info["oracle"].splitlines()[0]
        shown, reward, terminated, truncated, info = act(env, command)
        assert info["action_valid"] and info["mistake"] == "" and info["facts"]["nearer"]
        assert info["facts"]["steps_to_go"] == left - 1
        assert (terminated, truncated) == (info["success"], False)
        assert not any(sign in shown for sign in (">", "RESTART", "\n\n"))
        earned += reward
    return earned, info


@pytest.mark.parametrize("kind", KINDS)
def test_following_the_oracle_wins_and_earns_1(kind: str, cache: str) -> None:
    env = build(kind, cache)
    shown, info = env.reset(seed=0)
    assert "$" not in shown and "-= " in shown
    earned, last = follow(env, info)
    assert last["success"] and last["facts"]["won"] and earned == pytest.approx(1)
    assert last["facts"]["score"] == last["facts"]["max_score"]
    with pytest.raises(ValueError, match="call reset"):
        act(env, "look")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_following_the_oracle_wins_20_games(kind: str, cache: str) -> None:
    env = build(kind, cache)
    for seed in range(20):
        earned, last = follow(env, env.reset(seed=seed)[1])
        assert last["success"] and earned == pytest.approx(1), seed


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_wins_too(kind: str, cache: str) -> None:
    env = build(kind, cache)
    _, info = env.reset(seed=0)
    for command in info["reference"].splitlines():
        *_, info = act(env, command)
        assert info["action_valid"]
    assert info["success"]


def test_the_checker_finds_nothing(cache: str) -> None:
    assert check_env("fiction:coin_collector", {"cache": cache}, seeds=2) == []


def test_the_goal_is_what_to_reach_or_the_way_there(cache: str) -> None:
    shown, _ = build("coin_collector", cache).reset(seed=0)
    assert shown.splitlines()[0] == "Find the coin and take it."
    detailed, _ = build("coin_collector", cache, goal="detailed").reset(seed=0)
    way, _, room = detailed.partition("\n")
    assert "coin" in way and way.count(".") > 2
    assert shown.partition("\n")[2] == room


def test_a_command_is_judged_by_the_plans_before_and_after_it(cache: str) -> None:
    env = build("coin_collector", cache)
    _, info = env.reset(seed=0)
    first = info["oracle"].splitlines()[0]
    back = {"north": "south", "south": "north", "east": "west", "west": "east"}[first.split()[1]]
    told = [
        ("look", "no progress", False, 5),
        (first, "", True, 4),
        (f"go {back}", "leads away", False, 5),
        (first.upper(), "", True, 4),
    ]
    for command, mistake, nearer, left in told:
        *_, info = act(env, command)
        assert (info["mistake"], info["facts"]["nearer"]) == (mistake, nearer)
        assert info["facts"]["steps_to_go"] == left and info["action_valid"]
        assert info["feedback"].endswith(f"{left} to go.")


def test_what_a_game_cannot_do_is_its_own_to_say(cache: str) -> None:
    env = build("simple", cache)
    env.reset(seed=0)
    shown, _, _, _, info = act(env, "open wooden door")
    assert "lock" in shown and not info["action_valid"] and info["facts"]["well_formed"]
    assert info["mistake"] == "impossible action"


@pytest.mark.parametrize(
    "command",
    ["restart", "undo", "save", "quit", "tw-extra-infos score", "look. look", "look, look",
     "look then go east", "go " + "x" * 200, "", "[opening the door - succeeded]"],
)  # fmt: skip
def test_what_is_no_command_of_the_game_is_refused(command: str, cache: str) -> None:
    env = build("coin_collector", cache)
    _, before = env.reset(seed=0)
    shown, reward, terminated, truncated, info = act(env, command)
    assert shown == info["feedback"] and shown.startswith("Write one command that begins with drop")
    assert (reward, terminated, truncated) == (0, False, False)
    assert not info["action_valid"] and info["mistake"] == "unreadable action"
    assert info["oracle"] == before["oracle"]
    assert follow(env, info)[1]["success"]


def test_eating_the_food_loses(cache: str) -> None:
    env = build("simple", cache)
    _, info = env.reset(seed=0)
    while not (command := info["oracle"].splitlines()[0]).startswith("put "):
        *_, info = act(env, command)
    food = command.removeprefix("put ").removesuffix(" on stove")
    _, _, terminated, truncated, info = act(env, f"eat {food}")
    assert (terminated, truncated, info["success"]) == (True, False, False)
    assert info["mistake"] == "loses" and "oracle" not in info
    assert info["facts"]["lost"] and not info["facts"]["solvable"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_oracle_finds_the_way_from_wherever_one_went(kind: str, cache: str) -> None:
    env = build(kind, cache, max_turns=100)
    for seed in range(6):
        rng = random.Random(seed)
        _, info = env.reset(seed=0)
        over = False
        for _ in range(12):
            command = rng.choice(env._state["admissible_commands"])
            _, _, terminated, _, info = act(env, command)
            assert info["action_valid"], command
            over = over or terminated
            if over:
                break
        assert over or info["facts"]["solvable"] == ("oracle" in info)
        while "oracle" in info:
            *_, info = act(env, info["oracle"].splitlines()[0])
        assert info["success"] or info["facts"]["lost"] or not info["facts"]["solvable"]


def test_commands_are_listed_where_that_is_wanted(cache: str) -> None:
    env = build("coin_collector", cache, show_commands=True)
    shown, info = env.reset(seed=0)
    assert shown == env.render() and "\nCommands: go " in shown and shown.endswith(", look.")
    assert "Commands:" in act(env, "nonsense")[0]
    plain, _ = build("coin_collector", cache).reset(seed=0)
    assert shown.startswith(plain) and "Commands:" not in plain
    while "oracle" in info:
        shown, *_, info = act(env, info["oracle"].splitlines()[0])
    assert "Commands:" not in shown


def test_turns_that_cannot_be_read_count(cache: str) -> None:
    env = build("coin_collector", cache, max_turns=5)
    env.reset(seed=0)
    ends = [env.step(text)[2:4] for text in ("", "x", "<action>look</action>", "", "")]
    assert ends == [(False, False)] * 4 + [(False, True)]
    with pytest.raises(ValueError, match="5 steps cannot be solved in 4 turns"):
        build("coin_collector", cache, max_turns=4).reset(seed=0)


def test_two_instances_do_not_disturb_each_other(cache: str) -> None:
    def told(env: Any, seed: int) -> Any:
        _, info = env.reset(seed=seed)
        yield info
        while "oracle" in info:
            shown, *_, info = act(env, info["oracle"].splitlines()[0])
            yield shown, info

    def fresh() -> tuple[Any, Any]:
        return told(build("coin_collector", cache), 0), told(build("coin_collector", cache), 1)

    alone = [list(game) for game in fresh()]
    together = list(zip(*fresh(), strict=True))
    assert alone[0] != alone[1]
    assert [list(game) for game in zip(*together, strict=True)] == alone


def test_the_global_random_states_are_left_alone() -> None:
    random.seed(5)
    np.random.seed(5)
    before = pickle.dumps((random.getstate(), np.random.get_state()))
    env = build("treasure_hunter", None)
    fiction_games.story.cache_clear()
    first, info = env.reset(seed=0)
    follow(env, info)
    assert pickle.dumps((random.getstate(), np.random.get_state())) == before
    random.seed(6)
    np.random.seed(6)
    fiction_games.story.cache_clear()
    assert build("treasure_hunter", None).reset(seed=0) == (first, info)


def test_games_leave_no_files_but_in_the_cache(
    cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build("coin_collector", cache).reset(seed=0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fiction_games.story.cache_clear()
    monkeypatch.setattr(fiction_games, "_made", None)
    env = build("coin_collector", cache)
    follow(env, env.reset(seed=0)[1])
    assert list(tmp_path.iterdir()) == []
    endings = {path.suffix for path in Path(cache).rglob("*") if path.is_file()}
    assert endings == {".z8", ".json"}
    env.close()
    env.close()


def test_splits_share_no_game(cache: str) -> None:
    drawn = {}
    for split in ("train", "validation"):
        env = build("coin_collector", cache, split=split)
        _, info = env.reset(seed=0)
        kind, named, number = info["task_id"].split("/")
        assert (kind, named, split_of(kind, number)) == ("coin_collector", split, split)
        drawn[split] = number
    assert len(set(drawn.values())) == 2


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("zork", {}, "the game is one of simple, coin_collector"),
        ("simple", {"level": 3}, "simple has no setting 'level'; it takes: rewards, test"),
        ("simple", {"rewards": "none"}, "rewards is one of dense"),
        ("simple", {"test": "yes"}, "test is one of True, False"),
        ("coin_collector", {"level": 301}, "level is a whole number from 1 to 300"),
        ("treasure_hunter", {"level": 31}, "level is a whole number from 1 to 30"),
        ("cooking", {"take": 2}, "2 ingredients cannot be fetched for a recipe of 1"),
        ("cooking", {"go": 2}, "go is one of 1, 6, 9, 12"),
        ("custom", {"rooms": 0}, "rooms is a whole number from 1 to 100"),
        ("custom", {"prompt": "long"}, "prompt is one of full, brief"),
        ("custom", {"goal": "none"}, "goal is one of brief, detailed"),
        ("custom", {"max_turns": 0}, "max_turns is a whole number"),
        ("custom", {"split": "dev"}, "split is one of train"),
    ],
)
def test_what_cannot_be_built(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(kind, None, **options)


def test_what_textworld_cannot_make_is_said_in_a_line(cache: str) -> None:
    with pytest.raises(ValueError, match=r"makes no coin_collector of .*more than 100 rooms"):
        build("coin_collector", cache, level=160, max_turns=100).reset(seed=0)
    with pytest.raises(ValueError, match="takes no options at reset"):
        build("coin_collector", cache).reset(seed=0, options={"task": "x"})


@settings(deadline=None, max_examples=50)
@given(
    texts=many(
        answers
        | st.sampled_from(["take all", "go east", "look", "open door", "examine", "take coin"]).map(
            "<action>{}</action>".format
        )
    )
)
def test_no_text_raises_and_every_answer_keeps_the_contract(cache: str, texts: list[str]) -> None:
    """A thousand answers."""
    env = build("coin_collector", cache, max_turns=30)
    env.reset(seed=0)
    for text in texts:
        shown, _, terminated, truncated, info = env.step(text)
        assert shown == env.render() and not truncated
        assert json.loads(json.dumps(info)) == info
        assert info["action_valid"] or not terminated
        if terminated:
            env.reset(seed=0)
    env.close()
