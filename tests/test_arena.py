"""TextArena's games: mapped to the contract, repeatable, and what is known of some of them."""

from __future__ import annotations

import json
import pickle
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from garbage import many, some_answers
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopd import make
from agentopd.environment.check import check_env
from agentopd.envs.adapters import arena_survey
from agentopd.envs.adapters.arena_library import game_names
from agentopd.envs.adapters.arena_survey import withstood

textarena = pytest.importorskip("textarena")

# One of each kind: hidden number, board, cards, numbers in the rules, NumPy, printing, no text.
GAMES = (
    "GuessTheNumber-v0",
    "TowerOfHanoi-v0",
    "Blackjack-v0",
    "Countdown-v0",
    "FrozenLake-v0-random",
    "LogicPuzzle-v0",
    "Minesweeper-v0-small",
    "Slitherlink-v0",
)
# Slow to generate, by seconds and by many.
SLOW = ("Sokoban-v0",)
LONG_TO_GENERATE = ("Sokoban-v0-medium", "Sudoku-v0-hard")
PAGE = (Path(__file__).parents[1] / "docs" / "textarena.md").read_text(encoding="utf-8")
PLAYABLE = re.findall(r"^\| ([\w-]+) \| [\d.,]+ \|", PAGE, re.MULTILINE)
KNOWN = (
    "GuessTheNumber-v0",
    "GuessTheNumber-v0-hardcore",
    "TowerOfHanoi-v0",
    "TowerOfHanoi-v0-hard",
)


def build(name: str, **options: Any) -> Any:
    return make(f"textarena:{name}", options)


def act(env: Any, *moves: str) -> list[tuple[str, float, bool, bool, dict[str, Any]]]:
    return [env.step(f"<action>{move}</action>") for move in moves]


def followed(env: Any, info: dict[str, Any]) -> tuple[list[str], tuple[Any, ...]]:
    """The moves of an episode played by the oracle, and its last result."""
    played, result = list[str](), tuple[Any, ...]()
    while "oracle" in info:
        played.append(info["oracle"].split()[0])
        result = act(env, played[-1])[0]
        info = result[4]
        assert info["action_valid"] and info["mistake"] == ""
    return played, result


def seed_of(number: int, **options: Any) -> int:
    env = build("GuessTheNumber-v0", **options)
    for seed in range(500):
        _, info = env.reset(seed=seed)
        if info["facts"]["number"] == number:
            return seed
    raise AssertionError(number)


@pytest.mark.parametrize("name", GAMES)
def test_the_checker_finds_no_error(name: str) -> None:
    errors = [found for found in check_env(f"textarena:{name}") if found.level == "error"]
    assert errors == []


@pytest.mark.parametrize("prompt", ["full", "brief"])
@pytest.mark.parametrize("name", KNOWN)
def test_following_the_oracle_wins_every_game(name: str, prompt: str) -> None:
    env = build(name, prompt=prompt)
    # Hanoi has one task.
    for seed in range(200 if name.startswith("Guess") else 3):
        _, info = env.reset(seed=seed)
        played, (_, *ends, last) = followed(env, info)
        assert (*ends, last["success"]) == (1.0, True, False, True), seed
        assert played == info["reference"].split()


def test_guess_the_number_word_for_word() -> None:
    env = build("GuessTheNumber-v0", prompt="brief")
    assert env.system_prompt == "Guess the number from 1 to 20, told higher or lower."
    assert env.max_turns == 10
    shown, info = env.reset(seed=seed_of(8))
    assert shown == "Make a guess."
    assert (info["oracle"], info["reference"]) == ("10", "10 5 7 8")
    assert info["facts"] == {"number": 8, "low": 1, "high": 20, "numbers_left": 20}
    assert (info["guide"], info["skill"]) == ("Guess the middle of what is left.", "GuessTheNumber")
    told = [
        ("10", "The target number is lower.", "", "10 is the middle; 1 to 9 is left.", "5"),
        ("[4]", "The target number is higher.", "off the middle",
         "4 is off the middle 5; 5 to 9 is left.", "7"),
        ("3", "The target number is higher.", "ruled out",
         "3 was ruled out before; 5 to 9 is left.", "7"),
        ("4", "Invalid move. Player 0 has already guessed the number.", "refused action",
         "Invalid move. Player 0 has already guessed the number.", "7"),
        ("99", "Invalid move. Player 0 guessed a number outside the range specified.",
         "refused action",
         "Invalid move. Player 0 guessed a number outside the range specified.", "7"),
    ]  # fmt: skip
    for move, said, mistake, feedback, oracle in told:
        shown, reward, terminated, truncated, info = act(env, move)[0]
        assert (shown, info["mistake"], info["feedback"]) == (said, mistake, feedback)
        assert (reward, terminated, truncated, info["oracle"]) == (0.0, False, False, oracle)
        assert info["action_valid"] is (mistake != "refused action") is info["facts"]["well_formed"]
        assert info["facts"]["best"] is (mistake == "")
        assert info["facts"]["ruled_out"] is (mistake == "ruled out")
        assert info["facts"]["moves_closer"] is (mistake in ("", "off the middle"))
    shown, reward, terminated, truncated, info = act(env, "8")[0]
    assert shown == "Congratulations! You guessed the correct number."
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)
    assert info["feedback"] == "8 is the number."
    assert info["metrics"] == {"turns": 6.0, "score": 1.0}
    with pytest.raises(ValueError, match="call reset"):
        env.step("8")


