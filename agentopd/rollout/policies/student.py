"""The student acts alone."""

from __future__ import annotations

from agentopd.base.types import Trajectory
from agentopd.environment.wrappers import EnvSettings
from agentopd.models.model import LanguageModel
from agentopd.rollout.policies.base import Rollout
from agentopd.rollout.sampler import Sampler


class StudentRollout(Rollout, kind="student"):
    """The student acts, told nothing."""

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return "p"

    def collect(
        self, env: EnvSettings, student: LanguageModel, sampler: Sampler, seed: int, step: int
    ) -> list[Trajectory]:
        """See `Rollout.collect`."""
        return self.pool(env, student, seed).play(self.schedule(seed, step), sampler)
