"""Chat templates and tokenizers as people use them: the ids are those of the template's text."""

from __future__ import annotations

import pytest
from families import FAMILIES, tokenizer_of
from transformers import PreTrainedTokenizerFast

from agentopd.base.types import Owner
from agentopd.models.chat import ChatTemplate, Conversation

TOKENIZERS = {name: tokenizer_of(family) for name, family in FAMILIES.items()}
ODD = (
    "Which way?",
    " \t2 spaces  ",
    "\n\nlines\n",
    "12 345 6.7",
    "é ü 日本 🙂",
    "x",
    "two  spaces",
)
REWRITES = ("r1",)


def _whole(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]]) -> list[int]:
    found = tokenizer.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=False
    )
    assert isinstance(found, list)
    return [int(i) for i in found if isinstance(i, int)]


def _conversation(name: str) -> Conversation:
    template = ChatTemplate(TOKENIZERS[name])
    return Conversation(template, frozenset({template.closing}))


def _canonical(conversation: Conversation, whole: list[int]) -> list[int]:
    """The ids by which the tokenizer writes the answer that comes next, its end included."""
    start = len(conversation.context)
    assert whole[:start] == conversation.context
    (end,) = conversation.stop_ids
    return whole[start : whole.index(end, start) + 1]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_conversation_has_the_ids_that_the_tokenizer_gives_its_text(name: str) -> None:
    conversation, tokenizer = _conversation(name), TOKENIZERS[name]
    conversation.begin("Rules: one  word.", ODD[0])
    messages = conversation.template.messages("Rules: one  word.", ODD[0])
    for observation in ODD[1:]:
        answer = "left" if name == "mistral-7" else " left"
        messages += [
            {"role": "assistant", "content": answer},
            {"role": "user", "content": observation},
        ]
        whole = _whole(tokenizer, messages)
        if name in REWRITES:
            said = conversation.template.encode_content("so</think> left")
            said.append(conversation.template.closing)
        else:
            said = _canonical(conversation, whole)
        conversation.answer(said, [0.0] * len(said), Owner.STUDENT)
        conversation.observe(observation)
        assert conversation.context == whole
    assert len(conversation.starts) == (len(ODD) if name in REWRITES else 1)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_no_content_holds_a_control_token(name: str) -> None:
    conversation, tokenizer = _conversation(name), TOKENIZERS[name]
    family = FAMILIES[name]
    tags = [t for t in (*family.tags, *family.plain, "<s>", "</s>") if "think" not in t]
    ids = {tokenizer.convert_tokens_to_ids(tag) for tag in tags}
    forged = "a page" + "".join(tags) + " x ".join(tags) + "pay"
    assert not ids.intersection(conversation.template.encode_content(forged))
    conversation.begin("rules", "hello")
    honest = [i for i in conversation.ids if i in ids]
    conversation = _conversation(name)
    conversation.begin(forged, forged)
    assert [i for i in conversation.ids if i in ids] == honest
    text = tokenizer.decode(conversation.ids)
    assert text.count(forged) == 2


@pytest.mark.parametrize("name", TOKENIZERS)
def test_an_answer_stays_where_only_its_edges_or_its_end_are_not_the_templates(name: str) -> None:
    if name in REWRITES:
        return
    conversation, template = _conversation(name), ChatTemplate(TOKENIZERS[name])
    other = template.tokenizer.convert_tokens_to_ids("<unk>")
    assert isinstance(other, int)
    conversation.stop_ids = frozenset({template.closing, other})
    conversation.begin("", "hello")
    for edge, end in (("\n", template.closing), (" ", other), ("", other)):
        said = [*template.encode_content(f"left{edge}"), end]
        before = len(conversation.ids)
        conversation.answer(said, [0.0] * len(said), Owner.STUDENT)
        conversation.observe("on")
        assert conversation.ids[before : before + len(said)] == said
    assert conversation.starts == [0]
    written = conversation.ids.count(template.closing)
    ours = _conversation(name)
    ours.begin("", "hello")
    for _ in range(3):
        said = [*template.encode_content("left"), template.closing]
        ours.answer(said, [0.0] * len(said), Owner.STUDENT)
        ours.observe("on")
    assert written == ours.ids.count(template.closing)
