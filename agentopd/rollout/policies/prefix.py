"""Turns of a demonstration are replayed, and the student, or the teacher, goes on from there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from pydantic import Field, PrivateAttr, model_validator

from agentopd.base.rows.costs import Cost
from agentopd.base.types import Owner, Trajectory
from agentopd.environment.settings import EnvSettings
from agentopd.models.model import LanguageModel
from agentopd.rollout.acting.roles import STUDENT, Direction, Voice
from agentopd.rollout.acting.scripts import Replayed, Solution
from agentopd.rollout.episode import Task
from agentopd.rollout.policies.base import Cast
from agentopd.rollout.policies.demonstrations import demonstrations_for, nth
from agentopd.rollout.policies.directed import Directed, Learnt, owners
from agentopd.rollout.sampler import Sampler
from agentopd.signal.groups import groups
from agentopd.stored.demonstrations import Choice

_PLACE = 0x9EF1
"""Parts the random numbers of places from those of tokens."""


class PrefixRollout(Directed, kind="prefix"):
    """The first turns of an episode are a demonstration's, played again under the same seed; the
    student, or the teacher, writes the others, which alone are learnt from.

    The teacher goes on where the demonstrations are the student's own episodes (DASD 2601.09088).

    How many of a demonstration's L turns are replayed says one of `left`, `decay` and `search`.

    Args:
        path: a folder of demonstrations, in a stage `previous` for those that an earlier one has
            left; if not given, the environment's own solution (`info["reference"]`) is played, an
            action a turn.
        keep: which of the demonstrations are followed.
        left: L - left turns, so that the student plays the end, before `schedule.left` multiplies
            it (TCOD, back to front, 2604.24005).
        decay: t < L turns with a probability in proportion to decay^t (ReOPD 2607.04763).
        search: the fewest with which some episode of the group is solved, and no larger share of L
            than this; as many if none is (POPE 2601.18779). A group is played until then, and its
            last episodes are learnt from.
        guided: the share of the step's tasks that begin so.
        by: who goes on behind them, and writes whole the episodes that begin without.
        single: who goes on writes one turn, which is not executed: the environment is reset and
            never stepped, and what it said is read from the demonstration.
    """

    tunable: ClassVar[tuple[str, ...]] = (*Directed.tunable, "left")
    needs_law: ClassVar[bool] = True
    """Whether it is told how many turns are replayed; otherwise they may be none at all."""

    path: str | None = None
    keep: Choice = Choice()
    left: int | None = Field(default=None, ge=1)
    decay: float | None = Field(default=None, gt=0, le=1)
    search: float | None = Field(default=None, gt=0, lt=1)
    guided: float = Field(default=1.0, gt=0, le=1)
    by: Learnt = "student"
    single: bool = False

    _store: list[Trajectory] = PrivateAttr(default_factory=list)

    @model_validator(mode="after")
    def _says_how_many(self) -> PrefixRollout:
        laws = [name for name in ("left", "decay", "search") if getattr(self, name) is not None]
        if len(laws) > 1 or (self.needs_law and not laws):
            raise ValueError(
                f"rollout: {self.kind} replays as many turns as one of left, decay and search "
                f"says, and {' and '.join(laws) if laws else 'none'} of them is given: set exactly "
                "one"
            )
        if self.path is None and (self.single or self.decay is not None):
            raise ValueError(
                "rollout: prefix with single or decay needs a record of what the environment said, "
                "and how long it was: name demonstrations with rollout.path"
            )
        if self.single and self.search is not None:
            raise ValueError(
                "rollout: prefix cannot search for the turns with which an episode is solved where "
                "single: true plays none to its end: leave one of them out"
            )
        return self

    @property
    def costs(self) -> tuple[Cost, ...]:
        """See `Part.costs`."""
        where = "S': what is left to say once some turns are played"
        first = Cost(self.by, "samples", "S'", where=where)
        if self.search is None:
            return (first,)
        again = "n: how often, on average, an unsolved group is played again with a turn more"
        return first, Cost(self.by, "samples", "n S'", where=again)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        whose = "the environment's solution" if self.path is None else self.path
        who = "p" if self.by == "student" else "q"
        return f"{who}, once the first turns of {whose} are played"

    @property
    def actors(self) -> frozenset[Owner]:
        """See `Rollout.actors`."""
        return frozenset({Owner[self.by.upper()]})

    @property
    def learns(self) -> frozenset[Owner]:
        """See `Rollout.learns`."""
        return owners((self.by,))

    @property
    def foreign(self) -> bool:
        """See `Rollout.foreign`."""
        return self.by == "teacher"

    @property
    def _begins(self) -> bool:
        """Whether there is a law by which turns are replayed."""
        return any(law is not None for law in (self.left, self.decay, self.search))

    def prepare(self, cast: Cast) -> None:
        """See `Rollout.prepare`.

        Raises:
            ValueError: there are no demonstrations, or the student cannot read them.
        """
        super().prepare(cast)
        if self.path is not None and not self._store:
            self._store += demonstrations_for(cast.student, self.path, self.keep)

    def direction(self, task: Task, seed: int, step: int) -> Direction:
        """See `Directed.direction`; `task.attempt` counts the turns of a search."""
        who = STUDENT if self.by == "student" else Voice(Owner.TEACHER)
        alone = Direction(voices=(who,), learnt=self.learns)
        if not self._is_guided(task.task):
            return alone
        if self.path is None:
            script = Solution(lambda length: self._count(length, task, seed))
            return replace(alone, script=script)
        demonstration = self._demonstration(task, seed)
        turns = self._count(len(demonstration.turns), task, seed)
        script = Replayed(demonstration, turns)
        return replace(
            alone,
            script=script,
            replies=script.reply if self.single else None,
            turns=turns + 1 if self.single else None,
        )

    def collect(
        self, env: EnvSettings, student: LanguageModel, sampler: Sampler, seed: int, step: int
    ) -> list[Trajectory]:
        """See `Rollout.collect`.

        Raises:
            ValueError: the demonstrations are of another environment.
        """
        self._check_store(env)
        played = super().collect(env, student, sampler, seed, step)
        if self.search is None:
            return played
        return self._searched(env, student, sampler, seed, step, played)

    def planned(self, seed: int, step: int) -> list[Task]:
        """See `Directed.planned`; those that begin with a demonstration have its seed."""
        return [self._seeded(task, seed) for task in super().planned(seed, step)]

    def _searched(
        self,
        env: EnvSettings,
        student: LanguageModel,
        sampler: Sampler,
        seed: int,
        step: int,
        played: Sequence[Trajectory],
    ) -> list[Trajectory]:
        """The groups played again, with one turn more each time, until one of each is solved or no
        more turns may be replayed.
        """
        tasks = self.planned(seed, step)
        found, attempt = {t.episode: t for t in played}, 0
        while True:
            attempt += 1
            unsolved = {
                t.episode
                for group in groups(list(found.values()))
                if not any(t.success for t in group)
                for t in group
                if self._is_guided(t.task) and _replayed(t) == attempt - 1
            }
            again = [replace(t, attempt=attempt) for t in tasks if t.episode in unsolved]
            again = [replace(t, direction=self.direction(t, seed, step)) for t in again]
            if not again:
                return [found[task.episode] for task in tasks]
            for trajectory in self.play(env, student, sampler, seed, again):
                if _replayed(trajectory) == attempt:
                    found[trajectory.episode] = trajectory

    def _count(self, length: int, task: Task, seed: int) -> int:
        """How many of a demonstration's turns are replayed; at least one is left."""
        if self.left is not None:
            return max(0, length - self.left)
        if self.search is not None:
            return min(task.attempt, int(self.search * length))
        assert self.decay is not None
        chance_L = self.decay ** np.arange(length)
        random = np.random.default_rng((_PLACE, seed, task.episode))
        return int(random.choice(length, p=chance_L / chance_L.sum()))

    def _is_guided(self, task: int) -> bool:
        """Whether a task begins with a prefix: of any tasks in a row, the share that is to."""
        if not self._begins:
            return False
        return int((task + 1) * self.guided) > int(task * self.guided)

    def _check_store(self, env: EnvSettings) -> None:
        if others := {t.env for t in self._store} - {env.id}:
            raise ValueError(
                f"{self.path} holds demonstrations of {', '.join(sorted(others))}, and this run "
                f"plays {env.id}: a prefix is replayed in the environment it was played in"
            )

    def _seeded(self, task: Task, seed: int) -> Task:
        """The task under its demonstration's seed, where it begins with one."""
        if self.path is None or not self._is_guided(task.task):
            return task
        return replace(task, seed=self._demonstration(task, seed).seed)

    def _demonstration(self, task: Task, seed: int) -> Trajectory:
        return self._store[nth(len(self._store), seed, task.task)]


def _replayed(trajectory: Trajectory) -> int:
    """How many turns of an episode were replayed."""
    return sum(trajectory.owner[turn.start] == Owner.DEMO for turn in trajectory.turns)
