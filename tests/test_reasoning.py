"""reasoning-gym's tasks: a question, some attempts, the gold answer for the teacher."""

from __future__ import annotations

import copy
import json
import pickle
import random
import re
from typing import Any

import numpy as np
import pytest
from garbage import many
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopd import make
from agentopd.environment.check import check_env

pytest.importorskip("reasoning_gym")

# Numbers, a list, a drawn maze, several lines.
NAMES = ("chain_sum", "letter_counting", "number_sorting", "maze", "mini_sudoku")


def build(name: str, **options: Any) -> Any:
    return make(f"reasoning:{name}", options)


def answer(env: Any, text: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
    return env.step(f"<action>{text}</action>")


@pytest.mark.parametrize("name", NAMES)
def test_the_checker_finds_no_error(name: str) -> None:
    errors = [found for found in check_env(f"reasoning:{name}") if found.level == "error"]
    assert errors == []


@pytest.mark.parametrize("name", NAMES)
def test_the_gold_answer_is_right(name: str) -> None:
    env = build(name)
    for seed in range(200 if name in ("chain_sum", "letter_counting") else 30):
        _, info = env.reset(seed=seed)
        assert info["oracle"] == info["reference"]
        shown, reward, terminated, truncated, info = answer(env, info["oracle"])
        assert (reward >= 0.99, terminated, truncated, info["success"]) == (True, True, False, True)
        assert shown == "Right." and "oracle" not in info


def test_a_sum_in_three_attempts() -> None:
    env = build("chain_sum", max_turns=3, min_terms=2, max_terms=2)
    shown, info = env.reset(seed=5)
    gold = int(info["reference"])
    terms = re.findall(r"[+-]?\d+", shown.replace(" ", ""))
    assert sum(map(int, terms)) == gold
    shown, reward, terminated, truncated, info = env.step("no tag")
    assert (shown, info["action_valid"]) == ("No <action></action> in the answer.", False)
    assert info["mistake"] == "unreadable action"
    shown, reward, terminated, truncated, info = answer(env, str(gold + 1))
    assert (shown, reward) == ("Not right yet: the score is 0.00 of 1.", 0.0)
    assert (terminated, truncated, info["action_valid"]) == (False, False, True)
    assert (info["mistake"], info["oracle"]) == ("wrong answer", str(gold))
    assert info["feedback"] == f"'{gold + 1}' is wrong and scores 0.00."
    _, reward, terminated, truncated, info = answer(env, str(gold))
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)
    assert info["facts"]["best_score"] == 1.0
    with pytest.raises(ValueError, match="call reset"):
        env.step("")


def test_the_last_wrong_attempt_truncates() -> None:
    env = build("chain_sum", max_turns=2)
    env.reset(seed=0)
    ends = [answer(env, "x")[2:4] for _ in range(2)]
    assert ends == [(False, False), (False, True)]


@pytest.mark.parametrize("name", (*NAMES, "pool_matrix"))
def test_the_global_random_states_are_neither_read_nor_changed(name: str) -> None:
    told = []
    for luck in (0, 1):
        random.seed(luck)
        np.random.seed(luck)
        before = pickle.dumps((random.getstate(), np.random.get_state()))
        env = build(name)
        told.append((env.reset(seed=3), answer(env, "1")))
        assert pickle.dumps((random.getstate(), np.random.get_state())) == before
    assert told[0] == told[1]


def test_a_composite_draws_from_its_parts() -> None:
    parts = [{"name": "chain_sum", "config": {"min_terms": 2, "max_terms": 2}}]
    parts += [{"name": "letter_counting", "weight": 3}]
    env = build("composite", datasets=parts)
    counting = 0
    for seed in range(60):
        shown, info = env.reset(seed=seed)
        counting += "How many times" in shown
        assert answer(env, info["oracle"])[4]["success"]
    assert 30 < counting < 58, "three in four"


@pytest.mark.parametrize("spec", [*(f"reasoning:{name}" for name in NAMES), "toy:CliffWalking-v1"])
def test_an_episode_goes_on_in_a_copy(spec: str) -> None:
    env = make(spec)
    _, info = env.reset(seed=1)
    for twin in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        assert env.reset(seed=1)[1] == info
        action = f"<action>{info['oracle'].split()[0]}</action>"
        assert twin.step(action) == env.step(action)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("chain_sums", {}, "no data set 'chain_sums'; did you mean chain_sum"),
        ("chain_sum", {"min_terms": 9, "max_terms": 2}, "makes no task of chain_sum"),
        ("chain_sum", {"depth": 3}, "depth"),
        ("chain_sum", {"prompt": "long"}, "prompt is one of full, brief"),
        ("chain_sum", {"max_turns": 0}, "max_turns is a whole number"),
        ("composite", {}, "makes no task of composite"),
        ("composite", {"datasets": [{"weight": 2}]}, "makes no task of composite.*'name'"),
    ],
)
def test_what_cannot_be_built(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, **options)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=50)
@given(texts=many(), seed=st.integers(0, 3))
def test_no_text_raises_and_every_answer_keeps_the_contract(
    name: str, texts: list[str], seed: int
) -> None:
    """A thousand answers."""
    env = build(name, max_turns=30)
    env.reset(seed=seed)
    for text in texts:
        _, reward, terminated, truncated, info = env.step(text)
        assert json.loads(json.dumps(info)) == info
        assert terminated is info["success"] is (reward >= 0.99)
        assert not truncated and 0 <= reward <= 1
        if terminated:
            env.reset(seed=seed + 1)
