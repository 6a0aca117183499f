"""What runs the student while it acts: the part `sampler` of a configuration."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from pydantic import PrivateAttr

from agentopd.base.parts import Part
from agentopd.models.model import LanguageModel, ModelSettings
from agentopd.parallel.processes import ALONE, Processes
from agentopd.rollout.sampler import Sampler
from agentopd.rollout.transformers_sampler import TransformersSampler, check_actor

_GAP = 1e-3
"""Nats between sampler and learner that are no rounding."""


class InferenceEngine(Part, family="sampler"):
    """How answers are sampled. It changes no method: the same model says the same everywhere, but
    for rounding, which its alarm holds to bounds.
    """

    _processes: Processes = PrivateAttr(default=ALONE)

    def join(self, processes: Processes) -> None:
        """Know, before `check`, who learns with this process: all of them open a sampler, and sync
        it at the same time.
        """
        self._processes = processes

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


class TransformersEngine(InferenceEngine, kind="transformers"):
    """The student itself, in this process; see `agentopd.rollout.transformers_sampler`."""

    def check(self, student: ModelSettings) -> None:
        """See `InferenceEngine.check`."""
        check_actor(student)

    @contextmanager
    def open(self, student: LanguageModel, context: int) -> Iterator[Sampler]:
        """See `InferenceEngine.open`; a context of any length is read."""
        yield TransformersSampler(student)


class Following:
    """A sampler of a student that learns: it takes over its weights when it is next asked.

    Should it be gone by then, the step that moved them is whole.

    Attributes:
        numbers: what the last sync said of itself.
    """

    def __init__(self, sampler: Sampler, student: LanguageModel) -> None:
        self._sampler, self._student = sampler, student
        self._behind, self.numbers = False, dict[str, float]()

    def moved(self) -> None:
        """The student has other weights now."""
        self._behind = True

    def current(self) -> Sampler:
        """The sampler, with the student's weights as they are.

        Raises:
            SamplerFailed: see `Sampler.sync`.
        """
        if self._behind:
            self.numbers = dict(self._sampler.sync(self._student) or {})
            self._behind = False
        return self._sampler


def disagreement(gap: float, dtype: str) -> list[str]:
    """That sampler and learner are two models, where only rounding should be between them.

    Args:
        gap: nats between what they say of a step's tokens, at most.
        dtype: of the student.
    """
    if dtype != "float32" or gap < _GAP:
        return []
    return [
        f"sampler and learner differ by {gap:.2g} nats in a token's log-probability, in "
        "float32: what is learnt from is not what acted. Please report the model's architecture"
    ]
