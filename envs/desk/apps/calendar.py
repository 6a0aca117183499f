"""The calendar app."""

from __future__ import annotations

from dataclasses import replace

from agentopd.envs.desk.api import ApiError, Json, api
from agentopd.envs.desk.apps.account import (
    DATE,
    FULL,
    NOTHING,
    PAGE,
    Protected,
    check_date,
    check_time,
    given,
    matches,
)
from agentopd.envs.desk.world import Event

_TIMES = f"{DATE}; times are written like 09:30; an event ends after it starts"


class Calendar(Protected, name="calendar"):
    """Appointments, with times, places and guests."""

    @api({422: f"{PAGE}; {DATE}"})
    def search(
        self, query: str = "", date: str | None = None, page_index: int = 0, page_limit: int = 5
    ) -> Json:
        """Events whose title or place holds the words of the query, of one date or all, by time."""
        check_date(date)
        found = [
            event
            for event in self.world.events
            if date in (None, event.date) and matches(query, event.title, event.place)
        ]
        found.sort(key=lambda event: (event.date, event.start, event.id))
        return self.page(found, _brief, page_index, page_limit)

    @api({404: "there is no such event"})
    def show(self, event_id: int) -> Json:
        """One event with its place and the mail addresses of its guests."""
        event = self._find(event_id)
        self.see(event, "full")
        return {**_brief(event), "place": event.place, "guests": list(event.guests)}

    @api({409: FULL, 422: _TIMES}, writes=True)
    def add(self, title: str, date: str, start: str, end: str, place: str = "") -> Json:
        """Add an event."""
        made = Event(title=title, date=date, start=start, end=end, place=place)
        return {"event_id": self._keep(made).id}

    @api({404: "there is no such event", 422: f"{NOTHING}; {_TIMES}"}, writes=True)
    def update(
        self,
        event_id: int,
        title: str | None = None,
        date: str | None = None,
        start: str | None = None,
        end: str | None = None,
        place: str | None = None,
    ) -> Json:
        """Change what is given of an event."""
        event = self._find(event_id)
        changed = given(title=title, date=date, start=start, end=end, place=place)
        self._keep(replace(event, **changed))
        return {"updated": event_id}

    @api({404: "there is no such event"}, writes=True)
    def delete(self, event_id: int) -> Json:
        """Delete an event."""
        del self.world.events.rows[self._find(event_id).id]
        return {"deleted": event_id}

    def _keep(self, event: Event) -> Event:
        check_date(event.date)
        check_time(event.start)
        check_time(event.end)
        if event.end <= event.start:
            raise ApiError(422, "an event ends after it starts; give both start and end.")
        return self.enter(self.world.events, event)

    def _find(self, number: int) -> Event:
        return self.find(self.world.events, number, "event", "calendar.search")


def _brief(event: Event) -> Json:
    return {
        "id": event.id,
        "title": event.title,
        "date": event.date,
        "start": event.start,
        "end": event.end,
    }
