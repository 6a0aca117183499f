"""The desk: calls of APIs, carried out or refused."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import Any

from agentopd.envs.desk.api import TOKEN, Api, ApiError, App, Call, SignatureError, shortened
from agentopd.envs.desk.apps.account import Desktop
from agentopd.envs.desk.apps.calendar import Calendar
from agentopd.envs.desk.apps.contacts import Contacts
from agentopd.envs.desk.apps.docs import Docs
from agentopd.envs.desk.apps.mail import Mail
from agentopd.envs.desk.apps.music import Music
from agentopd.envs.desk.apps.supervisor import Supervisor
from agentopd.envs.desk.apps.todo import Todos
from agentopd.envs.desk.apps.wallet import Wallet
from agentopd.envs.desk.state import State

_ALL: tuple[type[Desktop], ...] = (
    Supervisor,
    Docs,
    Contacts,
    Mail,
    Calendar,
    Todos,
    Wallet,
    Music,
)
APPS: dict[str, type[Desktop]] = {app.name: app for app in _ALL}
"""The apps by name."""
ALWAYS = ("supervisor", "docs")
"""The apps that every desk has."""


def chosen(apps: Iterable[str] | None) -> dict[str, type[App]]:
    """The apps of a desk that has those named, or all, and the ones every desk has."""
    wanted = {*ALWAYS, *(APPS if apps is None else apps)}
    return {name: app for name, app in APPS.items() if name in wanted}


class Desk:
    """The apps over one state."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.apps = {name: APPS[name](state) for name in state.apps}

    def call(self, call: Call) -> Any:
        """Carry out a call; what it returns can be written as JSON.

        Raises:
            ApiError: the call is refused; the message says why and what to do.
        """
        self.state.calls += 1
        self.state.errors += 1
        api = self._check(call)
        if self.state.completion:
            raise ApiError(409, "the task is completed already.")
        if not api.open and self.state.logins != "open":
            self._check_login(call)
        arguments = {name: value for name, value in call.arguments.items() if name != TOKEN}
        result = getattr(self.apps[call.app], call.api)(**arguments)
        self.state.errors -= 1
        if not api.writes:
            self.state.called.add(call.key)
        return result

    def _check(self, call: Call) -> Api:
        """The API of a call, which takes these arguments.

        Raises:
            SignatureError: 404, there is none; 422, it does not take them.
        """
        api = self._lookup(call)
        arguments = dict(call.arguments)
        if self.state.tokens and not api.open:
            arguments.pop(TOKEN, None)
        api.check(arguments)
        return api

    def _lookup(self, call: Call) -> Api:
        """The API that a call names.

        Raises:
            SignatureError: 404, there is none; the message names a similar one.
        """
        if call.app not in self.apps:
            known = ", ".join(self.apps)
            raise SignatureError(404, f"there is no app {shortened(call.app)}; there are {known}.")
        apis = self.state.apis(call.app)
        if call.api not in apis:
            close = difflib.get_close_matches(call.api[:40], apis, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(apis)}."
            raise SignatureError(404, f"{call.app} has no API {shortened(call.api)}; {hint}")
        return apis[call.api]

    def _check_login(self, call: Call) -> None:
        app, state = call.app, self.state
        how = f"{app}.login(password=...) with the password that supervisor.show_passwords() shows"
        if app not in state.logged_in:
            raise ApiError(401, f"log in first: {how}.")
        if state.tokens and call.arguments.get(TOKEN) != state.token(app):
            raise ApiError(401, f"{TOKEN} must be the one that {how} gave.")


def written(result: Any) -> str:
    """A result as the agent reads it."""
    return json.dumps(result, ensure_ascii=False)
