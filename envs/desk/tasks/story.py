"""What templates write tasks with: a world to add to, words, and goals in one line each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from agentopd.envs.desk import generate
from agentopd.envs.desk.api import Call, call
from agentopd.envs.desk.desk import APPS, Desk
from agentopd.envs.desk.generate import Pools
from agentopd.envs.desk.state import State
from agentopd.envs.desk.tasks.task import Expected, Goal, Task
from agentopd.envs.desk.world import Contact, Event, Message, Request, Todo, World

Stage = tuple[Call, ...]


@dataclass(frozen=True)
class Template:
    """A kind of task.

    Args:
        name: what it is called.
        difficulty: 1 for one or two calls in one app, 2 for several or two apps, 3 for more.
        apps: the apps it needs, besides `supervisor` and `docs`.
        skill: the family it belongs to, under which skills are filed.
        write: puts what the task is about into a world and says what is asked.
    """

    name: str
    difficulty: int
    apps: tuple[str, ...]
    skill: str
    write: Callable[[Story], Task]


@dataclass
class Story:
    """A world in the making."""

    world: World
    pools: Pools
    random: Random

    def say(self, *wordings: str) -> str:
        """One of the wordings of an instruction."""
        return self.random.choice(wordings)

    def contact(self) -> Contact:
        """A new contact, whom nothing in the world concerns yet."""
        return generate.add_contact(self.world, self.pools)

    def stranger(self) -> tuple[str, str]:
        """The name and address of somebody who is no contact."""
        return generate.person(self.pools)

    def message(self, sender: str, body: str, subject: str = "") -> Message:
        """An unread mail with a subject of its own, followed by a few older ones' worth of days."""
        return generate.add_message(
            self.world, sender, subject or self.pools.take("SUBJECTS"), body
        )

    def event(self, guests: tuple[str, ...] = ()) -> Event:
        """A new appointment with a title of its own."""
        return generate.add_event(self.world, self.pools, guests)

    def todo(self, done: bool = False, ahead: int | None = None) -> Todo:
        """A new to-do with a title of its own."""
        return generate.add_todo(self.world, self.pools, done, ahead)

    def request(self, sender: str, receiver: str, amount: float) -> Request:
        """A new pending request for money."""
        note = self.pools.take("NOTES")
        made = Request(sender=sender, receiver=receiver, amount=amount, note=note)
        return self.world.requests.insert(made)

    def day(self) -> str:
        """A date within the next month."""
        return generate.day(self.world, self.random.randint(15, 40))

    def amount(self, most: int = 60) -> float:
        """A sum of whole dollars or with 50 cents."""
        return self.random.randint(5, most) + self.random.choice((0.0, 0.5))

    def hour(self) -> tuple[str, str]:
        """A time from 08:30 to 17:30, when nothing planned here begins, and an hour later."""
        hour = self.random.randint(8, 17)
        return f"{hour:02}:30", f"{hour + 1:02}:30"

    def pages(self, name: str, **arguments: Any) -> tuple[Stage, ...]:
        """The calls that read all pages of a search, one a stage."""
        desk = Desk(State(self.world, APPS, "open"))
        calls = [call(name, **arguments)]
        while (following := desk.call(calls[-1])["next_page"]) is not None:
            calls.append(call(name, **arguments, page_index=following))
        return tuple((c,) for c in calls)


def look_up(contact: Contact) -> Call:
    """Find a contact by name."""
    return call("contacts.search", query=contact.name)


def show_mail(message: Message) -> Call:
    """Read a mail."""
    return call("mail.show", message_id=message.id)


def sent(to: str, subject: str, body: str) -> Expected:
    """A mail that was sent; marking it as unread takes nothing from it."""
    fields = {"folder": "sent", "to": to, "subject": subject, "body": body}
    return Expected("messages", "made", fields, free=("read",))


def mail(to: str, subject: str, body: str) -> Goal:
    """Send a mail."""
    return Goal(
        f"a mail with subject {subject!r} and text {body!r} is sent to {to}",
        call("mail.send", to=to, subject=subject, body=body),
        (sent(to, subject, body),),
    )


def pay(to: str, amount: float, note: str = "") -> Goal:
    """Pay somebody."""
    noted = {"note": note} if note else {}
    return Goal(
        f"${amount:.2f} are paid to {to}" + (f" for {note}" if note else ""),
        call("wallet.send", to=to, amount=amount, **noted),
        (Expected("payments", "made", {"receiver": to, "amount": amount, **noted}),),
    )


def ask_for(to: str, amount: float, note: str) -> Goal:
    """Ask somebody for money."""
    return Goal(
        f"${amount:.2f} are requested from {to} for {note}",
        call("wallet.request", to=to, amount=amount, note=note),
        (Expected("requests", "made", {"receiver": to, "amount": amount, "note": note}),),
    )


def settle(request: Request) -> Goal:
    """Pay a request."""
    paid = {"receiver": request.sender, "amount": request.amount, "note": request.note}
    return Goal(
        f"the request of {request.sender} for {request.note} is paid",
        call("wallet.pay", request_id=request.id),
        (
            Expected("requests", "altered", {"status": "paid"}, request.id),
            Expected("payments", "made", paid),
        ),
    )


def decline(request: Request) -> Goal:
    """Decline a request."""
    return Goal(
        f"the request of {request.sender} for {request.note} is declined",
        call("wallet.decline", request_id=request.id),
        (Expected("requests", "altered", {"status": "declined"}, request.id),),
    )


def plan(title: str, date: str, start: str, end: str, **fields: str) -> Goal:
    """Put an event into the calendar."""
    values = {"title": title, "date": date, "start": start, "end": end, **fields}
    return Goal(
        f"{title} is in the calendar on {date} from {start} to {end}",
        call("calendar.add", **values),
        (Expected("events", "made", values),),
    )


def note(title: str, due: str | None = None) -> Goal:
    """Put something on the to-do list."""
    values = {"title": title} | ({"due": due} if due else {})
    return Goal(
        f"{title!r} is on the to-do list" + (f", due {due}" if due else ""),
        call("todo.add", **values),
        (Expected("todos", "made", values),),
    )


def change_todo(todo: Todo, requirement: str, **values: Any) -> Goal:
    """Change a to-do."""
    return Goal(
        requirement,
        call("todo.update", todo_id=todo.id, **values),
        (Expected("todos", "altered", values, todo.id),),
    )


def remove(name: str, argument: str, table: str, number: int, what: str) -> Goal:
    """Delete a record with the API `name`."""
    return Goal(
        f"{what} is deleted",
        call(name, **{argument: number}),
        (Expected(table, "gone", {}, number),),
    )


def like(song_id: int, title: str) -> Goal:
    """Like a song."""
    return Goal(
        f"{title} is liked",
        call("music.like", song_id=song_id),
        (Expected("likes", "made", {}, song_id),),
    )
