"""AppWorld's adapter against a stand-in for its server: the routes, and no code that runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("fcntl")

from agentopd.environment.check import check_env
from agentopd.environment.registry import make
from agentopd.envs.adapters.world_server import AppWorld, WorldError, _claimed, code_of, shortened

PATIENCE = 60.0
TASKS = ["82e_1", "82e_2", "b0a_1"]
PAY, DONE = "<action>pay()</action>", "<action>complete_task()</action>"


@dataclass
class Worlds:
    """One world a path: `/3/execute` is of world 3. `asked` holds routes and data as they came."""

    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    worlds: dict[str, dict[str, Any]] = field(default_factory=dict)
    port: int = 0

    def url(self, world: int = 0) -> str:
        return f"http://127.0.0.1:{self.port}/{world}"

    def answer(self, path: str, data: dict[str, Any]) -> tuple[int, Any]:
        """The status and the body."""
        _, name, route = path.split("/")
        self.asked.append((f"{name}/{route}", data))
        if route == "initialize":
            if data["task_id"] not in TASKS:
                return 500, {"detail": f"there is no task {data['task_id']}"}
            self.worlds[name] = {"task_id": data["task_id"], "paid": False, "done": False}
            supervisor = {"first_name": "Ann", "email": "ann@example.org"}
            told = {"instruction": f"Pay {data['task_id']}.", "supervisor": supervisor}
            return 200, {"output": {**told, "datetime": "2023-05-18T12:00:00"}}
        world = self.worlds.get(name)
        if world is None or world["task_id"] != data["task_id"]:
            return 422, {"detail": "another world is open"}
        return 200, {"output": getattr(self, f"_{route}")(name, world, data)}

    def _execute(self, name: str, world: dict[str, Any], data: dict[str, Any]) -> str:
        code = data["code"]
        if code not in ("pay()", "complete_task()", "print(9000)"):
            return "Execution failed. Traceback:\n  line 1\nNameError: name 'x' is not defined\n"
        world["paid"] |= code == "pay()"
        world["done"] |= code == "complete_task()"
        return "9" * 9000 if code == "print(9000)" else "Execution successful."

    def _task_completed(self, name: str, world: dict[str, Any], data: dict[str, Any]) -> bool:
        return world["done"]

    def _evaluate(self, name: str, world: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        tests = [("assert a payment", world["paid"]), ("assert completion", world["done"])]
        unmet = [
            {"requirement": r, "trace": "t", "label": "no_op_fail"} for r, met in tests if not met
        ]
        met = [{"requirement": r, "label": "no_op_fail"} for r, met in tests if met]
        counts = {"success": not unmet, "difficulty": 1, "num_tests": 2}
        return {**counts, "passes": met, "failures": unmet}

    def _close(self, name: str, world: dict[str, Any], data: dict[str, Any]) -> None:
        del self.worlds[name]


@pytest.fixture
def worlds() -> Iterator[Worlds]:
    state = Worlds()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, body = state.answer(self.path, data)
            said = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.port = server.server_address[1]
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield state
        server.shutdown()
        thread.join(PATIENCE)


def _env(worlds: Worlds, **options: Any) -> AppWorld:
    env = make(f"appworld:{worlds.url()}", {"tasks": TASKS, **options})
    assert isinstance(env, AppWorld)
    return env


def test_a_solved_task_and_what_the_server_is_asked(worlds: Worlds) -> None:
    env = _env(worlds, initialize={"random_seed": 7})
    text, info = env.reset(seed=4)
    assert text == (
        "You act for\nemail: ann@example.org\nfirst_name: Ann\n"
        "The time is 2023-05-18T12:00:00\nThe request:\nPay 82e_2."
    )
    assert (info["task_id"], info["success"]) == ("appworld/82e_2", False)
    text, reward, terminated, truncated, info = env.step(PAY)
    assert (text, reward, terminated, truncated) == ("Execution successful.", 0.0, False, False)
    assert (info["action_valid"], info["success"]) == (True, False)
    assert "feedback" not in info
    text, reward, terminated, truncated, info = env.step(DONE)
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)
    assert info["feedback"] == "Every requirement is met."
    assert info["facts"] == {"assert a payment": True, "assert completion": True}
    assert info["metrics"] == {"turns": 2.0, "requirements_met": 1.0}
    env.close()
    task = {"task_id": "82e_2"}
    name = f"agentopd-{worlds.port}"
    assert worlds.asked == [
        ("0/initialize", {**task, "experiment_name": name, "random_seed": 7}),
        ("0/execute", {**task, "code": "pay()"}),
        ("0/task_completed", task),
        ("0/execute", {**task, "code": "complete_task()"}),
        ("0/task_completed", task),
        ("0/evaluate", {**task, "suppress_errors": True}),
        ("0/close", task),
    ]


def test_what_was_not_met_is_told_in_words(worlds: Worlds) -> None:
    env = _env(worlds)
    env.reset(seed=0)
    _, reward, terminated, _, info = env.step(DONE)
    assert (reward, terminated, info["success"]) == (0.0, True, False)
    assert info["feedback"] == "Not met: assert a payment"
    assert info["facts"] == {"assert a payment": False, "assert completion": True}
    assert info["metrics"]["requirements_met"] == 0.5
    env.close()


def test_the_limit_of_turns_truncates_and_the_world_is_judged(worlds: Worlds) -> None:
    env = _env(worlds, max_turns=2)
    env.reset(seed=0)
    assert env.step(PAY)[2:4] == (False, False)
    _, reward, terminated, truncated, info = env.step("no code")
    assert (reward, terminated, truncated, info["success"]) == (0.0, False, True, False)
    assert info["feedback"] == "Not met: assert completion"
    assert (info["action_valid"], info["mistake"]) == (False, "no code")
    env.reset(seed=0)
    env.step(PAY)
    assert env.step(DONE)[2:4] == (True, False)
    env.close()


def test_an_answer_without_code_and_code_that_fails_cost_a_turn(worlds: Worlds) -> None:
    env = _env(worlds)
    env.reset(seed=0)
    asked = len(worlds.asked)
    text, _, terminated, truncated, info = env.step("<think><action>pay()</action></think>")
    assert text == info["feedback"] == "No <action></action> with code in the answer."
    assert (terminated, truncated, info["action_valid"]) == (False, False, False)
    assert len(worlds.asked) == asked
    text, _, _, _, info = env.step("<action>x</action>")
    assert text.startswith("Execution failed. Traceback:")
    assert info["feedback"] == "The code failed: NameError: name 'x' is not defined"
    assert (info["mistake"], info["action_valid"]) == ("failed code", True)
    env.close()


def test_a_long_output_is_shown_without_its_middle(worlds: Worlds) -> None:
    env = _env(worlds, output_limit=100)
    env.reset(seed=0)
    nines = "9" * 50
    assert env.step("<action>print(9000)</action>")[0] == (
        f"{nines}\n[8900 characters left out]\n{nines}"
    )
    env.close()


@given(st.text(max_size=60), st.integers(2, 30))
def test_what_is_shown_of_a_text_is_its_two_ends(text: str, limit: int) -> None:
    shown = shortened(text, limit)
    if len(text) <= limit:
        assert shown == text
    else:
        head, tail = limit // 2, limit - limit // 2
        assert shown == f"{text[:head]}\n[{len(text) - limit} characters left out]\n{text[-tail:]}"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("<action>a = 1\nb</action>", "a = 1\nb"),
        ("<action>a</action> then <action>b</action>", "b"),
        ("<action>\n```python\na\n```\n</action>", "a"),
        ("So:\n```python\na\n```\nthen\n```py\nb\nc\n```", "b\nc"),
        ("```\na\n```", "a"),
        ("```python\na\n``` <action>b</action>", "b"),
        ("<think>\n```python\na\n```\n</think>", None),
        ("<action>  </action>", None),
        ("<action>\n```python\n\n```</action>", None),
        ("", None),
        ("a = 1", None),
    ],
)
def test_the_code_in_an_answer(answer: str, code: str | None) -> None:
    assert code_of(answer) == code


def test_an_episode_has_its_server_alone_and_gives_it_back(worlds: Worlds) -> None:
    urls = [worlds.url(n) for n in range(2)]
    one, two, three = (_env(worlds, urls=urls) for _ in range(3))
    one.reset(seed=0)
    two.reset(seed=1)
    assert {name for name, _ in worlds.asked} == {"0/initialize", "1/initialize"}
    with pytest.raises(WorldError, match="all 2 AppWorld servers are taken"):
        three.reset(seed=2)
    program = (
        "import sys; from agentopd.envs.adapters.world_server import _claimed;"
        "print(*[_claimed(url) is None for url in sys.argv[1:]])"
    )
    spare = f"{worlds.url(2)}/spare"
    run = [sys.executable, "-c", program, *urls, spare]
    told = subprocess.run(run, capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert told.stdout.split() == ["True", "True", "False"], "nor can another process take it"
    one.close()
    assert three.reset(seed=2)[1]["task_id"] == "appworld/b0a_1"
    assert worlds.asked[-1][0] == "0/initialize"
    three.reset(seed=0)
    two.close()
    three.close()
    two.close()


def _take_and_give_back(url: str) -> None:
    claim = _claimed(url)
    assert claim is not None
    claim.close()


def test_a_server_that_cannot_start_a_task_is_given_back(worlds: Worlds) -> None:
    env = _env(worlds, tasks=["nowhere"])
    with pytest.raises(WorldError, match=r"/initialize answered 500: .*there is no task nowhere"):
        env.reset(seed=0)
    _take_and_give_back(worlds.url())
    assert env.reset(options={"task": "b0a_1"})[1]["task_id"] == "appworld/b0a_1"
    worlds.worlds.clear()
    with pytest.raises(WorldError, match=r"/execute answered 422: .*another world is open"):
        env.step(PAY)
    with pytest.raises(WorldError, match="/close answered 422"):
        env.close()
    _take_and_give_back(worlds.url())


@pytest.mark.parametrize("body", [[], {"detail": 1}, "x"])
def test_what_is_no_output_is_an_error(
    worlds: Worlds, body: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = _env(worlds)
    monkeypatch.setattr(worlds, "answer", lambda *_: (200, body))
    with pytest.raises(WorldError, match="/initialize answered no JSON with an output"):
        env.reset(seed=0)


def test_a_server_that_is_not_there_is_the_episodes_failure() -> None:
    env = make("appworld:http://127.0.0.1:1", {"tasks": TASKS})
    with pytest.raises(OSError):
        env.reset(seed=0)
    env.close()


def test_it_keeps_the_contract(worlds: Worlds) -> None:
    options = {"tasks": TASKS, "urls": [worlds.url(n) for n in range(100)], "max_turns": 5}
    found = check_env(f"appworld:{worlds.url()}", options)
    assert [f.name for f in found if f.level != "note"] == ["no-oracle"]
    assert not worlds.worlds, "every world is closed again"


def test_servers_stand_on_consecutive_ports_or_are_listed() -> None:
    env = make("appworld:http://a.org:8000/", {"tasks": TASKS, "servers": 3})
    assert isinstance(env, AppWorld)
    assert env.urls == [f"http://a.org:{port}" for port in (8000, 8001, 8002)]
    env = make(
        "appworld:http://a.org", {"tasks": TASKS, "urls": ["http://b.org/", "https://c.org"]}
    )
    assert isinstance(env, AppWorld)
    assert env.urls == ["http://b.org", "https://c.org"]


def test_tasks_come_from_a_file_too(tmp_path: Path) -> None:
    file = tmp_path / "train.txt"
    file.write_text("a_1\nb_2\n")
    env = make("appworld:http://a.org", {"tasks": str(file)})
    assert isinstance(env, AppWorld) and env.tasks == ["a_1", "b_2"]
    file.write_text("\n")
    with pytest.raises(ValueError, match="list their ids in `tasks`"):
        make("appworld:http://a.org", {"tasks": str(file)})


@pytest.mark.parametrize(
    ("url", "options", "problem"),
    [
        ("a.org", {"tasks": TASKS}, "write appworld:http://HOST:PORT"),
        ("http://a.org", {"tasks": TASKS, "servers": 2}, "need a first port"),
        ("http://a.org:1", {"tasks": TASKS, "servers": 0}, "0 servers"),
        ("http://a.org", {"tasks": "nowhere.txt"}, "cannot be read from nowhere.txt"),
        ("http://a.org", {}, "tasks"),
    ],
)
def test_mistakes_are_told_at_once(url: str, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        make(f"appworld:{url}", options)


def test_a_pool_of_as_many_slots_plays_all_tasks(worlds: Worlds) -> None:
    from scripted import play, toy_tokenizer

    from agentopd.rollout.pool import Limits

    urls = [worlds.url(n) for n in range(2)]
    envs = [_env(worlds, urls=urls, max_turns=2) for _ in range(6)]
    limits = Limits(turns=9, turn_tokens=10, context=9999, env_seconds=PATIENCE)
    answers = [["up <|im_end|>", "left <|im_end|>"]] * 6
    found, _ = play(toy_tokenizer(), envs, answers, limits, slots=2)  # type: ignore[arg-type]
    assert [(t.error, len(t.turns), t.end.value) for t in found] == [("", 2, "truncated")] * 6
    assert [t.prompt["task_id"] for t in found] == [
        f"appworld/{TASKS[t.seed % len(TASKS)]}" for t in found
    ]
