"""MiniGrid and BabyAI in words: what is seen, the bot as oracle, garbage."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from garbage import answers, many
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopd import make
from agentopd.environment.check import check_env
from agentopd.envs.adapters.grid import seen

pytest.importorskip("minigrid")

NAMES = ("BabyAI-GoToRedBall-v0", "BabyAI-OpenDoor-v0", "MiniGrid-DoorKey-5x5-v0")


def build(name: str, **options: Any) -> Any:
    return make(f"grid:{name}", options)


def act(env: Any, word: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
    return env.step(f"<action>{word}</action>")


@pytest.mark.parametrize("name", NAMES)
def test_the_checker_finds_no_error(name: str) -> None:
    found = {finding.name for finding in check_env(f"grid:{name}")}
    assert found == (set() if name.startswith("BabyAI") else {"no-oracle"})


@pytest.mark.parametrize(
    ("name", "seeds"),
    [("BabyAI-GoToRedBall-v0", 200), ("BabyAI-PickupLoc-v0", 30), ("BabyAI-GoToSeqS5R2-v0", 10)],
)
def test_following_the_bot_succeeds(name: str, seeds: int) -> None:
    env = build(name)
    for seed in range(seeds):
        _, info = env.reset(seed=seed)
        reward = 0.0
        while "oracle" in info:
            _, reward, _, _, info = act(env, info["oracle"])
            assert info["mistake"] == "" and info["facts"]["planned"]
        assert info["success"] and 0 < reward <= 1, seed


def test_the_bot_plans_on_from_where_the_student_went() -> None:
    env = build("BabyAI-GoToRedBall-v0")
    for seed in range(30):
        _, info = env.reset(seed=seed)
        for word in ("left", "nothing", "left", "forward"):
            planned = word == info["oracle"]
            *_, info = act(env, word)
            if info["action_valid"]:
                assert info["facts"]["planned"] is planned
                assert info["mistake"] == ("" if planned else "off the plan")
                assert info["feedback"] == f"{word} {'follows' if planned else 'leaves'} the plan."
            if info["success"]:
                break
        while "oracle" in info:
            *_, info = act(env, info["oracle"])
        assert info["success"], seed


def test_a_view_word_for_word() -> None:
    image = np.zeros((3, 3, 3), dtype=np.uint8)
    image[:, :, 0] = 1  # empty
    image[0, 1] = (6, 0, 0)  # a red ball, 1 ahead and 1 left
    image[2, 2] = (4, 4, 2)  # a locked yellow door, beside
    image[1, 0] = (2, 5, 0)  # a wall, 2 ahead
    empty = SimpleNamespace(unwrapped=SimpleNamespace(carrying=None))
    full = SimpleNamespace(
        unwrapped=SimpleNamespace(carrying=SimpleNamespace(color="blue", type="key"))
    )
    told = {"image": image, "mission": "go to the red ball"}
    assert seen(empty, told) == (  # type: ignore[arg-type]
        "Mission: go to the red ball. Free ahead: 1. "
        "In view: locked yellow door 1 right; red ball 1 ahead 1 left."
    )
    assert "You carry a blue key. Free ahead: 1." in seen(full, told)  # type: ignore[arg-type]
    image[:, :, 0] = 0
    assert seen(empty, told).endswith("Free ahead: 0. In view: nothing.")  # type: ignore[arg-type]


def test_what_is_carried_is_not_in_view() -> None:
    env = build("BabyAI-PickupLoc-v0")
    _, info = env.reset(seed=0)
    shown = ""
    while "oracle" in info:
        shown, *_, info = act(env, info["oracle"])
    assert "You carry a" in shown and ";  " not in shown


def test_a_grid_that_knows_three_actions_is_played_with_those() -> None:
    env = build("MiniGrid-Dynamic-Obstacles-5x5-v0")
    assert list(env.actions) == ["left", "right", "forward"]
    env.reset(seed=0)
    *_, info = act(env, "toggle")
    assert not info["action_valid"]
    *_, info = act(env, "left")
    assert info["action_valid"]


def test_the_limit_is_one_for_all_tasks_and_counts_every_answer() -> None:
    env = build("BabyAI-GoToRedBall-v0", max_turns=4)
    env.reset(seed=1)
    ends = [env.step("")[2:4], *(act(env, word)[2:4] for word in ("done", "x", "done"))]
    assert ends == [(False, False)] * 3 + [(False, True)]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Taxi-v4", {}, "none of minigrid's"),
        ("BabyAI-Nowhere-v0", {}, "BabyAI-Nowhere"),
        ("BabyAI-GoToRedBall-v0", {"prompt": "long"}, "prompt is one of full, brief"),
        ("BabyAI-GoToRedBall-v0", {"max_turns": 0}, "max_turns is a whole number"),
    ],
)
def test_what_cannot_be_built(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, **options)


@settings(deadline=None, max_examples=50)
@given(
    texts=many(answers | st.sampled_from(["<action>toggle</action>", "<action>done</action>"])),
    seed=st.integers(0, 5),
)  # fmt: skip
def test_no_text_raises_and_every_answer_keeps_the_contract(texts: list[str], seed: int) -> None:
    """A thousand answers."""
    env = build("BabyAI-GoToRedBall-v0", max_turns=30)
    env.reset(seed=seed)
    for text in texts:
        shown, _, terminated, truncated, info = env.step(text)
        assert shown.endswith(env.render())
        assert not truncated
        assert json.loads(json.dumps(info)) == info
        assert info["action_valid"] or not terminated
        if terminated:
            env.reset(seed=seed + 1)
