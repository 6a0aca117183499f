"""Conversations as token ids that only ever grow.

What the model sampled is kept as the ids it sampled. Around it, the chat template's own text is
encoded and appended: after an answer, the template is asked for the whole conversation with the
next message, and only what it adds is encoded. If the template's text no longer begins with what
the model has seen (it strips earlier reasoning, say, or trims an answer), appending would show the
model a history the template never writes: then a new segment starts with the rewritten
conversation, and the trajectory records it.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerFast

from agentopd.base.types import EndReason, Message, Owner, Trajectory, Turn

# Noncharacters, which Unicode keeps out of every text that is exchanged.
_MARK = re.compile("\ufdd0([0-9]+)\ufdd1")


class ChatTemplate:
    """The text a tokenizer's chat template writes, and its encoding.

    A template without a system role gets the system prompt in front of the first user message.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.has_system = self._takes_system()

    def messages(self, system: str, observation: str) -> list[dict[str, str]]:
        """The opening messages of a conversation."""
        if not system:
            return [{"role": "user", "content": observation}]
        if self.has_system:
            return [{"role": "system", "content": system}, {"role": "user", "content": observation}]
        return [{"role": "user", "content": f"{system}\n\n{observation}"}]

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The conversation's text, up to where the model is to answer."""
        text = self.tokenizer.apply_chat_template(
            [dict(m) for m in messages], tokenize=False, add_generation_prompt=True
        )
        assert isinstance(text, str)
        return text

    def places(
        self, messages: Sequence[Mapping[str, str]], text: str
    ) -> list[tuple[int, int, int]]:
        """Where the contents of `messages` stand in `text`, which is their rendering.

        The conversation is rendered again with marks for contents, which tells the template's own
        text from the contents': a message that says "user" or "<|end|>" is not taken for a tag.

        Returns:
            `(index, start, stop)` of every message the template writes, in the order of the text.
            Of a content that the template shortened, the bounds are those of what it wrote.

        Raises:
            ValueError: the template's own text depends on what the messages say.
        """
        marked = [{**m, "content": f"\ufdd0{i}\ufdd1"} for i, m in enumerate(messages)]
        first, *rest = _MARK.split(self.render(marked))
        order = [int(number) for number in rest[::2]]
        contents = [messages[i]["content"] for i in order]
        exact = text.startswith(first)
        found: list[tuple[int, int, int]] = []
        place = len(first)
        for i, (index, after) in enumerate(zip(order, rest[1::2], strict=True)):
            stop = _end(text, place, contents[i : i + 2], after)
            exact = exact and text.startswith(after, stop)
            found.append((index, place, stop))
            place = stop + len(after)
        if not exact or place != len(text):
            raise ValueError(
                "where a message begins and ends in the chat template's text cannot be told, "
                "because the template's tags depend on what the messages say or an answer spells "
                "them out; use a template whose tags stay the same"
            )
        return found

    def encode(self, text: str) -> list[int]:
        """Ids of template text, in which tags are control tokens."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def encode_content(self, text: str) -> list[int]:
        """Ids of a message's text, in which nothing is a control token: it cannot forge its end."""
        return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of `ids`, byte for byte."""
        text = self.tokenizer.decode(
            list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text

    def reasoning_length(self, ids: Sequence[int], tag: str = "</think>") -> int:
        """How many of an answer's tokens are its reasoning, closing tag included; 0 without one."""
        text = self.decode(ids)
        end = text.rfind(tag)
        if end < 0:
            return 0
        return bisect_left(range(len(ids)), end + len(tag), key=lambda n: len(self.decode(ids[:n])))

    def _takes_system(self) -> bool:
        rules = "\ufdd0rules\ufdd1"
        probe = [{"role": "system", "content": rules}, {"role": "user", "content": "hello"}]
        try:
            return rules in self.render(probe)
        except TemplateError:
            return False


