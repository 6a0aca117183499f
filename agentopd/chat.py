"""Conversations as token ids that only ever grow.

What the model sampled is kept as the ids it sampled. Around it, the chat template's own text is encoded and appended:
after an answer, the template is asked for the whole conversation with the next message, and only what it adds is
encoded. If the template's text no longer begins with what the model has seen (it strips earlier reasoning, say, or
trims an answer), appending would show the model a history the template never writes: then a new segment starts with
the rewritten conversation, and the trajectory records it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerFast

from agentopd.types import EndReason, Message, Owner, Trajectory, Turn


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
        text = self.tokenizer.apply_chat_template([dict(m) for m in messages], tokenize=False, add_generation_prompt=True)
        assert isinstance(text, str)
        return text

    def encode(self, text: str) -> list[int]:
        """Ids of template text, in which tags are control tokens."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def encode_content(self, text: str) -> list[int]:
        """Ids of a message's text, in which nothing is: an observation cannot forge the end of its message."""
        return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of `ids`, byte for byte."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False)
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
        probe = [{"role": "system", "content": "rules"}, {"role": "user", "content": "hello"}]
        try:
            return "rules" in self.render(probe)
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
        """Open with the rules and the first observation."""
        self._spoken = self.template.messages(system, observation)
        self._append(self.template.render(self._spoken), self._spoken)

    def answer(self, ids: Sequence[int], logprobs: Sequence[float], owner: Owner) -> tuple[str, int]:
        """Add an answer; returns its text without control tokens, and where it starts."""
        start = len(self.ids)
        closed = bool(ids) and ids[-1] in self.stop_ids
        spoken = ids[:-1] if closed else ids
        self._grow(ids, owner, logprobs)
        self.messages.append(Message(role="assistant", start=start, stop=start + len(spoken)))
        self._spoken.append({"role": "assistant", "content": self.template.decode(spoken)})
        self._shown += self.template.decode(ids)
        return self.template.decode(spoken, skip_special_tokens=True), start

    def observe(self, observation: str) -> None:
        """Add the next user message; starts a new segment where the template rewrites what was shown."""
        message = {"role": "user", "content": observation}
        self._spoken.append(message)
        text = self.template.render(self._spoken)
        if text.startswith(self._shown):
            self._append(text[len(self._shown) :], [message])
        else:
            self.starts.append(len(self.ids))
            self._append(text, self._spoken)
        self._shown = text

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
            segments=tuple(zip(self.starts, [*self.starts[1:], len(self.ids)], strict=True)),
            end=end,
            **about,
        )

    def _append(self, text: str, messages: Sequence[Mapping[str, str]]) -> None:
        """Encode template text piece by piece, so that each message's content has exact bounds."""
        self._shown = text
        place = 0
        for message in messages:
            content = message["content"]
            at = text.find(content, place)
            if at < 0:
                content = content.strip()
                at = text.find(content, place)
            if at < 0:
                continue
            self._grow(self.template.encode(text[place:at]), Owner.TEMPLATE)
            if message["role"] == "user":
                self._turn = self._turn + 1 if message is self._spoken[-1] else self._turn
            start = len(self.ids)
            self._grow(self.template.encode_content(content), Owner.TEMPLATE)
            self.messages.append(Message(role=message["role"], start=start, stop=len(self.ids)))
            place = at + len(content)
        self._grow(self.template.encode(text[place:]), Owner.TEMPLATE)

    def _grow(self, ids: Sequence[int], owner: Owner, logprobs: Sequence[float] | None = None) -> None:
        self.ids += ids
        self.turn += [self._turn] * len(ids)
        self.owner += [owner] * len(ids)
        self.logprob += [float("nan")] * len(ids) if logprobs is None else logprobs
