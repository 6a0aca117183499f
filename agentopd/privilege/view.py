"""Views: the teacher's context, made by inserting ids into the student's.

Nothing is rendered again. Privileged text goes in at the end of a message's content, so the
student's tokens stay verbatim, with their template's tags around them, and a map says where each of
them went.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from operator import itemgetter

import numpy as np

from agentopd.base.parts import Part
from agentopd.base.types import Briefed, Message, Trajectory, View
from agentopd.models.chat import ChatTemplate


class ViewBuilder(Part, family="view"):
    """Where privileged text is put.

    Args:
        separator: between a message's own text and what is inserted.
    """

    separator: str = "\n\n"

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

    def _view(self, briefed: Briefed, template: ChatTemplate) -> View:
        trajectory = briefed.trajectory
        size = len(trajectory.ids)
        shift = np.zeros(size + 1, dtype=np.int64)
        pieces: list[np.ndarray] = []
        done = 0
        for place, text in sorted(self.insertions(briefed), key=itemgetter(0)):
            ids = np.array(template.encode_content(text), dtype=np.int64)
            pieces += [trajectory.ids[done:place], ids]
            shift[place:] += len(ids)
            done = place
        ids = np.concatenate([*pieces, trajectory.ids[done:]])
        position = np.arange(size) + shift[:-1]
        # A segment's own end moves with the tokens in it: an insertion at a boundary belongs to the
        # next segment.
        segments = tuple(
            (int(a + shift[a - 1]) if a else 0, int(b + shift[b - 1]))
            for a, b in trajectory.segments
        )
        assert np.array_equal(ids[position], trajectory.ids), "the view lost the student's tokens"
        return View(briefed=briefed, ids=ids, position=position, segments=segments)

    def _joined(self, texts: Sequence[str]) -> str:
        return self.separator + "\n".join(texts)


class SystemView(ViewBuilder, kind="system"):
    """Everything at the end of the system message, or of the first user message without one.

    Text about one turn is marked with the turn's number, counted from 1.
    """

    def insertions(self, briefed: Briefed) -> list[tuple[int, str]]:
        """See `ViewBuilder.insertions`."""
        texts = [
            p.text if p.turn is None else f"Turn {p.turn + 1}: {p.text}" for p in briefed.privileges
        ]
        if not texts:
            return []
        return [(message.stop, self._joined(texts)) for message in _openings(briefed.trajectory)]


class EveryTurnView(ViewBuilder, kind="every_turn"):
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
