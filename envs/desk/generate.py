"""A world from a source of random numbers: people, mail, plans, money and music."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from random import Random

from agentopd.envs.desk import names
from agentopd.envs.desk.world import (
    Account,
    Address,
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
)

APPS_WITH_LOGIN = ("contacts", "mail", "calendar", "todo", "wallet", "music")
_MONDAY = datetime.date(2026, 5, 18)


@dataclass
class Pools:
    """Words in random order; each is handed out once a world, so that titles name one record."""

    random: Random
    left: dict[str, list[str]] = field(default_factory=dict)

    def take(self, kind: str) -> str:
        """A word of the list `kind` of `names` that this world has not used."""
        if kind not in self.left:
            words = list(getattr(names, kind))
            self.random.shuffle(words)
            self.left[kind] = words
        assert self.left[kind], f"the list {kind} is too short for one world"
        return self.left[kind].pop()


def generate(random: Random) -> tuple[World, Pools]:
    """A world as it is before a task adds its own records, and the words left for those."""
    pools = Pools(random)
    name, email = person(pools)
    today = _MONDAY + datetime.timedelta(days=random.randrange(200))
    world = World(
        name=name,
        email=email,
        phone=phone(random),
        today=str(today),
        opening=float(random.randint(600, 900)),
        people=(),
    )
    for app in APPS_WITH_LOGIN:
        world.accounts.insert(
            Account(app=app, password=f"{random.choice(names.WORDS)}{random.randint(10, 99)}")
        )
    for name in ("contacts", "messages", "events", "todos", "requests", "songs", "playlists"):
        # Numbers that say nothing about what was added last: they have to be looked up.
        getattr(world, name).last = random.randint(10, 70)
    _belongings(world, pools)
    for _ in range(10):
        add_contact(world, pools)
    _mail(world, pools)
    _plans(world, pools)
    _money(world, pools)
    _music(world, pools)
    return world, pools


def person(pools: Pools) -> tuple[str, str]:
    """A name nobody else has, and the address that goes with it."""
    first, last = pools.take("FIRST"), pools.take("LAST")
    return f"{first} {last}", f"{first}.{last}@{pools.random.choice(names.DOMAINS)}".lower()


def phone(random: Random) -> str:
    """A phone number."""
    return f"555-{random.randint(0, 9999):04}"


def day(world: World, ahead: int) -> str:
    """The date `ahead` days from the world's today."""
    return str(datetime.date.fromisoformat(world.today) + datetime.timedelta(days=ahead))


def add_contact(world: World, pools: Pools) -> Contact:
    """A new person among the user's contacts, with a wallet."""
    name, email = person(pools)
    born = datetime.date(1960, 1, 1) + datetime.timedelta(days=pools.random.randrange(14_000))
    world.people = (*world.people, email)
    return world.contacts.insert(
        Contact(name=name, email=email, phone=phone(pools.random), birthday=str(born))
    )


def add_message(world: World, sender: str, subject: str, body: str, **fields: bool) -> Message:
    """A mail to the user, newer than all before."""
    return world.messages.insert(
        Message(
            folder="inbox",
            sender=sender,
            to=world.email,
            subject=subject,
            body=body,
            date=world.today,
            **fields,
        )
    )


def add_event(world: World, pools: Pools, guests: tuple[str, ...] = ()) -> Event:
    """An appointment within the next two weeks, an hour long, on a day without another."""
    taken = {event.date for event in world.events}
    date = day(world, pools.random.randint(1, 14))
    while date in taken:
        date = day(world, pools.random.randint(1, 14))
    hour = pools.random.randint(8, 17)
    return world.events.insert(
        Event(
            title=pools.take("EVENTS"),
            date=date,
            start=f"{hour:02}:00",
            end=f"{hour + 1:02}:00",
            place=pools.random.choice(names.PLACES),
            guests=guests,
        )
    )


def add_todo(world: World, pools: Pools, done: bool = False, ahead: int | None = None) -> Todo:
    """Something to do, due `ahead` days from today."""
    ahead = pools.random.randint(1, 20) if ahead is None else ahead
    return world.todos.insert(Todo(title=pools.take("TODOS"), due=day(world, ahead), done=done))


def _belongings(world: World, pools: Pools) -> None:
    random = pools.random
    for label in ("home", "work"):
        street = f"{random.randint(1, 99)} {pools.take('STREETS')}"
        world.addresses.insert(Address(label=label, street=street, town=pools.take("TOWNS")))
    for _ in range(2):
        number = " ".join(f"{random.randint(0, 9999):04}" for _ in range(4))
        expires = f"20{random.randint(27, 32)}-{random.randint(1, 12):02}"
        world.cards.insert(Card(kind=pools.take("CARDS"), number=number, expires=expires))


def _mail(world: World, pools: Pools) -> None:
    random = pools.random
    for age in range(8, 0, -1):
        world.messages.insert(
            Message(
                folder="inbox",
                sender=random.choice(list(world.contacts)).email,
                to=world.email,
                subject=pools.take("SUBJECTS"),
                body=random.choice(names.BODIES),
                date=day(world, -age),
                read=random.random() < 0.6,
            )
        )


def _plans(world: World, pools: Pools) -> None:
    for _ in range(6):
        add_event(world, pools)
    for done in (False, False, False, True, True, False, False):
        add_todo(world, pools, done)


def _money(world: World, pools: Pools) -> None:
    random = pools.random
    people = list(world.contacts)
    for age in range(6, 0, -1):
        other, mine = random.choice(people).email, world.email
        sender, receiver = (mine, other) if random.random() < 0.5 else (other, mine)
        world.payments.insert(
            Payment(
                sender=sender,
                receiver=receiver,
                amount=float(random.randint(5, 60)),
                note=random.choice(names.NOTES),
                date=day(world, -age),
            )
        )
    for status in ("paid", "declined"):
        world.requests.insert(
            Request(
                sender=random.choice(people).email,
                receiver=world.email,
                amount=float(random.randint(5, 60)),
                note=random.choice(names.NOTES),
                status=status,
            )
        )


def _music(world: World, pools: Pools) -> None:
    random = pools.random
    for _ in range(16):
        world.songs.insert(
            Song(
                title=pools.take("SONGS"),
                artist=random.choice(names.ARTISTS),
                genre=random.choice(names.GENRES),
                seconds=random.randint(120, 400),
            )
        )
    songs = [song.id for song in world.songs]
    for song in sorted(random.sample(songs, 5)):
        world.likes.insert(Like(id=song))
    for _ in range(3):
        chosen = tuple(random.sample(songs, random.randint(3, 5)))
        world.playlists.insert(Playlist(title=pools.take("PLAYLISTS"), songs=chosen))
