"""Desk's mode `code`: cells that keep their variables, and attacks that go nowhere."""

from __future__ import annotations

import functools
import gc
import itertools
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.sandbox import ATTACKS, attack
from garbage import many
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopd.environment.registry import make
from agentopd.envs.desk.env import Desk
from agentopd.envs.desk.sandbox import CodeActor, Limits
from agentopd.rollout.calls import InPlace, OnThread, caller

pytest.importorskip("pydantic_monty")

QUICK = Limits(seconds=0.2, megabytes=32, calls=200, output=1_000)
SECRET = "what nobody may read"
PATIENCE = 60.0
"""Seconds that no attack may take, also on a busy machine."""


@pytest.fixture(scope="module")
def env() -> Iterator[Desk]:
    built = Desk(mode="code", logins="open", templates=["todo_tick"], limits=QUICK)
    yield built
    built.close()


def run(env: Desk, code: str) -> tuple[str, dict[str, Any]]:
    shown, *_, info = env.step(f"<action>{code}</action>")
    return shown, info


def test_variables_stay_until_the_next_episode(env: Desk) -> None:
    env.reset(seed=0)
    assert run(env, "x = todo.search()")[0] == "Nothing was printed."
    assert run(env, "print(len(x['items']))")[0] == "5\n"
    env.reset(seed=0)
    shown, info = run(env, "print(x)")
    assert "NameError: name 'x' is not defined" in shown
    assert (info["action_valid"], info["mistake"]) == (True, "exception")


def test_a_program_solves_the_task_in_one_cell(env: Desk) -> None:
    _, info = env.reset(seed=0)
    title = env.task.goals[0].requirement.split("'")[1]
    shown, info = run(
        env,
        "```python\npage = 0\nwhile page is not None:\n    found = todo.search(page_index=page)\n"
        f"    for item in found['items']:\n        if item['title'] == '{title}':\n"
        "            todo.update(todo_id=item['id'], done=True)\n"
        "    page = found['next_page']\nsupervisor.complete_task()\n```",
    )
    assert info["success"], shown


def test_refused_calls_raise_and_can_be_caught(env: Desk) -> None:
    env.reset(seed=0)
    shown, info = run(env, "todo.update(todo_id=9999, done=True)")
    assert shown.endswith("Error 404: there is no to-do 9999; find its id with todo.search.")
    assert info["mistake"] == "not found"
    shown, _ = run(env, "try:\n    todo.search(1)\nexcept Exception as error:\n    print(error)")
    assert shown == "Error 422: name the arguments of todo.search.\n"


def test_nothing_can_be_done_after_the_end_of_the_task_in_the_same_cell(env: Desk) -> None:
    env.reset(seed=0)
    shown, _, terminated, _, info = env.step(
        "<action>supervisor.complete_task()\ntodo.add(title='x')</action>"
    )
    assert terminated and "409: the task is completed already" in shown
    assert not info["facts"]["collateral_damage"]


@pytest.mark.parametrize("code", ["x = = 1", "", "(", "for", "  \n ", "1 +", "\0", "x" * 30_000])
def test_what_is_no_python_is_unreadable(env: Desk, code: str) -> None:
    env.reset(seed=0)
    _, info = run(env, code)
    if code != "x" * 30_000:
        assert (info["action_valid"], info["mistake"]) == (False, "unreadable action")
    assert run(env, "print(1)")[0] == "1\n"


def test_time_and_chance_are_the_tasks(env: Desk) -> None:
    code = "import random, datetime\nprint(datetime.date.today(), random.random(), random.random())"
    env.reset(seed=0)
    first, _ = run(env, code)
    env.reset(seed=0)
    assert run(env, code)[0] == first
    assert first.startswith(env.scenario.world.today)


def test_output_is_kept_up_to_the_limit(env: Desk) -> None:
    env.reset(seed=0)
    shown, info = run(env, "for i in range(3000):\n    print(i)")
    assert shown.startswith("0\n1\n2\n") and len(shown) <= QUICK.output
    assert info["action_valid"]


@pytest.fixture(scope="module")
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_go_nowhere(env: Desk, listener: socket.socket, tmp_path: Path, name: str) -> None:
    secret, made = tmp_path / "secret", tmp_path / "made"
    secret.write_text(SECRET)
    env.reset(seed=0)
    world = env.state.world.copy()
    began = time.monotonic()
    shown, reward, terminated, _, info = env.step(attack(name, secret, made, _port(listener)))
    assert time.monotonic() - began < PATIENCE
    assert SECRET not in shown and "root:" not in shown
    assert not made.exists()
    with pytest.raises(BlockingIOError):
        listener.accept()
    assert len(shown) <= env.observation + 60
    assert (reward, terminated) == (0.0, False)
    assert env.state.world == world
    assert run(env, "print(6 * 7)")[0] == "42\n", "the episode goes on"
    assert info["mistake"], "none of them is a step towards the task"


