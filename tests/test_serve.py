"""`agentopd serve-env`, spoken to message by message."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

import gymnasium
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("websockets")

from command_line import call, problem
from serving import PATIENCE, Closing, Counting, served
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from agentopd.commands.serving import end, serve_from_a_thread
from agentopd.environment.contract import PRIVILEGED
from agentopd.environment.registry import make
from agentopd.environment.serve import Action, Session, serve
from agentopd.environment.wrappers import Wrapper

COUNTING = "serving:Counting"
HANOI = "agentopd/Hanoi-v0"


@contextmanager
def _client(url: str, **settings: Any) -> Iterator[ClientConnection]:
    with connect(url, open_timeout=PATIENCE, proxy=None, **settings) as connection:
        yield connection


def _ask(connection: ClientConnection, kind: str, **data: Any) -> dict[str, Any]:
    return _raw(connection, json.dumps({"type": kind, "data": data}))


def _raw(connection: ClientConnection, message: str | bytes) -> dict[str, Any]:
    connection.send(message)
    return json.loads(connection.recv(PATIENCE))


def test_an_episode_is_what_it_is_in_process() -> None:
    env = make(HANOI)
    text, info = env.reset(seed=3)
    with served(HANOI, privileged=True) as url, _client(url) as connection:
        reply = _ask(connection, "reset", seed=3)
        about = {"system_prompt", "examples", "action_form", "action_between"}
        about |= {"max_turns", "stochastic"}
        while True:
            assert reply["type"] == "observation"
            data = reply["data"]
            assert data["observation"] == {"text": text, "metadata": data["metadata"]}
            told = {k: v for k, v in data["metadata"].items() if k not in about | {"truncated"}}
            assert told == info
            if data["done"]:
                break
            action = env.get_wrapper_attr("action_form").format(info["oracle"].split()[0])
            text, reward, terminated, _, info = env.step(action)
            reply = _ask(connection, "step", text=action)
            assert (reply["data"]["reward"], reply["data"]["done"]) == (reward, terminated)
        assert info["success"]


def test_the_first_observation_brings_what_the_protocol_has_no_place_for() -> None:
    with served(COUNTING) as url, _client(url) as connection:
        data = _ask(connection, "reset", seed=4)["data"]
        assert (data["reward"], data["done"]) == (None, False)
        assert data["observation"]["text"] == "seed 4"
        assert data["metadata"] == {
            "task_id": "count/4",
            "success": False,
            "system_prompt": "count",
            "examples": [],
            "action_form": "<action>{}</action>",
            "action_between": " ",
            "max_turns": 9,
            "stochastic": False,
        }
        step = _ask(connection, "step", text="x")["data"]
        assert step["metadata"]["truncated"] is False
        assert step["metadata"]["metrics"] == {"n": 1.0}


@pytest.mark.parametrize("privileged", [False, True])
def test_what_is_for_the_teacher_is_sent_only_if_that_is_asked_for(privileged: bool) -> None:
    with served(HANOI, privileged=privileged) as url, _client(url) as connection:
        replies = [_ask(connection, "reset", seed=0), _ask(connection, "step", text="nonsense")]
    for reply in replies:
        for told in (reply["data"]["metadata"], reply["data"]["observation"]["metadata"]):
            assert bool(PRIVILEGED & told.keys()) is privileged
            assert {"task_id", "success"} <= told.keys()


def test_a_turn_limit_is_told_as_truncated() -> None:
    with served(HANOI, {"max_turns": 8}) as url, _client(url) as connection:
        _ask(connection, "reset", seed=0)
        replies = [_ask(connection, "step", text="nonsense")["data"] for _ in range(8)]
    assert [r["done"] for r in replies] == [False] * 7 + [True]
    assert [r["metadata"]["truncated"] for r in replies] == [False] * 7 + [True]


def test_a_limit_that_gymnasium_keeps_is_told_at_the_start() -> None:
    with served(HANOI, {"max_turns": 8, "max_episode_steps": 3}) as url, _client(url) as connection:
        assert _ask(connection, "reset", seed=0)["data"]["metadata"]["max_turns"] == 3
        replies = [_ask(connection, "step", text="nonsense")["data"] for _ in range(3)]
    assert [r["metadata"]["truncated"] for r in replies] == [False, False, True]


def test_the_end_of_the_task_counts_where_the_limit_comes_with_it() -> None:
    with served(COUNTING, {"both": True}) as url, _client(url) as connection:
        _ask(connection, "reset")
        last = [_ask(connection, "step", text="x") for _ in range(3)][-1]["data"]
    assert (last["done"], last["metadata"]["truncated"]) == (True, False)


UNUSABLE = [
    ("{", "INVALID_JSON"),
    (b"\xff\xfe", "INVALID_JSON"),
    ("", "INVALID_JSON"),
    ("[" * 100_000, "INVALID_JSON"),
    ("[]", "VALIDATION_ERROR"),
    ("null", "VALIDATION_ERROR"),
    ("{}", "VALIDATION_ERROR"),
    ('{"type": 3}', "VALIDATION_ERROR"),
    ('{"type": "reset", "data": [1]}', "VALIDATION_ERROR"),
    ('{"type": "reset", "data": {"seed": -1}}', "VALIDATION_ERROR"),
    ('{"type": "reset", "data": {"seed": "7"}}', "VALIDATION_ERROR"),
    ('{"type": "reset", "data": {"seed": true}}', "VALIDATION_ERROR"),
    ('{"type": "reset", "data": {"options": 1}}', "VALIDATION_ERROR"),
    ('{"type": "reset", "data": {"options": {"bad": 1}}}', "EXECUTION_ERROR"),
    ('{"type": "step"}', "VALIDATION_ERROR"),
    ('{"type": "step", "data": {"text": 1}}', "VALIDATION_ERROR"),
    ('{"type": "step", "data": {"text": "x", "y": 1}}', "VALIDATION_ERROR"),
    ('{"type": "mcp", "data": {}}', "UNKNOWN_TYPE"),
]


@pytest.mark.parametrize(("message", "code"), UNUSABLE, ids=[repr(m)[:40] for m, _ in UNUSABLE])
def test_a_message_that_cannot_be_used_is_answered_and_the_session_goes_on(
    message: str | bytes, code: str
) -> None:
    session = Session(Counting, privileged=False)
    session.reply('{"type": "reset", "data": {"seed": 1}}')
    refused = session.reply(message)
    assert refused is not None
    assert (refused["type"], refused["data"]["code"]) == ("error", code)
    assert refused["data"]["message"]
    json.dumps(refused)
    again = session.reply('{"type": "reset", "data": {"seed": 2}}')
    assert again is not None and again["data"]["observation"]["text"] == "seed 2"


def test_a_validation_error_names_the_field() -> None:
    refused = Session(Counting, False).reply('{"type": "step", "data": {"tex": "x"}}')
    assert refused is not None
    found = {tuple(e["loc"]): e["msg"] for e in refused["data"]["errors"]}
    assert found == {("text",): "Field required", ("tex",): "Extra inputs are not permitted"}


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
_MESSAGES = st.fixed_dictionaries(
    {"type": st.sampled_from(["reset", "step", "state", "x"])},
    optional={
        "data": _JSON
        | st.fixed_dictionaries({}, optional={"seed": _JSON, "text": _JSON, "options": _JSON}),
    },
)


@given(st.lists(_MESSAGES, max_size=6))
def test_no_message_breaks_a_session(messages: list[dict[str, Any]]) -> None:
    session = Session(lambda: make(HANOI), privileged=True)
    for message in messages:
        reply = session.reply(json.dumps(message))
        assert reply is not None and reply["type"] in ("observation", "state", "error")
        json.dumps(reply)
    last = session.reply('{"type": "reset", "data": {"seed": 0}}')
    assert last is not None and last["type"] == "observation"


def test_a_step_needs_an_episode_under_way() -> None:
    session = Session(Counting, False)
    step = '{"type": "step", "data": {"text": "x"}}'
    reset = '{"type": "reset"}'

    def code(message: str) -> str:
        reply = session.reply(message)
        assert reply is not None
        return reply["data"].get("code", "")

    assert [code(m) for m in (step, reset, step, step, step, step, reset, step)] == [
        "EXECUTION_ERROR", "", "", "", "", "EXECUTION_ERROR", "", "",
    ]  # fmt: skip


def test_the_state_counts_steps_and_keeps_the_episodes_name() -> None:
    with served(COUNTING) as url, _client(url) as connection:
        assert _ask(connection, "state")["data"] == {"episode_id": None, "step_count": 0}
        _ask(connection, "reset", seed=1, episode_id="e7", unknown="ignored")
        _ask(connection, "step", text="x")
        reply = _raw(connection, '{"type": "state"}')
        assert reply == {"type": "state", "data": {"episode_id": "e7", "step_count": 1}}
        _ask(connection, "reset")
        assert _ask(connection, "state")["data"] == {"episode_id": None, "step_count": 0}


def test_sessions_and_episodes_share_nothing() -> None:
    with served(COUNTING) as url, _client(url) as one, _client(url) as other:
        for connection in (one, other):
            _ask(connection, "reset", seed=1)
        said = [_ask(c, "step", text="x")["data"]["observation"]["text"] for c in (one, one, other)]
        assert said == ["1 x", "2 x", "1 x"]
        _ask(one, "reset", seed=1)
        assert _ask(one, "step", text="x")["data"]["observation"]["text"] == "1 x"


def test_one_session_too_many_is_told_so_and_its_place_is_free_again_later() -> None:
    with served(COUNTING, sessions=1) as url:
        with _client(url) as first:
            _ask(first, "reset")
            with _client(url) as second:
                refused = json.loads(second.recv(PATIENCE))
                assert refused["data"]["code"] == "CAPACITY_REACHED"
                with pytest.raises(Exception, match="1000"):
                    second.recv(PATIENCE)
            assert _ask(first, "step", text="x")["type"] == "observation"
            first.send('{"type": "close"}')
            with pytest.raises(Exception, match="1000"):
                first.recv(PATIENCE)
        with _client(url) as third:
            assert _ask(third, "reset")["type"] == "observation"


def test_a_message_that_is_too_long_ends_its_session_alone() -> None:
    with served(COUNTING) as url, _client(url) as other:
        with _client(url) as connection:
            _ask(connection, "reset")
            with pytest.raises(ConnectionClosedError, match="1009"):
                _ask(connection, "step", text="x" * 2**20)
        assert _ask(other, "reset")["type"] == "observation"


def test_what_an_environment_raises_ends_its_episode_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)
    with served(COUNTING, {"bad": "TypeError"}) as url, _client(url) as connection:
        _ask(connection, "reset")
        _ask(connection, "step", text="x")
        said = _ask(connection, "step", text="x")["data"]
        assert said["code"] == "EXECUTION_ERROR"
        assert said["message"].startswith("TypeError: broken; reset")
        assert "reset first" in _ask(connection, "step", text="x")["data"]["message"]
        assert _ask(connection, "reset")["type"] == "observation"
        assert _ask(connection, "step", text="x")["type"] == "observation"
    assert "an environment raised TypeError: broken" in caplog.text


class Awkward(Counting):
    """Keeps its solution under a key of its own; each option is one more way to be broken."""

    def __init__(self, way: str = "") -> None:
        super().__init__()
        if way == "init":
            raise OSError("no port")
        self.way = way

    def reset(self, **kwargs: Any) -> Any:
        text, info = super().reset(**kwargs)
        return text, info | {"solution": {1, 2} if self.way == "json" else "up up"}

    def step(self, action: str) -> Any:
        if self.way == "exit":
            raise SystemExit(3)
        if self.way == "validation":
            Action.model_validate({})
        text, *rest, info = super().step(action)
        return text.encode() if self.way == "bytes" else text, *rest, info | {"solution": "up"}

    def close(self) -> None:
        if self.way == "close":
            raise OSError("stuck")


@pytest.mark.parametrize(
    ("way", "codes"),
    [
        ("init", ["EXECUTION_ERROR", "EXECUTION_ERROR", "EXECUTION_ERROR"]),
        ("json", ["EXECUTION_ERROR", "EXECUTION_ERROR", "EXECUTION_ERROR"]),
        ("exit", ["", "EXECUTION_ERROR", ""]),
        ("validation", ["", "EXECUTION_ERROR", ""]),
        ("bytes", ["", "EXECUTION_ERROR", ""]),
        ("close", ["", "", "EXECUTION_ERROR"]),
    ],
)
def test_every_way_to_be_broken_is_an_execution_error(way: str, codes: list[str]) -> None:
    session = Session(lambda: Awkward(way), privileged=True)
    messages = ('{"type": "reset"}', '{"type": "step", "data": {"text": "x"}}', '{"type": "reset"}')
    replies = [session.reply(message) for message in messages]
    assert [reply and reply["data"].get("code", "") for reply in replies] == codes


def test_a_key_of_the_environments_own_is_not_told() -> None:
    session = Session(Awkward, privileged=False)
    for message in ('{"type": "reset"}', '{"type": "step", "data": {"text": "x"}}'):
        reply = session.reply(message)
        assert reply is not None and reply["type"] == "observation"
        assert "solution" not in reply["data"]["metadata"]
        assert {"task_id", "success"} <= reply["data"]["metadata"].keys()


class Undeclared(gymnasium.Env[str, str]):
    """Declares nothing."""

    def reset(self, **kwargs: Any) -> Any:
        return "hello", {"task_id": "t", "success": False}


def test_an_environment_that_declares_no_form_has_the_usual_one() -> None:
    reply = Session(Undeclared, privileged=False).reply('{"type": "reset"}')
    assert reply is not None
    assert reply["data"]["metadata"]["action_form"] == "<action>{}</action>"


class Hanging(Counting):
    """Its step waits until it is let go."""

    begun, go = Event(), Event()

    def step(self, action: str) -> Any:
        self.begun.set()
        self.go.wait(PATIENCE)
        return super().step(action)


def test_a_hung_step_does_not_keep_the_server_from_ending() -> None:
    server = serve(f"{__name__}:Hanging", port=0)
    thread = serve_from_a_thread(server)
    port = server.socket.getsockname()[1]
    with _client(f"ws://127.0.0.1:{port}/ws") as connection:
        _ask(connection, "reset")
        connection.send('{"type": "step", "data": {"text": "x"}}')
        assert Hanging.begun.wait(PATIENCE)
        assert not end(server, 0.05)
        assert all(t.daemon for t in server.handler_threads)
        Hanging.go.set()
    assert end(server, PATIENCE)
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_wrappers_are_served_too() -> None:
    wrappers = [Wrapper.model_validate({"kind": "parse", "tag": "answer"})]
    with served(HANOI, wrappers=wrappers) as url, _client(url) as connection:
        told = _ask(connection, "reset", seed=0)["data"]["metadata"]
        assert told["action_form"] == "<answer>{}</answer>"
        assert "<answer>" in told["system_prompt"] and "<action>" not in told["system_prompt"]


def test_an_environment_is_closed_with_its_session() -> None:
    with served("serving:Closing") as url:
        with _client(url) as connection:
            _ask(connection, "reset")
            Closing.closed.clear()
        assert Closing.closed.wait(PATIENCE)


def test_what_clients_ask_over_http() -> None:
    with served(COUNTING) as url:
        base = url.replace("ws://", "http://").removesuffix("/ws")
        told = {path: _get(f"{base}{path}") for path in ("/health", "/metadata?x=1", "/schema")}
        assert told["/health"] == {"status": "healthy"}
        about = "Counts its steps, is solved at the third, and says which object it is."
        assert told["/metadata?x=1"] == {"name": COUNTING, "description": about}
        action = told["/schema"]["action"]
        assert action["required"] == ["text"]
        assert action["properties"]["text"]["type"] == "string"
        assert told["/schema"].keys() == {"action", "observation", "state"}
        with pytest.raises(urllib.error.HTTPError, match="404"):
            _get(f"{base}/web")


def _get(address: str) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=PATIENCE) as response:
        assert response.headers.get_all("Content-Type") == ["application/json"]
        return json.load(response)


def test_a_page_in_a_browser_is_refused() -> None:
    """Browsers send where a page is from; without that check any page could reach loopback."""
    with served(COUNTING) as url, pytest.raises(InvalidStatus, match="403"):
        connect(url, origin="https://example.org", proxy=None)  # type: ignore[arg-type]


def test_mistakes_are_told_before_anything_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(COUNTING) as url:
        port = url.removesuffix("/ws").rpartition(":")[2]
        taken = problem(call("serve-env", HANOI, "--port", port))
    assert taken.startswith(f"cannot listen on 127.0.0.1:{port}: ")
    assert "did you mean" in problem(call("serve-env", "agentopd/Hanoy-v0"))
    assert "turns" in problem(call("serve-env", HANOI, "-o", "turns=3"))
    monkeypatch.setitem(sys.modules, "websockets.sync.server", None)
    assert "pip install 'agentopd[openenv]'" in problem(call("serve-env", HANOI))


@pytest.mark.skipif(os.name == "nt", reason="signals are another thing there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_told_to_end(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "agentopd", "serve-env", HANOI, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"ws://127\.0\.0\.1:\d+/ws", process.stdout.readline())
            assert found
            with _client(found[0]) as connection:
                assert _ask(connection, "reset", seed=0)["type"] == "observation"
                process.send_signal(number)
                with pytest.raises(Exception, match="1001"):
                    connection.recv(PATIENCE)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
