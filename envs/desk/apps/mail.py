"""The mail app."""

from __future__ import annotations

from dataclasses import replace

from agentopd.envs.desk.api import LONGEST_LINE, ApiError, Json, api
from agentopd.envs.desk.apps.account import ADDRESS, FULL, PAGE, Protected, check_address, matches
from agentopd.envs.desk.world import Message


class Mail(Protected, name="mail"):
    """Mails: find, read, answer and send them."""

    @api({422: f"{PAGE}; folder is inbox or sent"})
    def search(
        self,
        query: str = "",
        unread: bool | None = None,
        folder: str = "inbox",
        page_index: int = 0,
        page_limit: int = 5,
    ) -> Json:
        """Mails whose sender, subject or body holds the words of the query, newest first."""
        if folder not in ("inbox", "sent"):
            raise ApiError(422, 'folder is "inbox" or "sent".')
        found = [
            message
            for message in self.world.messages
            if message.folder == folder
            and (unread is None or message.read is not unread)
            and matches(query, message.sender, message.subject, message.body)
        ]
        found.sort(key=lambda m: (m.date, m.id), reverse=True)
        return self.page(found, _brief, page_index, page_limit)

    @api({404: "there is no such mail"})
    def show(self, message_id: int) -> Json:
        """One mail with its text; it stays unread."""
        message = self._find(message_id)
        self.see(message, "full")
        return {**_brief(message), "to": message.to, "date": message.date, "body": message.body}

    @api({409: FULL, 422: ADDRESS}, writes=True)
    def send(self, to: str, subject: str, body: str) -> Json:
        """Send a mail to one address."""
        return self._send(to, subject, body)

    @api({404: "there is no such mail", 409: FULL}, writes=True)
    def reply(self, message_id: int, body: str) -> Json:
        """Answer a mail; the answer goes to its sender."""
        message = self._find(message_id)
        return self._send(message.sender, f"Re: {message.subject}", body)

    @api({404: "there is no such mail", 409: FULL, 422: ADDRESS}, writes=True)
    def forward(self, message_id: int, to: str) -> Json:
        """Send a mail on to another address, as it is."""
        message = self._find(message_id)
        return self._send(to, f"Fwd: {message.subject}", message.body)

    @api({404: "there is no such mail"}, writes=True)
    def mark(self, message_id: int, read: bool) -> Json:
        """Mark a mail as read or unread."""
        message = self._find(message_id)
        self.world.messages.insert(replace(message, read=read))
        return {"marked": message_id}

    @api({404: "there is no such mail", 409: "the mail was sent"}, writes=True)
    def delete(self, message_id: int) -> Json:
        """Delete a mail."""
        message = self._find(message_id)
        if message.folder == "sent":
            # Whoever got it keeps it: nothing that was sent can be made undone.
            raise ApiError(409, "a mail that was sent stays in the folder sent.")
        del self.world.messages.rows[message.id]
        return {"deleted": message_id}

    def _send(self, to: str, subject: str, body: str) -> Json:
        check_address(to)
        sent = Message(
            folder="sent",
            sender=self.world.email,
            to=to,
            subject=subject[:LONGEST_LINE],
            body=body,
            date=self.world.today,
            read=True,
        )
        made = self.enter(self.world.messages, sent)
        return {"sent": made.id, "to": to}

    def _find(self, number: int) -> Message:
        return self.find(self.world.messages, number, "mail", "mail.search")


def _brief(message: Message) -> Json:
    return {
        "id": message.id,
        "from": message.sender,
        "subject": message.subject,
        "unread": not message.read,
    }
