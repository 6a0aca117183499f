"""Tasks of difficulty 3: what one app says is done in another, or many times."""

from __future__ import annotations

from agentopd.envs.desk import names
from agentopd.envs.desk.api import call
from agentopd.envs.desk.tasks.story import (
    Story,
    Template,
    ask_for,
    decline,
    like,
    look_up,
    mail,
    note,
    pay,
    plan,
    remove,
    settle,
    show_mail,
)
from agentopd.envs.desk.tasks.task import Task
from agentopd.envs.desk.world import Like, Song


def mail_meeting(story: Story) -> Task:
    """A mail names a date, times and a place: an event."""
    person, date = story.contact(), story.day()
    start, end = story.hour()
    place = story.random.choice(names.PLACES)
    title = story.pools.take("EVENTS")
    message = story.message(
        person.email, f"{title}: {date}, {start} to {end}, at {place}. Hope you can come!"
    )
    asked = story.say(
        f'{person.name} mailed me about "{message.subject}". Put the event of that mail into my '
        "calendar, with its title, time and place.",
        f'Enter the event that the mail "{message.subject}" announces into my calendar: title, '
        "date, times and place.",
        f'Read "{message.subject}" in my inbox and add the event it describes to the calendar, '
        "including the place.",
    )
    reads = ((call("mail.search", query=message.subject),), (show_mail(message),))
    return Task(asked, reads, (plan(title, date, start, end, place=place),))


def split_bill(story: Story) -> Task:
    """A bill that is shared: a request for each friend's part."""
    friends = [story.contact() for _ in range(story.random.choice((2, 3)))]
    share, what = float(story.random.randint(6, 25)), story.pools.take("NOTES")
    total = share * (len(friends) + 1)
    listed = ", ".join(friend.name for friend in friends[:-1]) + f" and {friends[-1].name}"
    asked = story.say(
        f"I paid ${total:.2f} for {what} with {listed}. Split it evenly among all of us and "
        f'request each friend\'s share, with the note "{what}".',
        f"{listed} and I share the ${total:.2f} I paid for {what} equally. Request their shares, "
        f'note "{what}".',
        f"Split ${total:.2f} equally between {listed} and me. Send each of them a request, note "
        f'"{what}".',
    )
    goals = tuple(ask_for(friend.email, share, what) for friend in friends)
    return Task(asked, (tuple(look_up(friend) for friend in friends),), goals)


def repay_mails(story: Story) -> Task:
    """Mails say what the user owes."""
    subject = "Lunch money"
    debts = [(story.contact(), story.amount(30)) for _ in range(story.random.choice((2, 3)))]
    messages = [
        story.message(person.email, f"You still owe me ${amount:.2f} for lunch.", subject)
        for person, amount in debts
    ]
    asked = story.say(
        f'Everybody who sent me a mail "{subject}" gets paid what it says, with the note "lunch".',
        f'Pay the senders of the mails "{subject}" what they ask for; the note is "lunch".',
        f'Some people wrote me about "{subject}". Pay each what I owe, note "lunch".',
    )
    reads = (*story.pages("mail.search", query=subject), tuple(map(show_mail, messages)))
    goals = tuple(pay(person.email, amount, "lunch") for person, amount in debts)
    return Task(asked, reads, goals)


def cancel_event(story: Story) -> Task:
    """An event is off, and its guests are told."""
    guests = tuple(story.contact().email for _ in range(story.random.choice((2, 3))))
    event = story.event(guests)
    subject, body = f"{event.title} is off", "Sorry, I have to cancel"
    asked = story.say(
        f'Cancel "{event.title}": delete it from my calendar and mail each guest, subject '
        f'"{subject}", text "{body}".',
        f'"{event.title}" will not take place. Delete it and send every guest a mail with the '
        f'subject "{subject}" and the text "{body}".',
        f'Mail all guests of "{event.title}" the text "{body}" with the subject "{subject}", and '
        "delete the event.",
    )
    reads = (
        (call("calendar.search", query=event.title),),
        (call("calendar.show", event_id=event.id),),
    )
    goals = (
        *(mail(guest, subject, body) for guest in guests),
        remove("calendar.delete", "event_id", "events", event.id, event.title),
    )
    return Task(asked, reads, goals)


def shopping_list(story: Story) -> Task:
    """A mail with a list: a to-do for each thing."""
    person = story.contact()
    goods = story.random.sample(names.GOODS, story.random.choice((3, 4)))
    message = story.message(person.email, f"Please buy: {', '.join(goods)}.")
    asked = story.say(
        f'{person.name} sent me a shopping list, "{message.subject}". Add a to-do for each thing, '
        "titled with nothing but the thing.",
        f'Turn the list in the mail "{message.subject}" into to-dos, one for each thing, each '
        "titled with the thing alone.",
        f'The mail "{message.subject}" says what to buy. Put every thing on my to-do list; the '
        "title is just the thing.",
    )
    reads = ((call("mail.search", query=message.subject),), (show_mail(message),))
    return Task(asked, reads, tuple(note(thing) for thing in goods))


def like_artist(story: Story) -> Task:
    """All songs of an artist to like; some are liked already."""
    artist = "The Night Owls"
    count = story.random.randint(3, 6)
    songs = [
        story.world.songs.insert(
            Song(
                title=story.pools.take("SONGS"),
                artist=artist,
                genre=story.random.choice(names.GENRES),
                seconds=story.random.randint(120, 400),
            )
        )
        for _ in range(count)
    ]
    for song in story.random.sample(songs, count - 2):
        story.world.likes.insert(Like(id=song.id))
    asked = story.say(
        f"Like every song by {artist} that I do not like yet.",
        f"I want all songs by {artist} among the songs I like. Some are already.",
        f"Add the songs by {artist} that are missing to my liked songs.",
    )
    goals = tuple(like(s.id, s.title) for s in songs if s.id not in story.world.likes.rows)
    reads = (*story.pages("music.search_songs", query=artist), *story.pages("music.liked_songs"))
    return Task(asked, reads, goals)


def settle_requests(story: Story) -> Task:
    """Requests to pay or to decline, by what they are for."""
    requests = [
        story.request(story.contact().email, story.world.email, story.amount(40))
        for _ in range(story.random.choice((3, 4)))
    ]
    wanted = requests[: len(requests) - 1]
    listed = " and ".join(request.note for request in wanted)
    asked = story.say(
        f"Pay the pending requests I have received for {listed}; decline all others.",
        f"Of the pending requests sent to me, pay those for {listed} and decline the rest.",
        f"Settle the pending requests sent to me: pay what is for {listed}, decline the rest.",
    )
    goals = (*map(settle, wanted), *map(decline, requests[len(wanted) :]))
    return Task(asked, story.pages("wallet.search_requests", direction="received"), goals)


HARD: tuple[Template, ...] = (
    Template("mail_meeting", 3, ("mail", "calendar"), "from mail", mail_meeting),
    Template("split_bill", 3, ("contacts", "wallet"), "pay", split_bill),
    Template("repay_mails", 3, ("mail", "wallet"), "from mail", repay_mails),
    Template("cancel_event", 3, ("calendar", "mail"), "write", cancel_event),
    Template("shopping_list", 3, ("mail", "todo"), "from mail", shopping_list),
    Template("like_artist", 3, ("music",), "change all", like_artist),
    Template("settle_requests", 3, ("wallet",), "change all", settle_requests),
)
"""The hard templates."""
