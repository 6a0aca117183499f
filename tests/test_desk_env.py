"""The Desk environment: what it shows and says, when it ends, what the teacher alone is told."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from garbage import many
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopd.environment.check import check_env
from agentopd.environment.contract import PRIVILEGED
from agentopd.environment.registry import make
from agentopd.envs.desk.env import Desk
from agentopd.envs.desk.tasks.library import TEMPLATES, select

EASIEST: dict[str, Any] = {"prompt": "brief", "logins": "open", "difficulty": 1}


def act(env: Desk, call: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
    return env.step(f"<action>{call}</action>")


def follow(env: Desk, info: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Act by the oracle to the end: actions, observations and infos."""
    steps = []
    while True:
        action = info["oracle"].split("\n")[0] if env.mode == "call" else info["oracle"]
        shown, _, terminated, truncated, info = act(env, action)
        steps.append((action, shown, info))
        if terminated or truncated:
            return steps


def test_an_episode_call_by_call() -> None:
    env = Desk(templates=["todo_tick"])
    observation, info = env.reset(seed=0)
    world = env.scenario.world
    assert observation == (
        f"I am {world.name}. Today is {world.today}.\n{env.scenario.task.instruction}"
    )
    title = observation.split('"')[1]
    assert info["skill"] == "desk: change"
    assert info["reference"] == info["oracle"]
    assert len(info["oracle"].split("\n")) == 5
    assert info["facts"] == {
        "goals": 1,
        "goals_met": 0,
        "collateral_damage": False,
        "completed": False,
        "calls": 0,
        "errors": 0,
        "solvable": True,
        "calls_left": 5,
        **{
            f"logged_in_{app}": False
            for app in ("contacts", "mail", "calendar", "todo", "wallet", "music")
        },
    }
    *_, info = act(env, f'todo.search(query="{title}")')
    assert (info["action_valid"], info["mistake"]) == (True, "not logged in")
    assert info["feedback"] == "That was refused (not logged in); 5 calls to go."
    shown, *_, info = act(env, "supervisor.show_passwords()")
    assert info["feedback"] == "That helps; 4 calls to go."
    password = json.loads(shown)["todo"]
    shown, *_, info = act(env, f'todo.login(password="{password}")')
    assert info["facts"]["logged_in_todo"]
    token = json.loads(shown)["token"]
    shown, *_, info = act(env, f'todo.search(query="{title}", token="{token}")')
    number = json.loads(shown)["items"][0]["id"]
    shown, *_, info = act(env, f'todo.update(todo_id={number}, done=True, token="{token}")')
    assert info["facts"]["goals_met"] == 1
    assert info["oracle"] == "supervisor.complete_task()"
    shown, reward, terminated, truncated, info = act(env, "supervisor.complete_task()")
    assert (shown, reward, terminated, truncated) == ('{"completed": true}', 1.0, True, False)
    assert (info["success"], info["mistake"], info["feedback"]) == (
        True,
        "",
        "The task is solved.",
    )
    assert info["metrics"] == {"tgc": 1.0, "difficulty": 1.0, "calls": 6.0, "errors": 1.0}
    assert "oracle" not in info


@pytest.mark.parametrize(
    ("answer", "mistake", "observation"),
    [
        ("mail.search()", "unreadable action", "No <action></action> in the answer."),
        ("<action>search</action>", "unreadable action", "This is no call of an API: write one"),
        ("<action>mail.serch()</action>", "not found", "Error 404: mail has no API serch; did you"),
        (
            "<action>mail.show()</action>",
            "wrong arguments",
            "Error 422: mail.show needs message_id",
        ),
    ],
)
def test_an_answer_that_names_no_call_costs_the_turn(
    answer: str, mistake: str, observation: str
) -> None:
    env = Desk()
    env.reset(seed=0)
    shown, reward, terminated, truncated, info = env.step(answer)
    assert shown.startswith(observation)
    assert (reward, terminated, truncated, env.turns) == (0.0, False, False, 1)
    assert (info["action_valid"], info["mistake"]) == (False, mistake)
    assert info["feedback"].startswith(f"That could not be read ({mistake}); ")
    assert info["facts"]["well_formed"] is info["facts"]["accepted"] is False


