"""The sources of privileged information: what a source is, and those that are named most."""

from __future__ import annotations

from agentopd.privilege.base import NoPrivilege, Source, gather, missing_keys
from agentopd.privilege.environment import Document, EnvFeedback, GroundTruth, OracleNext
from agentopd.privilege.writing.hindsight import Reflection
from agentopd.privilege.writing.skills import SkillSummary

__all__ = [
    "Document",
    "EnvFeedback",
    "GroundTruth",
    "NoPrivilege",
    "OracleNext",
    "Reflection",
    "SkillSummary",
    "Source",
    "gather",
    "missing_keys",
]
