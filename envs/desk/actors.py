"""How an agent acts: what is read from an action, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from agentopd.environment.contract import parse_action
from agentopd.envs.desk.api import ApiError, Call, SignatureError
from agentopd.envs.desk.calls import CallError, parse_call
from agentopd.envs.desk.desk import Desk, written
from agentopd.envs.desk.tasks.oracle import Plan

UNREADABLE = "unreadable action"
PROBLEMS = {401: "not logged in", 404: "not found", 409: "conflict", 422: "wrong arguments"}
"""Short names of refusals by their status."""
MOST_CALLS = 50
"""Calls that an oracle tells at once; only to mend what was done many times takes more."""


@dataclass(frozen=True)
class Outcome:
    """What became of an action.

    `shown` is what the agent reads; `valid` says whether the action could be read; `problem` names
    in short what went wrong, and is empty where nothing did.
    """

    shown: str
    valid: bool = True
    problem: str = ""


class Actor(Protocol):
    """One of the ways to act."""

    def begin(self, desk: Desk) -> None:
        """Start an episode at a desk."""
        ...

    def act(self, action: str) -> Outcome:
        """Do what `action`, the raw text of an answer, says. Raises nothing, whatever it says."""
        ...

    def close(self) -> None:
        """Give back what was held."""
        ...

    def spell(self, plan: Plan) -> list[str]:
        """A plan as the contents of actions."""
        ...

    def lines(self, plan: Plan) -> str:
        """A plan as the oracle tells it: as much as can be said now."""
        ...


class CallActor:
    """One call a turn."""

    def begin(self, desk: Desk) -> None:
        """Start an episode at a desk."""
        self._desk = desk

    def act(self, action: str) -> Outcome:
        """Make the call in `action`."""
        content = parse_action(action)
        if content is None:
            return Outcome("No <action></action> in the answer.", False, UNREADABLE)
        try:
            return Outcome(written(self._desk.call(parse_call(content))))
        except CallError as error:
            return Outcome(str(error), False, UNREADABLE)
        except ApiError as error:
            readable = not isinstance(error, SignatureError)
            return Outcome(str(error), readable, PROBLEMS[error.status])

    def close(self) -> None:
        """Nothing is held."""

    def spell(self, plan: Plan) -> list[str]:
        """The calls, one an action."""
        return [str(call) for stage in plan for call in stage]

    def lines(self, plan: Plan) -> str:
        """The calls that are left, one a line, the first `MOST_CALLS` of them."""
        return "\n".join(self.spell(plan)[:MOST_CALLS])


def cell(stage: list[Call]) -> str:
    """A stage of a plan as a cell of Python."""
    last = "supervisor.complete_task"
    return "\n".join(str(c) if str(c).startswith(last) else f"print({c})" for c in stage)
