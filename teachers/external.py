"""A teacher with weights of its own: a stronger model of the same vocabulary."""

from __future__ import annotations

from agentopd.models.model import LanguageModel, ModelSettings, load_model
from agentopd.teacher import Teacher, check_same_vocabulary


class ExternalTeacher(Teacher, kind="external"):
    """Another model, loaded from a folder or the zoo; it never changes."""

    source: ModelSettings = ModelSettings(path="zoo:sokoban-expert")

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"the model {self.source.path}"

    def prepare(self, student: LanguageModel) -> None:
        """See `Teacher.prepare`."""
        loaded = load_model(self.source)
        check_same_vocabulary(student, loaded)
        loaded.module.requires_grad_(False)
        self._model = loaded
