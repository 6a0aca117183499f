"""What an episode has on top of its world: logins, what was seen, what was called, how it ended."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from agentopd.envs.desk.api import Api, App
from agentopd.envs.desk.world import World

Given = str | int | float | list[str] | None
"""What an agent may answer."""
Logins = Literal["token", "session", "open"]
"""What the apps with a login want: a token with every call, one login, or nothing."""


@dataclass(frozen=True)
class Completion:
    """How the agent ended the task; `status` is `success` or `fail`."""

    answer: Given = None
    status: str = "success"


def visible_apis(app: type[App], logins: Logins) -> dict[str, Api]:
    """The APIs of an app, without the login where nothing needs one."""
    return {n: a for n, a in app.apis.items() if n != "login" or logins != "open"}


@dataclass
class State:
    """An episode's state.

    `seen` holds the records that calls have shown, as (kind, id, detail); `called` the keys of the
    calls that were carried out and change nothing; `calls` counts all, `errors` those that were
    refused.
    """

    world: World
    apps: Mapping[str, type[App]]
    logins: Logins = "token"
    logged_in: set[str] = field(default_factory=set)
    seen: set[tuple[str, int, str]] = field(default_factory=set)
    called: set[str] = field(default_factory=set)
    completion: Completion | None = None
    calls: int = 0
    errors: int = 0

    @property
    def tokens(self) -> bool:
        """Whether calls of protected apps must show the token of a login."""
        return self.logins == "token"

    def token(self, app: str) -> str:
        """The token that a login to `app` gives; the same each time."""
        number = zlib.crc32(f"{self.world.email}/{app}".encode()) % 9000 + 1000
        return f"{app}-{number}"

    def apis(self, app: str) -> dict[str, Api]:
        """The APIs of an app, without the login where nothing needs one."""
        return visible_apis(self.apps[app], self.logins)

    def copy(self) -> State:
        """A state that can be played on without changing this one."""
        return replace(
            self,
            world=self.world.copy(),
            logged_in=set(self.logged_in),
            seen=set(self.seen),
            called=set(self.called),
        )
