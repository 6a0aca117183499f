"""The supervisor app: who the user is, and the end of the task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from agentopd.envs.desk.api import ApiError, Json, api
from agentopd.envs.desk.apps.account import Desktop
from agentopd.envs.desk.state import Completion, Given
from agentopd.envs.desk.world import Record


class Supervisor(Desktop, name="supervisor"):
    """The user's own data and passwords, and the end of the task."""

    @api()
    def show_profile(self) -> Json:
        """The user's name, mail address, phone number and today's date."""
        world = self.world
        self.state.seen.add(("Profile", 0, ""))
        return {
            "name": world.name,
            "email": world.email,
            "phone": world.phone,
            "today": world.today,
        }

    @api()
    def show_addresses(self) -> list[Json]:
        """The user's postal addresses."""
        return self._all(list(self.world.addresses))

    @api()
    def show_cards(self) -> list[Json]:
        """The user's payment cards."""
        return self._all(list(self.world.cards))

    @api()
    def show_passwords(self) -> Json:
        """The user's password for each app that needs a login."""
        for account in self.world.accounts:
            self.see(account)
        return {a.app: a.password for a in self.world.accounts if a.app in self.state.apps}

    @api({422: "status is success or fail"}, writes=True)
    def complete_task(self, answer: Given = None, status: str = "success") -> Json:
        """End the task: with an answer if it asks for one, with status "fail" if it cannot be
        done."""
        if status not in ("success", "fail"):
            raise ApiError(422, 'status is "success" or "fail".')
        self.state.completion = Completion(answer, status)
        return {"completed": True}

    def _all(self, records: Sequence[Record]) -> list[Json]:
        for record in records:
            self.see(record)
        return [{k: v for k, v in asdict(r).items() if k != "id"} for r in records]
