"""What rollouts share in which others act beside the student, or somebody is told something."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from pydantic import PrivateAttr

from agentopd.base.types import Owner, Trajectory
from agentopd.environment.settings import EnvSettings
from agentopd.models.model import LanguageModel
from agentopd.rollout.acting.ensemble import Ensemble
from agentopd.rollout.acting.mixture import MixtureSampler
from agentopd.rollout.acting.roles import STUDENTS, Adviser, Direction
from agentopd.rollout.episode import Task
from agentopd.rollout.policies.base import Cast, Rollout
from agentopd.rollout.sampler import Sampler
from agentopd.rollout.transformers_sampler import TransformersSampler

Learnt = Literal["student", "teacher"]
"""Whose tokens are learnt from: what both wrote together is the student's."""


class Directed(Rollout):
    """Plays a step's tasks, each by its `direction`."""

    _cast: Cast | None = PrivateAttr(default=None)
    _others: dict[Owner, TransformersSampler] = PrivateAttr(default_factory=dict)

    @abstractmethod
    def direction(self, task: Task, seed: int, step: int) -> Direction:
        """How an episode of a step is acted; `seed` is the run's."""

    @property
    def blends(self) -> bool:
        """Whether the student writes told and untold at once."""
        return False

    def prepare(self, cast: Cast) -> None:
        """See `Rollout.prepare`."""
        self._cast, self._others = cast, {}
        if self.blends:
            self._others[Owner.MIXTURE] = MixtureSampler(cast.student, cast.student)
        if cast.teacher is None:
            return
        if Owner.TEACHER in self.actors:
            self._others[Owner.TEACHER] = TransformersSampler(cast.teacher.model)
        if Owner.MIXTURE in self.actors:
            self._others[Owner.MIXTURE] = MixtureSampler(cast.student, cast.teacher.model)

    @property
    def cast(self) -> Cast:
        """Who can act, once `prepare` has been told."""
        assert self._cast is not None, "prepare() comes first"
        return self._cast

    def collect(
        self, env: EnvSettings, student: LanguageModel, sampler: Sampler, seed: int, step: int
    ) -> list[Trajectory]:
        """See `Rollout.collect`."""
        return self.play(env, student, sampler, seed, self.planned(seed, step))

    def planned(self, seed: int, step: int) -> list[Task]:
        """The tasks of a step, as they are acted at first."""
        return [
            replace(task, direction=self.direction(task, seed, step))
            for task in self.schedule(seed, step)
        ]

    def play(
        self,
        env: EnvSettings,
        student: LanguageModel,
        sampler: Sampler,
        seed: int,
        tasks: Sequence[Task],
    ) -> list[Trajectory]:
        """The trajectories of some tasks, in order, acted as each of them says."""
        for other in self._others.values():  # whoever follows the student has moved with it
            other.sync(other.student)
        roomy = self.model_copy(update={"max_context": int(min(self.max_context, self._positions))})
        cast = {Owner.STUDENT: sampler, **self._others}
        return roomy.pool(env, student, seed).play(tasks, Ensemble(cast))

    @property
    def adviser(self) -> Adviser:
        """Who has the sources of privilege speak."""
        assert self.cast.adviser is not None, "whoever prepares a rollout says who advises"
        return self.cast.adviser

    @property
    def _positions(self) -> float:
        """Of the shortest context that an actor beside the student may read."""
        teacher = self.cast.teacher
        if teacher is None or not self.actors & {Owner.TEACHER, Owner.MIXTURE}:
            return float(self.max_context)
        return teacher.model.positions


def owners(learnt: Sequence[Learnt]) -> frozenset[Owner]:
    """The owners whose tokens are learnt from."""
    teacher = {Owner.TEACHER} if "teacher" in learnt else set[Owner]()
    return (STUDENTS if "student" in learnt else frozenset()) | teacher
