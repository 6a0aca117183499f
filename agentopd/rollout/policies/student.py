"""The student acts alone."""

from __future__ import annotations

from agentopd.base.types import EndReason, Owner, Trajectory
from agentopd.environment.settings import EnvSettings
from agentopd.models.model import LanguageModel
from agentopd.rollout.acting.confidence import closed, longest_line
from agentopd.rollout.acting.roles import STUDENTS
from agentopd.rollout.policies.base import Rollout
from agentopd.rollout.sampler import Sampler
from agentopd.signal.groups import group_success


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


class CalibratedRollout(StudentRollout, kind="calibrated"):
    """The student acts, told nothing; then the last answer of each episode closes with the share of
    its group that was solved, as in `Confidence: 0.25` (CaOPD 2604.16830).

    The line takes the place of one that the student has written. It is learnt beside the student's
    own tokens, and nobody sampled it: what learns from samples is refused. Environments read
    answers before that; whether they read one that closes so is for `agentopd eval` to say.
    """

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return "p; the last answer's end is the share of its group that was solved"

    @property
    def learns(self) -> frozenset[Owner]:
        """See `Conduct.learns`."""
        return STUDENTS | {Owner.DEMO}

    @property
    def imitates(self) -> bool:
        """See `Conduct.imitates`."""
        return True

    def collect(
        self, env: EnvSettings, student: LanguageModel, sampler: Sampler, seed: int, step: int
    ) -> list[Trajectory]:
        """See `Rollout.collect`; contexts end early enough for the line to fit."""
        template = student.template
        most = int(min(self.max_context, student.positions))
        roomy = self.model_copy(update={"max_context": most - longest_line(self.group, template)})
        played = StudentRollout.collect(roomy, env, student, sampler, seed, step)
        share = group_success([t for t in played if t.end is not EndReason.ERROR])
        return [closed(t, share[t.episode], template) if t.episode in share else t for t in played]
