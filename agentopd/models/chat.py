"""Conversations as token ids that only ever grow.

What the model sampled is kept as the ids it sampled. Around it, the chat template's own text is
encoded and appended: after an answer, the template is asked for the conversation with the next
message, and only what it adds is encoded. An answer stays as it was sampled, white space at its
edges and the token that ended it included, even where the template would trim it or close it
otherwise. If the template changes anything else of what the model has seen (it strips earlier
reasoning, say), appending would show the model a history the template never writes: then a new
segment starts with the rewritten conversation, and the trajectory records it.

What is rendered is the opening and the last turns, so that a long conversation costs no more a turn
than a short one; while it is short, and whenever it has doubled, the whole of it is.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agentopd.base.types import EndReason, Message, Owner, Trajectory, Turn
from agentopd.models.encoding import Before, Piece
from agentopd.models.template import ChatTemplate

__all__ = ["ANYONE", "ChatTemplate", "Conversation"]

ANYONE = frozenset(Owner) - {Owner.TEMPLATE}
"""All who may answer."""

_SHORT = 8
"""Turns up to which every rendering is of the whole conversation."""


@dataclass
class Conversation:
    """One episode's conversation while it grows; `trajectory` closes it."""

    template: ChatTemplate
    stop_ids: frozenset[int]
    ids: list[int] = field(default_factory=list)
    turn: list[int] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)
    told: list[bool] = field(default_factory=list)
    logprob: list[float] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])
    _spoken: list[dict[str, str]] = field(default_factory=list)
    _opening: int = 1
    _shown: str = ""
    _said: str = ""
    _end: int | None = None
    _turn: int = -1
    _strays: bool = False

    def begin(
        self, system: str, observation: str, examples: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Open with the rules, worked examples and the first observation.

        The examples' answers are messages of an assistant that nobody sampled, and before turn 0.

        Raises:
            ValueError: see `ChatTemplate.pieces`.
        """
        self._spoken = self.template.messages(system, observation, examples)
        self._opening = len(self._spoken)
        self._rewrite(self.template.pieces(self._spoken))

    def answer(
        self, ids: Sequence[int], logprobs: Sequence[float], owner: Owner, told: bool = False
    ) -> tuple[str, int]:
        """Add an answer; returns what an environment is handed of it, and where it starts.

        Args:
            told: whether it was sampled by who was told more than stands here.
        """
        start = len(self.ids)
        self._end = ids[-1] if ids and ids[-1] in self.stop_ids else None
        spoken = ids if self._end is None else ids[:-1]
        self._said = self.template.spoken(spoken)
        self._grow(ids, owner, logprobs, told)
        self.messages.append(Message(role="assistant", start=start, stop=start + len(spoken)))
        content = self.template.opening + self._said
        self._spoken.append({"role": "assistant", "content": content})
        return self.template.action(spoken), start

    def observe(self, observation: str) -> None:
        """Add the next user message; a new segment starts where the template rewrites history.

        Raises:
            ValueError: see `ChatTemplate.pieces`.
        """
        self._spoken.append({"role": "user", "content": observation})
        first = self._first_rendered()
        pieces = self.template.pieces(self._window(first))
        shown = self._shown
        if first > self._opening:
            shown = self.template.render(self._window(first)[:-2])
        added = self._added(shown, pieces, len(self._window(first)) - 2)
        if added is None:
            self._strays = self._strays or first == self._opening
            self.starts.append(len(self.ids))
            self._turn = -1
            self._rewrite(self.template.pieces(self._spoken))
            return
        self._shown += _text(pieces).removeprefix(shown)
        self._append(added, first)

    @property
    def context(self) -> list[int]:
        """The ids the model answers to: those of the current segment."""
        return self.ids[self.starts[-1] :]

    def trajectory(
        self,
        turns: Sequence[Turn],
        end: EndReason,
        learnt: Collection[Owner] = ANYONE,
        **about: Any,
    ) -> Trajectory:
        """The finished, frozen record; `about` holds its remaining fields.

        Args:
            learnt: whose tokens are learnt from.
        """
        owner = np.array(self.owner, dtype=np.uint8)
        told = np.array(self.told, dtype=np.bool_)
        return Trajectory(
            ids=np.array(self.ids, dtype=np.int64),
            turn=np.array(self.turn, dtype=np.int32),
            trainable=np.isin(owner, list(learnt)),
            owner=owner,
            told=told if told.any() else None,
            logprob=np.array(self.logprob, dtype=np.float32),
            messages=tuple(self.messages),
            turns=tuple(turns),
            segments=self._segments(),
            end=end,
            **about,
        )

    def _segments(self) -> tuple[tuple[int, int], ...]:
        """What the model read, up to the last token it sampled: what nobody answered to is kept as
        ids, and no model is given it to read.
        """
        sampled = [place for place, owner in enumerate(self.owner) if owner != Owner.TEMPLATE]
        found = []
        for start, stop in zip(self.starts, [*self.starts[1:], len(self.ids)], strict=True):
            own = sampled[bisect_left(sampled, start) : bisect_left(sampled, stop)]
            if own:
                found.append((start, own[-1] + 1))
        return tuple(found)

    def _first_rendered(self) -> int:
        """The first message behind the opening that is rendered with the next observation."""
        answers = (len(self._spoken) - self._opening) // 2
        doubled = answers & (answers - 1) == 0
        whole = self._strays or doubled or answers <= _SHORT
        return self._opening if whole else len(self._spoken) - 4

    def _window(self, first: int) -> list[dict[str, str]]:
        return [*self._spoken[: self._opening], *self._spoken[first:]]

    def _added(self, shown: str, pieces: Sequence[Piece], answer: int) -> list[Piece] | None:
        """What follows message `answer`, if what is in front is `shown` and what the model said."""
        text, place, stop = _text(pieces), 0, -1
        for number, piece in enumerate(pieces):
            place += len(piece.text)
            if piece.index == answer:
                stop, rest = place, list(pieces[number + 1 :])
                break
        else:
            return None
        kept = text.startswith(shown) and stop >= len(shown)
        return rest if kept and text[len(shown) : stop].strip() == self._said.strip() else None

    def _append(self, pieces: list[Piece], first: int) -> None:
        """Write what the template puts behind the answer."""
        if self._end is None:
            self._write(pieces, first, "text")
            return
        end, tail = self.template.decode([self._end]), pieces[0].text
        # An answer that its own token has ended keeps it; the template's stands behind another.
        closed = tail.lstrip() if tail.lstrip().startswith(end) else end + tail
        self._write([Piece(closed), *pieces[1:]], first, "control", skip=1)

    def _rewrite(self, pieces: Sequence[Piece]) -> None:
        """Write the whole conversation."""
        self._shown = _text(pieces)
        self._write(pieces, self._opening, "nothing")

    def _write(self, pieces: Sequence[Piece], first: int, before: Before, skip: int = 0) -> None:
        """Append the tokens of `pieces` but for the first `skip`.

        Messages behind the opening are numbered from `first` on.
        """
        encoded = self.template.encoded(pieces, before)
        ids, done, place = encoded.ids, skip, 0
        for piece in pieces:
            start, place = place, place + len(piece.text)
            if piece.index is None:
                continue
            index = piece.index + (first - self._opening if piece.index >= self._opening else 0)
            role = self._spoken[index]["role"]
            begun, stopped = encoded.bounds(start, place)
            self._grow(ids[done:begun], Owner.TEMPLATE)
            if role == "user":
                self._turn = max((index - self._opening + 1) // 2, -1)
            start_of_content = len(self.ids)
            self._grow(ids[begun:stopped], Owner.TEMPLATE)
            self.messages.append(Message(role=role, start=start_of_content, stop=len(self.ids)))
            done = stopped
        self._grow(ids[done:], Owner.TEMPLATE)

    def _grow(
        self,
        ids: Sequence[int],
        owner: Owner,
        logprobs: Sequence[float] | None = None,
        told: bool = False,
    ) -> None:
        self.ids += ids
        self.told += [told] * len(ids)
        self.turn += [self._turn] * len(ids)
        self.owner += [owner] * len(ids)
        self.logprob += [float("nan")] * len(ids) if logprobs is None else logprobs


def _text(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)
