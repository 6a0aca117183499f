"""What holds for every adapter to a played text, on stand-ins of the packages' interfaces."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from garbage import some_answers
from stand_ins import WAY, Broken

from agentopd.environment.check import check_env
from agentopd.environment.contract import actions

GAMES: list[tuple[str, dict[str, Any]]] = [
    ("science:boil", {}),
    ("science:all", {"admissible": True, "prompt": "brief"}),
    ("express:coin", {}),
    ("express:coin", {"show_commands": True}),
    ("alfworld:train", {"data": "FILES"}),
    ("alfworld:valid_seen", {"data": "FILES", "show_commands": True}),
    ("jericho:FILES/known.z5", {}),
]
"""Games that are won by going `WAY`."""
ASKED: list[tuple[str, dict[str, Any]]] = [
    ("gem:rg:sum", {}),
    ("skyrl:gsm8k", {"data": "FILES/train.jsonl"}),
    ("skyrl:gsm8k_multi_turn", {"data": "FILES/train.jsonl", "max_turns": 4}),
    ("verifiers:verified_sums", {"forms": ["#### {}"]}),
    ("webshop:FILES/shop", {}),
    ("webshop:FILES/shop", {"split": "test", "goals": "made", "admissible": False}),
    ("search:small", {}),
    ("search:small", {"split": "test", "match": "contains"}),
]
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("gem:game:Guess-v0", {}),
    ("verifiers:verified_guess", {"answer": "number"}),
    ("nethack:NetHackNorth-v0", {"prompt": "brief"}),
    ("jericho:FILES/unknown.z8", {}),
    ("jericho:FILES/known.z5", {"varied": True}),
]
EXPECTED = {
    "verifiers:verified_guess": {"unreadable-valid"},
    "gem:game:Guess-v0": {"no-oracle"},
    "nethack:NetHackNorth-v0": {"no-oracle"},
    "jericho:FILES/known.z5": {"one-task", "no-oracle"},
    "jericho:FILES/unknown.z8": {"one-task", "no-oracle"},
}
"""Warnings that are so: a story is one task, a game tells no way. Where commands are listed, the
best one is among them. Without a form of answers every letter is one."""
DROPPED = ("science:boil", "express:coin", "jericho:FILES/known.z5")


@pytest.fixture(scope="module")
def answers() -> list[str]:
    return some_answers(250)


def follow(env: Any, seed: int) -> tuple[float, list[Any]]:
    """What is earned by the oracle's first action of every turn, and the last step."""
    _, info = env.reset(seed=seed)
    earned, last = 0.0, []
    while "oracle" in info:
        action = env.action_form.replace("{}", actions(env, info["oracle"])[0])
        last = list(env.step(action))
        earned, info = earned + last[1], last[4]
    return earned, last


@pytest.mark.parametrize(("spec", "options"), [*GAMES, *ASKED, *OTHERS])
def test_the_checker_finds_nothing_else(
    spec: str, options: dict[str, Any], files: Path, standing_in: None
) -> None:
    given = {
        k: v.replace("FILES", str(files)) if isinstance(v, str) else v for k, v in options.items()
    }
    found = check_env(spec.replace("FILES", str(files)), given, seeds=4)
    listed = {"told-to-student"} if "show_commands" in options else set()
    assert {f.name for f in found} <= EXPECTED.get(spec, set()) | listed, found


@pytest.mark.parametrize(("spec", "options"), [*GAMES, *ASKED])
def test_following_the_oracle_earns_1(build: Any, spec: str, options: dict[str, Any]) -> None:
    env = build(spec, **options)
    for seed in range(4):
        earned, (_, _, *ends, info) = follow(env, seed)
        assert (*ends, info["success"]) == (True, False, True)
        assert earned == pytest.approx(1) and info["mistake"] == ""
    with pytest.raises(ValueError, match="call reset"):
        env.step("x")


