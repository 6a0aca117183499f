"""Wrappers and tools: each keeps the contract, alone and stacked."""

from __future__ import annotations

from typing import Any, Literal

import broken_envs
import pytest
from pydantic import ValidationError

from agentopd.environment.check import check_env
from agentopd.environment.contract import system_prompt
from agentopd.environment.settings import EnvSettings
from agentopd.environment.tools import Tool, ToolError

LINE = f"{broken_envs.__name__}:Line"


def go(way: Literal["left", "right"]) -> str:
    """Take one step."""
    return way


def walk(steps: int) -> str:
    if steps == 13:
        raise ValueError("thirteen brings bad luck")
    return "right" if steps > 0 else "left"


def divide(by: Literal[0, 1]) -> str:
    return ("left", "right")[1 // by]


GO, WALK = f"{__name__}:go", f"{__name__}:walk"
PARSE = {"kind": "parse", "tag": "answer"}
BOXED = {"kind": "parse", "pattern": r"\[(\w+)\]", "form": "[{}]", "rules": "Write [left]."}
LIMIT = {"kind": "invalid_limit", "limit": 3}
HISTORY = {"kind": "history", "turns": 2}
TOOLS = {"kind": "tools", "functions": [GO]}
CALLS = {"kind": "tools", "functions": [GO], "syntax": "call"}
SHOWN = {"kind": "admissible"}


def wrapped(wrappers: list[Any], id: str = LINE) -> Any:
    """An environment in wrappers; the factory that the checker is given."""
    return EnvSettings.model_validate({"id": id, "wrappers": wrappers}).build()


def begun(*wrappers: Any) -> Any:
    env = wrapped(list(wrappers))
    env.reset(seed=0)
    return env


@pytest.mark.parametrize(
    "wrappers",
    [
        [PARSE],
        [BOXED],
        [LIMIT],
        [HISTORY],
        [TOOLS],
        [CALLS],
        [TOOLS, PARSE],
        [PARSE, LIMIT, HISTORY],
        [CALLS, BOXED | {"pattern": r"\[(.+)\]"}, HISTORY, LIMIT],
    ],
    ids=lambda wrappers: "+".join(w["kind"] for w in wrappers),
)
@pytest.mark.parametrize("env", [LINE, "agentopd/Sokoban-v0"])
def test_every_wrapper_keeps_the_contract(wrappers: list[Any], env: str) -> None:
    if env != LINE:
        wrappers = [
            w | {"functions": [f"{__name__}:push"]} if "functions" in w else w for w in wrappers
        ]
    options = {"wrappers": wrappers, "id": env}
    assert check_env(f"{__name__}:wrapped", options, seeds=4) == []


def push(way: Literal["up", "down", "left", "right"]) -> str:
    """Walk, and push what stands there."""
    return way


def test_a_tag_is_read_and_named() -> None:
    env = begun(PARSE)
    observation, _, _, _, info = env.step("<action>right</action>")
    assert observation.startswith("No <answer></answer> in the answer.\nYou are at 0")
    assert not info["action_valid"]
    observation, _, _, _, info = env.step("<answer>left</answer> no: <answer>right</answer>")
    assert info["action_valid"]
    assert observation.startswith("You are at 1")
    sokoban = wrapped([PARSE], "agentopd/Sokoban-v0")
    assert "<answer>" in system_prompt(sokoban)
    assert "<action>" not in system_prompt(sokoban)


def test_the_last_match_outside_the_reasoning_counts() -> None:
    env = begun(BOXED)
    assert env.step("[left] [right]<think>[left]</think>")[0].startswith("You are at 1")
    assert env.step("<think>[right]")[4]["action_valid"] is False
    assert system_prompt(env) == "Write [left]."


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "a tag or a pattern"),
        (PARSE | {"pattern": "x", "form": "{}"}, "not both"),
        (BOXED | {"pattern": "("}, "no regular expression"),
        (BOXED | {"form": "({})"}, "reads None"),
        (PARSE | {"form": "{}"}, "a form goes with a pattern"),
    ],
)
def test_what_cannot_parse_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        wrapped([{"kind": "parse"} | settings])


