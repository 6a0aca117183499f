"""Desk's calls: reading one from text, checking it against its signature, the documentation."""

from __future__ import annotations

import random
import warnings
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopd.envs.desk.api import Api, ApiError, Call, SignatureError, call
from agentopd.envs.desk.apps.account import MOST_RECORDS
from agentopd.envs.desk.calls import CallError, parse_call
from agentopd.envs.desk.desk import APPS, Desk
from agentopd.envs.desk.generate import generate
from agentopd.envs.desk.state import Logins, State


def desk(logins: Logins = "open") -> Desk:
    world, _ = generate(random.Random("desk/tests"))
    return Desk(State(world, APPS, logins))


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("mail.search()", {}),
        (' mail.search( query = "a b" ) ', {"query": "a b"}),
        ("mail.search(query='it\\'s', page_index=2)", {"query": "it's", "page_index": 2}),
        (
            "mail.search(a=-1.5, b=True, c=None, d=false)",
            {"a": -1.5, "b": True, "c": None, "d": False},
        ),
        ("mail.search(a=null, b=true)", {"a": None, "b": True}),
        ('mail.search(a=[1, "x"], b=())', {"a": [1, "x"], "b": []}),
        ('mail.search(\n  query="a",\n)', {"query": "a"}),
        ("mail.search(query='a' 'b')", {"query": "ab"}),
        ("mail.search(query='\\d')", {"query": "\\d"}),
    ],
)
def test_calls_that_can_be_read(text: str, arguments: dict[str, object]) -> None:
    assert parse_call(text) == Call("mail", "search", arguments)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "search",
        "search()",
        "mail.search",
        "mail.search(",
        "mail.search() mail.search()",
        "mail.search(); mail.search()",
        "x = mail.search()",
        "mail.inbox.search()",
        "mail.search()()",
        "mail.search('x')",
        "mail.search(*[1])",
        "mail.search(**{'query': 1})",
        "mail.search(a=1, a=2)",
        "mail.search(query=x)",
        "mail.search(query=mail.search())",
        "mail.search(query=__import__('os').system('ls'))",
        "mail.search(query=1 + 1)",
        "mail.search(query=f'{1}')",
        "mail.search(query=b'x')",
        "mail.search(query=1j)",
        "mail.search(query=...)",
        "mail.search(query={})",
        "mail.search(query=[[1]])",
        "mail.search(query=-True)",
        "mail.search(query=not 1)",
        "mail.search(query='\\ud800')",
        "mail.search(query=(yield))",
        "lambda: mail.search()",
        "mail.search(query='\0')",
        "mail.search(query=" + "9" * 5000 + ")",
        "mail.search(query=" + "[" * 1000 + "]" * 1000 + ")",
        "mail.search(query=" + "-" * 3000 + "1)",
        "(" * 2000 + ")" * 2000,
        "mail.search(query='" + "x" * 5000 + "')",
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(CallError):
        parse_call(text)


values = (
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
    | st.integers(-(10**9), 10**9)
    | st.floats(-1e9, 1e9)
    | st.booleans()
    | st.none()
)
names = st.sampled_from(["a", "query", "to_id", "x1", "_", "Song"])


@given(names, names, st.dictionaries(names, values | st.lists(values, max_size=3), max_size=4))
def test_a_call_is_read_back_as_it_was_written(app: str, api: str, arguments: dict) -> None:
    written = Call(app, api, arguments)
    assert parse_call(str(written)) == written