@pytest.mark.parametrize(("spec", "options"), [*GAMES, *ASKED, *OTHERS])
def test_no_text_raises_and_every_answer_keeps_the_contract(
    build: Any, answers: list[str], spec: str, options: dict[str, Any]
) -> None:
    env = build(spec, **options)
    env.reset(seed=0)
    for text in [*answers, "\udc81", "<action>\udc81</action>", "<action>\0</action>"]:
        shown, reward, terminated, truncated, info = env.step(text)
        shown.encode()
        assert shown == env.render() and isinstance(reward, float)
        assert json.loads(json.dumps(info)) == info and not (terminated and truncated)
        assert info["action_valid"] or not terminated
        if terminated or truncated:
            env.reset(seed=0)
    env.close()
    env.close()


@pytest.mark.parametrize(("spec", "options"), [*GAMES, *ASKED, *OTHERS])
def test_the_global_random_states_are_left_alone(
    build: Any, spec: str, options: dict[str, Any]
) -> None:
    before = pickle.dumps((random.getstate(), np.random.get_state()))
    follow(build(spec, **options), 1)
    assert pickle.dumps((random.getstate(), np.random.get_state())) == before


@pytest.mark.parametrize(
    ("spec", "options"), [game for game in GAMES if "show" not in str(game[1])]
)
def test_long_texts_and_what_is_no_unicode_are_shown_as_they_can_be(
    build: Any, spec: str, options: dict[str, Any]
) -> None:
    env = build(spec, **options, shown=500)
    env.reset(seed=0)
    Broken.said = "x" * 1_000_000
    shown, *_, info = env.step(f"<action>{WAY[0]}</action>")
    assert 500 < len(shown) < 600 and "[999500 characters left out]" in shown
    Broken.said = "half \udc81"
    shown, *_ = env.step(f"<action>{WAY[1]}</action>")
    assert shown.startswith("half ?")
    json.dumps(info).encode()


@pytest.mark.parametrize("spec", DROPPED)
def test_a_game_that_dies_costs_its_episode_and_the_next_one_has_a_new_one(
    build: Any, spec: str
) -> None:
    env = build(spec)
    env.reset(seed=0)
    started = Broken.started
    Broken.dies = WAY[1]
    env.step(f"<action>{WAY[0]}</action>")
    with pytest.raises(ConnectionResetError, match="the machine is gone"):
        env.step(f"<action>{WAY[1]}</action>")
    assert Broken.closed == 1
    Broken.dies = ""
    assert follow(env, 0)[1][4]["success"] and Broken.started > started


@pytest.mark.parametrize(("spec", "options"), GAMES[:5])
def test_the_way_is_known_as_long_as_it_is_followed(
    build: Any, spec: str, options: dict[str, Any]
) -> None:
    env = build(spec, **options)
    _, info = env.reset(seed=0)
    first = info["oracle"].splitlines()
    *_, info = env.step("<action>look around</action>")
    assert info["oracle"].splitlines()[-4:] == first[-4:]
    *_, info = env.step(f"<action>{WAY[0]}</action>")
    assert WAY[0] not in info["oracle"].splitlines()
    if not spec.startswith("alfworld"):  # which plans anew
        *_, info = env.step("<action>wait</action>")
        assert "oracle" not in info and info["mistake"] == "off the way"
        assert not info["facts"]["way_known"] and not info["facts"]["planned"]
        *_, info = env.step("<action>wait</action>")
        assert info["mistake"] == "" and "planned" not in info["facts"]


@pytest.mark.parametrize("spec", ["science:boil", "express:coin"])
def test_without_the_oracle_nothing_is_told_of_the_way(build: Any, spec: str) -> None:
    _, info = build(spec, oracle=False).reset(seed=0)
    assert "oracle" not in info and "reference" not in info and not info["facts"]["way_known"]


