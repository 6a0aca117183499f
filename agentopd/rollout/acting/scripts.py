"""The first turns of an episode, of a demonstration or of the environment's own solution."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import gymnasium

from agentopd.base.types import Owner, Trajectory
from agentopd.environment.contract import Info, actions, declared
from agentopd.rollout.acting.roles import Direction, Reply


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


class Joined:
    """Two attempts at a task, one after the other, token for token: the task begins anew, and the
    student goes on with a phrase before the second one's first answer. It is a `Script`.

    Args:
        phrase: its token ids.
    """

    def __init__(self, first: Trajectory, second: Trajectory, phrase: Sequence[int]) -> None:
        self._played = (first, second)
        self._phrase = list(phrase)
        self._turns = [(t, turn) for t in self._played for turn in t.turns]

    @property
    def task(self) -> int:
        """The number of the task that both attempt."""
        return self._played[0].task

    @property
    def seed(self) -> int:
        """With which the environment is reset."""
        return self._played[0].seed

    @property
    def direction(self) -> Direction:
        """How it is played: by nobody, and all of it is learnt."""
        return Direction(
            script=self, replies=self.reply, learnt={Owner.DEMO}, turns=len(self._turns)
        )

    @property
    def turns(self) -> int:
        """How many there are."""
        return len(self._turns)

    @property
    def longest(self) -> int:
        """Tokens of the longest answer, at most."""
        return len(self._phrase) + max(turn.stop - turn.start for _, turn in self._turns)

    def line(self, env: gymnasium.Env[str, str], turn: int, info: Info) -> list[int] | None:
        """See `Script.line`."""
        if turn >= self.turns:
            return None
        trajectory, told = self._turns[turn]
        answer = trajectory.ids[told.start : told.stop].tolist()
        return [*self._phrase, *answer] if turn == len(self._played[0].turns) else answer

    def heard(self, turn: int) -> str | None:
        """See `Script.heard`."""
        return self._turns[turn][1].observation if turn < self.turns else None

    def reply(self, turn: int) -> Reply:
        """See `Direction.replies`; rewards are those of the second attempt."""
        trajectory, told = self._turns[turn]
        after = self._turns[turn + 1][1].observation if turn + 1 < self.turns else ""
        return Reply(after, told.reward if trajectory is self._played[1] else 0.0, told.info)


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
