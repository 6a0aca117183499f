"""What a program at the desk cannot do: raise out of a step, outlast a limit, forge an outcome."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentopd.envs.desk.api import ApiError, similar
from agentopd.envs.desk.calls import CallError, asked, names_bound, parse_call
from agentopd.envs.desk.env import Desk
from agentopd.envs.desk.jail import jailed
from agentopd.envs.desk.sandbox import CodeActor, Limits

pytest.importorskip("pydantic_monty")

QUICK = Limits(seconds=0.3, megabytes=48, calls=8, output=1_000)


@pytest.fixture(scope="module")
def env() -> Iterator[Desk]:
    built = Desk(mode="code", logins="open", templates=["todo_tick"], limits=QUICK)
    yield built
    built.close()


def run(env: Desk, code: str) -> tuple[str, dict[str, Any]]:
    shown, *_, info = env.step(f"<action>{code}</action>")
    return shown, info


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("raise Exception('Error ' + '1'*4301 + ': ')", "exception"),
        ("raise Exception('Error 404: there is no to-do 1.')", "exception"),
        ("raise TimeoutError('feed time limit exceeded: 2s > 2s')", "exception"),
        ("raise MemoryError('memory limit exceeded: 9 bytes > 1 bytes')", "exception"),
        ("raise RuntimeError('suspension limit exceeded')", "exception"),
        ("raise Exception('RuntimeError: call limit exceeded: 8 calls of apps')", "exception"),
        ("__import__('os')", "exception"),
        ("nobody(1)", "exception"),
        ("todo.update(todo_id=9999, done=True)", "not found"),
        (
            "try:\n    todo.update(todo_id=9999, done=True)\nexcept Exception:\n    1 / 0",
            "exception",
        ),
        ("while True:\n    pass", "limit"),
        ("x = ['x' * (1000 + n) for n in range(10**6)]", "limit"),
    ],
)
def test_what_was_refused_and_limited_is_our_record(env: Desk, code: str, problem: str) -> None:
    env.reset(seed=0)
    run(env, "kept = 1")
    _, info = run(env, code)
    assert info["mistake"] == problem
    alive = "NameError" not in run(env, "print(kept)")[0]
    assert alive == (problem != "limit"), "variables are lost to limits alone"


@pytest.mark.parametrize("text", ["-" * 1_000 + "1", "- -1", "-True", "-'a'", "-(-(1))", "+1"])
def test_signs_are_no_recursion(text: str) -> None:
    with pytest.raises(CallError):
        parse_call(f"mail.show(message_id={text})")
    desk = Desk(mode="call", logins="open")
    desk.reset(seed=0)
    *_, info = desk.step(f"<action>mail.show(message_id={text})</action>")
    assert not info["action_valid"]


def test_a_cell_that_catches_everything_ends_when_its_time_is_over() -> None:
    env = Desk(mode="code", logins="open", limits={"seconds": 0.3, "calls": 10**9})
    env.reset(seed=0)
    code = "s = 'x' * 1_000_000\nwhile True:\n    try:\n        mail.search(query=s)\n"
    began = time.monotonic()
    _, info = run(env, f"{code}    except BaseException:\n        pass")
    assert info["mistake"] == "limit"
    assert time.monotonic() - began < 60
    env.close()


def test_limits_count_calls_of_apps_alone(env: Desk) -> None:
    env.reset(seed=0)
    opens = (
        "for n in range(20):\n    try:\n        open('/etc/x')\n    except Exception:\n        n"
    )
    assert run(env, opens)[1]["mistake"] != "limit"
    calls = "for n in range(8):\n    todo.search()\nprint('eight')"
    assert run(env, calls)[0] == "eight\n"
    shown, info = run(env, "try:\n    todo.search()\nexcept BaseException:\n    print('caught')")
    assert (info["mistake"], "caught" in shown) == ("limit", False)
    assert run(env, calls)[0] == "eight\n", "the interpreter that takes over counts anew"


def test_long_names_and_many_arguments_are_refused_before_anything_looks_at_them(
    env: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> list[str]:
        raise AssertionError("a similar name was sought")

    monkeypatch.setattr("difflib.get_close_matches", never)
    env.reset(seed=0)
    for arguments in ("{'x' * 1_000_000: 1}", "{f'x{n}': n for n in range(1_000)}"):
        shown, info = run(env, f"mail.search(**{arguments})")
        assert info["mistake"] == "wrong arguments" and len(shown) < 1_000
    assert similar("y" * 10**6, ["yes"], 0.5) is None


@pytest.mark.parametrize(
    "value",
    ["range(3)", "lambda: 1", "iter([1])", "{1: 2}.keys()", "slice(1)", "len", "str", "mail", "{1}",
     "todo.search", "ValueError('x')", "b'x'", "{1: 2}", "...", "[range(3)]",
     "datetime.date(1, 1, 1)", "re.compile('a')", "re.match('a', 'a')", "re", "1j"],
)  # fmt: skip
def test_objects_are_no_texts(env: Desk, value: str) -> None:
    env.reset(seed=0)
    world = env.state.world.copy()
    run(env, "import datetime, re")
    shown, info = run(env, f"todo.add(title={value})")
    assert info["mistake"] in ("wrong arguments", "exception"), shown
    assert env.state.world == world


def test_texts_that_only_look_odd_are_texts() -> None:
    for text in (
        "<b>bold</b>",
        "range",
        "(1, 2)",
        "mail me",
        "1 < 2 > 0",
        "typing. Any",
        "x" * 10**5,
    ):
        assert asked("todo.add", (), {"title": text}).arguments == {"title": text}
    with pytest.raises(ApiError, match="name the arguments of todo"):
        asked("todo.add", ("x",), {})


def test_names_that_a_cell_binds_are_found_wherever_they_stand() -> None:
    code = """
