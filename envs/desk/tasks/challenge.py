"""Tasks that only the split test-challenge has, of every difficulty."""

from __future__ import annotations

from agentopd.envs.desk import generate
from agentopd.envs.desk.api import call
from agentopd.envs.desk.tasks.story import (
    Story,
    Template,
    change_todo,
    look_up,
    mail,
    pay,
    sent,
    show_mail,
)
from agentopd.envs.desk.tasks.task import Expected, Goal, Task
from agentopd.envs.desk.world import Payment, Playlist


def song_unlike(story: Story) -> Task:
    """A like to take back."""
    song = story.world.songs.rows[story.random.choice(list(story.world.likes)).id]
    asked = story.say(
        f'I no longer like the song "{song.title}". Take my like back.',
        f'Remove my like from "{song.title}".',
        f'Unlike "{song.title}".',
    )
    goal = Goal(
        f"{song.title} is not liked",
        call("music.unlike", song_id=song.id),
        (Expected("likes", "gone", {}, song.id),),
    )
    return Task(asked, ((call("music.search_songs", query=song.title),),), (goal,))


def request_cancel(story: Story) -> Task:
    """A request of the user's own to take back."""
    person = story.contact()
    request = story.request(story.world.email, person.email, story.amount())
    asked = story.say(
        f"Cancel my request to {person.email} for {request.note}.",
        f"{person.email} has paid me in cash. Take back my request for {request.note}.",
        f"I do not want the money for {request.note} from {person.email} any more. Cancel my "
        "request.",
    )
    goal = Goal(
        f"the request to {person.email} is cancelled",
        call("wallet.cancel", request_id=request.id),
        (Expected("requests", "altered", {"status": "cancelled"}, request.id),),
    )
    reads = ((call("wallet.search_requests", query=person.email),),)
    return Task(asked, reads, (goal,))


def mail_forward(story: Story) -> Task:
    """A mail to send on."""
    writer, reader = story.contact(), story.contact()
    message = story.message(writer.email, "Here is all that we talked about.")
    asked = story.say(
        f'Forward the mail "{message.subject}" to {reader.name}.',
        f'{reader.name} should read "{message.subject}" from {writer.name}. Forward it.',
        f'Send the mail "{message.subject}" on to {reader.name}.',
    )
    goal = Goal(
        f"the mail {message.subject!r} is forwarded to {reader.name}",
        call("mail.forward", message_id=message.id, to=reader.email),
        (sent(reader.email, f"Fwd: {message.subject}", message.body),),
    )
    reads = ((look_up(reader), call("mail.search", query=message.subject)),)
    return Task(asked, reads, (goal,))


def contact_unknown(story: Story) -> Task:
    """A mail to somebody whose address nobody has: cannot be done."""
    name, _ = story.stranger()
    asked = story.say(
        f'Mail {name}: subject "Hello", text "Call me".',
        f'Write {name} a mail with the subject "Hello" and the text "Call me".',
        f'Send the text "Call me" to {name} by mail, subject "Hello".',
    )
    return Task(asked, ((call("contacts.search", query=name),),), status="fail")


def todo_overdue(story: Story) -> Task:
    """Overdue to-dos to put off."""
    late = [
        story.todo(ahead=-story.random.randint(1, 9)) for _ in range(story.random.choice((2, 3)))
    ]
    story.todo(done=True, ahead=-story.random.randint(1, 9))
    due = generate.day(story.world, 1)
    asked = story.say(
        f"Today is {story.world.today}. Every open to-do that was due before today is to be due "
        f"on {due}.",
        f"Put off all open to-dos that were due before today, {story.world.today}, to {due}.",
        f"Set the due date of my overdue open to-dos to {due}. Today is {story.world.today}.",
    )
    goals = tuple(change_todo(t, f"{t.title!r} is due on {due}", due=due) for t in late)
    return Task(asked, story.pages("todo.search", done=False), goals)


def song_in_both(story: Story) -> Task:
    """The one song that two playlists share."""
    songs = story.random.sample([song.id for song in story.world.songs], 7)
    shared = songs[0]
    lists = []
    for rest in (songs[1:4], songs[4:]):
        chosen = story.random.sample([shared, *rest], 4)
        title = story.pools.take("PLAYLISTS")
        lists.append(story.world.playlists.insert(Playlist(title=title, songs=tuple(chosen))))
    one, other = (playlist.title for playlist in lists)
    asked = story.say(
        f'Which song is in both of my playlists "{one}" and "{other}"? Give its title.',
        f'What is the title of the song that "{one}" and "{other}" have in common?',
        f'My playlists "{one}" and "{other}" share one song. What is it called?',
    )
    shown = tuple(call("music.show_playlist", playlist_id=playlist.id) for playlist in lists)
    reads = (*story.pages("music.playlists"), shown)
    return Task(asked, reads, answer=story.world.songs.rows[shared].title)