def test_the_range_is_the_games_to_choose() -> None:
    env = build("GuessTheNumber-v0", prompt="brief", min_number=5, max_number=7, max_turns=2)
    assert "from 5 to 7" in env.system_prompt
    assert {env.reset(seed=seed)[1]["facts"]["number"] for seed in range(40)} == {5, 6, 7}
    assert env.reset(seed=0)[1]["oracle"] == "6"
    full = build("GuessTheNumber-v0", max_number=7, max_turns=2)
    assert "between 1 and 7 within 2 turns" in full.reset(seed=0)[0]
    assert "<action>10</action>" in full.system_prompt


def test_the_turn_limit_counts_every_answer_and_truncates() -> None:
    env = build("GuessTheNumber-v0", max_turns=4)
    env.reset(seed=seed_of(8))
    ends = [env.step("")[2:4], *(result[2:4] for result in act(env, "1", "x", "2"))]
    assert ends == [(False, False)] * 3 + [(False, True)]
    env.reset(seed=seed_of(8))
    *_, (_, reward, terminated, truncated, info) = act(env, "1", "2", "3", "8")
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)


@pytest.mark.parametrize(
    ("name", "moves"),
    [
        ("LightsOut-v0", ["1 1"] * 6),
        ("GuessTheNumber-v0", list("123456")),
        ("FrozenLake-v0", ["left"] * 6),
        ("Bandit-v0", ["red"] * 6),
    ],
)
def test_the_games_own_limit_is_not_reached_before_ours(name: str, moves: list[str]) -> None:
    env = build(name, max_turns=6)
    env.reset(seed=seed_of(8))
    results = act(env, *moves)
    assert [result[2:4] for result in results] == [(False, False)] * 5 + [(False, True)]
    assert [result[4]["success"] for result in results] == [False] * 6


def test_a_game_that_is_lost_on_the_last_turn_is_over() -> None:
    for limit, ends in ((None, (True, False)), (2, (True, False)), (1, (False, True))):
        env = build("FrozenLake-v0", max_turns=limit)
        assert "|  P  |     |  H  |" in env.reset(seed=1)[0]
        *_, (_, reward, terminated, truncated, info) = act(env, *["right", "right"][:limit])
        assert (terminated, truncated) == ends
        assert reward < 1 and not info["success"]


@pytest.mark.parametrize("name", GAMES + SLOW)
def test_the_global_random_states_are_neither_read_nor_changed(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = []
    for luck in (0, 1):
        random.seed(luck)
        np.random.seed(luck)
        before = pickle.dumps((random.getstate(), np.random.get_state()))
        env = build(name)
        told.append((env.reset(seed=3), act(env, "1", "up")))
        assert pickle.dumps((random.getstate(), np.random.get_state())) == before
    assert told[0] == told[1]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", GAMES)
@settings(deadline=None, max_examples=50)
@given(texts=many(), seed=st.integers(0, 3))
def test_no_text_raises_and_every_answer_keeps_the_contract(
    name: str, texts: list[str], seed: int
) -> None:
    """A thousand answers."""
    env = build(name, max_turns=30)
    _, info = env.reset(seed=seed)
    for text in texts:
        shown, reward, terminated, truncated, info = env.step(text)
        assert shown.encode()
        assert not truncated
        assert reward == info["metrics"]["score"]
        assert json.loads(json.dumps(info)) == info
        if not info["action_valid"]:
            assert not terminated
            assert info["feedback"]
        if terminated:
            env.reset(seed=seed)


@pytest.fixture(scope="module")
def garbage() -> list[str]:
    return some_answers(100)


@pytest.mark.parametrize("name", [game for game in PLAYABLE if game not in LONG_TO_GENERATE])
def test_no_answer_of_a_hundred_raises_or_ends_what_it_is_refused_in(
    name: str, garbage: list[str]
) -> None:
    """`tests/benchmarks/arena_games.py` gives every game a thousand."""
    refused = withstood(name, garbage)
    assert refused.isdigit() and int(refused) > 60, refused


def test_splits_share_no_number() -> None:
    found = {}
    for split in ("train", "validation", "test"):
        env = build("GuessTheNumber-v0-hardcore", split=split)
        found[split] = {env.reset(seed=seed)[1]["facts"]["number"] for seed in range(150)}
    assert len(set.union(*found.values())) == sum(map(len, found.values())) == 50
    assert (
        env.reset(seed=3)[1] == build("GuessTheNumber-v0-hardcore", split="test").reset(seed=3)[1]
    )


def test_equal_tasks_have_equal_names_that_do_not_give_them_away() -> None:
    env = build("GuessTheNumber-v0")
    names: dict[int, set[str]] = {}
    for seed in range(100):
        _, info = env.reset(seed=seed)
        names.setdefault(info["facts"]["number"], set()).add(info["task_id"])
    assert all(len(ids) == 1 for ids in names.values())
    assert len(set.union(*names.values())) == len(names) == 20


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("GuessTheNumbr-v0", {}, "no game 'GuessTheNumbr-v0'; did you mean GuessTheNumber-v0"),
        ("zzz", {}, "docs/textarena.md"),
        ("GuessTheNumber-v0-raw", {}, "write textarena:GuessTheNumber-v0"),
        ("KuhnPoker-v0", {}, "no game for one player"),
        ("TwentyQuestions-v0", {}, "asks a language model over the network"),
        ("GuessTheNumber-v0", {"depth": 3}, "no option 'depth'; it takes: min_number, max_number"),
        ("GuessTheNumber-v0", {"prompt": "long"}, "prompt is one of full, brief"),
        ("GuessTheNumber-v0", {"max_turns": 0}, "max_turns is a whole number"),
        ("GuessTheNumber-v0", {"split": "dev"}, "split is one of"),
        ("Sokoban-v0", {"split": "test"}, "has no splits"),
    ],
)
def test_what_cannot_be_played(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, **options)