@dataclass
class Conversation:
    """One episode's conversation while it grows; `trajectory` closes it."""

    template: ChatTemplate
    stop_ids: frozenset[int]
    ids: list[int] = field(default_factory=list)
    turn: list[int] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)
    logprob: list[float] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])
    _spoken: list[dict[str, str]] = field(default_factory=list)
    _shown: str = ""
    _turn: int = -1

    def begin(self, system: str, observation: str) -> None:
        """Open with the rules and the first observation.

        Raises:
            ValueError: see `ChatTemplate.places`.
        """
        self._spoken = self.template.messages(system, observation)
        self._show(0)

    def answer(
        self, ids: Sequence[int], logprobs: Sequence[float], owner: Owner
    ) -> tuple[str, int]:
        """Add an answer; returns its text without control tokens, and where it starts."""
        start = len(self.ids)
        closed = bool(ids) and ids[-1] in self.stop_ids
        spoken = ids[:-1] if closed else ids
        content = self.template.decode(spoken)
        self._grow(ids, owner, logprobs)
        self.messages.append(Message(role="assistant", start=start, stop=start + len(spoken)))
        self._spoken.append({"role": "assistant", "content": content})
        self._shown += content + self.template.decode(ids[len(spoken) :])
        return self.template.decode(spoken, skip_special_tokens=True), start

    def observe(self, observation: str) -> None:
        """Add the next user message; a new segment starts where the template rewrites history.

        Raises:
            ValueError: see `ChatTemplate.places`.
        """
        self._spoken.append({"role": "user", "content": observation})
        self._show(len(self._spoken) - 1)

    @property
    def context(self) -> list[int]:
        """The ids the model answers to: those of the current segment."""
        return self.ids[self.starts[-1] :]

    def trajectory(self, turns: Sequence[Turn], end: EndReason, **about: Any) -> Trajectory:
        """The finished, frozen record; `about` holds its remaining fields."""
        owner = np.array(self.owner, dtype=np.uint8)
        return Trajectory(
            ids=np.array(self.ids, dtype=np.int64),
            turn=np.array(self.turn, dtype=np.int32),
            trainable=owner != Owner.TEMPLATE,
            owner=owner,
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

    def _show(self, new: int) -> None:
        """Write the messages from number `new` on, or all of them where history is rewritten."""
        text = self.template.render(self._spoken)
        places = self.template.places(self._spoken, text)
        if text.startswith(self._shown):
            place = len(self._shown)
        else:
            self.starts.append(len(self.ids))
            place = new = 0
            self._turn = -1
        for index, start, stop in places:
            if index < new:
                continue
            assert start >= place, "the template writes messages out of order"
            self._grow(self.template.encode(text[place:start]), Owner.TEMPLATE)
            role = self._spoken[index]["role"]
            if role == "user":
                self._turn = sum(m["role"] == "user" for m in self._spoken[:index])
            begun = len(self.ids)
            self._grow(self.template.encode_content(text[start:stop]), Owner.TEMPLATE)
            self.messages.append(Message(role=role, start=begun, stop=len(self.ids)))
            place = stop
        self._grow(self.template.encode(text[place:]), Owner.TEMPLATE)
        self._shown = text

    def _grow(
        self, ids: Sequence[int], owner: Owner, logprobs: Sequence[float] | None = None
    ) -> None:
        self.ids += ids
        self.turn += [self._turn] * len(ids)
        self.owner += [owner] * len(ids)
        self.logprob += [float("nan")] * len(ids) if logprobs is None else logprobs


def _end(text: str, start: int, contents: Sequence[str], after: str) -> int:
    """Where the first of `contents`, or what the template made of it, ends; then comes `after`.

    The second, if there is one, is the content behind that: where the first was rewritten, an end
    that it spells out itself is told from the true one by what follows.
    """
    is_last = len(contents) == 1
    for whole in _trimmed(contents[0]):
        stop = start + len(whole)
        if text.startswith(whole + after, start) and (
            not is_last or stop + len(after) == len(text)
        ):
            return stop
    if is_last:
        return len(text) - len(after)
    ends = (text.find(after + following, start) for following in _trimmed(contents[1]))
    return next((end for end in ends if end >= 0), max(text.find(after, start), start))


def _trimmed(content: str) -> tuple[str, str, str, str]:
    return content, content.strip(), content.lstrip(), content.rstrip()
