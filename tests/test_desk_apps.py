"""Desk's apps, on a small world written by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agentopd.envs.desk.api import ApiError, call
from agentopd.envs.desk.apps.account import MOST_RECORDS
from agentopd.envs.desk.desk import APPS, Desk
from agentopd.envs.desk.state import Completion, State
from agentopd.envs.desk.world import (
    Account,
    Card,
    Contact,
    Event,
    Like,
    Message,
    Payment,
    Playlist,
    Request,
    Song,
    Todo,
    World,
    changes,
)

ME, ANA, BOB = "me@post.net", "ana.costa@post.net", "bob.fox@mail.org"


@pytest.fixture
def desk() -> Desk:
    world = World("Me Myself", ME, "555-0000", "2026-05-18", 100.0, (ANA, BOB))
    world.cards.insert(Card(kind="Visa", number="1", expires="2027-01"))
    world.contacts.insert(Contact(name="Ana Costa", email=ANA, phone="1", birthday="1990-01-02"))
    for number, (subject, date) in enumerate(
        [("Old", "2026-05-01"), ("New", "2026-05-17"), ("Middle", "2026-05-10")]
    ):
        world.messages.insert(
            Message(
                folder="inbox",
                sender=ANA,
                to=ME,
                subject=subject,
                body="text",
                date=date,
                read=number == 0,
            )
        )
    world.events.insert(
        Event(title="Late", date="2026-05-20", start="18:00", end="19:00", guests=(BOB,))
    )
    world.events.insert(Event(title="Early", date="2026-05-20", start="08:00", end="09:00"))
    for number in range(7):
        world.todos.insert(Todo(title=f"Thing {number}", done=number == 3))
    world.payments.insert(
        Payment(sender=ANA, receiver=ME, amount=20.5, note="taxi", date="2026-05-02")
    )
    world.payments.insert(
        Payment(sender=ME, receiver=BOB, amount=50.0, note="gift", date="2026-05-03")
    )
    world.requests.insert(Request(sender=ANA, receiver=ME, amount=30.0, note="lunch"))
    world.requests.insert(Request(sender=ANA, receiver=ME, amount=90.0, note="rent"))
    world.requests.insert(Request(sender=ME, receiver=BOB, amount=5.0, note="tea"))
    for title in ("Rain", "Road"):
        world.songs.insert(Song(title=title, artist="Boats", genre="pop", seconds=100))
    world.likes.insert(Like(id=2))
    world.playlists.insert(Playlist(title="Mix", songs=(1,)))
    return Desk(State(world, APPS, "open"))


def ask(desk: Desk, api: str, /, **arguments: Any) -> Any:
    return desk.call(call(api, **arguments))


def test_mails_come_newest_first_and_by_every_word_of_the_query(desk: Desk) -> None:
    found = ask(desk, "mail.search")["items"]
    assert [mail["subject"] for mail in found] == ["New", "Middle", "Old"]
    assert [m["id"] for m in ask(desk, "mail.search", query="ANA new")["items"]] == [2]
    assert [m["id"] for m in ask(desk, "mail.search", unread=False)["items"]] == [1]
    assert ask(desk, "mail.search", folder="sent") == {"items": [], "next_page": None}


def test_reading_a_mail_changes_nothing(desk: Desk) -> None:
    before = desk.state.world.copy()
    assert ask(desk, "mail.show", message_id=2)["body"] == "text"
    assert changes(before, desk.state.world) == []


def test_answers_go_to_the_sender_and_forwards_keep_the_text(desk: Desk) -> None:
    assert ask(desk, "mail.reply", message_id=1, body="Yes") == {"sent": 4, "to": ANA}
    ask(desk, "mail.forward", message_id=1, to=BOB)
    first, second = (desk.state.world.messages.rows[number] for number in (4, 5))
    assert (first.subject, first.body, first.folder) == ("Re: Old", "Yes", "sent")
    assert (second.subject, second.body, second.to) == ("Fwd: Old", "text", BOB)


def test_pages_end_with_null_and_cover_everything_once(desk: Desk) -> None:
    first = ask(desk, "todo.search")
    assert (len(first["items"]), first["next_page"]) == (5, 1)
    second = ask(desk, "todo.search", page_index=1)
    assert (len(second["items"]), second["next_page"]) == (2, None)
    titles = [todo["title"] for page in (first, second) for todo in page["items"]]
    assert titles == [f"Thing {number}" for number in range(7)]
    assert ask(desk, "todo.search", page_index=9) == {"items": [], "next_page": None}
    assert ask(desk, "todo.search", page_limit=7)["next_page"] is None


def test_events_are_in_the_order_of_time(desk: Desk) -> None:
    found = ask(desk, "calendar.search", date="2026-05-20")["items"]
    assert [event["title"] for event in found] == ["Early", "Late"]
    assert ask(desk, "calendar.show", event_id=1)["guests"] == [BOB]


def test_the_balance_is_what_came_in_less_what_went_out(desk: Desk) -> None:
    """100 + 20.50 - 50 = 70.50; after a request of 30 is paid, 40.50."""
    assert ask(desk, "wallet.show_balance") == {"balance": 70.5}
    ask(desk, "wallet.pay", request_id=1)
    assert ask(desk, "wallet.show_balance") == {"balance": 40.5}
    assert desk.state.world.requests.rows[1].status == "paid"
    sent = ask(desk, "wallet.search_payments", direction="sent")["items"]
    assert [(p["to"], p["amount"]) for p in sent] == [(ANA, 30.0), (BOB, 50.0)]


def test_an_id_is_never_given_twice(desk: Desk) -> None:
    made = ask(desk, "todo.add", title="a")["todo_id"]
    ask(desk, "todo.delete", todo_id=made)
    assert ask(desk, "todo.add", title="b")["todo_id"] == made + 1


def test_songs_in_playlists_keep_their_order(desk: Desk) -> None:
    ask(desk, "music.add_song", playlist_id=1, song_id=2)
    shown = ask(desk, "music.show_playlist", playlist_id=1)["songs"]
    assert [song["title"] for song in shown] == ["Rain", "Road"]
    ask(desk, "music.remove_song", playlist_id=1, song_id=1)
    assert desk.state.world.playlists.rows[1].songs == (2,)
    assert ask(desk, "music.create_playlist", title="B", song_ids=[2, 1]) == {"playlist_id": 2}


def test_a_change_names_what_is_new(desk: Desk) -> None:
    before = desk.state.world.copy()
    ask(desk, "contacts.update", contact_id=1, phone="2")
    ask(desk, "music.unlike", song_id=2)
    ask(desk, "todo.update", todo_id=1, title="Thing 0")
    found = changes(before, desk.state.world)
    assert [(str(change), change.altered) for change in found] == [
        ("contact 1 changed", {"phone": "2"}),
        ("like 2 deleted", {}),
    ], "a to-do with the title it had has not changed"
    ask(desk, "music.like", song_id=2)
    ask(desk, "contacts.update", contact_id=1, phone="1")
    assert changes(before, desk.state.world) == [], "what is taken back is no change"


def test_a_completed_task_is_over(desk: Desk) -> None:
    ask(desk, "supervisor.complete_task", answer=["a"], status="fail")
    assert desk.state.completion == Completion(["a"], "fail")
    with pytest.raises(ApiError, match="409: the task is completed"):
        ask(desk, "mail.search")


@pytest.mark.parametrize(
    ("api", "arguments", "message"),
    [
        ("mail.show", {"message_id": 9}, "404: there is no mail 9; find its id with mail.search."),
        ("mail.send", {"to": "Ana", "subject": "", "body": ""}, "422: this is no mail address"),
        ("mail.search", {"folder": "x"}, '422: folder is "inbox" or "sent"'),
        ("mail.search", {"page_index": -1}, "422: page_index starts at 0"),
        (
            "mail.search",
            {"page_limit": 21},
            "422: page_index starts at 0 and page_limit is 1 to 20",
        ),
        ("contacts.add", {"name": "A", "email": ANA}, "409: a contact with this address exists"),
        ("contacts.update", {"contact_id": 1}, "422: nothing to change; give one of name, email"),
        ("contacts.update", {"contact_id": 1, "birthday": "2.1.1990"}, "422: dates are written"),
        ("calendar.search", {"date": "2026-02-30"}, "422: dates are written like 2026-05-18"),
        ("calendar.update", {"event_id": 1, "start": "25:00"}, "422: times are written like 09:30"),
        (
            "calendar.update",
            {"event_id": 1, "start": "19:30"},
            "422: an event ends after it starts",
        ),
        ("todo.add", {"title": "x", "due": "soon"}, "422: dates are written"),
        ("wallet.send", {"to": "x@y.org", "amount": 1}, "404: no wallet has this mail address"),
        ("wallet.send", {"to": ANA, "amount": -1}, "422: an amount is more than 0"),
        ("wallet.send", {"to": ANA, "amount": 71}, "409: the balance of 70.5 does not cover 71"),
        ("wallet.pay", {"request_id": 2}, "409: the balance of 70.5 does not cover 90"),
        ("wallet.pay", {"request_id": 3}, "409: request 3 is not sent to the user"),
        ("wallet.cancel", {"request_id": 1}, "409: request 1 is not the user's own"),
        ("wallet.search_requests", {"direction": "up"}, '422: direction is "sent", "received"'),
        ("music.like", {"song_id": 2}, "409: song 2 is liked already"),
        ("music.unlike", {"song_id": 1}, "409: song 1 is not liked"),
        ("music.add_song", {"playlist_id": 1, "song_id": 1}, "409: song 1 is in playlist 1"),
        ("music.remove_song", {"playlist_id": 1, "song_id": 2}, "404: song 2 is not in playlist 1"),
        ("music.create_playlist", {"title": "x", "song_ids": ["a"]}, "422: song_ids are whole"),
        ("music.create_playlist", {"title": "x", "song_ids": [9]}, "404: there is no song 9"),
        ("supervisor.complete_task", {"status": "done"}, '422: status is "success" or "fail"'),
    ],
)
def test_refusals_say_what_to_do_and_change_nothing(
    desk: Desk, api: str, arguments: dict[str, Any], message: str
) -> None:
    before = desk.state.world.copy()
    with pytest.raises(ApiError) as refusal:
        ask(desk, api, **arguments)
    assert str(refusal.value).startswith(f"Error {message}")
    assert changes(before, desk.state.world) == []
    assert desk.state.completion is None


@pytest.mark.parametrize(
    ("table", "api", "arguments"),
    [
        ("contacts", "contacts.add", {"name": "A", "email": "new@b.org"}),
        ("messages", "mail.send", {"to": "a@b.org", "subject": "", "body": ""}),
        ("messages", "mail.reply", {"message_id": 1, "body": ""}),
        ("messages", "mail.forward", {"message_id": 1, "to": BOB}),
        (
            "events",
            "calendar.add",
            {"title": "x", "date": "2026-05-20", "start": "01:00", "end": "02:00"},
        ),
        ("todos", "todo.add", {"title": "x"}),
        ("payments", "wallet.send", {"to": ANA, "amount": 1}),
        ("payments", "wallet.pay", {"request_id": 1}),
        ("requests", "wallet.request", {"to": ANA, "amount": 1}),
        ("playlists", "music.create_playlist", {"title": "x"}),
    ],
)
def test_an_app_keeps_so_many_records_and_no_more(
    desk: Desk, table: str, api: str, arguments: dict[str, Any]
) -> None:
    rows = desk.state.world.tables()[table]
    while len(rows) < MOST_RECORDS - 1:
        rows.insert(replace(next(iter(rows)), id=0))
    ask(desk, api, **arguments)
    assert len(rows) == MOST_RECORDS
    again = {"email": "other@b.org"} if table == "contacts" else {}
    again |= {"request_id": 4} if api == "wallet.pay" else {}
    desk.state.world.requests.insert(Request(sender=ANA, receiver=ME, amount=1.0, id=4))
    before = desk.state.world.copy()
    with pytest.raises(ApiError, match=r"409: [a-z]+ is full, it keeps 200 of a kind"):
        ask(desk, api, **{**arguments, **again})
    assert changes(before, desk.state.world) == []


def test_a_full_app_still_changes_what_it_has_and_takes_more_for_less(desk: Desk) -> None:
    todos = desk.state.world.todos
    while len(todos) < MOST_RECORDS:
        todos.insert(Todo(title="x"))
    ask(desk, "todo.update", todo_id=1, done=True)
    ask(desk, "todo.delete", todo_id=1)
    ask(desk, "todo.add", title="one more")
    assert len(todos) == MOST_RECORDS


def test_a_request_is_settled_once(desk: Desk) -> None:
    ask(desk, "wallet.decline", request_id=1)
    with pytest.raises(ApiError, match="409: request 1 is declined already"):
        ask(desk, "wallet.pay", request_id=1)


def test_a_copy_of_a_world_is_its_own(desk: Desk) -> None:
    copy = desk.state.copy()
    ask(Desk(copy), "todo.add", title="x")
    ask(Desk(copy), "contacts.delete", contact_id=1)
    assert len(desk.state.world.todos) == 7
    assert len(desk.state.world.contacts) == 1
    assert desk.state.called == set()


def test_tokens_are_shown_by_the_login_alone(desk: Desk) -> None:
    world = desk.state.world
    world.accounts.insert(Account(app="mail", password="stone42"))
    state = State(world, APPS, "token")
    desk = Desk(state)
    with pytest.raises(ApiError, match=r"Error 401: log in first: mail\.login"):
        desk.call(call("mail.search", token=state.token("mail")))
    passwords = desk.call(call("supervisor.show_passwords"))
    with pytest.raises(ApiError, match="Error 401: wrong password for mail"):
        desk.call(call("mail.login", password="x"))
    token = desk.call(call("mail.login", password=passwords["mail"]))["token"]
    assert desk.call(call("mail.search", token=token))["items"]
    with pytest.raises(ApiError, match="Error 401: token must be the one"):
        desk.call(call("mail.search", token="mail-0"))
    with pytest.raises(ApiError, match="Error 401: token must be the one"):
        desk.call(call("mail.search"))