def test_word_lists_are_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    import nltk

    def fetch(*_: Any, **__: Any) -> None:
        raise AssertionError("a download was attempted")

    monkeypatch.setattr(nltk, "download", fetch)
    try:
        env = build("Wordle-v0")
        env.reset(seed=0)
    except ValueError as error:
        assert "LookupError: Resource" in str(error)
        assert "\n" not in str(error)
    assert nltk.download is fetch


def test_reset_takes_no_options() -> None:
    with pytest.raises(ValueError, match="no options at reset"):
        build("GuessTheNumber-v0").reset(seed=0, options={"task": "3"})


def test_without_a_seed_the_next_task_follows_from_the_last_seed() -> None:
    tasks = []
    for _ in range(2):
        env = build("GuessTheNumber-v0-hardcore")
        env.reset(seed=3)
        tasks.append([env.reset()[1]["task_id"] for _ in range(6)])
    assert tasks[0] == tasks[1]
    assert len(set(tasks[0])) > 1


def test_the_survey_times_what_runs_and_says_why_the_rest_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ["GuessTheNumber-v0", "Poker-v0", "GuessWho-v0", "KuhnPoker-v0", "Othello-v0", "Tak-v0"]
    monkeypatch.setattr(arena_survey, "game_names", lambda: names)
    rows = list(
        arena_survey.survey(["", "<action>1</action>", "<action>up</action>"], seconds=0.01)
    )
    assert [row.name for row in rows] == names
    assert rows[0].resets > 1 and rows[0].steps > 1 and rows[0].limit == 10
    assert [row.reason for row in rows[1:]] == [
        "is no game for one player, nor for two",
        "cannot be played here: it asks a language model over the network",
        "",
        "",
        "",
    ]
    assert [row.opponents for row in rows[3:]] == [("random", "scripted"), ("random",), ()]
    assert rows[0].garbage == "2"
    page = arena_survey.page(rows, 3)
    assert "how many of 3 answers" in page
    assert "Of 6 games 1 run with one player, 3 with two, 1 are for more players, 1 cannot" in page
    assert "- for two, also against random and scripted: KuhnPoker-v0.\n" in page
    assert "- for two, also against random: Othello-v0.\n" in page
    assert "- for two, against models alone: Tak-v0.\n" in page
    assert "| GuessWho-v0 | it asks a language model over the network |" in page
    assert page.endswith("For more players: Poker-v0.\n")


def test_the_survey_names_an_answer_that_a_game_does_not_withstand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def step(self: Any, action: str) -> Any:
        if action == "bang":
            raise KeyError("lost")
        return "", 0.0, action == "end", False, {"action_valid": False}

    monkeypatch.setattr(arena_survey.Arena, "step", step)
    assert withstood("GuessTheNumber-v0", ["", "x"]) == "2"
    assert withstood("GuessTheNumber-v0", ["", "bang"]).startswith("'bang' raises KeyError: 'lost'")
    ends = "'end' is refused and ends the episode"
    assert withstood("GuessTheNumber-v0", ["end"]) == ends


def test_every_game_of_the_page_has_a_name() -> None:
    assert len(PLAYABLE) == len(set(PLAYABLE)) == 57
    assert set(PLAYABLE) <= set(game_names())
    names = game_names()
    assert len(names) == len(set(names)) > 200
    assert "GuessTheNumber-v0" in names and not [n for n in names if n.endswith("-raw")]
