"""The desk's data: frozen records in tables.

Records never change; a write puts a new record in place of the old one. So a copy of a world is a
copy of a few dictionaries, and what an episode changed is found by comparing identities.

Dates are `2026-05-18`, times `09:30`, and compare as text. Amounts are dollars with two decimals.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Generic, TypeVar, get_origin


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A row of a table; `id` is given by the table.

    A field with a default may be left out when a record is made: it is the maker's choice to fill
    it. One without is always filled, by the maker or by the app.
    """

    id: int = 0

    @property
    def chosen(self) -> set[str]:
        """The fields that were filled though they may be left out."""
        mine = (f for f in fields(self) if f.name != "id" and f.default is not MISSING)
        return {f.name for f in mine if getattr(self, f.name) != f.default}


@dataclass(frozen=True, kw_only=True, slots=True)
class Account(Record):
    """The user's password for an app."""

    app: str
    password: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Address(Record):
    """Where the user lives or works."""

    label: str
    street: str
    town: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Card(Record):
    """A payment card of the user."""

    kind: str
    number: str
    expires: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Contact(Record):
    """A person the user knows."""

    name: str
    email: str
    phone: str = ""
    birthday: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Message(Record):
    """A mail, received (`inbox`) or sent (`sent`)."""

    folder: str
    sender: str
    to: str
    subject: str
    body: str
    date: str
    read: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Event(Record):
    """An appointment; guests are mail addresses."""

    title: str
    date: str
    start: str
    end: str
    place: str = ""
    guests: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Todo(Record):
    """Something to do, by a date where there is one."""

    title: str
    due: str | None = None
    done: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Payment(Record):
    """Money that went from one mail address to another."""

    sender: str
    receiver: str
    amount: float
    note: str = ""
    date: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Request(Record):
    """`sender` asks `receiver` for money; pending, paid, declined or cancelled."""

    sender: str
    receiver: str
    amount: float
    note: str = ""
    status: str = "pending"


@dataclass(frozen=True, kw_only=True, slots=True)
class Song(Record):
    """A song of the catalogue."""

    title: str
    artist: str
    genre: str
    seconds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Like(Record):
    """The user likes the song of the same id."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Playlist(Record):
    """Songs by id, in order."""

    title: str
    songs: tuple[int, ...] = ()


R = TypeVar("R", bound=Record)


@dataclass
class Table(Generic[R]):
    """Records by id. An id is never given twice, also after its record is gone."""

    rows: dict[int, R] = field(default_factory=dict)
    last: int = 0

    def insert(self, record: R) -> R:
        """Give `record` the next id, or the one it has, and keep it."""
        kept = record if record.id else replace(record, id=self.last + 1)
        self.last = max(self.last, kept.id)
        self.rows[kept.id] = kept
        return kept

    def __iter__(self) -> Iterator[R]:
        return iter(list(self.rows.values()))

    def __len__(self) -> int:
        return len(self.rows)

    def copy(self) -> Table[R]:
        """The same records in a table of its own."""
        return Table(dict(self.rows), self.last)


@dataclass
class World:
    """Everything the apps know. `name`, `email` and `phone` are the user's; `today` is a date.

    `people` are the addresses that have a wallet; `opening` is the wallet's balance before the
    payments in the table.
    """

    name: str
    email: str
    phone: str
    today: str
    opening: float
    people: tuple[str, ...]
    accounts: Table[Account] = field(default_factory=Table[Account])
    addresses: Table[Address] = field(default_factory=Table[Address])
    cards: Table[Card] = field(default_factory=Table[Card])
    contacts: Table[Contact] = field(default_factory=Table[Contact])
    messages: Table[Message] = field(default_factory=Table[Message])
    events: Table[Event] = field(default_factory=Table[Event])
    todos: Table[Todo] = field(default_factory=Table[Todo])
    payments: Table[Payment] = field(default_factory=Table[Payment])
    requests: Table[Request] = field(default_factory=Table[Request])
    songs: Table[Song] = field(default_factory=Table[Song])
    likes: Table[Like] = field(default_factory=Table[Like])
    playlists: Table[Playlist] = field(default_factory=Table[Playlist])

    def tables(self) -> dict[str, Table[Record]]:
        """The tables by name."""
        return {name: getattr(self, name) for name in TABLES}

    def copy(self) -> World:
        """A world that can be changed without changing this one."""
        return replace(self, **{name: getattr(self, name).copy() for name in TABLES})

    @property
    def balance(self) -> float:
        """What the user has in the wallet."""
        mine = self.email
        flow = (
            p.amount if p.receiver == mine else -p.amount
            for p in self.payments
            if mine in (p.sender, p.receiver)
        )
        return round(self.opening + sum(flow), 2)


TABLES: tuple[str, ...] = tuple(
    f.name for f in fields(World) if get_origin(f.default_factory) is Table
)


@dataclass(frozen=True)
class Change:
    """What became of one record: made (`before` is None), gone (`after` is None) or altered."""

    table: str
    before: Record | None
    after: Record | None

    @property
    def altered(self) -> dict[str, object]:
        """The fields whose value is new, with that value; all fields of a made record."""
        if self.after is None:
            return {}
        new = {f.name: getattr(self.after, f.name) for f in fields(self.after)}
        if self.before is None:
            return new
        return {name: value for name, value in new.items() if getattr(self.before, name) != value}

    def __str__(self) -> str:
        record = self.after or self.before
        assert record is not None
        done = "made" if self.before is None else "deleted" if self.after is None else "changed"
        return f"{type(record).__name__.lower()} {record.id} {done}"


def changes(before: World, after: World) -> list[Change]:
    """How `after` differs from `before`, table by table, each in the order of ids."""
    found: list[Change] = []
    for name in TABLES:
        old: dict[int, Record] = getattr(before, name).rows
        new: dict[int, Record] = getattr(after, name).rows
        # The identity of a record stands for its content; only new objects are compared in full.
        touched: Iterable[int] = [i for i in new if new[i] is not old.get(i)]
        touched = sorted([*touched, *(i for i in old if i not in new)])
        pairs = ((old.get(i), new.get(i)) for i in touched)
        found += [Change(name, was, now) for was, now in pairs if was != now]
    return found
