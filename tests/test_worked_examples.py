"""Worked examples: messages between the rules and the first observation that nobody sampled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scripted import NO_SYSTEM, STRIPS_THINKING, ids_of, play_one, toy_tokenizer

from agentopd.base.types import Briefed, Owner, Privilege
from agentopd.environment.check import check_env
from agentopd.environment.contract import Info, TextEnv, examples
from agentopd.environment.settings import EnvSettings
from agentopd.models.chat import ChatTemplate
from agentopd.privilege.view import EveryTurnView, SystemView

TOY = toy_tokenizer()
SHOWN = [("hint", "up"), ("so", "down")]
OPENING = (
    "<|im_start|> system ⏎ rules <|im_end|> ⏎ "
    "<|im_start|> user ⏎ hint <|im_end|> ⏎ <|im_start|> assistant ⏎ up <|im_end|> ⏎ "
    "<|im_start|> user ⏎ so <|im_end|> ⏎ <|im_start|> assistant ⏎ down <|im_end|> ⏎ "
)


class Shown(TextEnv):
    """One turn; what is right is shown by an example."""

    system_prompt = "Answer."
    examples = (("Which? <action>down</action> is not it.", "<action>up</action>"),)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        super().reset(seed=seed)
        return f"Which, {seed}?", {"task_id": str(seed), "success": False, "oracle": "up"}

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        right = "up" in action
        return (
            "",
            float(right),
            True,
            False,
            {"success": right, "action_valid": True} | {"task_id": ""},
        )


def name_of(way: str) -> str:
    """Go there."""
    return way


def test_the_student_reads_them_as_the_template_writes_them_and_none_is_learnt_from() -> None:
    found = play_one(
        ["B1", "B2"], ["left <|im_end|>", "up <|im_end|>"], system="rules", examples=SHOWN
    )
    ask = "<|im_start|> assistant ⏎"
    assert found.ids.tolist() == ids_of(
        f"{OPENING}<|im_start|> user ⏎ B1 <|im_end|> ⏎ {ask} left <|im_end|> ⏎ "
        f"<|im_start|> user ⏎ B2 <|im_end|> ⏎ {ask} up <|im_end|>",
        TOY,
    )
    own = [i for turn in found.turns for i in range(turn.start, turn.stop)]
    assert np.flatnonzero(found.trainable).tolist() == own
    assert (found.owner == Owner.STUDENT).nonzero()[0].tolist() == own
    opening = len(ids_of(OPENING, TOY))
    assert set(found.turn[:opening]) == {-1}
    assert [m.role for m in found.messages[:6]] == ["system", *("user", "assistant") * 2, "user"]


def test_no_hint_is_put_into_an_example() -> None:
    found = play_one(["B1", "B2"], ["left <|im_end|>"] * 2, system="rules", examples=SHOWN)
    told = tuple(Privilege(source="hint", text="well", turn=turn) for turn in (0, 1))
    briefed = Briefed(trajectory=found, privileges=told)
    view = EveryTurnView(separator=" ").build([briefed], ChatTemplate(TOY))[0]
    ask = "<|im_end|> ⏎ <|im_start|> assistant ⏎"
    assert view.ids.tolist() == ids_of(
        f"{OPENING}<|im_start|> user ⏎ B1 ␣ well {ask} left <|im_end|> ⏎ "
        f"<|im_start|> user ⏎ B2 ␣ well {ask} left <|im_end|>",
        TOY,
    )


def test_without_a_system_role_the_rules_and_the_hint_are_in_the_first_example() -> None:
    tokenizer = toy_tokenizer(NO_SYSTEM)
    found = play_one(
        ["B1"], ["left <|im_end|>"], chat_template=NO_SYSTEM, system="rules", examples=SHOWN
    )
    template = ChatTemplate(tokenizer)
    said = [template.decode(found.ids[m.start : m.stop].tolist()) for m in found.messages]
    assert said == ["rules\n\nhint", "up", "so", "down", "B1", "left"]
    briefed = Briefed(
        trajectory=found, privileges=(Privilege(source="hint", text="well", turn=None),)
    )
    view = SystemView(separator=" ").build([briefed], template)[0]
    assert template.decode(view.ids.tolist()).count("rules\n\nhint well<|im_end|>") == 1


def test_a_rewritten_history_begins_with_them_again() -> None:
    answers = ["<think> why </think> up <|im_end|>", "left <|im_end|>"]
    found = play_one(["B1", "B2"], answers, chat_template=STRIPS_THINKING, examples=SHOWN)
    first, second = (ChatTemplate(TOY).decode(found.ids[a:b].tolist()) for a, b in found.segments)
    shown = first[: first.index("B1")]
    assert shown.count("hint") == 1
    assert second.startswith(shown)


@pytest.mark.parametrize(
    ("wrapper", "expected"),
    [
        (
            {"kind": "parse", "tag": "answer"},
            [("Which? <answer>down</answer> is not it.", "<answer>up</answer>")],
        ),
        (
            {"kind": "parse", "pattern": r"\[(\w+)\]", "form": "[{}]", "rules": "Write [it]."},
            [("Which? <action>down</action> is not it.", "[up]")],
        ),
        ({"kind": "history"}, list(Shown.examples)),
        ({"kind": "tools", "functions": [f"{__name__}:name_of"]}, []),
    ],
)
def test_wrappers_show_them_in_their_own_form(wrapper: dict[str, Any], expected: Any) -> None:
    env = EnvSettings.model_validate({"id": f"{__name__}:Shown", "wrappers": [wrapper]}).build()
    assert examples(env) == expected


@pytest.mark.parametrize("value", [["up"], [("up",)], [("up", 3)], "up"])
def test_the_checker_says_what_is_no_example(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shown, "examples", value)
    found = [f for f in check_env(f"{__name__}:Shown") if "examples" in f.message]
    assert [f.name for f in found][:1] == ["declarations"]
