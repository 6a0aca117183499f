"""What an agent only thinks is never played: in parsing, wrappers, tools and every environment."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopd.environment.contract import (
    actions,
    declared,
    parse_action,
    split_reasoning,
    without_reasoning,
)
from agentopd.environment.registry import env_ids
from agentopd.environment.settings import EnvSettings
from agentopd.envs.adapters.world_server import code_of

HANOI = "agentopd/Hanoi-v0"
OPEN, CLOSE = "<think>", "</think>"
UNPLAYED = [
    "<think>{}",
    "<think>{} would lose the box, so",
    "<think>{}</think>",
    "{}</think>",
    "{} would do.</think> I do not know.",
    "<think>a</think>{}</think>",
    "<think>a</think>b</think>{}</think> no",
    "<think>a<think>{}</think>b</think>",
    "<think>a<think>b</think>{}</think>",
    "<think>a<think>b</think>{}",
    "<think>\n<think>{}",
    "{}</think><think>{}",
]
PLAYED = [
    "{}",
    "<think>a</think>{}",
    "a</think>{}",
    "<think>a</think>b</think>{}",
    "<think>a<think>b</think>c</think>{}",
    "<think>\n<think>a</think>{}",
    "{}<think>a",
    "{}<think>a</think>",
    "<think></think>{}",
]
"""Answers that mean the action: those of models whose template opens the thought among them."""


def naive(text: str) -> str:
    """What is said, from a list of tags and texts; openings in a row are one."""
    said: list[str] = []
    depth, before = 0, ""
    for piece in re.split(f"({OPEN}|{CLOSE})", text):
        if piece == OPEN:
            depth += before != OPEN
        elif piece == CLOSE:
            said = said if depth else []
            depth = max(depth - 1, 0)
        elif not depth:
            said.append(piece)
        before = piece if piece.strip() else before
    return "".join(said)


@given(st.lists(st.sampled_from([OPEN, CLOSE, "a", "b ", " ", "\n", "<action>", "<"]), max_size=9))
def test_what_is_said_is_what_stands_in_no_thought(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert without_reasoning(text) == naive(text)


@pytest.mark.parametrize("form", UNPLAYED)
def test_an_action_in_a_thought_is_none(form: str) -> None:
    assert parse_action(form.replace("{}", "<action>up</action>")) is None


@pytest.mark.parametrize("form", PLAYED)
def test_an_action_beside_thoughts_is_read(form: str) -> None:
    thinking = form.replace("a", "<action>down</action>") if "<think>a" in form else form
    assert parse_action(thinking.replace("{}", "<action>up</action>")) == "up"


def test_thoughts_are_told_apart_from_what_is_said() -> None:
    assert split_reasoning("a<think>b</think>c<think>d") == (["b", "d"], "ac")
    assert split_reasoning("a</think>b<think>c<think>d</think></think>e") == (
        ["a", "c<think>d</think>"], "be",
    )  # fmt: skip
    assert split_reasoning("") == ([], "")


@pytest.mark.parametrize("text", [OPEN, CLOSE, OPEN + " ", f"{OPEN}a{CLOSE}", f"{OPEN}a"])
def test_long_answers_are_read_in_linear_time(text: str) -> None:
    """A quadratic reading of half a million tags would take minutes."""
    assert parse_action(text * 200_000) is None


def speakers() -> list[EnvSettings]:
    """Every registered environment, and each kind of wrapper that reads or repeats answers."""
    tag = {"kind": "parse", "tag": "answer"}
    boxed = {"kind": "parse", "pattern": r"\[([^\]]*)\]", "form": "[{}]"}
    tools = {"kind": "tools", "functions": [f"{__name__}:move"]}
    wrapped: list[list[Any]] = [[tag], [boxed], [{"kind": "history"}], [tag, {"kind": "history"}]]
    return [
        *(EnvSettings(id=name) for name in env_ids() if name.startswith("agentopd/")),
        *(EnvSettings.model_validate({"id": HANOI, "wrappers": w}) for w in (*wrapped, [tools])),
        EnvSettings(id="toy:FrozenLake-v1"),
    ]


def move(action: str) -> str:
    """What is to be done."""
    return action


def _answer(env: Any, info: dict[str, Any], settings: EnvSettings) -> str:
    best = actions(env, info["oracle"])[0] if "oracle" in info else "a to c"
    if any(wrapper.kind == "tools" for wrapper in settings.wrappers):
        best = f'{{"name": "move", "arguments": {{"action": "{best}"}}}}'
    return declared(env, "action_form", "<action>{}</action>").replace("{}", best)


@pytest.mark.parametrize("settings", speakers(), ids=lambda s: f"{s.id}{len(s.wrappers)}")
def test_no_environment_plays_what_is_only_thought(settings: EnvSettings) -> None:
    env = settings.build()
    for form in UNPLAYED:
        _, info = env.reset(seed=0)
        before = env.unwrapped.render() if hasattr(env.unwrapped, "render") else None
        observation, _, _, _, after = env.step(form.replace("{}", _answer(env, info, settings)))
        assert after["action_valid"] is False, form
        assert "would" not in observation, form
        # A form asks for its next field whatever was said; the other games stand where they stood.
        if before is not None and settings.id != "agentopd/FrontDesk-v0":
            assert env.unwrapped.render() == before, form
    for form in PLAYED:
        _, info = env.reset(seed=0)
        assert env.step(form.replace("{}", _answer(env, info, settings)))[4]["action_valid"], form
    env.close()


def test_a_history_repeats_no_thought() -> None:
    env = EnvSettings.model_validate({"id": HANOI, "wrappers": [{"kind": "history"}]}).build()
    for form in ("secret</think>up", "<think>secret</think>up", "up<think>secret"):
        env.reset(seed=0)
        observation = env.step(form)[0]
        assert "You answered:\nup\n" in observation
        assert "secret" not in observation


def test_code_is_read_beside_thoughts_alone() -> None:
    fenced = "```python\npay()\n```"
    assert code_of(f"{fenced}</think>I do not know.") is None
    assert code_of(f"a</think>{fenced}") == "pay()"