@given(st.text(max_size=60) | st.text("mail.search(=\"'[]{}\\x0,:-*#\n)", max_size=60))
def test_no_text_raises_anything_else_or_warns(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            parse_call(text)
        except CallError:
            return


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (call("mial.search"), "404: there is no app mial; there are supervisor, docs"),
        (call("mail.serch"), "404: mail has no API serch; did you mean search?"),
        (call("mail.zzz"), "404: mail has no API zzz; it has search, show, send"),
        (call("mail.search", querry="x"), "422: mail.search takes no querry; did you mean query?"),
        (call("mail.show", x=1), "422: mail.show takes no x; it takes message_id."),
        (call("mail.show"), "422: mail.show needs message_id: int."),
        (call("mail.show", message_id="3"), '422: message_id must be int, not "3".'),
        (call("mail.show", message_id=True), "422: message_id must be int, not True."),
        (call("mail.show", message_id=3.0), "422: message_id must be int, not 3.0."),
        (
            call("mail.show", message_id=10**4000),
            "422: message_id must be int, not a int like this.",
        ),
        (call("mail.search", query=None), "422: query must be str, not None."),
        (call("mail.search", query="x" * 201), "422: query has 201 characters, over 200."),
        (
            call("mail.send", to="a@b.org", subject="x" * 201, body="y"),
            "422: subject has 201 characters, over 200.",
        ),
        (
            call("mail.reply", message_id=1, body="x" * 2001),
            "422: body has 2001 characters, over 2000.",
        ),
        (call("supervisor.complete_task", answer=["x" * 2001]), "422: answer must be str | int"),
        (call("wallet.send", to="a@b.org", amount=float("inf")), "422: amount must be float"),
        (call("wallet.send", to="a@b.org", amount=float("nan")), "422: amount must be float"),
        (call("music.create_playlist", title="x", song_ids=[[1]]), "422: song_ids must be list"),
        (
            call("music.create_playlist", title="x", song_ids=[1] * 101),
            "422: song_ids must be list",
        ),
        (call("mail.search", token="x"), "422: mail.search takes no token"),
    ],
)
def test_calls_that_do_not_fit_are_refused_with_advice(asked: Call, message: str) -> None:
    with pytest.raises(SignatureError) as refusal:
        desk().call(asked)
    assert str(refusal.value).startswith(f"Error {message}")


def test_a_whole_number_will_do_for_a_float() -> None:
    office = desk()
    to = next(iter(office.state.world.contacts)).email
    assert "payment_id" in office.call(call("wallet.send", to=to, amount=3))


def test_a_text_may_be_as_long_as_its_argument_allows() -> None:
    office = desk()
    sent = office.call(call("mail.send", to="a@b.org", subject="x" * 200, body="y" * 2000))
    assert len(office.state.world.messages.rows[sent["sent"]].body) == 2000


def test_the_documentation_is_the_signature() -> None:
    office = desk("token")
    assert set(office.call(call("docs.show_apps"))) == set(APPS)
    assert office.call(call("docs.show_api", app_name="mail", api_name="mark")) == {
        "call": "mail.mark(message_id: int, read: bool, token: str)",
        "required": ["message_id", "read"],
        "description": "Mark a mail as read or unread.",
        "errors": {
            "401": "not logged in",
            "404": "there is no such mail",
            "422": "the arguments do not fit the call",
        },
    }
    shown = office.call(call("docs.show_api", app_name="todo", api_name="add"))
    assert shown["call"] == "todo.add(title: str, due: str | None = None, token: str)"
    with pytest.raises(ApiError, match="404: there is no such app; there are supervisor"):
        office.call(call("docs.show_apis", app_name="x"))
    with pytest.raises(ApiError, match="404: mail has no API of that name; it has login, search"):
        office.call(call("docs.show_api", app_name="mail", api_name="x"))


def test_every_api_is_documented_and_there_are_enough() -> None:
    office = desk("session")
    listed = {app: office.call(call("docs.show_apis", app_name=app)) for app in APPS}
    assert sum(map(len, listed.values())) >= 45
    for app, apis in listed.items():
        for name, description in apis.items():
            assert description.endswith("."), f"{app}.{name}"
            shown = office.call(call("docs.show_api", app_name=app, api_name=name))
            assert shown["call"].startswith(f"{app}.{name}(")