@pytest.mark.parametrize(
    ("in_a_row", "answers", "truncated"),
    [
        (True, "xx", False),
        (True, "xxrx", False),
        (True, "xrxx", False),
        (True, "xrxxx", True),
        (True, "xxx", True),
        (False, "xxrx", True),
        (False, "xrx", False),
    ],
)
def test_the_limit_counts_unreadable_answers(in_a_row: bool, answers: str, truncated: bool) -> None:
    env = begun(LIMIT | {"in_a_row": in_a_row})
    action = {"x": "", "r": "<action>right</action>"}
    ends = [env.step(action[answer])[3] for answer in answers]
    assert ends == [False] * (len(answers) - 1) + [truncated]


def test_the_history_holds_the_last_turns() -> None:
    env = begun(HISTORY)
    at = "You are at {}, the goal is at 8."
    env.unwrapped.goal = 8
    env.step("<think>long</think><action>left</action>")
    env.step("<action>right</action>")
    observation = env.step("<action>right</action>")[0]
    right = "You answered:\n<action>right</action>"
    assert observation == (
        f"You saw:\n{at.format(-1)}\n{right}\n\nYou saw:\n{at.format(0)}\n{right}\n\n"
        f"Now:\n{at.format(1)}"
    )
    assert env.reset(seed=0)[0].startswith("You are at 0")
    assert "at 1," not in env.step("")[0]


@pytest.mark.parametrize(
    ("settings", "answer", "says"),
    [
        (CALLS, "go(way='right')", ""),
        (CALLS, "go('right')", "by name"),
        (CALLS, "go(way='up')", "go: way: Input should be 'left' or 'right'"),
        (CALLS, "go(way='right', by=1)", "go: by: "),
        (CALLS, "go(way=__import__('os'))", "literal values"),
        (CALLS, "go(**{'way': 'right'})", "Write one call"),
        (CALLS, "fly()", "There is no 'fly'; there are: go."),
        (CALLS, "(" * 3_000, "Write one call"),
        (CALLS, "x" * 5_000, "longer than 4000"),
        (TOOLS, '{"name": "go", "arguments": {"way": "right"}}', ""),
        (TOOLS, '{"name": "go"}', "go: way: Missing"),
        (TOOLS, '{"name": 3}', '"name", a text'),
        (TOOLS, "[" * 3_000, "This is no JSON"),
        (TOOLS | {"functions": [WALK]}, '{"name": "walk", "arguments": {"steps": 2}}', ""),
        (TOOLS | {"functions": [WALK]}, '{"name": "walk", "arguments": {"steps": 13}}', "bad luck"),
    ],
)
def test_a_call_is_checked(settings: dict[str, Any], answer: str, says: str) -> None:
    observation, _, _, _, info = begun(settings).step(f"<action>{answer}</action>")
    assert info["action_valid"] is (not says)
    assert says in observation
    assert f"You are at {0 if says else 1}," in observation


def test_the_oracle_is_told_as_calls_where_it_can_be() -> None:
    _, info = wrapped([CALLS]).reset(seed=0)
    plan = wrapped([]).reset(seed=0)[1]["oracle"].split()
    assert info["oracle"] == "\n".join(["go(way='right')"] * len(plan))
    _, info = wrapped([CALLS | {"functions": [WALK]}]).reset(seed=0)
    assert not {"oracle", "reference"} & set(info)


def test_tools_are_described() -> None:
    told = system_prompt(wrapped([CALLS | {"functions": [GO, WALK]}]))
    assert "- go(way: 'left' | 'right'): Take one step.\n- walk(steps: int)\n" in told
    assert "<action>go(way='left')</action>" in told


def test_a_tool_needs_annotations() -> None:
    with pytest.raises(ValueError, match="'way' of the tool <lambda> needs an annotation"):
        Tool(lambda way: way)
    with pytest.raises(ValueError, match="share a name"):
        wrapped([TOOLS | {"functions": [GO, GO]}])
    with pytest.raises(ToolError, match="bad luck"):
        Tool(walk).run({"steps": 13})


