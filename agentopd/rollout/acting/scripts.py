"""The first turns of an episode, of a demonstration or of the environment's own solution."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium

from agentopd.base.types import Trajectory
from agentopd.environment.contract import Info, actions, declared
from agentopd.rollout.acting.roles import Reply


class Replayed:
    """The first `turns` turns of a demonstration, token for token. It is a `Script`."""

    def __init__(self, demonstration: Trajectory, turns: int) -> None:
        self._demonstration, self._turns = demonstration, turns

    def line(self, env: gymnasium.Env[str, str], turn: int, info: Info) -> list[int] | None:
        """See `Script.line`."""
        if turn >= self._turns:
            return None
        told = self._demonstration.turns[turn]
        return self._demonstration.ids[told.start : told.stop].tolist()

    def heard(self, turn: int) -> str | None:
        """See `Script.heard`: also before the first turn that is not replayed any more."""
        known = turn <= self._turns and turn < len(self._demonstration.turns)
        return self._demonstration.turns[turn].observation if known else None

    def reply(self, turn: int) -> Reply:
        """See `Direction.replies`; to what is not replayed nothing is known to be said."""
        turns = self._demonstration.turns
        if turn >= self._turns or turn + 1 >= len(turns):
            return Reply()
        return Reply(turns[turn + 1].observation, turns[turn].reward, turns[turn].info)


class Solution:
    """The first actions of the environment's own solution (`reference`). It is a `Script`.

    Args:
        turns: how many of the solution's so many actions are played, at most all but the last.
    """

    def __init__(self, turns: Callable[[int], int]) -> None:
        self._turns = turns
        self._plan: list[str] = []

    def line(self, env: gymnasium.Env[str, str], turn: int, info: Info) -> str | None:
        """See `Script.line`."""
        if turn == 0:
            plan = actions(env, str(info.get("reference") or ""))
            if not plan:
                raise ValueError(
                    "rollout: prefix plays the beginning of the environment's own solution, and "
                    "its info holds no 'reference': name demonstrations with rollout.path"
                )
            self._plan = plan[: max(0, min(self._turns(len(plan)), len(plan) - 1))]
        if turn >= len(self._plan):
            return None
        form = declared(env, "action_form", "<action>{}</action>")
        return form.replace("{}", self._plan[turn])

    def heard(self, turn: int) -> str | None:
        """See `Script.heard`: nobody has played it before."""
        return None
