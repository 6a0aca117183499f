"""Which model a judge or a writer of rubrics asks: the student, the teacher, or one of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator

from agentopd.models.model import LanguageModel, ModelSettings, load_model
from agentopd.signal.beside import Beside

if TYPE_CHECKING:
    from agentopd.teacher import Teacher


def _at_path(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


AskedModel = Annotated[ModelSettings, BeforeValidator(_at_path)]
"""`student` (as it is at the time), `teacher`, or another model: its folder or zoo:NAME, or a
mapping with its dtype and device too."""


def check_asked(model: ModelSettings, beside: Beside, role: str) -> None:
    """Look at the rest of the method when the configuration is read.

    Args:
        role: what the model is asked for, for the message.

    Raises:
        ValueError: it is the teacher, and the method has none.
    """
    if model.path == "teacher" and not beside.asks_teacher:
        raise ValueError(
            f"unit: the {role} is the teacher, and mix: {beside.mix} asks no teacher. Name "
            f"the {role}'s own folder, as in {{kind: model, model: zoo:sokoban-expert}}, or "
            "model: student"
        )
    if model.path == "teacher" and not beside.teacher_local:
        raise ValueError(
            f"unit: the {role} is the teacher, and this one only scores. Name "
            f"the {role}'s own folder, as in {{kind: model, model: zoo:sokoban-expert}}, or "
            "model: student"
        )


def asked_model(model: ModelSettings, student: LanguageModel, teacher: Teacher) -> LanguageModel:
    """The model itself.

    Raises:
        ValueError: it cannot be loaded.
    """
    if model.path == "student":
        return student
    return teacher.model if model.path == "teacher" else load_model(model)