def test_damage_is_named_and_the_oracle_mends_it() -> None:
    env = Desk(templates=["event_time"], logins="open")
    _, info = env.reset(seed=0)
    *_, info = act(env, 'todo.add(title="Oops")')
    assert (info["mistake"], info["facts"]["damages"]) == ("damage", True)
    assert info["feedback"].startswith("That changed what nobody asked for (todo ")
    assert info["oracle"].split("\n")[1].startswith("todo.delete(todo_id=")
    assert follow(env, info)[-1][2]["success"]


def test_what_cannot_be_mended_is_said() -> None:
    env = Desk(templates=["event_time"], logins="open")
    env.reset(seed=0)
    *_, info = act(env, 'mail.send(to="a@b.org", subject="x", body="y")')
    assert info["feedback"].endswith("made); the task can no longer be solved.")
    assert info["facts"]["solvable"] is info["facts"]["keeps_solvable"] is False
    assert "oracle" not in info
    *_, info = act(env, "supervisor.show_profile()")
    assert info["facts"]["keeps_solvable"] is True, "it was lost before"
    assert info["feedback"] == "That is done; the task can no longer be solved."
    _, reward, terminated, _, info = act(env, "supervisor.complete_task()")
    assert (reward, terminated, info["success"]) == (0.0, True, False)
    assert "nothing else is changed (message" in info["feedback"]


def test_what_was_done_a_hundred_times_is_told_in_short() -> None:
    env = Desk(templates=["todo_tick"], logins="open", max_turns=1_000)
    _, info = env.reset(seed=0)
    made = 0
    while "is full" not in (step := act(env, f'todo.add(title="Oops {made}")'))[0]:
        info, made = step[-1], made + 1
    assert made > 150
    assert len(info["feedback"]) < 2_100
    assert info["feedback"].startswith("That changed what nobody asked for (todo ")
    assert info["feedback"].endswith(f"; {made + 3} calls to go.")
    assert info["facts"]["calls_left"] == made + 3
    assert len(info["oracle"].split("\n")) == 50
    assert follow(env, info)[-1][2]["success"], "it is told the rest later"


@pytest.mark.parametrize(
    ("template", "end", "mistake"),
    [
        ("event_time", "supervisor.complete_task()", "wrong answer"),
        ("event_time", 'supervisor.complete_task(answer="00:00")', "wrong answer"),
        ("event_time", 'supervisor.complete_task(status="fail")', "wrong status"),
        ("event_missing", "supervisor.complete_task()", "wrong status"),
        ("todo_tick", "supervisor.complete_task()", "goal missed"),
        ("todo_tick", 'supervisor.complete_task(answer="done")', "goal missed"),
    ],
)
def test_how_a_task_fails(template: str, end: str, mistake: str) -> None:
    env = Desk(templates=[template])
    env.reset(seed=0)
    _, reward, terminated, truncated, info = act(env, end)
    assert (reward, terminated, truncated, info["success"]) == (0.0, True, False, False)
    assert info["mistake"] == mistake
    assert info["feedback"].startswith("The task is not solved. It was required that ")


def test_a_search_that_does_not_help_is_a_detour() -> None:
    env = Desk(templates=["event_time"], logins="open")
    env.reset(seed=0)
    *_, info = act(env, 'contacts.search(query="nobody")')
    assert (info["mistake"], info["feedback"]) == ("detour", "That does not help; 2 calls to go.")


def test_partial_rewards_pay_the_goals_that_are_met_without_damage() -> None:
    env = Desk(templates=["shopping_list"], logins="open", partial=True)
    env.reset(seed=0)
    things = [goal.call for goal in env.task.goals]
    act(env, str(things[0]))
    _, reward, *_ = act(env, "supervisor.complete_task()")
    assert reward == 0.5 / len(things)
    env.restart()
    act(env, str(things[0]))
    act(env, 'todo.add(title="Oops")')
    assert act(env, "supervisor.complete_task()")[1] == 0.0


