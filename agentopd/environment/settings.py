"""An environment as a configuration names it: which, with what options, in which wrappers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, PrivateAttr, SerializeAsAny

import agentopd.environment.showing  # noqa: F401  (its kind of wrapper)
from agentopd.base.parts import Settings
from agentopd.environment.contract import declared
from agentopd.environment.opponents import Host
from agentopd.environment.registry import make
from agentopd.environment.wrappers import Env, Wrapper


class EnvSettings(Settings):
    """Which environment, what its constructor is given, and what is put around it in order."""

    id: str
    options: dict[str, Any] = Field(default_factory=dict)
    wrappers: list[SerializeAsAny[Wrapper]] = Field(default_factory=list)

    _host: Host | None = PrivateAttr(default=None)

    @property
    def host(self) -> Host | None:
        """Who brings an opponent that is the student; None where nobody does."""
        return self._host

    def face(self, host: Host) -> None:
        """Let every environment that is built from now on know who brings its opponent."""
        self._host = host

    def build(self, **more: Any) -> Env:
        """A fresh environment in its wrappers; `more` takes the place of its options."""
        return self.around(self.bare(**more))

    def bare(self, **more: Any) -> Env:
        """A fresh environment without these wrappers."""
        env = make(self.id, {**self.options, **more})
        if self._host and (face := declared(env, "face", None)):
            face(self._host)
        return env

    def around(self, env: Env) -> Env:
        """`env` in these wrappers."""
        for wrapper in self.wrappers:
            env = wrapper.wrap(env)
        return env


def build(id: str, options: Mapping[str, Any] | None = None, wrappers: Sequence[Any] = ()) -> Env:
    """An environment in its wrappers, from plain values: for who names it by a function."""
    described = {"id": id, "options": options or {}, "wrappers": list(wrappers)}
    return EnvSettings.model_validate(described).build()