def _port(listener: socket.socket) -> int:
    return listener.getsockname()[1]


def test_a_limit_costs_the_variables_and_not_the_desk(env: Desk) -> None:
    env.reset(seed=0)
    run(env, "made = todo.add(title='kept')")
    shown, info = run(env, "while True:\n    pass")
    assert "TimeoutError: feed time limit exceeded" in shown, "the interpreter stops itself"
    assert shown.endswith("The interpreter was restarted: no variables.")
    assert info["mistake"] == "limit"
    assert "NameError" in run(env, "print(made)")[0]
    assert "kept" in run(env, "print(todo.search(query='kept'))")[0]


@pytest.mark.parametrize(
    "call",
    ["todo.search()", "try:\n        todo.search()\n    except BaseException:\n        pass"],
)
def test_calls_of_apps_count_towards_the_time_of_a_cell(
    env: Desk, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """On a clock that goes on by 0.06 seconds a look, 3 calls come within 0.2 seconds; the fourth
    ends the cell, whatever it catches.
    """
    env.reset(seed=0)
    run(env, "print(1)")
    looks = itertools.count()
    monkeypatch.setattr("agentopd.envs.desk.sandbox.monotonic", lambda: 0.06 * next(looks))
    shown, info = run(env, f"for n in range(30):\n    {call}")
    assert env.state.calls == 3
    assert info["mistake"] == "limit"
    assert "TimeoutError: cell time limit exceeded, with calls of apps: 0.2s" in shown
    assert run(env, "print(todo.search()['next_page'])")[0] == "1\n", "the next cell has its own"


def test_the_oracle_mends_in_cells_what_was_done_many_times(
    env: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentopd.envs.desk.sandbox.monotonic", lambda: 0.0)
    env.reset(seed=0)
    _, info = run(env, "for n in range(90):\n    todo.add(title=f'Oops {n}')")
    cells = 0
    while "oracle" in info:
        assert len(info["oracle"].split("\n")) <= 50
        _, info = run(env, info["oracle"])
        cells += 1
    assert info["success"] and cells == 3, "a search, 50 deletions, 40 more and the task"


def test_environments_in_turns_have_interpreters_of_their_own() -> None:
    first, second = (Desk(mode="code", limits=QUICK) for _ in range(2))
    for env in (first, second):
        env.reset(seed=0)
    run(first, "x = 1")
    run(second, "x = 2")
    assert [run(env, "print(x)")[0] for env in (first, second)] == ["1\n", "2\n"]
    for env in (first, second):
        env.close()
        env.close()


def test_cells_are_waited_for_at_once_and_calls_are_made_in_place() -> None:
    envs = [
        make("agentopd/Desk-v0", {"mode": "code", "logins": "open", "limits": {"seconds": 0.4}})
        for _ in range(3)
    ]
    callers = [caller(env, PATIENCE) for env in envs]
    assert all(isinstance(each, OnThread) for each in callers)
    for each, env in zip(callers, envs, strict=True):
        each.begin(functools.partial(env.reset, seed=0)).result()
    cells = ["while True:\n    pass", "print(1)", "todo.add(title='x')"]
    answers = [
        each.begin(functools.partial(env.step, f"<action>{code}</action>"))
        for each, env, code in zip(callers, envs, cells, strict=True)
    ]
    assert [answer.result()[4]["mistake"] for answer in answers] == ["limit", "detour", "damage"]
    for each, env in zip(callers, envs, strict=True):
        each.end(env.close).result()
    assert isinstance(caller(make("agentopd/Desk-v0"), PATIENCE), InPlace)


def test_a_forgotten_environment_ends_its_process() -> None:
    forgotten = Desk(mode="code", limits=QUICK)
    forgotten.reset(seed=0)
    run(forgotten, "x = 1")
    actor = forgotten._actor
    assert isinstance(actor, CodeActor) and actor._session is not None
    process = actor._session.worker_pid
    assert process is not None
    del forgotten, actor
    patience = time.monotonic() + 60
    while _alive(process) and time.monotonic() < patience:
        gc.collect()
        time.sleep(0.05)
    assert not _alive(process)


def _alive(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    # One that has ended and that nobody has asked after yet is a zombie.
    return status.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"seconds": 0}, "limits.seconds is a number from 0.01 to 3600, not 0"),
        ({"seconds": -1.5}, r"limits.seconds is a number from 0.01 to 3600, not -1\.5"),
        ({"seconds": True}, "limits.seconds is a number from"),
        ({"seconds": "2"}, "limits.seconds is a number from"),
        ({"seconds": float("nan")}, "limits.seconds is a number from"),
        ({"seconds": float("inf")}, "limits.seconds is a number from"),
        ({"seconds": 1e-9}, "limits.seconds is a number from"),
        ({"megabytes": 2**44}, "limits.megabytes is a whole number from 1 to 16384, not"),
        ({"calls": 10**30}, "limits.calls is a whole number from 1 to 1000000000, not"),
        ({"megabytes": 0.5}, r"limits.megabytes is a whole number from 1 to 16384, not 0\.5"),
        ({"calls": 0}, "limits.calls is a whole number from 1 to 1000000000, not 0"),
        ({"output": True}, "limits.output is a whole number from 1 to 1000000000, not True"),
        ({"second": 1}, "Desk has no limit 'second'; did you mean 'seconds'"),
        (2.0, "limits are fields of Limits by name, as {'seconds': 2}, not 2.0"),
    ],
)
def test_limits_that_cannot_work_are_refused(limits: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Desk(mode="code", limits=limits)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydantic_monty", None)
    with pytest.raises(
        ValueError, match=r"pip install 'agentopd\[desk-code\]', or use mode='call'"
    ):
        Desk(mode="code")
    Desk(mode="call")


fragments = st.sampled_from(
    ["x", "=", "1", "mail", ".", "search", "(", ")", "'", '"', "[", "]", "def ", ":", "\n", "    ",
     "print", "for ", " in ", "\0", "```", "</action>", "lambda", "*", "\\"]
)  # fmt: skip
garbage = st.text(max_size=30) | st.lists(fragments, max_size=12).map("".join)


@settings(deadline=None, max_examples=50)
@given(many(garbage))
def test_no_cell_raises_and_the_episode_goes_on(env: Desk, cells: list[str]) -> None:
    """A thousand cells."""
    env.reset(seed=0)
    for code in cells:
        world = env.state.world.copy()
        shown, reward, terminated, truncated, info = env.step(f"<action>{code}</action>")
        shown.encode()
        assert (reward, terminated) == (0.0, False)
        assert info["action_valid"] or env.state.world == world
        if truncated:
            assert env.turns == env.max_turns
            env.reset(seed=0)


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("raise Exception('Error ' + '1' * 4301 + ': ')", "exception"),
        ("raise Exception('Error 404: no such mail')", "exception"),
        ("raise TimeoutError('mine')", "exception"),
        ("raise MemoryError('mine')", "exception"),
        ("raise RuntimeError('suspension limit 2 exceeded')", "exception"),
        ("mail.show(message_id=-5)", "not found"),
        ("mail.show(5)", "wrong arguments"),
        ("while True: pass", "limit"),
        ("x = [0] * 10**9", "exception"),
    ],
)
def test_an_outcome_is_what_we_refused_and_limited_never_what_a_cell_says(
    env: Desk, code: str, problem: str
) -> None:
    env.reset(seed=0)
    _, _, _, _, info = env.step(f"<action>{code}</action>")
    assert info["mistake"] == problem
    kept = env.step("<action>print(1)</action>")[0]
    assert kept.strip() == "1"


