"""Tasks of difficulty 2: several calls, pages of results, or two apps."""

from __future__ import annotations

from agentopd.envs.desk.api import call
from agentopd.envs.desk.tasks.story import (
    Story,
    Template,
    decline,
    look_up,
    mail,
    pay,
    remove,
    sent,
    settle,
)
from agentopd.envs.desk.tasks.task import Expected, Goal, Task
from agentopd.envs.desk.world import Payment


def mail_reply(story: Story) -> Task:
    """An answer to a mail."""
    person = story.contact()
    message = story.message(person.email, "Can you make it on Friday?")
    body = story.random.choice(("Yes, gladly", "Sorry, I cannot", "Let us talk about it"))
    asked = story.say(
        f'Reply to {person.name}\'s mail "{message.subject}" with "{body}".',
        f'Answer "{body}" to the mail "{message.subject}" from {person.name}.',
        f'{person.name} wrote me about "{message.subject}". Reply "{body}".',
    )
    goal = Goal(
        f"{person.name}'s mail is answered with {body!r}",
        call("mail.reply", message_id=message.id, body=body),
        (sent(person.email, f"Re: {message.subject}", body),),
    )
    return Task(asked, ((call("mail.search", query=message.subject),),), (goal,))


def pay_contact(story: Story) -> Task:
    """Money for somebody whose address must be looked up."""
    person, amount, what = story.contact(), story.amount(), story.pools.take("NOTES")
    asked = story.say(
        f'Send {person.name} ${amount:.2f} with the note "{what}".',
        f'Pay {person.name} ${amount:.2f}, note "{what}".',
        f'I owe {person.name} ${amount:.2f}. Pay it from my wallet, with the note "{what}".',
    )
    return Task(asked, ((look_up(person),),), (pay(person.email, amount, what),))


def pay_too_much(story: Story) -> Task:
    """More money than there is: cannot be done."""
    person, what = story.contact(), story.pools.take("NOTES")
    amount = float(story.random.randint(3, 9) * 1000)
    asked = story.say(
        f'Send {person.name} ${amount:.2f} with the note "{what}".',
        f'Pay {person.name} ${amount:.2f}, note "{what}".',
        f'I owe {person.name} ${amount:.2f}. Pay it from my wallet, with the note "{what}".',
    )
    return Task(asked, ((call("wallet.show_balance"),),), status="fail")


def request_pay(story: Story) -> Task:
    """A request for money to pay."""
    person, other = story.contact(), story.contact()
    request = story.request(person.email, story.world.email, story.amount())
    story.request(other.email, story.world.email, story.amount())
    asked = story.say(
        f"{person.name} asked me for money for {request.note}. Pay the request.",
        f"Pay {person.name}'s request for {request.note}.",
        f"In the wallet is a request from {person.name} for {request.note}. Pay it.",
    )
    return Task(asked, story.pages("wallet.search_requests"), (settle(request),))


def request_decline(story: Story) -> Task:
    """Requests above a limit to decline."""
    limit = story.random.choice((30, 40, 50))
    requests = [
        story.request(story.contact().email, story.world.email, float(limit + above))
        for above in story.random.sample((-12, -7, 4, 9, 15), 4)
    ]
    asked = story.say(
        f"Decline every pending request for more than ${limit} that I have received.",
        f"Somebody asks me for more than ${limit}? Decline all such pending requests.",
        f"Decline the pending requests sent to me that are above ${limit}. Leave the others.",
    )
    goals = tuple(decline(request) for request in requests if request.amount > limit)
    return Task(asked, story.pages("wallet.search_requests", direction="received"), goals)


def event_move(story: Story) -> Task:
    """An event at another time of the same day."""
    event, (start, end) = story.event(), story.hour()
    asked = story.say(
        f'Move "{event.title}" to {start} until {end} on the same day.',
        f'"{event.title}" now runs from {start} to {end}. Change it in the calendar.',
        f'Reschedule "{event.title}" on its day: {start} to {end}.',
    )
    goal = Goal(
        f"{event.title} is from {start} to {end}",
        call("calendar.update", event_id=event.id, start=start, end=end),
        (Expected("events", "altered", {"start": start, "end": end}, event.id),),
    )
    return Task(asked, ((call("calendar.search", query=event.title),),), (goal,))


def event_missing(story: Story) -> Task:
    """An event that is not in the calendar: cannot be moved."""
    title, (start, end) = story.pools.take("EVENTS"), story.hour()
    asked = story.say(
        f'Move "{title}" to {start} until {end} on the same day.',
        f'"{title}" now runs from {start} to {end}. Change it in the calendar.',
        f'Reschedule "{title}" on its day: {start} to {end}.',
    )
    return Task(asked, ((call("calendar.search", query=title),),), status="fail")


def event_place(story: Story) -> Task:
    """Somebody wants to know where an event is."""
    person, event = story.contact(), story.event()
    subject = f"Place of {event.title}"
    asked = story.say(
        f'Mail {person.name} where "{event.title}" is: the subject is "{subject}", the text is '
        "nothing but the place.",
        f'{person.name} asks for the place of "{event.title}". Send a mail with the subject '
        f'"{subject}" and only the place as text.',
        f'Send the place of "{event.title}", and no other text, to {person.name} by mail. '
        f'Subject: "{subject}".',
    )
    reads = (
        (look_up(person), call("calendar.search", query=event.title)),
        (call("calendar.show", event_id=event.id),),
    )
    return Task(asked, reads, (mail(person.email, subject, event.place),))