def test_settings_are_written_and_read_again() -> None:
    settings = EnvSettings.model_validate({"id": LINE, "wrappers": [PARSE, CALLS]})
    assert EnvSettings.model_validate(settings.model_dump()) == settings


def test_a_tool_that_fails_costs_the_step_that_calls_it() -> None:
    env = begun({"kind": "tools", "functions": [f"{__name__}:divide"], "syntax": "call"})
    assert env.step("<action>divide(by=1)</action>")[4]["action_valid"]
    with pytest.raises(ZeroDivisionError):
        env.step("<action>divide(by=0)</action>")


@pytest.mark.parametrize(("wrapper", "written"), [(PARSE, "<answer></answer>"), (BOXED, "action")])
@pytest.mark.parametrize("env", ["agentopd/Sokoban-v0", "agentopd/Hanoi-v0", "toy:FrozenLake-v1"])
def test_what_is_wrong_with_an_answer_is_said_once(wrapper: Any, written: str, env: str) -> None:
    told = f"No {written} in the answer."
    wrapped_env, bare = wrapped([wrapper], env), wrapped([], env)
    for plain in (wrapped_env, bare):
        plain.reset(seed=0)
    observation, _, _, _, info = wrapped_env.step("up")
    own = bare.step("up")[0].removeprefix("No <action></action> in the answer.\n")
    assert observation == f"{told}\n{own}"
    assert info["feedback"] == told


class Listing(broken_envs.Line):
    """Line, whose ways are listed: by `info` where it says so, and by `legal_actions`."""

    def __init__(self, told: bool = True, ways: int = 2) -> None:
        self._told = told
        self._ways = ["right", "left", *(f"jump {n:02}" for n in range(ways - 2))]

    def legal_actions(self) -> list[str]:
        return self._ways

    def tell(self) -> dict[str, Any]:
        return super().tell() | ({"admissible": self._ways} if self._told else {})


def listing(wrappers: list[Any], **options: Any) -> Any:
    described = {"id": f"{__name__}:Listing", "options": options, "wrappers": wrappers}
    return EnvSettings.model_validate(described).build()


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("wrappers", [[SHOWN], [TOOLS, SHOWN], [SHOWN, PARSE], [SHOWN, HISTORY]])
def test_shown_actions_keep_the_contract(wrappers: list[Any], told: bool) -> None:
    assert check_env(f"{__name__}:listing", {"wrappers": wrappers, "told": told}, seeds=4) == []


@pytest.mark.parametrize("told", [True, False])
def test_actions_are_shown_sorted_while_the_episode_runs(told: bool) -> None:
    env = listing([SHOWN], told=told)
    observation, _ = env.reset(seed=0)
    assert observation == "You are at 0, the goal is at 8.\nYou may: left, right"
    seen = [env.step("<action>right</action>") for _ in range(8)]
    assert [text.endswith("\nYou may: left, right") for text, *_ in seen] == [True] * 7 + [False]
    assert seen[-1][0] == "You are at 8, the goal is at 8." and seen[-1][2]


def test_of_many_actions_some_are_shown_and_the_rest_counted() -> None:
    form = {"form": "[{}]", "between": " | "}
    observation, info = listing([SHOWN | form | {"most": 4}], ways=10).reset(seed=0)
    assert observation.endswith("\n[jump 00 | jump 02 | jump 05 | jump 07 | and 6 more]")
    assert len(info["admissible"]) == 10
    observation, _ = listing([SHOWN | {"most": 10}], ways=10).reset(seed=0)
    assert observation.count("jump") == 8 and "more" not in observation


def test_tools_are_shown_as_calls() -> None:
    env = listing([CALLS, SHOWN], ways=4)
    observation, info = env.reset(seed=0)
    assert observation.endswith("\nYou may: go(way='left'), go(way='right')")
    assert info["admissible"] == ["go(way='right')", "go(way='left')"]


def test_an_environment_without_a_list_has_nothing_to_show() -> None:
    with pytest.raises(ValueError, match="Line lists no admissible actions, neither"):
        wrapped([SHOWN]).reset(seed=0)
    with pytest.raises(ValidationError, match=r"must hold \{\} once"):
        wrapped([SHOWN | {"form": "all"}])