def test_calls_of_apps_alone_are_counted() -> None:
    desk = make("agentopd/Desk-v0", {"mode": "code", "logins": "open", "limits": {"calls": 2}})
    desk.reset(seed=0)
    call = "supervisor.show_profile()"
    assert desk.step(f"<action>{call}\n{call}</action>")[4]["mistake"] != "limit"
    told, _, _, _, info = desk.step(f"<action>{call}</action>")
    assert info["mistake"] == "limit"
    assert "call limit exceeded: 2 calls of apps" in told
    assert desk.step(f"<action>{call}</action>")[4]["mistake"] != "limit", "a new interpreter"
    desk.close()


def test_a_name_of_any_length_is_refused_at_once() -> None:
    """Whoever looked for the closest name would take minutes; a busy machine gets its seconds."""
    desk = Desk(mode="code", logins="open", limits=Limits(seconds=10.0))
    desk.reset(seed=0)
    told, _, _, _, info = desk.step("<action>mail.search(**{'x' * 10_000_000: 1})</action>")
    assert info["mistake"] == "wrong arguments"
    assert len(told) < 2_000
    desk.close()


@pytest.mark.parametrize("limits", [{"megabytes": 2**44}, {"calls": 10**30}, {"seconds": 1e-9}])
def test_limits_that_limit_nothing_or_all_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"limits.{next(iter(limits))} is"):
        Limits(**limits)
