"""The client of OpenEnv servers: against our own server, and against pretended foreign ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

import pytest

pytest.importorskip("websockets")

from serving import PATIENCE, pretended, served
from websockets.sync.client import ClientConnection, connect

from agentopd.environment.check import check_env
from agentopd.environment.contract import actions
from agentopd.environment.registry import make
from agentopd.envs.adapters.remote import Remote, ServerError, text_field

HANOI = "agentopd/Hanoi-v0"
TEXT = {"required": ["message"], "properties": {"message": {"type": "string"}, "metadata": {}}}
MOVE = {"required": ["x", "y"], "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}}}
ANSWER = "<think>why</think><action>go</action>"


def _observed(done: bool = False, reward: Any = None, **observation: Any) -> dict[str, Any]:
    data = {"observation": observation, "reward": reward, "done": done}
    return {"type": "observation", "data": data}


def _refused(code: str, message: str, **more: Any) -> dict[str, Any]:
    return {"type": "error", "data": {"code": code, "message": message} | more}


@pytest.mark.parametrize("spec", [HANOI, "agentopd/Sokoban-v0", "agentopd/Mastermind-v0"])
def test_an_episode_over_the_wire_is_the_episode_in_process(spec: str) -> None:
    local = make(spec)
    with served(spec, privileged=True) as url:
        remote = make(f"openenv:{url}")
        assert isinstance(remote, Remote)
        for seed in (0, 1):
            seen, expected = remote.reset(seed=seed), local.reset(seed=seed)
            assert seen == expected
            names = (
                "system_prompt",
                "examples",
                "action_form",
                "action_between",
                "max_turns",
                "stochastic",
            )
            for name in names:
                assert getattr(remote, name) == local.get_wrapper_attr(name)
            over, info = False, expected[1]
            while not over:
                best = actions(local, info["oracle"])[0] if seed else "nonsense"
                answer = f"<think>hm</think>{remote.action_form.format(best)}"
                found, wanted = remote.step(answer), local.step(answer)
                assert found == wanted
                over, info = wanted[2] or wanted[3], wanted[4]
            assert info["success"] is bool(seed) or spec != HANOI
        remote.close()


def test_what_the_server_keeps_to_itself_is_not_there() -> None:
    with served(HANOI) as url:
        remote = make(f"openenv:{url}")
        _, info = remote.reset(seed=0)
        remote.close()
    assert info.keys() == {"task_id", "success", "action_valid", "metrics", "skill"}


def test_a_served_environment_keeps_the_contract() -> None:
    with served(HANOI, privileged=True) as url:
        findings = check_env(f"openenv:{url}")
    assert [f for f in findings if f.level != "note"] == []


def test_options_of_a_reset_reach_the_environment() -> None:
    with served("serving:Counting") as url:
        env = make(f"openenv:{url}", {"reset": {"options": {"a": 1}}})
        assert env.reset(seed=2)[0] == "seed 2 {'a': 1}"
        assert env.reset(seed=2, options={"b": 2})[0] == "seed 2 {'b': 2}"
        with pytest.raises(ServerError, match="EXECUTION_ERROR: no such task"):
            env.reset(options={"bad": 1})
        assert env.reset(seed=3)[0] == "seed 3 {'a': 1}"
        env.close()


def test_a_closed_session_has_given_its_place_back() -> None:
    with served("serving:Counting", sessions=1) as url:
        for seed in range(20):
            env = make(f"openenv:{url}")
            assert env.reset(seed=seed)[0] == f"seed {seed}"
            env.close()
        env = make(f"openenv:{url}")
        env.reset(seed=7)
        other = make(f"openenv:{url}")
        with pytest.raises(ServerError, match="CAPACITY_REACHED: all 1 sessions are taken"):
            other.reset(seed=0)
        env.close()
        assert other.reset(seed=8)[0] == "seed 8"
        other.close()


def test_a_full_server_is_heard_even_if_it_has_closed_before_anything_was_sent() -> None:
    @contextmanager
    def slowly(*args: Any, **settings: Any) -> Iterator[ClientConnection]:
        with connect(*args, **settings) as connection:
            connection.recv_events_thread.join(PATIENCE)  # it ends when the server has closed
            yield connection

    with served("serving:Counting", sessions=1) as url:
        first, second = Remote(url), Remote(url)
        first.reset(seed=0)
        second.link._connect = slowly
        with pytest.raises(ServerError, match="CAPACITY_REACHED"):
            second.reset(seed=0)
        first.close()


@pytest.mark.parametrize(
    ("schema", "options", "answer", "sent"),
    [
        (TEXT, {}, ANSWER, {"message": "<action>go</action>"}),
        (TEXT, {}, "<think>go", {"message": ""}),
        (TEXT, {}, '{"message": "go"}', {"message": "go"}),
        (TEXT, {}, '{"other": "go"}', {"message": '{"other": "go"}'}),
        (MOVE, {}, '<think>{"x": 3, "y": 4}</think> {"x": 1, "y": 2}', {"x": 1, "y": 2}),
        (TEXT, {"send": "action"}, ANSWER, {"message": "go"}),
        (MOVE, {"action_field": "x"}, ANSWER, {"x": "<action>go</action>"}),
        (MOVE, {}, '<action>{"x": 1, "y": 2}</action>', {"x": 1, "y": 2}),
    ],
)
def test_an_answer_becomes_the_object_that_the_server_wants(
    schema: Any, options: dict[str, Any], answer: str, sent: dict[str, Any]
) -> None:
    got: list[Any] = []

    def reply(message: dict[str, Any]) -> Any:
        got.append(message)
        return _observed(text="t")

    with pretended(reply, schema) as url:
        env = make(f"openenv:{url}", options)
        env.reset(seed=5)
        env.step(answer)
        env.close()
    assert got == [{"type": "reset", "data": {"seed": 5}}, {"type": "step", "data": sent}]


@pytest.mark.parametrize(
    ("schema", "answer", "problem"),
    [
        (MOVE, "left", "No <action></action> in the answer."),
        (MOVE, "<action>left</action>", "The action is not JSON"),
        (MOVE, "<action>" + "[" * 100_000 + "</action>", "The action is not JSON"),
        (MOVE, "<action>[1]</action>", "The action is not a JSON object. Its keys are: x, y."),
        ({}, "left", "No <action></action> in the answer."),
    ],
)
def test_an_answer_that_cannot_be_sent_costs_a_turn(schema: Any, answer: str, problem: str) -> None:
    def reply(message: dict[str, Any]) -> Any:
        assert message["type"] == "reset"
        return _observed(text="t", metadata={"task_id": "7"})

    with pretended(reply, schema) as url:
        env = make(f"openenv:{url}", {"max_turns": 2})
        env.reset(seed=0)
        for late in (False, True):
            text, reward, terminated, truncated, info = env.step(answer)
            assert text.startswith(problem)
            assert (reward, terminated, truncated) == (0.0, False, late)
            assert info == {
                "task_id": "7", "success": False, "action_valid": False, "feedback": text,
            }  # fmt: skip
        env.close()


def test_a_rejected_action_is_an_invalid_one_and_any_other_error_is_raised() -> None:
    errors = [{"loc": ["action", "message"], "msg": "too long"}, {"loc": [], "msg": "no"}]
    replies = iter(
        [
            _observed(text="t"),
            _refused("VALIDATION_ERROR", "Invalid message", errors=errors),
            _refused("VALIDATION_ERROR", "", errors="odd"),
            _observed(text="u"),
            _refused("EXECUTION_ERROR", "fire"),
        ]
    )
    with pretended(lambda _: next(replies), TEXT) as url:
        env = make(f"openenv:{url}")
        env.reset(seed=0)
        text, _, terminated, truncated, info = env.step("x")
        assert text == "Invalid message: action.message: too long; : no" == info["feedback"]
        assert not (terminated or truncated or info["action_valid"])
        assert env.step("x")[4]["action_valid"] is False
        assert env.step("x")[0] == "u"
        with pytest.raises(ServerError, match="EXECUTION_ERROR: fire"):
            env.step("x")
        env.close()


@pytest.mark.parametrize(
    ("observation", "options", "seen"),
    [
        ({"message": "m", "text": "t"}, {}, "t"),
        ({"prompt": "", "messages": [{"content": "a"}, {"content": "b"}]}, {}, "a\nb"),
        ({"prompt": "p", "board": "b"}, {"text_field": "board"}, "b"),
        ({"prompt": "p"}, {"text_field": "board"}, '{"prompt": "p"}'),
        ({"text": ""}, {}, ""),
        ({"message": "moved", "x": 0, "y": 2, "goal": None}, {}, 'moved\n{"x": 0, "y": 2}'),
        ({"metadata": {"message": "ready"}}, {}, "ready"),
        ({"output": ["é", 1]}, {}, '["é", 1]'),
        ({"x": 1, "metadata": {"task_id": "a"}}, {}, '{"x": 1}'),
        ({}, {}, "{}"),
    ],
)
def test_the_student_sees_the_first_text_of_an_observation(
    observation: dict[str, Any], options: dict[str, Any], seen: str
) -> None:
    with pretended(lambda _: _observed(**observation), TEXT) as url:
        env = make(f"openenv:{url}", options)
        assert env.reset(seed=0)[0] == seen
        env.close()


@pytest.mark.parametrize(
    ("reply", "options", "expected"),
    [
        (_observed(), {}, (0.0, False, False, False)),
        (_observed(True, 1), {}, (1.0, True, False, True)),
        (_observed(True, 0.5), {}, (0.5, True, False, False)),
        (_observed(True, 0.5), {"success_reward": 0.5}, (0.5, True, False, True)),
        (_observed(True, True, metadata={"truncated": True}), {}, (1.0, False, True, False)),
        (_observed(True, 1, metadata={"success": False}), {}, (1.0, True, False, False)),
        (_observed(False, 1, metadata={"truncated": True}), {}, (1.0, False, False, False)),
        (_observed(False, 1), {"max_turns": 1}, (1.0, False, True, False)),
        (_observed(True, 1), {"max_turns": 1}, (1.0, True, False, True)),
    ],
)
def test_the_end_of_an_episode(
    reply: Any, options: dict[str, Any], expected: tuple[float, bool, bool, bool]
) -> None:
    with pretended(lambda _: reply, TEXT) as url:
        env = make(f"openenv:{url}", options)
        env.reset(seed=0)
        _, reward, terminated, truncated, info = env.step("x")
        assert (reward, terminated, truncated, info["success"]) == expected
        env.close()


def test_info_of_another_type_than_ours_is_not_ours() -> None:
    metadata = {"task_id": 7, "success": "yes", "oracle": "up", "facts": [1], "other": 1}
    with pretended(lambda _: _observed(text="t", metadata=metadata), TEXT) as url:
        env = make(f"openenv:{url}")
        _, info = env.reset(seed=4)
        env.close()
    assert info == {"task_id": f"{url}/4", "success": False, "oracle": "up"}


@pytest.mark.parametrize("answer", ["{", '"x"', '{"type": "observation"}', '{"type": "state"}'])
def test_what_is_no_answer_is_an_error(answer: str) -> None:
    with pretended(lambda _: answer, TEXT) as url:
        env = make(f"openenv:{url}")
        with pytest.raises(ValueError if answer == "{" else ServerError):
            env.reset(seed=0)
        env.close()


def test_a_late_answer_is_never_taken_for_the_next_one() -> None:
    let_go = Event()

    def reply(message: dict[str, Any]) -> Any:
        if message["type"] == "step":
            let_go.wait(PATIENCE)
            return _observed(text="late")
        return _observed(text=f"seed {message['data']['seed']}")

    with pretended(reply, TEXT) as url:
        env = make(f"openenv:{url}")
        env.reset(seed=0)
        assert isinstance(env, Remote)
        env.link.seconds = 0.05
        with pytest.raises(TimeoutError):
            env.step("x")
        let_go.set()
        env.link.seconds = PATIENCE
        assert env.reset(seed=1)[0] == "seed 1"
        env.close()


@pytest.mark.parametrize("status", [200, 404])
def test_a_server_without_a_schema_needs_the_name_of_the_field(status: int) -> None:
    def build(options: dict[str, Any]) -> Callable[[], Any]:
        env = make(f"openenv:{url}", options)
        return lambda: (env.reset(seed=0), env.step(ANSWER), env.close())

    with pretended(lambda _: _observed(text="t"), None, status) as url:
        build({"action_field": "text"})()
        if status == 404:
            with pytest.raises(ServerError, match="/schema is no schema of an action: HTTP"):
                build({})()


def test_the_field_of_text_is_the_only_required_one() -> None:
    assert text_field(TEXT) == "message"
    assert text_field(MOVE) is None
    assert text_field({}) is None
    assert text_field({"required": ["x"], "properties": {"x": {"type": "integer"}}}) is None
    assert text_field({"required": ["x"]}) is None


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("ws://127.0.0.1:8/ws", "ws://127.0.0.1:8/ws"),
        ("http://a.org", "ws://a.org/ws"),
        ("https://a.org/env/", "wss://a.org/env/ws"),
    ],
)
def test_the_address_may_be_written_as_openenv_clients_write_it(name: str, url: str) -> None:
    env = make(f"openenv:{name}")
    assert isinstance(env, Remote) and env.link.url == url
    env.close()


def test_mistakes_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("", "localhost:8000", "ftp://a.org/ws", "ws:///ws"):
        with pytest.raises(ValueError, match="write openenv:ws://HOST:PORT/ws"):
            make(f"openenv:{name}")
    with pytest.raises(ValueError, match="'answer' or 'action', not 'all'"):
        make("openenv:ws://a.org/ws", {"send": "all"})
    monkeypatch.setitem(sys.modules, "websockets.sync.client", None)
    with pytest.raises(ValueError, match=r"pip install 'agentopd\[openenv\]'"):
        make("openenv:ws://a.org/ws")


def test_a_server_that_is_not_there_is_the_episodes_failure() -> None:
    with served(HANOI) as url:
        pass
    env = make(f"openenv:{url}", {"connect_seconds": 1.0})
    schema = url.replace("ws://", "http://").replace("/ws", "/schema")
    with pytest.raises(OSError, match=f"{schema} cannot be reached .*Connection refused"):
        env.reset(seed=0)
    told = make(f"openenv:{url}", {"connect_seconds": 1.0, "action_field": "text"})
    with pytest.raises(OSError, match=f"{url} cannot be reached .*Connection refused"):
        told.reset(seed=0)
    env.close()


def test_a_pool_plays_it_as_it_plays_the_environment_in_process() -> None:
    from scripted import play, toy_tokenizer

    from agentopd.rollout.pool import Limits

    tokenizer = toy_tokenizer()
    limits = Limits(turns=2, turn_tokens=10, context=9999, env_seconds=PATIENCE)
    answers = [["up <|im_end|>", "left <|im_end|>"]] * 4
    with served(HANOI, privileged=True) as url:
        remote = [make(f"openenv:{url}") for _ in range(4)]
        found = play(tokenizer, remote, answers, limits)[0]  # type: ignore[arg-type]
    local = play(tokenizer, [make(HANOI) for _ in range(4)], answers, limits)[0]  # type: ignore[arg-type]
    for a, b in zip(found, local, strict=True):
        assert a.ids.tolist() == b.ids.tolist()
        assert (a.turns, a.end, a.error, a.prompt) == (b.turns, b.end, "", b.prompt)


TOOL = {
    "required": ["tool_name"],
    "properties": {"type": {}, "tool_name": {"type": "string"}, "arguments": {}, "metadata": {}},
}
ECHO = {"required": ["text"], "properties": {"text": {"type": "string"}, "times": {}}}


def _tools(message: dict[str, Any]) -> Any:
    """An MCP environment: a tool that echoes."""
    if message["type"] == "mcp":
        assert message["data"]["method"] == "tools/list"
        tools = [{"name": "echo", "description": "Say it\nagain.", "inputSchema": ECHO}]
        return {"type": "mcp", "data": {"jsonrpc": "2.0", "id": 1, "result": {"tools": tools}}}
    if message["type"] == "reset":
        return _observed(metadata={"message": "ready"})
    named = {"tool_name": message["data"]["tool_name"]}
    if named["tool_name"] != "echo":
        error = {"error_type": "tool_not_found", "message": "no such tool"}
        return _observed(**named, result=None, error=error)
    content = [{"type": "text", "text": message["data"]["arguments"]["text"]}]
    return _observed(**named, result={"content": content, "is_error": False}, error=None)


@pytest.mark.parametrize("tool", ["tool_name", "name"])
@pytest.mark.parametrize("form", ["{}", "<think>{{}}</think><action>{}</action>"])
def test_the_tools_of_an_mcp_environment_are_listed_once_and_called(tool: str, form: str) -> None:
    got: list[str] = []
    with pretended(lambda m: got.append(m["type"]) or _tools(m), TOOL) as url:
        env = make(f"openenv:{url}", {"system_prompt": "Talk."})
        for seed in (0, 1):
            assert env.reset(seed=seed)[0] == "ready"
        assert isinstance(env, Remote)
        assert env.system_prompt == (
            "Talk.\nYour action is one call of a tool, a JSON object inside <action></action>:\n"
            "- echo(text (string), times (any, optional)): Say it again.\n"
            'For example <action>{"tool_name": "echo", "arguments": {"text": "..."}}</action>'
        )
        said, _, _, _, info = env.step(
            form.format(json.dumps({tool: "echo", "arguments": {"text": "hi"}}))
        )
        assert (said, info["action_valid"]) == ("hi", True)
        said, _, _, _, info = env.step(json.dumps({tool: "shout", "arguments": {}}))
        assert (said, info["action_valid"]) == ("no such tool", False)
        assert env.step("echo hi")[0] == "No <action></action> in the answer."
        env.close()
    assert got == ["mcp", "reset", "reset", "step", "step"]


def test_the_keys_of_an_action_of_several_fields_are_told() -> None:
    with pretended(lambda _: _observed(text="t"), MOVE) as url:
        env = make(f"openenv:{url}")
        env.reset(seed=0)
        assert isinstance(env, Remote)
        assert env.system_prompt == (
            "Your action is a JSON object inside <action></action> with the keys "
            "x (integer), y (integer)."
        )
        env.close()


def test_what_cannot_be_carried_out_may_count_as_an_invalid_action() -> None:
    def reply(message: dict[str, Any]) -> Any:
        step = message["type"] == "step"
        return _refused("EXECUTION_ERROR", "no such move") if step else _observed(text="t")

    with pretended(reply, TEXT) as url:
        env = make(f"openenv:{url}", {"execution_error": "invalid"})
        env.reset(seed=0)
        for _ in range(2):
            text, _, terminated, truncated, info = env.step("x")
            assert (text, terminated, truncated) == ("no such move", False, False)
            assert info["action_valid"] is False
        env.close()
    with pytest.raises(ValueError, match="'raise' or 'invalid', not 'ignore'"):
        make(f"openenv:{url}", {"execution_error": "ignore"})
