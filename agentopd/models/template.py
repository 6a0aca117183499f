"""What a tokenizer's chat template writes, and how it is encoded and read back."""

from __future__ import annotations

import inspect
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import cycle
from typing import Any

from transformers import PreTrainedTokenizerFast

from agentopd.models.encoding import Before, Encoded, Encoder, Piece

Spoken = Mapping[str, str]
"""A message with its `role` and `content`, as templates take it."""

# Noncharacters, which Unicode keeps out of every text that is exchanged.
_MARK = re.compile("\ufdd0([0-9]+)\ufdd1")
_BLANK = "\ufdd0blank\ufdd1"
_THINK = ("<think>", "</think>")
_DECLARED = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
RESERVED = frozenset(inspect.signature(PreTrainedTokenizerFast.apply_chat_template).parameters) | {
    "messages"
}
"""What a template is given by the conversation, and no option may say otherwise."""
_OTHERS = (True, False, None, "\ufdd0other\ufdd1", 7)
"""Values that tell whether a template reads an option: one of them shows in what it writes."""
_UNSET: Any = object()


class ChatTemplate:
    """The text a tokenizer's chat template writes, and its encoding.

    A template without a system role gets the system prompt in front of the first user message.

    Args:
        options: keyword arguments that every rendering is given, such as `enable_thinking: false`.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, options: Mapping[str, Any] | None = None
    ) -> None:
        self.tokenizer, self.options = tokenizer, dict(options or {})
        self.has_system = self._takes_system()

    def messages(
        self, system: str, observation: str, examples: Sequence[tuple[str, str]] = ()
    ) -> list[dict[str, str]]:
        """The opening messages of a conversation: rules, worked examples, the first observation.

        Rules stand in front of the first user's message where the template has no system message.
        """
        first, *others = [*(text for pair in examples for text in pair), observation]
        apart = bool(system) and self.has_system
        if system and not apart:
            first = f"{system}\n\n{first}"
        roles = cycle(("user", "assistant"))
        spoken = [{"role": r, "content": c} for r, c in zip(roles, (first, *others), strict=False)]
        return [{"role": "system", "content": system}, *spoken] if apart else spoken

    def render(self, messages: Sequence[Spoken]) -> str:
        """The conversation's text, up to where the model is to answer.

        Where the template refuses empty answers, as some do, they are rendered as another text that
        is then taken out.

        Raises:
            ValueError: the template refuses the conversation; the message holds its reason.
        """
        try:
            return self._rendered(messages)
        except Exception as error:  # a template is foreign code, and may fail in any way
            refusal = ValueError(
                f"the chat template refuses the conversation: {type(error).__name__}: {error}"
            )
            refusal.__cause__ = error
        blank = [m["role"] == "assistant" and not m["content"].strip() for m in messages]
        if not any(blank):
            raise refusal
        stood = [{**m, "content": _BLANK} if b else m for m, b in zip(messages, blank, strict=True)]
        try:
            return self._rendered(stood).replace(_BLANK, "")
        except Exception as error:  # as above
            raise refusal from error

    def pieces(self, messages: Sequence[Spoken]) -> list[Piece]:
        """The conversation's text in its order: the template's own, and the contents.

        The conversation is rendered again with marks for contents, which tells the template's own
        text from the contents': a message that says "user" or "<|end|>" is not taken for a tag.
        Of a content that the template shortened, the piece is what it wrote.

        Raises:
            ValueError: the template's own text depends on what the messages say, or it refuses
                them.
        """
        text = self.render(messages)
        first, *rest = _MARK.split(self._marked(messages))
        order = [int(number) for number in rest[::2]]
        contents = [messages[i]["content"] for i in order]
        exact = text.startswith(first)
        found, place = [Piece(first)], len(first)
        for i, (index, after) in enumerate(zip(order, rest[1::2], strict=True)):
            stop = _end(text, place, contents[i : i + 2], after)
            exact = exact and text.startswith(after, stop)
            found += [Piece(text[place:stop], index), Piece(after)]
            place = stop + len(after)
        if not exact or place != len(text):
            raise ValueError(
                "where a message begins and ends in the chat template's text cannot be told, "
                "because the template's tags depend on what the messages say or an answer spells "
                "them out; use a template whose tags stay the same"
            )
        return found

    def encoded(self, pieces: Sequence[Piece], before: Before = "nothing") -> Encoded:
        """The tokens of a conversation's text.

        Raises:
            ValueError: see `Encoder.encode`.
        """
        return self._encoder.encode(pieces, before)

    def encode(self, text: str) -> list[int]:
        """Ids of template text, in which tags are control tokens."""
        return self.encoded([Piece(text)]).ids

    def encode_content(self, text: str) -> list[int]:
        """Ids of a message's text, in which nothing is a control token: it cannot forge its end.

        They are those of text behind other text: without the space that some tokenizers put at a
        text's start.
        """
        return self.encoded([Piece(text, 0)], "text").ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of `ids`, byte for byte."""
        text = self.tokenizer.decode(
            list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text

    def spoken(self, ids: Sequence[int]) -> str:
        """What an answer reads like where it stands: behind something, so that a first space is its
        own.
        """
        anchor = [min(self._control, default=0)]
        front = self.decode(anchor)
        text = self.decode([*anchor, *ids])
        return text.removeprefix(front) if text.startswith(front) else self.decode(ids)

    def action(self, ids: Sequence[int]) -> str:
        """What an environment is handed of an answer: its text without the template's own tags,
        behind the tag of the thought that the generation prompt has opened, if it has.

        Tags that are special tokens but not the template's own, as `<action>` may be, stay.
        """
        return self.opening + self.decode([i for i in ids if i not in self._silent])

    def reasoning_length(self, ids: Sequence[int], tag: str = _THINK[1]) -> int:
        """How many of an answer's tokens are its reasoning, closing tag included; 0 without one.

        A thought that was opened and never closed reaches to the end, the token that closes the
        answer left out.
        """
        text = self.decode(ids)
        if (end := text.rfind(tag)) >= 0:
            goal = end + len(tag)
            return bisect_left(range(len(ids)), goal, key=lambda n: len(self.decode(ids[:n])))
        if tag.replace("/", "") not in self.opening + text:
            return 0
        return len(ids) - bool(ids and ids[-1] in self._silent)

    @cached_property
    def opening(self) -> str:
        """The thought that the generation prompt opens for every answer, "<think>\\n" say; empty
        where it opens none.
        """
        prompt = self._own_text[-1]
        start = prompt.rfind(_THINK[0])
        return "" if start < 0 or _THINK[1] in prompt[start:] else prompt[start:]

    @cached_property
    def closing(self) -> int:
        """The token that the template writes behind an assistant's content.

        Raises:
            ValueError: it is none: then answers could end with nothing that the template knows.
        """
        behind = self._own_text[-2]
        added = self.tokenizer.added_tokens_decoder
        for token in self.encoded([Piece(behind)], "text").ids:
            if token in added:
                return token
            if self.decode([token]).strip():
                break
        raise ValueError(
            f"the chat template writes {behind!r} behind an answer, which begins with no token of "
            "its own that could end an answer: the student would write on in the user's name; use "
            "a template that closes an assistant's message with a control token"
        )

    def check(self) -> None:
        """Compare with the tokenizer's own encoding of a conversation.

        Raises:
            ValueError: they differ; the message says where.
        """
        messages = [
            *self.messages("Rules:\n\n  1. One  word. ", " \tBoard 1024:\n\n#.é 日本 🙂  "),
            {"role": "assistant", "content": "up 12"},
            {"role": "user", "content": "\n2.50 €, it's  done\n"},
        ]
        for shown in (messages[:-2], messages):
            text = self.render(shown)
            theirs = self.tokenizer.encode(text, add_special_tokens=False)
            if (ours := self.encoded(self.pieces(shown)).ids) != theirs:
                raise ValueError(self._difference(ours, theirs))

    def check_options(self) -> None:
        """Refuse options that change nothing, whatever their value.

        Raises:
            ValueError: the template writes the same with and without one of them.
        """
        for name in self.options:
            written = {self._written_with(name, value) for value in (_UNSET, *_OTHERS)}
            if len(written) == 1 and self._written_with(name, self.options[name]) in written:
                raise ValueError(
                    f"template_options: the chat template never reads {name!r}: conversations "
                    "without tools are written the same whatever its value; look for its name in "
                    "the model's chat_template.jinja, or leave it out"
                )

    def _written_with(self, name: str, value: Any) -> str:
        """What the template writes of some conversations, if an option has another value.

        Where it fails, that is what it wrote.
        """
        rest = {key: own for key, own in self.options.items() if key != name}
        other = ChatTemplate(self.tokenizer, rest if value is _UNSET else {**rest, name: value})
        opening = other.messages("rules", "hello")
        thought = {"role": "assistant", "content": "<think>\nwhy\n</think>\n\nup"}
        found = []
        for messages in (opening, [*opening, thought, {"role": "user", "content": "on"}]):
            try:
                found.append(other.render(messages))
            except ValueError as error:
                found.append(str(error))
        return "\ufdd0".join(found)

    def _difference(self, ours: Sequence[int], theirs: Sequence[int]) -> str:
        pairs = enumerate(zip(ours, theirs, strict=False))
        first = next((n for n, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
        names = [
            self.tokenizer.convert_ids_to_tokens(list(ids[max(first - 3, 0) : first + 4]))
            for ids in (ours, theirs)
        ]
        return (
            "conversations cannot be encoded as this tokenizer encodes its chat template's text: "
            f"from token {first} on a probe gives {names[0]} and the tokenizer {names[1]}; use a "
            "tokenizer that encodes the text between two control tokens by itself"
        )

    @cached_property
    def _own_text(self) -> list[str]:
        """The template's own text around the contents of a probe: in front of them, between them,
        and last what comes behind the second user message, the generation prompt included.
        """
        probe = [
            *self.messages("rules", "hello"),
            {"role": "assistant", "content": "up"},
            {"role": "user", "content": "on"},
        ]
        return _MARK.split(self._marked(probe))[::2]

    @cached_property
    def _tags(self) -> frozenset[int]:
        """Added tokens that the template writes itself; words and spaces among them are text."""
        own = "\n".join(self._own_text)
        return frozenset(
            number
            for number, token in self.tokenizer.added_tokens_decoder.items()
            if token.content in own and re.search(r"[^\w\s]", token.content)
        )

    @cached_property
    def _declared(self) -> frozenset[int]:
        ids = (getattr(self.tokenizer, f"{name}_token_id") for name in _DECLARED)
        return frozenset(i for i in ids if i is not None)

    @cached_property
    def _control(self) -> frozenset[int]:
        """Tokens that no content may hold: the template's tags and what is marked special.

        Tags of answers, in pairs as `<action>` and `</action>`, may stand in contents though they
        are special: rules show them, and they bound nothing but parts of a message.
        """
        added = self.tokenizer.added_tokens_decoder
        names = {token.content: i for i, token in added.items() if i not in self._declared}
        pairs = {name: f"</{name[1:]}" for name in names if re.match(r"<\w\w+>$", name)}
        paired = {names[n] for one, end in pairs.items() if end in names for n in (one, end)}
        special = {i for i, token in added.items() if token.special}
        thought = {names[tag] for tag in _THINK if tag in names}
        return (self._tags | self._declared | (special - paired)) - thought

    @cached_property
    def _silent(self) -> frozenset[int]:
        """Tokens that are no part of an action: the template's tags and the tokenizer's own."""
        return (self._tags | self._declared) & self._control

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self.tokenizer.backend_tokenizer, self._control)

    def _rendered(self, messages: Sequence[Spoken]) -> str:
        text = self.tokenizer.apply_chat_template(
            [dict(m) for m in messages], tokenize=False, add_generation_prompt=True, **self.options
        )
        assert isinstance(text, str)
        return text

    def _marked(self, messages: Sequence[Spoken]) -> str:
        return self.render([{**m, "content": f"\ufdd0{i}\ufdd1"} for i, m in enumerate(messages)])

    def _takes_system(self) -> bool:
        rules = "\ufdd0rules\ufdd1"
        probe = [{"role": "system", "content": rules}, {"role": "user", "content": "hello"}]
        try:
            return rules in self.render(probe)
        except ValueError:
            return False


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