import json as mail
from math import sqrt as todo
def wallet(): music: int = 1
for docs in []: pass
try: pass
except Exception as calendar: pass
[x for contacts in []]
(supervisor := 1)
"""
    apps = {"mail", "todo", "wallet", "music", "docs", "calendar", "contacts", "supervisor"}
    assert apps <= names_bound(code)
    assert not names_bound("import mail, todo\nprint(mail.search(query=1))") & apps
    assert names_bound("(" * 5_000) == set()


def test_the_oracle_reaches_apps_whose_names_were_taken(env: Desk) -> None:
    _, info = env.reset(seed=0)
    run(env, "todo = todo.search()\nsupervisor = None\nprint = None")
    shown, info = run(env, "print(todo['items'][0]['id'])")
    assert shown.strip().isdigit(), "a variable stays what it is"
    while "oracle" in info and not info["success"]:
        before = info["facts"]["calls_left"]
        _, info = run(env, info["oracle"])
        assert info["success"] or info["facts"]["calls_left"] < before
    assert info["success"]


@pytest.mark.parametrize(
    ("make", "again"),
    [
        ("contacts.add(name='A', email='a@b.org')", "contacts.add(name='B', email='a@b.org')"),
        (
            "x = contacts.add(name='A', email='a@b.org')['contact_id']\n"
            "y = contacts.add(name='B', email='b@b.org')['contact_id']",
            "contacts.update(contact_id=y, email='a@b.org')",
        ),
        (
            "x = music.search_songs()['items'][0]['id']",
            "music.create_playlist(title='x', song_ids=[x, x])",
        ),
    ],
)
def test_what_one_call_refuses_no_other_lets_through(env: Desk, make: str, again: str) -> None:
    env.reset(seed=0)
    assert run(env, make)[1]["mistake"] in ("damage", "detour")
    world = env.state.world.copy()
    assert run(env, again)[1]["mistake"] == "conflict"
    assert env.state.world == world


def test_a_contact_may_be_updated_to_what_it_is(env: Desk) -> None:
    env.reset(seed=0)
    code = (
        "x = contacts.add(name='A', email='a@b.org')['contact_id']\ncontacts.update(contact_id=x, "
    )
    assert run(env, f"{code}email='a@b.org', birthday='')")[1]["mistake"] == "damage"


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux
def test_the_interpreter_runs_behind_a_second_wall(env: Desk) -> None:
    env.reset(seed=0)
    run(env, "print(1)")
    actor = env._actor
    assert isinstance(actor, CodeActor) and actor._session is not None
    process = Path(f"/proc/{actor._session.worker_pid}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    limits = (process / "limits").read_text()
    assert status["NoNewPrivs"].strip() == "1"
    assert "Max file size             0" in limits
    assert "unlimited" not in next(x for x in limits.splitlines() if "address space" in x)
    assert os.readlink(process / "fd" / "2") == "/dev/null", "it is silent"
    if os.geteuid() == 0 and os.access(sys.executable, os.X_OK):
        assert status["Uid"].split()[0] in ("65534", "0")


@linux
def test_what_runs_behind_the_wall_writes_no_file(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    probe = tmp_path / "probe"
    probe.write_text(f"#!/bin/sh\nulimit -n\necho loud >&2\necho much > {tmp_path}/made\n")
    probe.chmod(0o755)
    ran = subprocess.run([jailed(str(probe), 64)], capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("64\n", "")
    made = tmp_path / "made"
    assert not made.exists() or made.stat().st_size == 0
