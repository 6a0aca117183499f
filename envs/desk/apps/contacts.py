"""The contacts app."""

from __future__ import annotations

from dataclasses import replace

from agentopd.envs.desk.api import ApiError, Json, api
from agentopd.envs.desk.apps.account import (
    ADDRESS,
    DATE,
    FULL,
    NOTHING,
    PAGE,
    Protected,
    check_address,
    check_date,
    given,
    matches,
)
from agentopd.envs.desk.world import Contact

_TAKEN = "a contact with this address exists"


class Contacts(Protected, name="contacts"):
    """People: mail addresses, phone numbers, birthdays."""

    @api({422: PAGE})
    def search(self, query: str = "", page_index: int = 0, page_limit: int = 5) -> Json:
        """Contacts whose name or address holds the words of the query, by name."""
        found = [c for c in self.world.contacts if matches(query, c.name, c.email)]
        return self.page(sorted(found, key=lambda c: c.name), _brief, page_index, page_limit)

    @api({404: "there is no such contact"})
    def show(self, contact_id: int) -> Json:
        """One contact, with the birthday."""
        contact = self._find(contact_id)
        self.see(contact, "full")
        return {**_brief(contact), "birthday": contact.birthday}

    @api({409: f"{_TAKEN}; {FULL}", 422: f"{ADDRESS}; {DATE}"}, writes=True)
    def add(self, name: str, email: str, phone: str = "", birthday: str = "") -> Json:
        """Add a person."""
        made = Contact(name=name, email=email, phone=phone, birthday=birthday)
        return {"contact_id": self._keep(made).id}

    @api(
        {404: "there is no such contact", 409: _TAKEN, 422: f"{NOTHING}; {ADDRESS}; {DATE}"},
        writes=True,
    )
    def update(
        self,
        contact_id: int,
        name: str | None = None,
        email: str | None = None,
        phone: str | None = None,
        birthday: str | None = None,
    ) -> Json:
        """Change what is given of a contact."""
        contact = self._find(contact_id)
        changed = given(name=name, email=email, phone=phone, birthday=birthday)
        self._keep(replace(contact, **changed))
        return {"updated": contact_id}

    @api({404: "there is no such contact"}, writes=True)
    def delete(self, contact_id: int) -> Json:
        """Delete a contact."""
        del self.world.contacts.rows[self._find(contact_id).id]
        return {"deleted": contact_id}

    def _keep(self, contact: Contact) -> Contact:
        check_address(contact.email)
        check_date(contact.birthday or None)
        for other in self.world.contacts:
            if other.email == contact.email and other.id != contact.id:
                raise ApiError(409, f"{_TAKEN}; change it with update.")
        return self.enter(self.world.contacts, contact)

    def _find(self, number: int) -> Contact:
        return self.find(self.world.contacts, number, "contact", "contacts.search")


def _brief(contact: Contact) -> Json:
    return {
        "id": contact.id,
        "name": contact.name,
        "email": contact.email,
        "phone": contact.phone,
    }
