"""What runs the student while it acts: the part `sampler` of a configuration."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from agentopd.base.parts import Part
from agentopd.models.model import LanguageModel, ModelSettings
from agentopd.rollout.sampler import Sampler
from agentopd.rollout.transformers_sampler import TransformersSampler, check_actor


class Engine(Part, family="sampler"):
    """How answers are sampled. It changes no method: the same model says the same everywhere, but
    for rounding, which its alarm holds to bounds.
    """

    def check(self, student: ModelSettings) -> None:
        """Refuse, before any weights are read, what could not be opened.

        Raises:
            ValueError: the engine is not there, or cannot run such a model.
        """

    @abstractmethod
    def open(self, student: LanguageModel, context: int) -> AbstractContextManager[Sampler]:
        """A sampler with the student's weights, to the end of a `with` block.

        Args:
            context: how many tokens a conversation may have, the answer that comes included.

        Raises:
            ValueError: the model cannot be run so.
            SamplerFailed: the engine does not start, or says something else than the student.
        """


class TransformersEngine(Engine, kind="transformers"):
    """The student itself, in this process; see `agentopd.rollout.transformers_sampler`."""

    def check(self, student: ModelSettings) -> None:
        """See `Engine.check`."""
        check_actor(student)

    @contextmanager
    def open(self, student: LanguageModel, context: int) -> Iterator[Sampler]:
        """See `Engine.open`; a context of any length is read."""
        yield TransformersSampler(student)
