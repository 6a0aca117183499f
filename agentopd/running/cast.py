"""Who can act beside a run's student, and what they can be told."""

from __future__ import annotations

from functools import partial

from agentopd.models.model import LanguageModel
from agentopd.privilege.advice import Advice
from agentopd.privilege.whispered import Told, Whisper
from agentopd.privilege.writing.earlier import Recollection
from agentopd.rollout.policies.base import Cast
from agentopd.running.config import RunConfig
from agentopd.teacher import Teacher


def cast_of(config: RunConfig, student: LanguageModel, teacher: Teacher | None) -> Cast:
    """What a rollout is prepared with.

    Args:
        teacher: None where it takes no part.
    """
    view = config.view
    teller = partial(Whisper, config.privilege, view) if isinstance(view, Told) else None
    return Cast(
        student=student,
        teacher=teacher,
        teller=teller,
        recall=Recollection(student.template),
        adviser=Advice(config.privilege, view),
    )
