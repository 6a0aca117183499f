"""Groups in which somebody else's episode takes the place of one of the student's."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from pydantic import Field, PrivateAttr, SerializeAsAny

from agentopd.base.rows.costs import Cost
from agentopd.base.types import EndReason, Owner, Trajectory
from agentopd.environment.settings import EnvSettings
from agentopd.models.model import LanguageModel
from agentopd.rollout.acting.judging import FactJudge, Judge, numbers_of
from agentopd.rollout.acting.roles import ALONE, Direction, Voice
from agentopd.rollout.episode import Task
from agentopd.rollout.policies.base import Cast
from agentopd.rollout.policies.demonstrations import demonstrations_for
from agentopd.rollout.policies.directed import Directed, owners
from agentopd.rollout.sampler import Sampler
from agentopd.signal.groups import groups
from agentopd.stored.demonstrations import ByTask, Choice


class Yielding(Directed):
    """The student plays, and some of its episodes give their place to others of the same task.

    What takes a place counts as the teacher's: its tokens carry the log-probabilities of whoever
    sampled them, and are learnt from with the importance ratio from there to the student.
    """

    _numbers: dict[str, float] = PrivateAttr(default_factory=dict)

    @property
    def learns(self) -> frozenset[Owner]:
        """See `Rollout.learns`."""
        return owners(("student", "teacher"))

    @property
    def foreign(self) -> bool:
        """See `Rollout.foreign`."""
        return True

    def scalars(self) -> dict[str, float]:
        """See `Rollout.scalars`."""
        return dict(self._numbers)

    def direction(self, task: Task, seed: int, step: int) -> Direction:
        """See `Directed.direction`."""
        return ALONE


class StoredRollout(Yielding, kind="stored"):
    """Where a group fails, a stored episode of its task takes the place of its last one (NPO
    2604.20733: of a later self, verified to be solved).

    A task is known by its environment's seed. Where nothing is stored of it, the group stays as it
    was played.

    Args:
        path: a folder of episodes that somebody sampled, as `agentopd collect` leaves it; in a
            stage `previous` for those that an earlier one has left.
        keep: which of them may take a place.
        rate: the largest share of solved episodes with which a group counts as failed.
    """

    path: str
    keep: Choice = Choice(success=True)
    rate: float = Field(default=0.0, ge=0, lt=1)

    _store: ByTask | None = PrivateAttr(default=None)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return (
            f"p; in the last place of groups of which at most {self.rate:g} are solved, whoever "
            f"sampled {self.path}"
        )

    def prepare(self, cast: Cast) -> None:
        """See `Rollout.prepare`.

        Raises:
            ValueError: nothing is stored, the student cannot read it, or nobody sampled it.
        """
        super().prepare(cast)
        store = demonstrations_for(cast.student, self.path, self.keep)
        for trajectory in store:
            if not np.isfinite(trajectory.logprob[trajectory.trainable]).all():
                raise ValueError(
                    f"episode {trajectory.episode} of {self.path} has tokens that nobody sampled, "
                    "so that no importance ratio leads from them to the student: collect by "
                    "student, teacher or rollout"
                )
        self._store = ByTask.of(store, self.path)

    def collect(
        self, env: EnvSettings, student: LanguageModel, sampler: Sampler, seed: int, step: int
    ) -> list[Trajectory]:
        """See `Rollout.collect`.

        Raises:
            ValueError: what is stored was played in another environment.
        """
        assert self._store is not None, "prepare() comes first"
        played = super().collect(env, student, sampler, seed, step)
        in_place, own = dict[int, Trajectory](), groups(played)
        for group in own:
            known, last = self._store.on(group[-1]), group[-1]
            if known and _solved(group) <= self.rate:
                chosen = random.Random(f"stored/{seed}/{last.task}").choice(known)
                in_place[last.episode] = standing_in(chosen, last)
        self._numbers["places_stored"] = len(in_place) / len(own)
        return [in_place.get(t.episode, t) for t in played]


class JudgedRollout(Yielding, kind="judged"):
    """A judge grades every episode, and the teacher plays in the place of those that it rejects
    (OVD 2601.21968); the grades themselves enter no loss.

    An episode that cannot be graded stays. A judge who rejects all that fails leaves, with a good
    teacher, groups that are solved whole, in which GRPO has nothing to compare. That the grade is
    the reward instead is `unit: graded` under `mix: {kind: reward, score: unit}`.

    Args:
        judge: who grades, from 0 to 9.
        accept: the grade from which on an episode is accepted: 0 accepts all, 10 none.
    """

    judge: SerializeAsAny[Judge] = Field(default_factory=FactJudge)
    accept: int = Field(default=5, ge=0, le=10)

    @property
    def costs(self) -> tuple[Cost, ...]:
        """See `Part.costs`."""
        if not self.accept:
            return ()
        where = "f: the share of episodes that the judge rejects"
        played = Cost("student", "samples", "S"), Cost("teacher", "samples", "f S", where=where)
        return played + self.judge.costs

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"p; in the place of episodes with a grade below {self.accept}, the teacher"

    @property
    def actors(self) -> frozenset[Owner]:
        """See `Rollout.actors`."""
        return frozenset({Owner.STUDENT, Owner.TEACHER})

    def unread(self) -> dict[str, str]:
        """See `Settings.unread`."""
        return super().unread() | ({} if self.accept else {"judge": "accept above 0"})

    def prepare(self, cast: Cast) -> None:
        """See `Rollout.prepare`.

        Raises:
            ValueError: see `Judge.prepare`.
        """
        super().prepare(cast)
        assert cast.teacher is not None, "who acts is there"
        self.judge.prepare(cast.student, cast.teacher)

    def collect(
        self, env: EnvSettings, student: LanguageModel, sampler: Sampler, seed: int, step: int
    ) -> list[Trajectory]:
        """See `Rollout.collect`."""
        played = super().collect(env, student, sampler, seed, step)
        rejected = self._rejected(played) if self.accept else set[int]()
        taught = Direction(voices=(Voice(Owner.TEACHER),), learnt=self.learns)
        again = [
            replace(task, attempt=1, direction=taught)
            for task in self.schedule(seed, step)
            if task.episode in rejected
        ]
        found = self.play(env, student, sampler, seed, again) if again else []
        in_place = {t.episode: t for t in found if t.end is not EndReason.ERROR}
        return [in_place.get(t.episode, t) for t in played]

    def _rejected(self, trajectories: Sequence[Trajectory]) -> set[int]:
        """The numbers of the episodes that are not accepted."""
        asked = [t for t in trajectories if t.turns and t.end is not EndReason.ERROR]
        grades = self.judge.grades(asked)
        found = {
            t.episode
            for t, grade in zip(asked, grades, strict=True)
            if grade is not None and grade < self.accept
        }
        self._numbers.clear()
        self._numbers |= numbers_of(grades) | {"rejected": len(found) / max(len(asked), 1)}
        return found


def _solved(group: Sequence[Trajectory]) -> float:
    return sum(t.success for t in group) / len(group)


def standing_in(other: Trajectory, own: Trajectory) -> Trajectory:
    """An episode in another one's place: all of its answers are the teacher's."""
    answers_T = other.owner != Owner.TEMPLATE
    return replace(
        other,
        episode=own.episode,
        task=own.task,
        trainable=answers_T,
        owner=np.where(answers_T, Owner.TEACHER, other.owner).astype(np.uint8),
        told=None,
        attempt=None,
    )
