"""A source whose texts a model writes, all of a step at once."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field, PrivateAttr

from agentopd.base.rows.costs import Cost
from agentopd.base.types import Privilege, Trajectory
from agentopd.models.chat import ChatTemplate
from agentopd.models.model import LanguageModel
from agentopd.models.phrases import phrases, runs
from agentopd.privilege.base import Source, When, chosen
from agentopd.privilege.writing.model_writer import Ask, ModelWriter, Reply
from agentopd.privilege.writing.templates import Template
from agentopd.teacher import Teacher

_PHRASE = 4
"""Tokens in a row by which a text that quotes the student is known."""


class WrittenSource(Source):
    """What a model writes of each episode: `asks` and `read`, and the rest is done.

    Of an episode whose reply cannot be read nothing is said. How many were asked for, read and not
    read, what it cost, and which share of the texts' phrases (of four tokens) are the student's own
    words, is in the metrics.

    Args:
        writer: the model that writes.
        when: of which episodes.
    """

    asks_with: ClassVar[str] = ""
    """The template that is asked with where the writer names none."""
    quotes: ClassVar[bool] = True
    """Whether who writes has read the student's answers."""

    asked_for: ClassVar[str] = "for each episode"
    """What it is written for, once each."""

    writer: ModelWriter | None = Field(default_factory=ModelWriter)
    when: When = "always"
    _texts: dict[int, tuple[Privilege, ...]] = PrivateAttr(default_factory=dict)
    _attempts: dict[tuple[int, int], int] = PrivateAttr(default_factory=dict)
    _counts: Counter[str] = PrivateAttr(default_factory=Counter)
    _chat: ChatTemplate | None = PrivateAttr(default=None)

    @property
    def costs(self) -> tuple[Cost, ...]:
        """See `Part.costs`."""
        if self.writer is None:
            return ()
        who, written, read = self.writer.who, f"W_{self.kind}", f"Q_{self.kind}"
        where = f"{self.asked_for}, spread over the step's episodes"
        return (
            Cost(who, "samples", written, where=f"{written}: what is written {where}"),
            Cost(who, "reads", read, where=f"{read}: what is read to write {where}"),
        )

    @abstractmethod
    def asks(self, trajectory: Trajectory, batch: Sequence[Trajectory]) -> list[Ask]:
        """What is asked about an episode; nothing where nothing is known."""

    @abstractmethod
    def read(self, trajectory: Trajectory, replies: Sequence[Reply]) -> tuple[Privilege, ...]:
        """What is told of an episode, of the replies to what was asked; nothing where they cannot
        be read.
        """

    def prepare(self, template: ChatTemplate) -> None:
        """See `Source.prepare`."""
        self._chat = template

    def meet(self, student: LanguageModel, teacher: Teacher) -> None:
        """See `Source.meet`."""
        if self.writer is not None:
            self.writer.meet(student, teacher)

    def begin(self) -> None:
        """See `Source.begin`."""
        self._counts = Counter()
        if self.writer is not None:
            self.writer.begin()

    def write(self, trajectories: Sequence[Trajectory], batch: Sequence[Trajectory]) -> None:
        """See `Source.write`."""
        self._texts, self._attempts = {}, {}
        self.ask(trajectories, batch)

    def ask(self, trajectories: Sequence[Trajectory], batch: Sequence[Trajectory]) -> None:
        """Have written what is asked about some episodes of a batch."""
        if self.writer is None or not self.writer.ready:
            return
        spoken_of = [t for t in trajectories if t.turns and chosen(t, self.when)]
        form = Template.load(self.writer.template or self.asks_with)
        asked = [(t, [a for a in self.asks(t, batch) if form.can_ask(a.slots)]) for t in spoken_of]
        replies = iter(self.writer.write(form, [a for _, asks in asked for a in asks]))
        for trajectory, asks in asked:
            if asks:
                self._keep(trajectory, [next(replies) for _ in asks])

    def whisper(
        self, trajectory: Trajectory, batch: Sequence[Trajectory]
    ) -> tuple[Privilege, ...] | None:
        """See `Source.whisper`."""
        own = trajectory.attempt
        if own is None or trajectory.acts:
            return self._texts.get(trajectory.episode) or None
        # Another record of an attempt: what is said of that one, whose turns may be others.
        said = self._texts.get(self._attempts.get((own.first, own.number), -1), ())
        return tuple(p for p in said if p.turn is None or own.kind == "untold") or None

    def scalars(self) -> dict[str, float]:
        """See `Source.scalars`."""
        if self.writer is None:
            return {}
        counts = self._counts
        found = {name: float(counts[name]) for name in ("asked", "unread")}
        return found | copied_share(counts) | self.writer.scalars()

    def state(self) -> dict[str, Any]:
        """See `Source.state`."""
        return {} if self.writer is None else {"writer": self.writer.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """See `Source.restore`."""
        if self.writer is not None:
            self.writer.restore(state.get("writer", {}))

    def tell(self, text: str, turn: int | None = None) -> Privilege:
        """A text of this source."""
        return Privilege(source=self.kind, text=text, turn=turn, quotes=self.quotes)

    def _keep(self, trajectory: Trajectory, replies: Sequence[Reply]) -> None:
        told = self.read(trajectory, replies)
        self._counts.update(asked=1, unread=int(not told))
        self._texts[trajectory.episode] = told
        if (own := trajectory.attempt) is not None:
            self._attempts[own.first, own.number] = trajectory.episode
        if self._chat is not None:
            for privilege in told:
                self._counts += copied_phrases(self._chat, trajectory, privilege.text)


def copied_phrases(chat: ChatTemplate, trajectory: Trajectory, text: str) -> Counter[str]:
    """How many `phrases`, of four tokens, a text has, and how many of them are `copied`: the
    student's own words in that episode.
    """
    ids, answers = trajectory.ids.tolist(), runs(trajectory.trainable)
    own = {phrase for a, b in answers for phrase in phrases(ids[a:b], _PHRASE)}
    said = phrases(chat.encode_content(text), _PHRASE)
    return Counter(phrases=len(said), copied=sum(phrase in own for phrase in said))


def copied_share(counts: Mapping[str, int]) -> dict[str, float]:
    """The share of copied phrases, for the log; nothing where there was no phrase."""
    phrases_ = counts["phrases"]
    return {"copied": counts["copied"] / phrases_} if phrases_ else {}
