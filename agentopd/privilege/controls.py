"""Sources made of another, to tell what its content is worth, and what its wording."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from pydantic import Field, PrivateAttr, SerializeAsAny

from agentopd.base.rows.costs import Cost
from agentopd.base.types import Privilege, Trajectory
from agentopd.models.chat import ChatTemplate
from agentopd.models.model import LanguageModel
from agentopd.privilege import writer
from agentopd.privilege.base import Source
from agentopd.signal.beside import Beside
from agentopd.signal.groups import groups
from agentopd.teacher import Teacher

_PADS = (".", " .", ",", " ,", ";", " ;")


class Control(Source):
    """A source made of another, whose memory it keeps.

    Args:
        of: the other source.
    """

    of: SerializeAsAny[Source]

    @property
    def costs(self) -> tuple[Cost, ...]:
        """See `Part.costs`."""
        return self.of.costs

    @property
    def reads(self) -> str:
        """See `Source.reads`."""
        return self.of.reads

    def enter(self, env: gymnasium.Env[str, str]) -> None:
        """See `Source.enter`."""
        self.of.enter(env)

    def prepare(self, template: ChatTemplate) -> None:
        """See `Source.prepare`."""
        self.of.prepare(template)

    def check(self, beside: Beside) -> None:
        """See `Source.check`."""
        self.of.check(beside)

    def meet(self, student: LanguageModel, teacher: Teacher) -> None:
        """See `Source.meet`."""
        self.of.meet(student, teacher)

    def begin(self) -> None:
        """See `Source.begin`."""
        self.of.begin()

    def learn(self, trajectories: Sequence[Trajectory]) -> None:
        """See `Source.learn`."""
        self.of.learn(trajectories)

    def write(self, trajectories: Sequence[Trajectory], batch: Sequence[Trajectory]) -> None:
        """See `Source.write`."""
        self.of.write(trajectories, batch)

    def scalars(self) -> dict[str, float]:
        """See `Source.scalars`."""
        return self.of.scalars()

    def state(self) -> dict[str, Any]:
        """See `Source.state`."""
        return self.of.state()

    def restore(self, state: dict[str, Any]) -> None:
        """See `Source.restore`."""
        self.of.restore(state)


class Shuffled(Control, kind="shuffled"):
    """The control: what another source would say, told of a trajectory of another task.

    Whole groups are shifted: a task's i-th trajectory is told what the i-th trajectory of the next
    task was told of which there is something to tell, counted around where there are fewer. So
    every text is told once where each task has as many, and the teacher is told the same texts as
    without the control. Of a text by turns, turns that were not played are left out; a text that
    has no other turns gives way to the next.

    A source that tells every task the same, such as one skill for all, cannot be shuffled: a run
    ends at its first step if every trajectory is told its own text.
    """

    _differed: bool = PrivateAttr(default=False)

    def learn(self, trajectories: Sequence[Trajectory]) -> None:
        """See `Source.learn`.

        Raises:
            ValueError: the texts of this step, and of all before, are the same whether they are
                shuffled or not.
        """
        super().learn(trajectories)
        self._refuse_sameness(trajectories)

    def write(self, trajectories: Sequence[Trajectory], batch: Sequence[Trajectory]) -> None:
        """See `Source.write`.

        Raises:
            ValueError: see `learn`; of texts that are written only now.
        """
        super().write(trajectories, batch)
        self._refuse_sameness(batch)

    def _refuse_sameness(self, trajectories: Sequence[Trajectory]) -> None:
        if self._differed:
            return
        told = [(t, self.whisper(t, trajectories)) for t in trajectories]
        heard = [(shuffled, self.of.whisper(t, trajectories)) for t, shuffled in told if shuffled]
        self._differed = any(shuffled != own for shuffled, own in heard)
        if heard and not self._differed:
            raise ValueError(
                f"privilege: {self.of.kind} tells every task of this step the same, so that "
                "shuffled over tasks each is still told its own: no control. Use control: filler "
                "or no_pi, or a source whose texts differ from task to task, such as ground_truth"
            )

    def whisper(
        self, trajectory: Trajectory, batch: Sequence[Trajectory]
    ) -> tuple[Privilege, ...] | None:
        """See `Source.whisper`."""
        tasks = groups(batch)
        here = next((n for n, g in enumerate(tasks) if g[0].task == trajectory.task), -1)
        own = tasks[here] if here >= 0 else []
        place = next((i for i, other in enumerate(own) if other is trajectory), 0)
        for group in (*tasks[here + 1 :], *tasks[: max(here, 0)]):
            whispers = [self.of.whisper(other, batch) for other in group]
            texts = [told for told in whispers if told is not None]
            start = place % len(texts) if texts else 0
            for told in (*texts[start:], *texts[:start]):
                fitting = tuple(p for p in told if p.turn is None or p.turn < len(trajectory.turns))
                if fitting or not told:
                    return fitting
        return None


class Noted(Control, kind="noted"):
    """What another source says, with a note after it that can only be known by being told: words
    that say nothing and differ from episode to episode.

    A teacher that quotes the note speaks as nobody can who was not told: what of its wording a
    student cannot infer is then known. They depend on the task, the episode's number and its seed.

    Args:
        words: of a note.
    """

    words: int = Field(default=3, ge=1, le=len(writer.NOTES))

    def whisper(
        self, trajectory: Trajectory, batch: Sequence[Trajectory]
    ) -> tuple[Privilege, ...] | None:
        """See `Source.whisper`."""
        told = self.of.whisper(trajectory, batch)
        if told is None:
            return None
        task = trajectory.prompt.get("task_id", "")
        drawn = random.Random(f"note/{task}/{trajectory.seed}/{trajectory.episode}")
        note = drawn.sample(writer.NOTES, self.words)
        return tuple(replace(p, text=writer.noted(p.text, note)) for p in told)


class Filler(Control, kind="filler"):
    """The control: words that say nothing, as long as what another source would say.

    As many tokens, once `prepare` has told by which tokenizer; as many words before that. No word
    is one of the other source's text. The words depend on the episode's number and seed alone, and
    on the length.
    """

    _template: ChatTemplate | None = PrivateAttr(default=None)
    _sizes: dict[str, int] = PrivateAttr(default_factory=dict)

    def prepare(self, template: ChatTemplate) -> None:
        """See `Source.prepare`."""
        super().prepare(template)
        self._template = template
        self._sizes = {word: self._size(f" {word}") for word in writer.WORDS}

    def whisper(
        self, trajectory: Trajectory, batch: Sequence[Trajectory]
    ) -> tuple[Privilege, ...] | None:
        """See `Source.whisper`."""
        told = self.of.whisper(trajectory, batch)
        if told is None:
            return None
        return tuple(
            Privilege(
                source=self.kind,
                text=self._fill(p.text, [trajectory.seed, trajectory.episode, number]),
                turn=p.turn,
            )
            for number, p in enumerate(told)
        )

    def _fill(self, text: str, seed: Sequence[int]) -> str:
        size, taken = self._size(text), text.lower()
        words = [word for word in writer.WORDS if word not in taken]
        drawn = np.random.default_rng(seed).choice(words, size=size).tolist() if words else []
        ends = np.cumsum([self._sizes.get(word, 1) for word in drawn])
        filled = drawn[: int(np.searchsorted(ends, size, side="right"))]
        # A text may have more tokens than its words by themselves.
        while filled and self._size(" ".join(filled)) > size:
            filled.pop()
        return self._padded(" ".join(filled), size)

    def _padded(self, text: str, size: int) -> str:
        """`text`, with marks after it until it is of that size, or as near as they allow."""
        while (so_far := self._size(text)) < size:
            longer = [text + pad for pad in _PADS if so_far < self._size(text + pad) <= size]
            if not longer:
                break
            text = longer[0]
        return text

    def _size(self, text: str) -> int:
        """How many tokens a text has, or words before the tokenizer is known."""
        return len(self._template.encode_content(text) if self._template else text.split())
