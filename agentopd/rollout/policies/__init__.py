"""Who acts during a rollout, and on which tasks: the values of the axis `rollout`."""

from agentopd.rollout.policies.base import Rollout, truncation_of
from agentopd.rollout.policies.student import StudentRollout

__all__ = ["Rollout", "StudentRollout", "truncation_of"]
