"""Text that is no Unicode costs the episode that it comes from, and is told in escapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import ScriptedEnv, ends, play, says, toy_tokenizer

from agentopd.base.text import check_unicode, escaped, is_unicode, raised
from agentopd.base.types import EndReason
from agentopd.environment.check import check_env
from agentopd.environment.contract import recorded
from agentopd.environment.tools import Tool, ToolError
from agentopd.stored.trajectories import load_trajectories, save_trajectories

HALF = "a\udc81b"
TOKENIZER = toy_tokenizer()
any_text = st.text(st.characters(exclude_categories=()), max_size=8)


class Mute(RuntimeError):
    """An exception that fails when it is read."""

    def __str__(self) -> str:
        raise KeyError("no words")


@given(any_text)
def test_what_is_escaped_can_be_written_and_the_rest_stays_as_it_is(text: str) -> None:
    written = escaped(text).encode().decode()
    expected = "".join(f"\\u{ord(c):x}" if 0xD800 <= ord(c) <= 0xDFFF else c for c in text)
    assert written == expected
    assert is_unicode(text) is (expected == text)


def test_what_is_no_text_is_named() -> None:
    assert check_unicode("ü\U0001f642", "the text") == "ü\U0001f642"
    with pytest.raises(ValueError, match=r"'\\udc81' in position 1: the text is no Unicode text"):
        check_unicode(HALF, "the text")
    assert raised(RuntimeError(f"cannot read '{HALF}'")) == r"RuntimeError: cannot read 'a\udc81b'"
    assert raised(Mute()) == "Mute, which cannot say what it is: KeyError"


@pytest.mark.parametrize(
    ("info", "key"),
    [
        ({"task_id": HALF}, "task_id"),
        ({"facts": {"door": ["open", HALF]}}, "facts"),
        ({"facts": {HALF: True}}, "facts"),
        ({"guide": "\ud83d\ude42"}, "guide"),
    ],
)
def test_info_is_recorded_whole_or_not_at_all(info: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=rf"info\['{key}'\] is no Unicode text"):
        recorded({"success": True} | info)
    assert recorded({"facts": {"é": ("a", 1)}}) == {"facts": {"é": ["a", 1]}}


BROKEN = [
    ScriptedEnv(RuntimeError(f"cannot read '{HALF}'"), []),
    ScriptedEnv(Mute(), []),
    ScriptedEnv((HALF, {}), []),
    ScriptedEnv(("B1", {"task_id": HALF}), []),
    ScriptedEnv(("B1", {}), [], system=HALF),
    ScriptedEnv(("B1", {}), [OSError(2, "no such file", HALF)]),
    ScriptedEnv(("B1", {}), [says(HALF)]),
    ScriptedEnv(("B1", {}), [says("B2", oracle=HALF)]),
    ScriptedEnv(("B1", {}), [says("B2", facts={"name": HALF})]),
]


@pytest.mark.parametrize("broken", BROKEN, ids=range(len(BROKEN)))
def test_one_episode_fails_and_all_are_saved(broken: ScriptedEnv, tmp_path: Path) -> None:
    broken.actions.clear()
    good = ScriptedEnv(("B1", {"task_id": "t"}), [ends()])
    answers = [["up <|im_end|>", "up <|im_end|>"]] * 2
    failed, whole = played = play(TOKENIZER, [broken, good], answers)[0]
    assert (failed.end, whole.end) == (EndReason.ERROR, EndReason.TERMINATED)
    assert is_unicode(failed.error)
    assert r"\udc81" in failed.error or "Mute" in failed.error
    save_trajectories(played, tmp_path / "step.parquet")
    assert [t.error for t in load_trajectories(tmp_path / "step.parquet")] == [failed.error, ""]


def echo(what: str) -> str:
    """Say it."""
    return what


def anything(what: Any) -> str:
    """Say it."""
    if what == "refused":
        raise ValueError(HALF)
    return str(what)


@pytest.mark.parametrize("function", [echo, anything])
@pytest.mark.parametrize("given_", [HALF, "refused"])
def test_a_call_that_spells_half_a_character_is_no_call(function: Any, given_: str) -> None:
    tool = Tool(function)
    call = json.dumps({"name": tool.name, "arguments": {"what": given_}})
    if function is echo and given_ == "refused":
        assert Tool.call(call, "json", {tool.name: tool}) == given_
        return
    with pytest.raises(ToolError) as refused:
        Tool.call(call, "json", {tool.name: tool})
    assert is_unicode(str(refused.value))


def test_the_checker_tells_an_error_in_escapes() -> None:
    found = check_env("test_text:Unreadable")
    assert found and all(is_unicode(finding.message) for finding in found)
    assert r"cannot read a\udc81b" in found[0].message


class Unreadable(ScriptedEnv):
    """Its file's name is no text."""

    def __init__(self) -> None:
        super().__init__(RuntimeError(f"cannot read {HALF}"), [])