def test_the_last_turn_truncates_and_no_turn_before_it() -> None:
    env = Desk(max_turns=3)
    env.reset(seed=0)
    ends = [env.step("")[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]


def test_restart_plays_the_same_task_from_its_start() -> None:
    env = Desk()
    begun = env.reset(seed=1)
    act(env, begun[1]["oracle"].split("\n")[0])
    assert env.restart() == begun
    assert env.turns == 0


def test_a_long_observation_loses_its_middle() -> None:
    env = Desk(logins="open", observation=200)
    env.reset(seed=0)
    shown, *_ = act(env, 'docs.show_apis(app_name="mail")')
    assert shown.startswith('{"search"') and shown.endswith("}")
    assert "characters left out]" in shown
    assert len(shown) < 240


@pytest.mark.parametrize("mode", ["call", "code"])
def test_following_the_oracle_solves_every_template(mode: Any) -> None:
    for split in ("train", "test-challenge"):
        for template in select(split, None, None, None):
            env = Desk(split=split, templates=[template.name], mode=mode)
            steps = follow(env, env.reset(seed=4)[1])
            assert steps[-1][2]["success"], template.name
            assert all(info["facts"]["moves_closer"] for _, _, info in steps)
            env.close()


def test_easy_tasks_fit_a_small_model() -> None:
    """In at most 4 turns and 1,200 characters without logins, 6 turns and 1,800 with tokens."""
    for options, turns, characters in (
        (EASIEST, 4, 1200),
        ({**EASIEST, "logins": "token"}, 6, 1800),
    ):
        env = Desk(**options)
        for seed in range(60):
            observation, info = env.reset(seed=seed)
            steps = follow(env, info)
            read = [env.system_prompt, observation, *(a + s for a, s, _ in steps)]
            assert len(steps) <= turns
            assert sum(map(len, read)) <= characters


def test_what_the_teacher_knows_never_stands_in_what_the_student_reads() -> None:
    env = Desk()
    for seed in range(20):
        observation, first = env.reset(seed=seed)
        # The rules tell every student where the passwords are.
        plan = [c for c in first["oracle"].split("\n") if c != "supervisor.show_passwords()"]
        assert not any(call in observation + env.system_prompt for call in plan[:-1])
        for action, shown, info in follow(env, first):
            assert action not in shown
            assert info["feedback"] not in shown
            assert info.get("oracle", "-") not in shown
            assert PRIVILEGED & info.keys() >= {"feedback", "facts"}


def test_a_seed_of_a_split_names_one_task() -> None:
    env = Desk(split="validation")
    observation, info = env.reset(seed=7)
    assert info["task_id"].startswith("desk/validation/")
    assert info["task_id"].endswith("/2/7")
    assert info["scenario"] == info["task_id"].removesuffix("/7")
    assert Desk(split="test").reset(seed=7)[0] != observation
    assert env.reset(options={"template": "todo_add"}, seed=3)[1]["task_id"].split("/")[2] == (
        "todo_add"
    )


def test_worlds_do_not_depend_on_the_hash_seed() -> None:
    code = (
        "from agentopd.envs.desk.env import Desk\n"
        "env = Desk(split='test')\n"
        "for seed in range(30):\n"
        "    text, info = env.reset(seed=seed)\n"
        "    print(text, info['reference'], env.scenario.world)"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1


@pytest.mark.parametrize(
    "options",
    [
        {},
        {**EASIEST},
        {"logins": "session", "prompt": "apis", "split": "test-challenge"},
        {"apps": ["mail", "todo"], "split": "validation", "difficulty": 3},
        {"mode": "code", "split": "test"},
    ],
)
def test_it_keeps_the_contract(options: dict[str, Any]) -> None:
    assert check_env("agentopd.envs.desk.env:Desk", options, seeds=4) == []


def test_the_registered_environment_keeps_it_in_strict_mode() -> None:
    assert make("agentopd/Desk-v0").spec is not None
    assert check_env("agentopd/Desk-v0", seeds=6, strict=True) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, "split is one of train, validation, test, test-challenge, dev, not"),
        ({"mode": "shell"}, "mode is one of call, code, not 'shell'"),
        ({"logins": "none"}, "logins is one of token, session, open, not 'none'"),
        ({"prompt": "long"}, "prompt is one of full, apis, brief, not 'long'"),
        ({"difficulty": 4}, "difficulty is a whole number from 1 to 3, not 4"),
        ({"difficulty": True}, "difficulty is a whole number from 1 to 3, not True"),
        ({"partial": "no"}, "partial is one of True, False, not 'no'"),
        ({"apps": ["mial"]}, "Desk has no app 'mial'; did you mean 'mail'"),
        ({"templates": ["todo_tik"]}, "no template 'todo_tik'; did you mean 'todo_tick'"),
        ({"templates": ["refund"]}, "no template of the split train is left"),
        ({"apps": ["todo"], "difficulty": 3}, "no template of the split train is left"),
        ({"apps": "mail"}, r"apps are a list of names, as \[contacts\], not 'mail'"),
        ({"templates": "todo_tick"}, r"templates are a list of names, as \[.*\], not 'todo_tick'"),
        ({"templates": 5}, "templates are a list of names"),
        ({"templates": [5]}, "templates are named by texts, not 5"),
        ({"max_turns": 0}, "max_turns is a whole number at least 1, not 0"),
        ({"max_turns": True}, "max_turns is a whole number at least 1, not True"),
        ({"max_turns": 2.5}, r"max_turns is a whole number at least 1, not 2\.5"),
        ({"observation": 10}, "observation is a whole number at least 100, not 10"),
        ({"observation": 200.0}, r"observation is a whole number at least 100, not 200\.0"),
        ({"limits": {"seconds": 1}}, "limits are for cells of Python: leave them out, or use mode"),
        ({"limits": {}}, "limits are for cells of Python"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Desk(**options)


@pytest.mark.parametrize("template", ["todo_tick", "event_missing"])
def test_nobody_plays_before_the_start_or_after_the_end(template: str) -> None:
    refused = pytest.raises(ValueError, match="no episode of Desk is being played: call reset")
    env = Desk(templates=[template], max_turns=2)
    with refused:
        act(env, "supervisor.show_profile()")
    for ending in (["supervisor.complete_task()"], ["", "supervisor.show_profile()"]):
        env.reset(seed=0)
        ends = [any(act(env, call)[2:4]) for call in ending]
        assert ends == [False] * (len(ending) - 1) + [True]
        state = env.state.copy()
        with refused:
            act(env, "supervisor.show_profile()")
        assert (env.state, env.turns) == (state, len(ending))
    env.restart()
    act(env, "supervisor.show_profile()")


def test_dev_is_validation() -> None:
    dev, validation = Desk(split="dev"), Desk(split="validation")
    assert dev.split == "validation"
    for seed in range(5):
        assert dev.reset(seed=seed) == validation.reset(seed=seed)


def test_unknown_reset_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"option 'template' only, not \['task'\]"):
        Desk().reset(options={"task": "x"})
    with pytest.raises(ValueError, match="no template 'refund'; did you mean"):
        Desk().reset(options={"template": "refund"})


def test_the_prompts_name_what_there_is() -> None:
    full = Desk(apps=["mail"]).system_prompt
    assert "apps: supervisor, docs, mail." in full
    assert "<action>docs.show_api(" in full and "token=..." in full
    listed = Desk(apps=["mail"], prompt="apis", logins="open").system_prompt
    assert "mail.show(message_id: int)" in listed and "token" not in listed
    assert Desk(prompt="brief").system_prompt == "Do the task with one call of an app a turn."


def test_every_template_has_its_docstring_and_family() -> None:
    assert all(template.write.__doc__ and template.skill for template in TEMPLATES)


fragments = st.sampled_from(
    ["<action>", "</action>", "<think>", "</think>", "mail", ".", "search", "(", ")", "query=", "'",
     '"', "1e999", "[", "]", "supervisor.complete_task", "\n", "\0", "None", "docs.show_apps()"]
)  # fmt: skip
garbage = st.text(max_size=40) | st.lists(fragments | st.text(max_size=3), max_size=12).map("".join)
wrapped = garbage | garbage.map(lambda text: f"<action>{text}</action>")


@settings(deadline=None, max_examples=50)
@given(many(wrapped), st.integers(0, 30))
def test_no_text_raises_and_every_answer_keeps_the_contract(texts: list[str], seed: int) -> None:
    """A thousand answers."""
    env = Desk()
    env.reset(seed=seed)
    for text in texts:
        before = env.state.world.copy()
        shown, reward, terminated, truncated, info = env.step(text)
        assert reward == float(info["success"])
        assert json.loads(json.dumps(info)) == info
        shown.encode()
        assert terminated == (env.state.completion is not None)
        if not info["action_valid"]:
            assert env.state.world == before
            assert not terminated
        if terminated or truncated:
            env.reset(seed=seed)
