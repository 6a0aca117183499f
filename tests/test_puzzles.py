"""What holds of every small puzzle: the contract, the oracle, splits, garbage."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from garbage import many
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopd import make
from agentopd.environment.check import check_env
from agentopd.envs.puzzle import SPLITS

NAMES = ("FrozenLake", "Mastermind", "Hanoi", "Countdown")
HARDER = [
    ("FrozenLake", {"size": 6, "holes": 10, "max_moves": 12, "view": "grid"}),
    ("Mastermind", {"length": 3, "digits": 5, "hints": 3, "max_turns": 6}),
    ("Mastermind", {"repeats": False, "length": 3, "digits": 9, "hints": 0}),
    ("Hanoi", {"disks": 4, "start": "tower", "max_moves": 15, "max_turns": 15}),
    ("Hanoi", {"disks": 4, "pegs": 4, "goal": "tower", "min_moves": 4}),
    ("Countdown", {"numbers": 5, "min_steps": 4, "max_steps": 4, "use_all": True}),
]


def build(name: str, **options: Any) -> Any:
    return make(f"agentopd/{name}-v0", options).unwrapped


def by_oracle(env: Any, seed: int) -> tuple[list[Any], dict[str, Any]]:
    """The last result of an episode played by the oracle, and the first info."""
    _, first = env.reset(seed=seed)
    info = first
    while True:
        result = env.step(f"<action>{info['oracle'].split()[0]}</action>")
        info = result[4]
        if result[2] or result[3]:
            return list(result), first


@pytest.mark.parametrize("name", NAMES)
def test_the_checker_finds_nothing(name: str) -> None:
    assert check_env(f"agentopd/{name}-v0", strict=True) == []


@pytest.mark.parametrize("name", NAMES)
def test_following_the_oracle_solves_every_task_without_a_mistake(name: str) -> None:
    env = build(name)
    for seed in range(200):
        (_, reward, terminated, truncated, info), first = by_oracle(env, seed)
        assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True), seed
        assert (info["mistake"], info["action_valid"]) == ("", True)
        assert "oracle" not in info, "nothing is left to be done"
        if name != "Mastermind":
            assert info["metrics"]["turns"] == len(first["oracle"].split())
            assert first["oracle"] == first["reference"]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("name", "options"), HARDER)
def test_other_difficulties_are_solved_too(name: str, options: dict, split: str) -> None:
    env = build(name, **options, split=split)
    for seed in range(5):
        assert by_oracle(env, seed)[0][4]["success"], seed


@pytest.mark.parametrize("name", NAMES)
def test_the_oracle_still_solves_the_task_after_some_valid_turns_of_chance(name: str) -> None:
    rng = random.Random(0)
    guesses = {
        "FrozenLake": ["up", "down", "left", "right"],
        "Mastermind": [f"{rng.randrange(1296)}" for _ in range(9)] + ["1122", "6543", "2223"],
        "Hanoi": [a + b for a in "ABC" for b in "ABC"],
        "Countdown": [
            f"{a}{sign}{b}" for a in range(1, 11) for b in range(1, 11) for sign in "+-*"
        ],
    }[name]
    env = build(name, max_turns=25)
    rescued = 0
    for seed in range(60):
        _, info = env.reset(seed=seed)
        for _ in range(6):
            _, _, terminated, _, info = env.step(f"<action>{rng.choice(guesses)}</action>")
            if terminated:
                break
        else:
            rescued += 1
            while not info["success"]:
                _, _, terminated, truncated, info = env.step(
                    f"<action>{info['oracle'].split()[0]}</action>"
                )
                assert not truncated, seed
                assert info["success"] == terminated, seed
    assert rescued > 10


@pytest.mark.parametrize("name", NAMES)
def test_no_two_splits_share_a_task(name: str) -> None:
    ids = {}
    for split in SPLITS:
        env = build(name, split=split)
        tasks = set()
        for seed in range(80):
            env.reset(seed=seed)
            tasks.add(env.secret if name == "Mastermind" else env.task_id.split("/", 2)[2])
        ids[split] = tasks
    assert not ids["train"] & ids["validation"]
    assert not ids["train"] & ids["test"]
    assert not ids["validation"] & ids["test"]
    assert len(ids["train"]) > 40


def test_another_process_plays_the_same_episodes() -> None:
    code = (
        "import json, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from test_puzzles import NAMES, transcript\n"
        "print(json.dumps([transcript(name) for name in NAMES]))\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    here = [transcript(name) for name in NAMES]
    assert json.loads(told) == json.loads(json.dumps(here))


def transcript(name: str) -> list[Any]:
    """Everything a few episodes tell, played by the oracle with nonsense in between."""
    told: list[Any] = []
    for seed in range(4):
        env = build(name)
        told.append(env.reset(seed=seed))
        told.append(env.step("nonsense"))
        told.append(by_oracle(env, seed))
    return told


@pytest.mark.parametrize("name", NAMES)
def test_a_task_is_played_again_from_its_start(name: str) -> None:
    env = build(name)
    begun = env.reset(seed=3)
    env.step(f"<action>{begun[1]['oracle'].split()[0]}</action>")
    assert env.restart() == begun
    assert env.turns == 0
    assert env.reset(seed=4) != begun
    assert env.reset(seed=3) == begun


@pytest.mark.parametrize("name", NAMES)
def test_without_a_seed_the_next_task_follows_from_the_last_seed(name: str) -> None:
    tasks = []
    for _ in range(2):
        env = build(name)
        env.reset(seed=3)
        tasks.append([env.reset()[1]["task_id"] for _ in range(4)])
    assert tasks[0] == tasks[1]
    assert len(set(tasks[0])) > 1


@pytest.mark.parametrize("name", NAMES)
def test_the_first_info_holds_what_a_teacher_may_be_told(name: str) -> None:
    env = build(name)
    _, info = env.reset(seed=0)
    assert info["skill"] and info["guide"] and info["reference"] and info["facts"]
    assert info["success"] is False
    assert json.loads(json.dumps(info)) == info


@pytest.mark.parametrize("name", NAMES)
def test_the_two_prompts(name: str) -> None:
    full, brief = build(name).system_prompt, build(name, prompt="brief").system_prompt
    assert "<action>" in full and "<think>" in full
    assert "<" not in brief and "\n" not in brief and len(brief) < 80
    assert "{" not in full + brief


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "dev"}, "split is one of train, validation, test, not 'dev'"),
        ({"prompt": "long"}, "prompt is one of full, brief, fewshot, not 'long'"),
        ({"max_turns": 0}, "0"),
        ({"max_turns": 2.5}, "2.5"),
        ({"depth": 3}, "depth"),
    ],
)
def test_options_that_no_puzzle_has(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, **options)


@pytest.mark.parametrize("name", NAMES)
def test_resets_and_steps_that_cannot_be(name: str) -> None:
    env = build(name, max_turns=8)
    with pytest.raises(ValueError, match="call reset"):
        env.step("<action>up</action>")
    with pytest.raises(ValueError, match=r"option 'task' only, not \['map'\]"):
        env.reset(options={"map": "SG"})
    with pytest.raises(ValueError, match="is a text, not 7"):
        env.reset(options={"task": 7})
    env.reset(seed=0)
    ends = [env.step("")[2:4] for _ in range(8)]
    assert ends == [(False, False)] * 7 + [(False, True)]
    with pytest.raises(ValueError, match="call reset"):
        env.step("")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("answer", ["", "up", "<action>", "<think><action>up</action>"])
def test_an_answer_without_an_action_is_explained(name: str, answer: str) -> None:
    env = build(name)
    env.reset(seed=0)
    shown, reward, terminated, truncated, info = env.step(answer)
    assert shown.startswith("No <action></action> in the answer.\n")
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert info["action_valid"] is info["facts"]["well_formed"] is False
    assert (info["mistake"], info["feedback"]) == (
        "unreadable action",
        "No <action></action> in the answer.",
    )


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=50)
@given(texts=many(), seed=st.integers(0, 5))
def test_no_text_raises_and_every_answer_keeps_the_contract(
    name: str, texts: list[str], seed: int
) -> None:
    """A thousand answers."""
    env = build(name, max_turns=30)
    _, info = env.reset(seed=seed)
    for text in texts:
        before, keys = info["facts"], set(info["facts"])
        shown, reward, terminated, truncated, info = env.step(text)
        assert shown.endswith(env.render())
        assert not truncated
        assert reward == float(info["success"])
        assert json.loads(json.dumps(info)) == info
        assert keys <= set(info["facts"]) or terminated
        if not info["action_valid"]:
            assert not terminated
            assert info["mistake"] == "unreadable action"
            assert shown.startswith(info["feedback"])
            for fact in ("moves_left", "steps_left", "codes_left", "disks_placed", "nearest"):
                assert info["facts"].get(fact) == before.get(fact)
            # what a readable step would claim of itself
            assert not info["facts"]["moves_closer"]
        if terminated:
            _, info = env.reset(seed=seed + 1)
