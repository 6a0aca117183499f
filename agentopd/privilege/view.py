"""Views: the teacher's context, made by inserting ids into the student's, or replacing what it saw.

Nothing is rendered again. Privileged text goes in at the end of a message's content, or takes the
place of it, so what the student wrote stays verbatim, with the template's tags around everything,
and a map says where each token went.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from agentopd.base.parts import Part
from agentopd.base.types import Briefed, Message, Privilege, Trajectory, View
from agentopd.models.chat import ChatTemplate


@dataclass(frozen=True, slots=True)
class Edit:
    """`text` takes the place of the student's ids from `start` to `stop`; where these are equal it
    is inserted there.
    """

    start: int
    stop: int
    text: str


class ViewBuilder(Part, family="view"):
    """Where privileged text is put.

    Args:
        separator: between a message's own text and what is inserted.
    """

    separator: str = "\n\n"

    @property
    def tells_teacher(self) -> bool:
        """Whether the teacher reads what is told."""
        return True

    @abstractmethod
    def insertions(self, briefed: Briefed) -> list[tuple[int, str]]:
        """The texts to insert, each before the token at a position of the student's ids.

        Texts at one position keep their order.
        """

    def build(self, briefed: Sequence[Briefed], template: ChatTemplate) -> list[View]:
        """The views of all trajectories that have a lesson."""
        return [
            self._view(b, template) for b in briefed if b.available and b.trajectory.trainable.any()
        ]

    def edits(self, briefed: Briefed) -> list[Edit]:
        """What is changed of the student's ids: the insertions, and no more, unless a view says
        otherwise.
        """
        return [Edit(place, place, text) for place, text in self.insertions(briefed)]

    def _view(self, briefed: Briefed, template: ChatTemplate) -> View:
        trajectory = briefed.trajectory
        size = len(trajectory.ids)
        shift = np.zeros(size + 1, dtype=np.int64)
        left_out = np.zeros(size, dtype=np.bool_)
        pieces: list[np.ndarray] = []
        done = 0
        for edit in sorted(self.edits(briefed), key=lambda edit: edit.start):
            ids = np.array(template.encode_content(edit.text), dtype=np.int64)
            pieces += [trajectory.ids[done : edit.start], ids]
            left_out[edit.start : edit.stop] = True
            shift[edit.stop :] += len(ids) - (edit.stop - edit.start)
            done = edit.stop
        ids = np.concatenate([*pieces, trajectory.ids[done:]])
        position = np.where(left_out, -1, np.arange(size) + shift[:-1])
        # A segment's own end moves with the tokens in it: an insertion at a boundary belongs to the
        # next segment.
        segments = tuple(
            (int(a + shift[a - 1]) if a else 0, int(b + shift[b - 1]))
            for a, b in trajectory.segments
        )
        kept = ~left_out
        assert not (left_out & trajectory.trainable).any(), "the view replaced what was sampled"
        assert np.array_equal(ids[position[kept]], trajectory.ids[kept]), (
            "the view lost the student's tokens"
        )
        return View(briefed=briefed, ids=ids, position=position, segments=segments)

    def _joined(self, texts: Sequence[str]) -> str:
        return self.separator + "\n".join(texts)


class TellingView(ViewBuilder):
    """A view whose places are known before each turn, so that whoever acts can be told there too.

    Args:
        tells: whom, where the student acts told (`rollout: hinted`). `teacher`: both. `actor`: the
            student alone, and the teacher reads its answers in the history without what was told,
            of episodes that are kept in both (`learn_under: both`).
    """

    tells: Literal["teacher", "actor"] = "teacher"

    @property
    def tells_teacher(self) -> bool:
        """See `ViewBuilder.tells_teacher`."""
        return self.tells == "teacher"

    def build(self, briefed: Sequence[Briefed], template: ChatTemplate) -> list[View]:
        """See `ViewBuilder.build`."""
        if self.tells_teacher:
            return super().build(briefed, template)
        plain = {
            _attempt(b.trajectory): b.trajectory for b in briefed if _kind(b.trajectory) == "untold"
        }
        return [
            _untold(b, plain[_attempt(b.trajectory)])
            for b in briefed
            if _kind(b.trajectory) == "played"
            and b.trajectory.trainable.any()
            and _attempt(b.trajectory) in plain
        ]


class SystemView(TellingView, kind="system"):
    """Everything at the end of the system message, or of the first user message without one.

    Text about one turn is marked with the turn's number, counted from 1.
    """

    def insertions(self, briefed: Briefed) -> list[tuple[int, str]]:
        """See `ViewBuilder.insertions`."""
        texts = in_words(briefed.privileges)
        if not texts:
            return []
        return [(message.stop, self._joined(texts)) for message in _openings(briefed.trajectory)]


class EveryTurnView(TellingView, kind="every_turn"):
    """At the end of the user message before each answer.

    What is about that turn goes there, and what is about the episode. Where history is rewritten,
    the earlier turns' texts are in it again: what the teacher was told does not depend on segments.
    """

    def insertions(self, briefed: Briefed) -> list[tuple[int, str]]:
        """See `ViewBuilder.insertions`."""
        trajectory = briefed.trajectory
        found = []
        for message in trajectory.messages:
            turn = int(trajectory.turn[message.start])
            if message.role == "user" and 0 <= turn < len(trajectory.turns):
                texts = [p.text for p in briefed.privileges if p.turn in (None, turn)]
                found += [(message.stop, self._joined(texts))] if texts else []
        return found


class ReplaceView(ViewBuilder, kind="replace"):
    """In the place of what the student saw: a text about a turn is read instead of that turn's
    observation, one about the episode instead of the first user message. An empty text leaves
    nothing of it.

    What the student wrote and the template's tags stay as they are. Where a template has no system
    role, the rules are part of the first user message, and go with it.
    """

    def insertions(self, briefed: Briefed) -> list[tuple[int, str]]:
        """See `ViewBuilder.insertions`: there are none."""
        return []

    def edits(self, briefed: Briefed) -> list[Edit]:
        """See `ViewBuilder.edits`."""
        trajectory, found = briefed.trajectory, list[Edit]()
        for message in trajectory.messages:
            turn = int(trajectory.turn[message.start])
            if message.role != "user" or not 0 <= turn < len(trajectory.turns):
                continue
            about = (turn, None) if turn == 0 else (turn,)
            texts = [p.text for p in briefed.privileges if p.turn in about]
            if texts:
                found.append(Edit(message.start, message.stop, "\n".join(texts)))
        return found


def in_words(privileges: Sequence[Privilege]) -> list[str]:
    """Each text, with the number of the turn that it is about."""
    return [p.text if p.turn is None else f"Turn {p.turn + 1}: {p.text}" for p in privileges]


def _untold(briefed: Briefed, plain: Trajectory) -> View:
    """The view of what was played told, whose ids are those of the same answers' other record."""
    read = briefed.trajectory
    position = np.full(len(read.ids), -1, dtype=np.int64)
    for told, own in zip(read.turns, plain.turns, strict=True):
        position[told.start : told.stop] = np.arange(own.start, own.stop)
    kept = position >= 0
    assert kept[read.trainable].all(), "the plain record lacks an answer"
    assert np.array_equal(plain.ids[position[kept]], read.ids[kept]), "the answers are others"
    return View(briefed=briefed, ids=plain.ids, position=position, segments=plain.segments)


def _kind(trajectory: Trajectory) -> str:
    return trajectory.attempt.kind if trajectory.attempt else ""


def _attempt(trajectory: Trajectory) -> tuple[int, int]:
    """By which the records of one attempt are found."""
    own = trajectory.attempt
    return (own.first, own.number) if own else (trajectory.episode, -1)


def most_inserted(views: Sequence[View]) -> int:
    """The most tokens that were inserted into one segment of the student's."""
    grown = (
        (stop - start) - (end - begin)
        for view in views
        for (start, stop), (begin, end) in zip(view.segments, view.trajectory.segments, strict=True)
    )
    return max(grown, default=0)


def _openings(trajectory: Trajectory) -> list[Message]:
    """The system message of every segment, or its first message where it has none."""
    inside = [
        [m for m in trajectory.messages if start <= m.start < stop]
        for start, stop in trajectory.segments
    ]
    return [min(found, key=lambda m: (m.role != "system", m.start)) for found in inside]
