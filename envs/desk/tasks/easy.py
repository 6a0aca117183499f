"""Tasks of difficulty 1: one app, one or two calls besides the login."""

from __future__ import annotations

from agentopd.envs.desk import generate
from agentopd.envs.desk.api import call
from agentopd.envs.desk.tasks.story import (
    Story,
    Template,
    change_todo,
    like,
    look_up,
    mail,
    note,
    pay,
    plan,
)
from agentopd.envs.desk.tasks.task import Expected, Goal, Task


def card_expiry(story: Story) -> Task:
    """When a payment card expires."""
    card = story.random.choice(list(story.world.cards))
    asked = story.say(
        f"When does my {card.kind} card expire?",
        f"Tell me the month in which my {card.kind} card expires.",
        f"What is the expiry date of my {card.kind} card?",
    )
    return Task(asked, ((call("supervisor.show_cards"),),), answer=card.expires)


def address_town(story: Story) -> Task:
    """The town of one of the user's addresses."""
    address = story.random.choice(list(story.world.addresses))
    asked = story.say(
        f"In which town is my {address.label} address?",
        f"What is the town of my {address.label} address?",
        f"Look up my {address.label} address and tell me the town.",
    )
    return Task(asked, ((call("supervisor.show_addresses"),),), answer=address.town)


def contact_phone(story: Story) -> Task:
    """Somebody's phone number."""
    person = story.contact()
    asked = story.say(
        f"What is {person.name}'s phone number?",
        f"Find the phone number of {person.name}.",
        f"Which number do I call to reach {person.name}?",
    )
    return Task(asked, ((look_up(person),),), answer=person.phone)


def contact_birthday(story: Story) -> Task:
    """Somebody's birthday, which only the full record shows."""
    person = story.contact()
    asked = story.say(
        f"When was {person.name} born?",
        f"What is {person.name}'s birthday?",
        f"Find the birthday of {person.name}, with the year.",
    )
    reads = ((look_up(person),), (call("contacts.show", contact_id=person.id),))
    return Task(asked, reads, answer=person.birthday)


def contact_update(story: Story) -> Task:
    """Somebody has a new phone number."""
    person, number = story.contact(), generate.phone(story.random)
    asked = story.say(
        f"{person.name} has a new phone number, {number}. Update the contact.",
        f"Change the phone number of {person.name} to {number}.",
        f"Please note that {person.name}'s phone number is now {number}.",
    )
    goal = Goal(
        f"{person.name}'s phone number is {number}",
        call("contacts.update", contact_id=person.id, phone=number),
        (Expected("contacts", "altered", {"phone": number}, person.id),),
    )
    return Task(asked, ((look_up(person),),), (goal,))


def contact_missing(story: Story) -> Task:
    """The phone number of somebody who is no contact: cannot be done."""
    name, _ = story.stranger()
    asked = story.say(
        f"What is {name}'s phone number?",
        f"Find the phone number of {name}.",
        f"Which number do I call to reach {name}?",
    )
    return Task(asked, ((call("contacts.search", query=name),),), status="fail")


def todo_tick(story: Story) -> Task:
    """A to-do is done."""
    todo = story.todo()
    asked = story.say(
        f'Tick off "{todo.title}" on my to-do list.',
        f'I am done with "{todo.title}". Mark it on the to-do list.',
        f'Set the to-do "{todo.title}" to done.',
    )
    goal = change_todo(todo, f"{todo.title!r} is ticked off", done=True)
    return Task(asked, ((call("todo.search", query=todo.title),),), (goal,))


def todo_add(story: Story) -> Task:
    """Something new to do."""
    title, due = story.pools.take("TODOS"), story.day()
    asked = story.say(
        f'Put "{title}" on my to-do list, due {due}.',
        f'Add a to-do "{title}" that is due on {due}.',
        f'Remind me to "{title}": a to-do of that title, due {due}.',
    )
    return Task(asked, (), (note(title, due),))


def event_time(story: Story) -> Task:
    """When an event begins."""
    event = story.event()
    asked = story.say(
        f'At what time does "{event.title}" start?',
        f'When does "{event.title}" begin? I need the time of day.',
        f'Look up the starting time of "{event.title}" in my calendar.',
    )
    return Task(asked, ((call("calendar.search", query=event.title),),), answer=event.start)


def event_add(story: Story) -> Task:
    """A new event."""
    title, date = story.pools.take("EVENTS"), story.day()
    start, end = story.hour()
    asked = story.say(
        f'Add "{title}" to my calendar on {date} from {start} to {end}.',
        f'Put an event "{title}" on {date}, {start} to {end}, into the calendar.',
        f'On {date} I have "{title}" from {start} to {end}. Please enter it.',
    )
    return Task(asked, (), (plan(title, date, start, end),))


def wallet_balance(story: Story) -> Task:
    """The balance."""
    asked = story.say(
        "How much money is in my wallet?",
        "What is the balance of my wallet?",
        "Tell me my wallet's balance in dollars.",
    )
    return Task(asked, ((call("wallet.show_balance"),),), answer=story.world.balance)


def pay_address(story: Story) -> Task:
    """Money for an address that is given."""
    person, amount = story.contact(), story.amount()
    what = story.pools.take("NOTES")
    asked = story.say(
        f'Send ${amount:.2f} to {person.email} with the note "{what}".',
        f'Pay {person.email} ${amount:.2f}, note "{what}".',
        f'From my wallet, pay ${amount:.2f} to {person.email}. The note is "{what}".',
    )
    return Task(asked, (), (pay(person.email, amount, what),))


def song_like(story: Story) -> Task:
    """A song to like."""
    liked = story.world.likes.rows
    song = story.random.choice([song for song in story.world.songs if song.id not in liked])
    asked = story.say(
        f'Like the song "{song.title}".',
        f'I like "{song.title}". Note that in the music app.',
        f'Give "{song.title}" a like.',
    )
    goal = like(song.id, song.title)
    return Task(asked, ((call("music.search_songs", query=song.title),),), (goal,))


def mail_send(story: Story) -> Task:
    """A mail to an address that is given."""
    person, subject = story.contact(), story.pools.take("SUBJECTS")
    body = story.random.choice(("See you tomorrow", "Thank you", "Call me", "All is well"))
    asked = story.say(
        f'Mail {person.email}: subject "{subject}", text "{body}".',
        f'Send a mail with the subject "{subject}" and the text "{body}" to {person.email}.',
        f'Write to {person.email}. The subject is "{subject}", the text is "{body}".',
    )
    return Task(asked, (), (mail(person.email, subject, body),))


EASY: tuple[Template, ...] = (
    Template("card_expiry", 1, (), "look up", card_expiry),
    Template("address_town", 1, (), "look up", address_town),
    Template("contact_phone", 1, ("contacts",), "look up", contact_phone),
    Template("contact_birthday", 1, ("contacts",), "look up", contact_birthday),
    Template("contact_update", 1, ("contacts",), "change", contact_update),
    Template("contact_missing", 1, ("contacts",), "impossible", contact_missing),
    Template("todo_tick", 1, ("todo",), "change", todo_tick),
    Template("todo_add", 1, ("todo",), "add", todo_add),
    Template("event_time", 1, ("calendar",), "look up", event_time),
    Template("event_add", 1, ("calendar",), "add", event_add),
    Template("wallet_balance", 1, ("wallet",), "look up", wallet_balance),
    Template("pay_address", 1, ("wallet",), "pay", pay_address),
    Template("song_like", 1, ("music",), "change", song_like),
    Template("mail_send", 1, ("mail",), "write", mail_send),
)
"""The easy templates."""
