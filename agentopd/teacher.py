"""The teacher as the loop knows it; the kinds are in `teachers/`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field, PrivateAttr

from agentopd.base.parts import Part
from agentopd.base.types import Lesson, View
from agentopd.models.head import Head, Speaker
from agentopd.models.model import LanguageModel
from agentopd.models.passes import Reading, hidden_at
from agentopd.serving.output_layer import OutputLayer
from agentopd.signal.beside import Beside

# N trainable tokens, H hidden size, V vocabulary, B sequences, T tokens


class Scorer(Part):
    """Who reads the student's tokens in the teacher's context, and how: here the model that
    `prepare` has set.

    A teacher whose model is elsewhere says that it is not `local`, and defines `hidden`, `head`,
    `positions` and `held`; one that shows no hidden states defines `score` and `speaker`.

    Args:
        tokens_per_batch: padded tokens in one forward pass.
    """

    tokens_per_batch: int = Field(default=4_096, ge=64)

    _model: LanguageModel | None = PrivateAttr(default=None)

    @property
    def local(self) -> bool:
        """Whether one model scores, and is here: only then can it act, judge and write too."""
        return True

    @property
    def model(self) -> LanguageModel:
        """The model that scores, once `prepare` has set it.

        Raises:
            ValueError: there is none here.
        """
        if not self.local:
            raise ValueError(
                f"teacher: {self.kind} only scores: no model of it is here that could act, judge "
                "or write. Name a model's folder for that, or a teacher that is loaded here"
            )
        assert self._model is not None, "prepare() comes first"
        return self._model

    @property
    def positions(self) -> float:
        """How many tokens a context may have; infinite where there is no limit."""
        return self.model.positions

    def held(self) -> Iterator[torch.Tensor]:
        """The tensors that the teacher keeps in memory, its own or not."""
        yield from self.model.module.parameters()
        yield from self.model.module.buffers()

    def hidden(self, readings: Sequence[Reading]) -> list[torch.Tensor]:
        """Last hidden states (N, H) of each sequence at its places."""
        return hidden_at(self.model, readings, self.tokens_per_batch)

    def head(self, hidden_NH: torch.Tensor) -> Head:
        """What makes next-token logits of hidden states that `score` has made."""
        return self.model.head(hidden_NH)

    def speaker(self, lessons: Sequence[Lesson]) -> Speaker:
        """The teacher's next-token distributions at the trainable tokens of lessons that it has
        given, end to end; each has its signal.
        """
        return self.head(torch.cat([x.hidden_NH for x in lessons if x.hidden_NH is not None]))

    def fits(self, view: View) -> bool:
        """Whether each of a view's segments is a context that the teacher can read."""
        return max(stop - start for start, stop in view.segments) <= self.positions

    @torch.no_grad()
    def score(self, views: Sequence[View]) -> list[Lesson]:
        """One lesson a view, in order: the hidden states that predict the student's tokens.

        A view that is longer than the teacher's contexts may be has none.
        """
        fits = [self.fits(view) for view in views]
        pieces = [
            (v, start, stop)
            for v in range(len(views))
            for start, stop in views[v].segments
            if fits[v]
        ]
        readings = [
            Reading(views[v].ids[start:stop], predicting(views[v], start, stop))
            for v, start, stop in pieces
        ]
        states: list[list[torch.Tensor]] = [[] for _ in views]
        found = self.hidden(readings)
        for (v, _, _), hidden_NH in zip(pieces, found, strict=True):
            states[v].append(hidden_NH)
        return [
            Lesson(
                trajectory=view.trajectory,
                view=view,
                hidden_NH=torch.cat(parts) if fit else None,
            )
            for view, parts, fit in zip(views, states, fits, strict=True)
        ]


class Teacher(Scorer, family="teacher"):
    """Scores the student's own tokens in the teacher's context: `prepare`, and the rest is
    optional.

    A teacher of your own sets the model that scores; here a copy of the student that is renewed
    now and then:

        class Renewed(Teacher, kind="renewed"):
            copies_student = True

            every: int = Field(default=50, ge=1)

            def prepare(self, student: LanguageModel) -> None:
                self._model = student.frozen_copy()

            def sync(self, student: LanguageModel, step: int) -> None:
                if (step + 1) % self.every == 0:
                    self._model = student.frozen_copy()
    """

    @abstractmethod
    def prepare(self, student: LanguageModel) -> None:
        """Get ready, from the student as it is before its first step: set `_model`.

        Raises:
            ValueError: student and teacher do not share a vocabulary, or end their answers
                differently.
        """

    def sync(self, student: LanguageModel, step: int) -> None:
        """Follow the student, which has just finished `step` (counted from 0)."""

    copies_student: ClassVar[bool] = False
    """Whether the teacher is the student itself, or a copy of it."""
    is_student: ClassVar[bool] = False
    """Whether every step of the optimizer moves the teacher too."""
    is_start: ClassVar[bool] = False
    """Whether it is the student as the run found it, for good: it is then not saved."""
    needs_adapters: ClassVar[bool] = False
    """Whether there is no such teacher of a student without adapters."""

    @property
    def follows(self) -> bool:
        """Whether `sync` makes it another teacher than `prepare` did."""
        return type(self).sync is not Teacher.sync

    def check(self, beside: Beside) -> None:
        """Look at the rest of the method when the configuration is read; called where the teacher
        is asked.

        Raises:
            ValueError: something in it needs what this teacher cannot say.
        """

    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights that must survive a restart, which no `prepare` would find again."""
        return {}

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """The reverse of `tensors`."""


def predicting(view: View, start: int, stop: int) -> np.ndarray:
    """Offsets, in the segment that starts at `start`, of the tokens before the trainable ones."""
    places = view.position[view.trajectory.trainable]
    return places[(places >= start) & (places < stop)] - start - 1


def check_same_vocabulary(student: LanguageModel, teacher: LanguageModel | OutputLayer) -> None:
    """Divergences compare next-token distributions, so both must be over the same tokens, whatever
    the output layers' padding.

    Raises:
        ValueError: they are not, or the two end an answer with different tokens: then the student
            would be taught never to end its own.
    """
    if student.tokenizer.get_vocab() != teacher.tokenizer.get_vocab():
        raise ValueError(
            f"{teacher.name} and {student.name} have different vocabularies "
            f"(of {teacher.vocabulary} and {student.vocabulary} tokens), so their token "
            "distributions cannot be compared; use a teacher of the student's family"
        )
    if student.stop_ids != teacher.stop_ids:
        ends = [
            sorted(m.tokenizer.convert_ids_to_tokens(list(m.stop_ids))) for m in (teacher, student)
        ]
        raise ValueError(
            f"{teacher.name} ends its answers with {ends[0]} and {student.name} with {ends[1]}; "
            "use models that were tuned with the same chat template"
        )
