"""What the apps with a login share: the login, pages of results, records by number or 404."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from agentopd.envs.desk.api import ApiError, App, Json, api
from agentopd.envs.desk.state import State
from agentopd.envs.desk.world import Record, Table, World

R = TypeVar("R", bound=Record)

_ADDRESS = re.compile(r"[^@\s]+@[^@\s]+\.[a-z]+")
_MOST = 20
PAGE = f"page_index starts at 0 and page_limit is 1 to {_MOST}"
FULL = "the app is full"
DATE = "dates are written like 2026-05-18"
ADDRESS = "this is no mail address"
NOTHING = "nothing to change is given"
MOST_RECORDS = 200
"""Records that an app keeps of a kind; a world has some twenty at the start."""


class Desktop(App):
    """An app on the desk, with what it needs to know of the episode."""

    def __init__(self, state: State) -> None:
        self.state = state

    @property
    def world(self) -> World:
        """The records as they are."""
        return self.state.world

    def see(self, record: Record, detail: str = "") -> None:
        """Note that the agent was shown `record`: in brief, or also its `detail`."""
        self.state.seen.add((type(record).__name__, record.id, ""))
        self.state.seen.add((type(record).__name__, record.id, detail))

    def page(
        self, records: Iterable[R], view: Callable[[R], Json], page_index: int, page_limit: int
    ) -> Json:
        """One page of `records` as `view` shows them, and the number of the next page."""
        if page_index < 0 or not 1 <= page_limit <= _MOST:
            raise ApiError(422, f"{PAGE}.")
        found = list(records)
        start = page_index * page_limit
        shown = found[start : start + page_limit]
        for record in shown:
            self.see(record)
        more = start + page_limit < len(found)
        return {
            "items": [view(record) for record in shown],
            "next_page": page_index + 1 if more else None,
        }

    def enter(self, table: Table[R], record: R) -> R:
        """Keep a record in its table, where there is room for it.

        Raises:
            ApiError: 409, the table is full.
        """
        if record.id not in table.rows and len(table) >= MOST_RECORDS:
            raise ApiError(409, f"{self.name} is full, it keeps {MOST_RECORDS} of a kind.")
        return table.insert(record)

    def find(self, table: Table[R], number: int, what: str, search: str) -> R:
        """The record of that number.

        Raises:
            ApiError: 404, naming the API that finds numbers.
        """
        if number not in table.rows:
            raise ApiError(404, f"there is no {what} {number}; find its id with {search}.")
        return table.rows[number]


class Protected(Desktop):
    """An app with a login."""

    protected = True

    @api({401: "wrong password"}, open=True)
    def login(self, password: str) -> Json:
        """Open the app with the user's password, which supervisor.show_passwords shows."""
        right = next(a.password for a in self.world.accounts if a.app == self.name)
        if password != right:
            raise ApiError(
                401, f"wrong password for {self.name}; supervisor.show_passwords() shows it."
            )
        self.state.logged_in.add(self.name)
        return {"token": self.state.token(self.name)} if self.state.tokens else {"logged_in": True}


def matches(query: str, *texts: str) -> bool:
    """Whether every word of `query` stands in one of `texts`; capitals do not matter."""
    within = "\n".join(texts).casefold()
    return all(word in within for word in query.casefold().split())


def check_date(value: str | None) -> None:
    """Refuse what is no date.

    Raises:
        ApiError: 422.
    """
    if value is None:
        return
    problem = ApiError(422, f"{DATE}.")
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", value, re.ASCII):
        raise problem
    try:
        datetime.date.fromisoformat(value)
    except ValueError:
        raise problem from None


def check_time(value: str | None) -> None:
    """Refuse what is no time of day.

    Raises:
        ApiError: 422.
    """
    if value is not None and not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", value, re.ASCII):
        raise ApiError(422, "times are written like 09:30.")


def check_address(value: str | None) -> None:
    """Refuse what is no mail address.

    Raises:
        ApiError: 422.
    """
    if value is not None and not _ADDRESS.fullmatch(value):
        raise ApiError(422, f"{ADDRESS}; find people's with contacts.search.")


def check_amount(value: float) -> float:
    """The amount in dollars and cents.

    Raises:
        ApiError: 422, it is not positive.
    """
    if not 0.01 <= value <= 1_000_000:
        raise ApiError(422, "an amount is more than 0.")
    return round(float(value), 2)


def given(**values: Any) -> dict[str, Any]:
    """The arguments that are not None.

    Raises:
        ApiError: 422, there are none.
    """
    found = {name: value for name, value in values.items() if value is not None}
    if not found:
        raise ApiError(422, f"nothing to change; give one of {', '.join(values)}.")
    return found