def playlist_make(story: Story) -> Task:
    """A new playlist of two songs."""
    first, second = story.random.sample(list(story.world.songs), 2)
    title = story.pools.take("PLAYLISTS")
    asked = story.say(
        f'Make a playlist "{title}" of "{first.title}" and "{second.title}", in this order.',
        f'Create the playlist "{title}" with "{first.title}" first and then "{second.title}".',
        f'I want a playlist called "{title}": "{first.title}", then "{second.title}".',
    )
    songs = [first.id, second.id]
    goal = Goal(
        f"a playlist {title!r} holds {first.title} and {second.title} in this order",
        call("music.create_playlist", title=title, song_ids=songs),
        (Expected("playlists", "made", {"title": title, "songs": tuple(songs)}),),
    )
    reads = tuple(call("music.search_songs", query=song.title) for song in (first, second))
    return Task(asked, (reads,), (goal,))


def playlist_add(story: Story) -> Task:
    """One more song for a playlist."""
    playlist = story.random.choice(list(story.world.playlists))
    song = story.random.choice([s for s in story.world.songs if s.id not in playlist.songs])
    asked = story.say(
        f'Add "{song.title}" to my playlist "{playlist.title}".',
        f'Put "{song.title}" at the end of the playlist "{playlist.title}".',
        f'The playlist "{playlist.title}" needs one more song: "{song.title}".',
    )
    goal = Goal(
        f"{song.title} is in the playlist {playlist.title}",
        call("music.add_song", playlist_id=playlist.id, song_id=song.id),
        (Expected("playlists", "altered", {"songs": (*playlist.songs, song.id)}, playlist.id),),
    )
    reads = ((call("music.playlists"), call("music.search_songs", query=song.title)),)
    return Task(asked, reads, (goal,))


def mail_clear(story: Story) -> Task:
    """All mails of one sender to delete, more than fit on a page."""
    person = story.contact()
    count = story.random.randint(2, 7)
    messages = [story.message(person.email, "Have a look at our offers.") for _ in range(count)]
    asked = story.say(
        f"Delete all mails from {person.email} in my inbox.",
        f"Clear my inbox of everything that {person.email} has sent me.",
        f"I want no mail from {person.email} left in the inbox. Delete them all.",
    )
    goals = tuple(
        remove("mail.delete", "message_id", "messages", m.id, f"the mail {m.subject!r}")
        for m in messages
    )
    return Task(asked, story.pages("mail.search", query=person.email), goals)


def todo_clear(story: Story) -> Task:
    """All done to-dos to delete, more than fit on a page."""
    for _ in range(story.random.randint(1, 5)):
        story.todo(done=True)
    done = [todo for todo in story.world.todos if todo.done]
    asked = story.say(
        "Delete every to-do that is done.",
        "Clear my to-do list of what is done already.",
        "Remove all ticked-off items from my to-do list.",
    )
    goals = tuple(
        remove("todo.delete", "todo_id", "todos", t.id, f"the to-do {t.title!r}") for t in done
    )
    return Task(asked, story.pages("todo.search", done=True), goals)


def paid_total(story: Story) -> Task:
    """What somebody was paid in all, over several pages."""
    person, mine = story.contact(), story.world.email
    for _ in range(story.random.randint(2, 7)):
        ours = (mine, person.email)
        sender, receiver = ours if story.random.random() < 0.7 else ours[::-1]
        amount, what = story.amount(40), story.random.choice(("lunch", "taxi", "books"))
        story.world.payments.insert(
            Payment(
                sender=sender, receiver=receiver, amount=amount, note=what, date=story.world.today
            )
        )
    total = sum(p.amount for p in story.world.payments if p.receiver == person.email)
    asked = story.say(
        f"How much money have I sent to {person.email} in all?",
        f"Add up all that I have paid to {person.email}.",
        f"What is the sum of my payments to {person.email}?",
    )
    reads = story.pages("wallet.search_payments", query=person.email, direction="sent")
    return Task(asked, reads, answer=round(total, 2))


def unread_count(story: Story) -> Task:
    """How many unread mails there are, over several pages."""
    for _ in range(story.random.randint(0, 6)):
        story.message(story.random.choice(list(story.world.contacts)).email, "Are you there?")
    count = sum(m.folder == "inbox" and not m.read for m in story.world.messages)
    asked = story.say(
        "How many unread mails are in my inbox?",
        "Count the mails in my inbox that I have not read.",
        "What is the number of unread mails in the inbox?",
    )
    return Task(asked, story.pages("mail.search", unread=True), answer=count)


MEDIUM: tuple[Template, ...] = (
    Template("mail_reply", 2, ("mail",), "write", mail_reply),
    Template("pay_contact", 2, ("contacts", "wallet"), "pay", pay_contact),
    Template("pay_too_much", 2, ("contacts", "wallet"), "impossible", pay_too_much),
    Template("request_pay", 2, ("wallet",), "pay", request_pay),
    Template("request_decline", 2, ("wallet",), "change all", request_decline),
    Template("event_move", 2, ("calendar",), "change", event_move),
    Template("event_missing", 2, ("calendar",), "impossible", event_missing),
    Template("event_place", 2, ("contacts", "calendar", "mail"), "write", event_place),
    Template("playlist_make", 2, ("music",), "add", playlist_make),
    Template("playlist_add", 2, ("music",), "change", playlist_add),
    Template("mail_clear", 2, ("mail",), "change all", mail_clear),
    Template("todo_clear", 2, ("todo",), "change all", todo_clear),
    Template("paid_total", 2, ("wallet",), "count", paid_total),
    Template("unread_count", 2, ("mail",), "count", unread_count),
)
"""The templates of middle difficulty."""