@pytest.mark.parametrize("spec", ["express:coin", "alfworld:train", "jericho:FILES/known.z5"])
def test_a_lost_game_ends_without_success(build: Any, spec: str) -> None:
    env = build(spec, **({"data": "FILES"} if spec.startswith("alf") else {}))
    env.reset(seed=0)
    _, _, terminated, truncated, info = env.step("<action>eat poison</action>")
    assert (terminated, truncated, info["success"]) == (True, False, False)
    assert info["mistake"] and "oracle" not in info


def test_an_oracle_is_told_where_the_turns_suffice(build: Any) -> None:
    env = build("jericho:FILES/known.z5", max_turns=4)
    _, info = env.reset(seed=0)
    assert info["oracle"] == "\n".join(WAY) == info["reference"]
    *_, info = env.step("")
    assert "oracle" not in info, "three turns are left for four commands"


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("science:cook", {}, "the task is one of all, boil, melt, not 'cook'"),
        ("science:boil", {"split": "dev"}, "split is one of train"),
        ("science:boil", {"memory": 1}, "memory is a whole number at least 256"),
        ("express:chess", {}, "the game is one of cookingworld"),
        ("express:coin", {"numLocations": -1}, "numLocations is a whole number at least 0"),
        ("alfworld:dev", {}, "the split is one of train, valid_seen"),
        ("alfworld:train", {}, "set the option data"),
        (
            "alfworld:train",
            {"data": "FILES/none"},
            "there are no games of ALFWorld's split 'train'",
        ),
        ("alfworld:train", {"data": "FILES", "types": ["heat"]}, "a kind of task is one of"),
        (
            "alfworld:train",
            {"data": "FILES", "types": ["pick_two_obj_and_place"]},
            "there is no game of pick_two_obj_and_place",
        ),
        ("jericho:FILES/zork.z5", {}, "there is no story"),
        ("nethack:NetHackSouth-v0", {}, "NetHackSouth-v0 cannot be made"),
        ("gem:rg:sums", {}, "GEM has no environment 'rg:sums'; did you mean gem:rg:sum?"),
        ("skyrl:gsm", {"data": "FILES/train.jsonl"}, "did you mean skyrl:gsm8k"),
        ("skyrl:gsm8k", {"data": "FILES/none.jsonl"}, "the tasks cannot be read from"),
        ("skyrl:gsm8k", {"data": "FILES/known.z5"}, "write the rows as .jsonl"),
        ("skyrl:gsm8k", {"data": "FILES/train.jsonl", "forms": ["####"]}, "a form of answers"),
        ("verifiers:none_such", {}, "verifiers' none_such cannot be made here: ModuleNotFound"),
        ("verifiers:verified_sums", {"taskset": {"seed": 1}}, "cannot be made here: Validation"),
        ("verifiers:verified_sums", {"skip": 6}, "has no tasks from number 6 on"),
        ("verifiers:verified_sums", {"forms": ["####"]}, "a form of answers holds"),
        ("verifiers:verified_sums", {"limit": 0}, "limit is a whole number at least 1"),
        ("webshop:FILES", {}, "there is no items_ins_v2.json or items_ins_v2_1000.json in"),
        ("webshop:FILES/shop", {"products": 1, "split": "test"}, "there is no goal of the split"),
        ("webshop:FILES/shop", {"goals": "own"}, "goals is one of human, made"),
        ("search:FILES", {}, "there is no corpus.jsonl in"),
        ("search:small", {"most": 0}, "most is a whole number"),
        ("search:small", {"match": "near"}, "match is one of exact, contains"),
        ("search:small", {"prompt": "long"}, "prompt is one of full, brief"),
        ("search:small", {"max_turns": 0}, "max_turns is a whole number"),
    ],
)
def test_what_cannot_be_built(build: Any, spec: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(spec, **options)
    with pytest.raises(ValueError, match="takes no options at reset"):
        build("search:small").reset(seed=0, options={"task": "x"})
