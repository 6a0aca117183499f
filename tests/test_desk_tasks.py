"""Desk's templates by mutation, and its splits: what passes, and what must fail."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from desk_play import CHALLENGE, after, calls_of, failed, scenarios

from agentopd.envs.desk.api import Call, call
from agentopd.envs.desk.tasks.library import (
    SPLITS,
    TEMPLATES,
    scenario,
    select,
)
from agentopd.envs.desk.tasks.story import Template
from agentopd.envs.desk.world import World

every_template = pytest.mark.parametrize("template", TEMPLATES, ids=lambda t: t.name)


@every_template
def test_the_oracle_passes_and_doing_nothing_fails(template: Template) -> None:
    for played in scenarios(template):
        assert failed(after(played, calls_of(played))) == set()
        nothing = failed(after(played, [call("supervisor.complete_task")]))
        assert nothing & {"goal", "answer", "status"}, "no task is solved from the start"
        assert "collateral" not in nothing
        assert "status" in failed(after(played, []))


@every_template
def test_one_stray_write_fails(template: Template) -> None:
    stray = [
        call("todo.add", title="Nobody asked for this"),
        call("mail.send", to="a@b.org", subject="Hi", body="there"),
        call("calendar.add", title="Stray", date="2026-01-01", start="08:00", end="09:00"),
        call("contacts.add", name="Stray", email="stray@b.org"),
        call("music.create_playlist", title="Stray"),
    ]
    for seed, played in enumerate(scenarios(template)):
        calls = calls_of(played)
        place = random.Random(seed).randrange(len(calls))
        broken = [*calls[:place], stray[seed % len(stray)], *calls[place:]]
        assert failed(after(played, broken)) == {"collateral"}


REFUSED_TWICE = ("wallet.pay", "music.like", "contacts.add")


@every_template
def test_a_goal_twice_is_damage_or_refused(template: Template) -> None:
    for played in scenarios(template)[:6]:
        calls = calls_of(played)
        for goal in played.task.goals:
            checks = after(played, [goal.call, *calls])
            made = any(e.kind == "made" for e in goal.changes)
            refused = str(goal.call).startswith(REFUSED_TWICE)
            assert failed(checks) == ({"collateral"} if made and not refused else set())


def wrong(each: Call, world: World) -> Iterator[Call]:
    """The call with another entity in place of each it names."""
    tables = {
        "contact_id": world.contacts,
        "message_id": world.messages,
        "event_id": world.events,
        "todo_id": world.todos,
        "request_id": world.requests,
        "song_id": world.songs,
        "playlist_id": world.playlists,
    }
    for name, value in each.arguments.items():
        if name in tables:
            others = [r.id for r in tables[name] if r.id != value]
            yield Call(each.app, each.api, {**each.arguments, name: others[0]})
        elif name in ("to", "email"):
            other = next(c.email for c in world.contacts if c.email != value)
            yield Call(each.app, each.api, {**each.arguments, name: other})
        elif name == "amount":
            yield Call(each.app, each.api, {**each.arguments, name: value + 1})
        elif name in ("title", "body", "note", "subject", "phone"):
            yield Call(each.app, each.api, {**each.arguments, name: f"{value} x"})
        elif name in ("date", "due"):
            yield Call(each.app, each.api, {**each.arguments, name: "2031-01-01"})
        elif name == "song_ids":
            yield Call(each.app, each.api, {**each.arguments, name: value[::-1]})


@every_template
def test_every_wrong_entity_fails(template: Template) -> None:
    for played in scenarios(template):
        calls = calls_of(played)
        variants = 0
        for goal in played.task.goals:
            for mistaken in wrong(goal.call, played.world):
                if any(mistaken.key == other.call.key for other in played.task.goals):
                    continue
                variants += 1
                swapped = [mistaken if c == goal.call else c for c in calls]
                assert "goal" in failed(after(played, swapped)), str(mistaken)
        assert variants or not played.task.goals


@every_template
def test_a_wrong_answer_or_status_fails(template: Template) -> None:
    for played in scenarios(template)[:6]:
        *rest, end = calls_of(played)
        status = "fail" if played.task.status == "success" else "success"
        other = Call(end.app, end.api, {**end.arguments, "status": status})
        assert failed(after(played, [*rest, other])) == {"status"}
        answered = Call(end.app, end.api, {**end.arguments, "answer": "nonsense"})
        reason = {"answer"} if played.task.status == "success" else set()
        assert failed(after(played, [*rest, answered])) == reason, "who gives up may say why"
        both = Call(end.app, end.api, {**answered.arguments, "status": status})
        assert failed(after(played, [*rest, both])) == {"answer", "status"}


def test_there_are_enough_templates_of_every_difficulty_and_names_are_unique() -> None:
    assert len({t.name for t in TEMPLATES}) == len(TEMPLATES) >= 25
    for split in SPLITS:
        templates = select(split, None, None, None)
        assert {t.difficulty for t in templates} == {1, 2, 3}
        assert {t.name in CHALLENGE for t in templates} == {split == "test-challenge"}


def test_tasks_are_questions_changes_and_impossible_ones() -> None:
    kinds = set()
    for template in TEMPLATES:
        task = scenarios(template)[0].task
        assert not (task.goals and (task.answer is not None or task.status == "fail"))
        kinds.add((bool(task.goals), task.answer is not None, task.status))
    assert kinds == {
        (True, False, "success"),
        (False, True, "success"),
        (False, False, "fail"),
    }


def test_splits_share_no_task() -> None:
    told: dict[str, str] = {}
    for split in ("train", "validation", "test"):
        for seed in range(40):
            played = scenario(split, select(split, None, None, None), seed)
            text = f"{played.world.name} {played.world.email} {played.task.instruction}"
            assert told.setdefault(text, split) == split


def test_the_three_variants_of_a_scenario_share_the_template_and_nothing_else() -> None:
    templates = select("train", None, None, None)
    for number in range(20):
        trio = [scenario("train", templates, 3 * number + variant) for variant in range(3)]
        assert len({played.name for played in trio}) == 1
        assert len({played.template.name for played in trio}) == 1
        assert len({played.world.email for played in trio}) == 3
    assert len({scenario("train", templates, seed).name for seed in range(60)}) == 20