def biggest_payer(story: Story) -> Task:
    """Who sent the user the largest payment."""
    # All amounts of the background are at most 60; distinct ones above it leave no tie.
    for amount in story.random.sample(range(61, 99), story.random.randint(2, 5)):
        story.world.payments.insert(
            Payment(
                sender=story.contact().email,
                receiver=story.world.email,
                amount=float(amount),
                note=story.random.choice(("rent", "car", "trip")),
                date=story.world.today,
            )
        )
    received = [p for p in story.world.payments if p.receiver == story.world.email]
    top = max(received, key=lambda payment: payment.amount)
    asked = story.say(
        "Who sent me the largest single payment? Give the mail address.",
        "From which mail address did I receive the largest single payment?",
        "Find the largest payment I have received. What is its sender's mail address?",
    )
    reads = story.pages("wallet.search_payments", direction="received")
    return Task(asked, reads, answer=top.sender)


def contact_from_mail(story: Story) -> Task:
    """A mail's sender becomes a contact, with the phone number in the mail."""
    name, email = story.stranger()
    number = generate.phone(story.random)
    message = story.message(email, f"Please call me on {number}. Best wishes, {name}")
    asked = story.say(
        f'{name} wrote me "{message.subject}". Add the sender to my contacts, with name, mail '
        "address and the phone number in the mail.",
        f'Make a contact of the sender of "{message.subject}": name, mail address, and the phone '
        "number the mail gives.",
        f"Add {name} to my contacts. The mail address and the phone number are in the mail "
        f'"{message.subject}".',
    )
    values = {"name": name, "email": email, "phone": number}
    goal = Goal(
        f"{name} is a contact with address {email} and phone number {number}",
        call("contacts.add", **values),
        (Expected("contacts", "made", values),),
    )
    reads = ((call("mail.search", query=message.subject),), (show_mail(message),))
    return Task(asked, reads, (goal,))


def remind_debtors(story: Story) -> Task:
    """A mail to each who has not paid yet."""
    people = [story.contact() for _ in range(story.random.choice((2, 3)))]
    for person in people:
        story.request(story.world.email, person.email, story.amount())
    asked = story.say(
        'Mail everybody who has not answered my request for money yet: subject "Reminder", text '
        '"Please pay".',
        'Send each person with a pending request of mine a mail, subject "Reminder", text '
        '"Please pay".',
        'Who has still to pay what I requested? Mail each the text "Please pay" with the '
        'subject "Reminder".',
    )
    goals = tuple(mail(person.email, "Reminder", "Please pay") for person in people)
    return Task(asked, story.pages("wallet.search_requests", direction="sent"), goals)


def refund(story: Story) -> Task:
    """The last payment of somebody to send back."""
    person = story.contact()
    _, last = [
        story.world.payments.insert(
            Payment(
                sender=person.email,
                receiver=story.world.email,
                amount=story.amount(),
                note=story.pools.take("NOTES"),
                date=generate.day(story.world, -ago),
            )
        )
        for ago in (3, 0)
    ]
    asked = story.say(
        f'Send the last payment I got from {person.name} back, with the note "refund".',
        f'Refund {person.name}\'s latest payment to me; the note is "refund".',
        f'{person.name} paid me by mistake the last time. Pay the sum back, note "refund".',
    )
    reads = (
        (look_up(person),),
        (call("wallet.search_payments", query=person.email, direction="received"),),
    )
    return Task(asked, reads, (pay(person.email, last.amount, "refund"),))


CHALLENGE: tuple[Template, ...] = (
    Template("song_unlike", 1, ("music",), "change", song_unlike),
    Template("request_cancel", 1, ("wallet",), "change", request_cancel),
    Template("mail_forward", 2, ("contacts", "mail"), "write", mail_forward),
    Template("contact_unknown", 2, ("contacts", "mail"), "impossible", contact_unknown),
    Template("todo_overdue", 2, ("todo",), "change all", todo_overdue),
    Template("song_in_both", 2, ("music",), "look up", song_in_both),
    Template("biggest_payer", 2, ("wallet",), "look up", biggest_payer),
    Template("contact_from_mail", 3, ("contacts", "mail"), "from mail", contact_from_mail),
    Template("remind_debtors", 3, ("wallet", "mail"), "write", remind_debtors),
    Template("refund", 3, ("contacts", "wallet"), "pay", refund),
)
"""The templates of the split test-challenge."""
