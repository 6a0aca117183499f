"""Desk's oracle: it says what the agent can know, recovers, and knows when it cannot."""

from __future__ import annotations

import ast
import json
import random
import re
from collections.abc import Iterator

import pytest
from desk_play import after, calls_of, failed, newcomer, scenarios
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopd.envs.desk.api import ApiError, Call, call
from agentopd.envs.desk.desk import Desk
from agentopd.envs.desk.tasks.library import (
    TEMPLATES,
    scenario,
    select,
)
from agentopd.envs.desk.tasks.oracle import Oracle
from agentopd.envs.desk.tasks.story import Template
from agentopd.envs.desk.tasks.task import evaluate

every_template = pytest.mark.parametrize("template", TEMPLATES, ids=lambda t: t.name)


def literals(text: str) -> Iterator[str]:
    """The values in a call that a plan cannot make up: texts and numbers."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and not isinstance(node.value, bool | None):
            yield str(node.value)


def known(value: str, said: str) -> bool:
    """Whether a value was said: as it is, word by word, or as a number of a sum."""
    return value.casefold() in said or value.removesuffix(".0") in said


# What has to be worked out from what was said.
WORKED_OUT = {
    "paid_total": "supervisor.complete_task",
    "unread_count": "supervisor.complete_task",
    "split_bill": "wallet.request",
}


@every_template
def test_the_oracle_says_nothing_that_the_agent_could_not_know(template: Template) -> None:
    """Every value in a call stands in the instruction or in a result before it."""
    for played in scenarios(template)[:6]:
        state = newcomer(played, "token")
        desk = Desk(state)
        said = f"{played.task.instruction} success fail sent received".casefold()
        for stage in Oracle(played.task, state.copy()).plan(state.copy()) or []:
            results = []
            for each in stage:
                if str(each).startswith(WORKED_OUT.get(template.name, "-")):
                    each = Call(each.app, each.api, {})
                for value in literals(str(each)):
                    page = re.search(rf"page_index={value}\b", str(each))
                    assert page or known(value, said), f"{each} uses {value}"
                if each.app in state.apps and (each.arguments or each.api.startswith("s")):
                    results.append(json.dumps(desk.call(each), ensure_ascii=False).casefold())
            said += "\n".join(results)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 10**6), max_size=8))
def test_the_oracle_recovers_wherever_it_says_that_it_can(seed: int, luck: list[int]) -> None:
    """Random calls, among them writes, then the oracle, call by call."""
    played = scenario("train", select("train", None, None, None), seed)
    state = newcomer(played, "session")
    oracle, desk = Oracle(played.task, newcomer(played, "session")), Desk(state)
    for number in luck:
        make_random_call(desk, random.Random(number))
    solvable = oracle.plan(state) is not None
    for _ in range(40):
        plan = oracle.plan(state)
        if not plan or state.completion:
            break
        desk.call(plan[0][0])
    solved = failed(evaluate(played.task, played.world, state)) == set()
    assert solved == solvable


def make_random_call(desk: Desk, luck: random.Random) -> None:
    """A call of any API with arguments that are sometimes right."""
    world = desk.state.world
    app = luck.choice(list(desk.apps))
    apis = [a for a in desk.state.apis(app).values() if a.name != "complete_task"]
    found = luck.choice(apis)
    arguments = {}
    for parameter in found.parameters:
        if not parameter.required and luck.random() < 0.6:
            continue
        if int in parameter.kinds:
            tables = [world.contacts, world.messages, world.events, world.todos, world.songs]
            arguments[parameter.name] = luck.choice([r.id for t in tables for r in t])
        elif bool in parameter.kinds:
            arguments[parameter.name] = luck.random() < 0.5
        elif float in parameter.kinds:
            arguments[parameter.name] = 7.5
        elif str in parameter.kinds:
            texts = [luck.choice(list(world.contacts)).email, "2026-07-01", "10:00", "x"]
            texts += [account.password for account in world.accounts if account.app == app]
            arguments[parameter.name] = luck.choice(texts)
    try:
        desk.call(Call(app, found.name, arguments))
    except ApiError:
        return


def test_a_superfluous_read_and_a_repairable_slip_leave_the_task_solvable() -> None:
    """By hand: a to-do nobody asked for is deleted again, and the rest of the plan is as before."""
    (tick,) = (t for t in TEMPLATES if t.name == "todo_tick")
    played = scenario("train", [tick], 0)
    state = newcomer(played)
    oracle = Oracle(played.task, newcomer(played))
    before = oracle.plan(state)
    assert before is not None and len(before) == 2, "search; tick and complete"
    Desk(state).call(call("contacts.search", query="nobody"))
    assert oracle.plan(state) == before
    made = Desk(state).call(call("todo.add", title="Oops"))["todo_id"]
    search, (first, *rest) = oracle.plan(state) or ([], [])
    assert first == call("todo.delete", todo_id=made)
    assert [search, rest] == before


def test_a_payment_cannot_be_taken_back() -> None:
    (tick,) = (t for t in TEMPLATES if t.name == "todo_tick")
    played = scenario("train", [tick], 0)
    state = newcomer(played)
    somebody = next(iter(state.world.contacts)).email
    Desk(state).call(call("wallet.send", to=somebody, amount=1))
    assert Oracle(played.task, newcomer(played)).plan(state) is None


def test_a_read_by_another_way_counts() -> None:
    """The message was shown by number, so the search that would list it is not due any more."""
    (reply,) = (t for t in TEMPLATES if t.name == "mail_reply")
    played = scenario("train", [reply], 0)
    state = newcomer(played)
    oracle = Oracle(played.task, newcomer(played))
    assert len(oracle.plan(state) or []) == 2
    wanted = played.task.goals[0].call.arguments["message_id"]
    Desk(state).call(call("mail.show", message_id=wanted))
    assert oracle.plan(state) == [[played.task.goals[0].call, call("supervisor.complete_task")]]


def test_marking_a_mail_as_read_is_no_damage_and_deleting_it_is() -> None:
    (tick,) = (t for t in TEMPLATES if t.name == "todo_tick")
    played = scenario("train", [tick], 0)
    calls = calls_of(played)
    some = next(iter(played.world.messages))
    mark = call("mail.mark", message_id=some.id, read=not some.read)
    assert failed(after(played, [mark, *calls])) == set()
    assert failed(after(played, [call("mail.delete", message_id=some.id), *calls])) == {
        "collateral"
    }