def test_the_documented_errors_are_those_of_the_desk() -> None:
    """A reason of an API's own stands behind the one that holds for all with arguments."""
    shown = desk("open").call(call("docs.show_api", app_name="todo", api_name="add"))
    assert shown["errors"] == {
        "409": "the app is full",
        "422": "the arguments do not fit the call; dates are written like 2026-05-18",
    }
    shown = desk("token").call(call("docs.show_api", app_name="wallet", api_name="show_balance"))
    assert shown["errors"] == {"401": "not logged in"}
    shown = desk("open").call(call("docs.show_api", app_name="docs", api_name="show_apps"))
    assert shown["errors"] == {}


WORDS = {
    "start": ["10:00", "x"],
    "end": ["11:00", "x"],
    "date": ["2026-05-18", "x"],
    "app_name": ["mail", "x"],
    "api_name": ["search", "x"],
}


def attempt(office: Desk, api: Api, luck: random.Random) -> set[str]:
    """The status of a call, refused, with arguments that fit the signature."""
    world = office.state.world
    values: dict[type, list[object]] = {
        int: [0, 1, 9_999],
        float: [1.0, 5_000.0, -1.0],
        bool: [True, False],
        str: [world.people[0], world.email, "x", "2026-05-18"],
        list: [[1], ["x"], []],
    }
    arguments: dict[str, object] = {}
    for parameter in api.parameters:
        if parameter.required or luck.random() < 0.5:
            kind = next(kind for kind in parameter.kinds if kind is not type(None))
            some = WORDS.get(parameter.name, values[kind])
            if parameter.name.endswith("_id"):
                rows = world.tables()[f"{parameter.name.removesuffix('_id')}s"].rows
                some = [*rows, 9_999, 9_999, 9_999]
            arguments[parameter.name] = luck.choice(some)
    try:
        office.call(call(f"{api.app}.{api.name}", **arguments))
    except ApiError as error:
        return {str(error.status)}
    office.state.completion = None
    return set()


def test_no_refusal_is_without_documentation_and_every_documented_one_happens() -> None:
    """Calls with arguments good and bad that fit the signatures, on a desk that is full or not."""
    luck, seen = random.Random("desk/errors"), set[tuple[str, str]]()
    usual, full = desk().state, desk().state
    mails = usual.world.messages
    mails.insert(replace(next(iter(mails)), id=1, folder="sent"))
    for table in full.world.tables().values():
        while len(table) < MOST_RECORDS:
            table.insert(replace(next(iter(table)), id=0))
    for start in (usual, full):
        for app in APPS:
            for name, api in start.apis(app).items():
                office = Desk(start.copy())
                for _ in range(50):
                    seen |= {(f"{app}.{name}", status) for status in attempt(office, api, luck)}
    told = {
        (f"{app}.{name}", status)
        for app in APPS
        for name in usual.apis(app)
        for status in Desk(usual).call(call("docs.show_api", app_name=app, api_name=name))["errors"]
    }
    fits = {(f"{app}.{name}", "422") for app in APPS for name in usual.apis(app)}
    assert seen - told == set(), "not documented"
    assert told - seen - fits == set(), "never seen"


def test_no_logins_no_login_api() -> None:
    assert "login" not in desk("open").call(call("docs.show_apis", app_name="mail"))
    with pytest.raises(SignatureError, match="mail has no API login"):
        desk("open").call(call("mail.login", password="x"))


def test_calls_and_refusals_are_counted() -> None:
    office = desk()
    office.call(call("docs.show_apps"))
    for asked in (call("mail.zzz"), call("mail.show", message_id=9999)):
        with pytest.raises(ApiError):
            office.call(asked)
    assert (office.state.calls, office.state.errors) == (3, 2)


def test_a_number_has_one_sign() -> None:
    assert parse_call("a.b(c=-1)").arguments == {"c": -1}
    for signs in (2, 1_000, 3_900):
        with pytest.raises(CallError):
            parse_call(f"a.b(c={'-' * signs}1)")
