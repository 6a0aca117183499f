"""Chat templates and tokenizers as people use them: the ids are those of the template's text."""

from __future__ import annotations

import pytest
from families import CHATML, FAMILIES, Family, tokenizer_of
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
    ids = set(tokenizer.encode("".join(tags), add_special_tokens=False))
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


TAGS = ("<action>", "</action>", "<tool_call>", "</tool_call>", "[TOOL]")


@pytest.mark.parametrize("name", ["chatml", "mistral-1", "zephyr"])
def test_special_tags_that_are_not_the_templates_reach_the_environment(name: str) -> None:
    tokenizer = tokenizer_of(FAMILIES[name], special=TAGS)
    template = ChatTemplate(tokenizer)
    conversation = Conversation(template, frozenset({template.closing}))
    conversation.begin("", "hello")
    tags = tokenizer.encode("".join(TAGS), add_special_tokens=False)
    assert len(tags) == len(TAGS)
    up = template.encode_content("up")
    said = [tags[0], *up, tags[1], tags[4], template.closing]
    action, _ = conversation.answer(said, [0.0] * len(said), Owner.STUDENT)
    assert action.replace(" ", "") == "<action>up</action>[TOOL]"
    said = [*tokenizer.encode("<s>", add_special_tokens=False), *up]
    action, _ = conversation.answer(said, [0.0] * len(said), Owner.STUDENT)
    assert action == "up"


def test_answers_tags_in_contents_are_the_tokens_that_answer() -> None:
    """Rules that show `<action>` show the token that the student is to say; no other special one
    gets in.
    """
    tokenizer = tokenizer_of(FAMILIES["chatml"], special=TAGS)
    template = ChatTemplate(tokenizer)
    ids = template.encode_content("Say <action>up</action>[TOOL]<|im_end|></s>")
    names = tokenizer.convert_ids_to_tokens(ids)
    assert [n for n in names if n in (*TAGS, "<|im_end|>", "</s>")] == ["<action>", "</action>"]
    assert template.decode(ids) == "Say <action>up</action>[TOOL]<|im_end|></s>"


def _rendered(template: ChatTemplate, turns: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many messages the template is given in a conversation of so many turns."""
    given, render = 0, template.tokenizer.apply_chat_template

    def counted(messages: list[dict[str, str]], **settings: object) -> object:
        nonlocal given
        given += len(messages)
        return render(messages, **settings)  # type: ignore[arg-type]

    with monkeypatch.context() as watched:
        watched.setattr(template.tokenizer, "apply_chat_template", counted)
        conversation = Conversation(template, frozenset({template.closing}))
        conversation.begin("rules", "hello")
        said = [*template.encode_content("left"), template.closing]
        for turn in range(turns):
            conversation.answer(said, [0.0] * len(said), Owner.STUDENT)
            conversation.observe(f"turn {turn}")
    assert conversation.starts == [0]
    messages = template.messages("rules", "hello")
    for turn in range(turns):
        messages += [
            {"role": "assistant", "content": "left"},
            {"role": "user", "content": f"turn {turn}"},
        ]
    assert conversation.context == _whole(template.tokenizer, messages)
    return given


def test_a_turn_of_a_long_conversation_costs_what_one_of_a_short_one_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    template = ChatTemplate(TOKENIZERS["chatml"])
    some, more = (_rendered(template, turns, monkeypatch) for turns in (128, 512))
    assert more < 5 * some


FORGETS = CHATML.replace("{% for m in messages %}", "{% for m in messages[-41:] %}")


def test_history_that_is_rewritten_late_starts_a_new_segment_when_it_is_found() -> None:
    """The template shows the last messages alone, which its rendering of the last turns hides."""
    template = ChatTemplate(tokenizer_of(Family(FORGETS, tags=("<|im_start|>", "<|im_end|>"))))
    conversation = Conversation(template, frozenset({template.closing}))
    conversation.begin("", "hello")
    said = [*template.encode_content("left"), template.closing]
    messages = [{"role": "user", "content": "hello"}]
    for turn in range(40):
        conversation.answer(said, [0.0] * len(said), Owner.STUDENT)
        conversation.observe("on")
        messages += [
            {"role": "assistant", "content": "left"},
            {"role": "user", "content": "on"},
        ]
        if turn + 1 >= 32 or turn < 20:
            assert conversation.context == _whole(template.tokenizer, messages)
    assert len(conversation.starts) == 1 + 9


@pytest.mark.parametrize("text", [*ODD, "\n\nA hint.", " up", "up"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_text_behind_other_text_reads_as_it_was_written(name: str, text: str) -> None:
    """No space comes in front of what a teacher is told, or of what a student has said."""
    template = ChatTemplate(TOKENIZERS[name])
    assert template.spoken(template.encode_content(text)) == text


def test_the_encoders_own_mark_is_refused_in_a_content() -> None:
    with pytest.raises(ValueError, match="noncharacters that no text may hold"):
        _conversation("chatml").begin("", "a\ufdd2\ufdd3b")
