"""Text as token ids, in which control tokens stand only where the chat template wrote them.

A tokenizer first splits its added tokens off, then encodes what is between them. Here the control
tokens are split off the template's own text alone, and what is between them, contents included, is
encoded as one run by a copy of the tokenizer that knows no control token. So the ids are those of
the whole text, spaces that some tokenizers put at a run's start and merges across a content's edge
included, and no content can forge a control token.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

from tokenizers import Tokenizer

Before = Literal["nothing", "control", "text"]
"""What stands in front of the text: it begins a conversation, or follows a control token or other
text."""

# Noncharacters, which Unicode keeps out of every text that is exchanged.
_ANCHOR = "\ufdd2\ufdd3"
_STARTERS = ("\n", "a", ".")


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a conversation's text: the template's own, or the content of message `index`."""

    text: str
    index: int | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """One token, and the characters of the text it stands for."""

    id: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Encoded:
    """The tokens of some pieces of text, end to end."""

    tokens: Sequence[Token]

    @property
    def ids(self) -> list[int]:
        """Their ids."""
        return [token.id for token in self.tokens]

    def bounds(self, start: int, stop: int) -> tuple[int, int]:
        """The tokens that lie inside the characters from `start` to `stop`: the first's number, and
        the one's behind the last. A token across an edge lies outside.
        """
        first = bisect_left(self.tokens, start, key=lambda token: token.start)
        return first, max(first, bisect_right(self.tokens, stop, key=lambda token: token.stop))


class Encoder:
    """A tokenizer's encoding, with control tokens found in the template's own text alone.

    Args:
        backend: the tokenizer.
        control: ids of added tokens that are control tokens; other added tokens are found in
            contents too.

    Raises:
        ValueError: the tokenizer makes a control token of its plain letters.
    """

    def __init__(self, backend: Tokenizer, control: Set[int]) -> None:
        rules: dict[str, Any] = json.loads(backend.to_str())
        rules |= {"post_processor": None, "truncation": None, "padding": None}
        added: list[dict[str, Any]] = rules["added_tokens"]
        self._control = {token["content"]: token["id"] for token in added if token["id"] in control}
        self._finder = _finder(rules)
        found = self._finder.get_added_tokens_decoder().items()
        self._found = {i: self._control[t.content] for i, t in found if t.content in self._control}
        kept = [token for token in added if token["id"] not in control]
        self._plain = Tokenizer.from_str(json.dumps(rules | {"added_tokens": kept}))
        self._plain.add_special_tokens([_ANCHOR])
        # Without the control tokens, those added behind them may have moved up.
        own = {token["content"]: int(token["id"]) for token in kept}
        moved = self._plain.get_added_tokens_decoder().items()
        self._own_id = {i: own[t.content] for i, t in moved if t.content in own}
        self._refuse_plain_letters()

    def encode(self, pieces: Sequence[Piece], before: Before) -> Encoded:
        """The ids of `pieces`, which follow one another.

        Raises:
            ValueError: a content holds the mark that this module uses itself.
        """
        text = "".join(piece.text for piece in pieces)
        if _ANCHOR in text:
            raise ValueError(f"the text holds {_ANCHOR!r}, noncharacters that no text may hold")
        hidden = "".join(p.text if p.index is None else re.sub(r"\S", "x", p.text) for p in pieces)
        tokens, place = list[Token](), 0
        for token in self._controls(hidden):
            tokens += self._run(
                text[place : token.start], place, before if not tokens else "control"
            )
            tokens.append(token)
            place = token.stop
        tokens += self._run(text[place:], place, before if not tokens else "control")
        return Encoded(tokens)

    def _controls(self, text: str) -> Iterator[Token]:
        found = self._finder.encode(text, add_special_tokens=False)
        for number, (start, stop) in zip(found.ids, found.offsets, strict=True):
            if number in self._found:
                yield Token(self._found[number], start, stop)

    def _run(self, text: str, place: int, before: Before) -> list[Token]:
        """The tokens of text without control tokens, that stands at `place`."""
        if not text:
            return []
        if before == "nothing":
            return self._encoded("", text, place)
        for starter in _STARTERS if before == "text" else ():
            alone = self._encoded(_ANCHOR + starter, "", place)
            found = self._encoded(_ANCHOR + starter, text, place)
            rest = found[len(alone) :]
            if _ids(found[: len(alone)]) == _ids(alone) and all(t.start >= place for t in rest):
                return rest
        return self._encoded(_ANCHOR, text, place)[1:]

    def _encoded(self, front: str, text: str, place: int) -> list[Token]:
        found, shift = (
            self._plain.encode(front + text, add_special_tokens=False),
            place - len(front),
        )
        return [
            Token(self._own_id.get(i, i), start + shift, stop + shift)
            for i, (start, stop) in zip(found.ids, found.offsets, strict=True)
        ]

    def _refuse_plain_letters(self) -> None:
        known = set(self._control.values())
        for name in self._control:
            if known.intersection(_ids(self._run(name, 0, "control"))):
                raise ValueError(
                    f"the tokenizer makes the control token {name!r} of its plain letters, so an "
                    "observation that spells it would forge it; use a tokenizer whose control "
                    "tokens are added tokens that no merge makes"
                )


def _finder(rules: dict[str, Any]) -> Tokenizer:
    """Finds added tokens by the tokenizer's rules; all else is unknown to it."""
    blind = {"type": "WordLevel", "vocab": {_ANCHOR: 0}, "unk_token": _ANCHOR}
    return Tokenizer.from_str(json.dumps(rules | {"model": blind, "pre_tokenizer": None}))


def _ids(tokens: Sequence[Token]) -> list[int]:
    return [token.id for token in tokens]
