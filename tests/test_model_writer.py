"""The model that writes: templates, budgets, batches, what is kept, what can be read of a reply."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scribes import Scribe
from scripted import random_model, toy_tokenizer

from agentopd.models.model import LanguageModel
from agentopd.privilege.writing import model_writer
from agentopd.privilege.writing.model_writer import Ask, ModelWriter
from agentopd.privilege.writing.replies import as_object, as_text, by_turn, line_of
from agentopd.privilege.writing.templates import SLOTS, Template
from agentopd.running.config import ConfigError
from agentopd.running.reading import parse_config
from agentopd.teachers.copies import FrozenTeacher, LiveTeacher

TOY = toy_tokenizer()
ENV: dict[str, Any] = {"env": {"id": "agentopd/Sokoban-v0"}}
ALL = sorted(path.stem for path in Path(model_writer.__file__).parent.glob("templates/*.yaml"))
PLAIN = Template("rules", "so {task}\n\nwhy {episode}\n\nup", frozenset())


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return random_model(TOY)


def _ready(
    author: LanguageModel, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> tuple[ModelWriter, Scribe]:
    """A writer whose model numbers what it writes."""
    count = iter(range(10**6))
    scribe = Scribe(author, lambda _: f"hint {next(count)}")
    monkeypatch.setattr(model_writer, "TransformersSampler", lambda _: scribe)
    writer = ModelWriter.model_validate(settings)
    frozen = FrozenTeacher()
    frozen.prepare(author)
    writer.meet(author, frozen)
    writer.begin()
    return writer, scribe


def _write(writer: ModelWriter, *tasks: str, **more: Any) -> list[str]:
    asks = [Ask({"task": task, "episode": "well"}, **more) for task in tasks]
    return [reply.text for reply in writer.write(PLAIN, asks)]


@pytest.mark.parametrize("name", ALL)
def test_every_template_that_comes_along_can_be_filled_in(name: str, model: LanguageModel) -> None:
    template = Template.load(name)
    slots = {slot: f"<{slot}>" for slot in SLOTS}
    filled = template.filled(slots, 10_000, model.template)
    assert template.needs and template.can_ask(slots)
    for slot in template.needs:
        assert slots[slot] in filled
        assert not template.can_ask({**slots, slot: ""})


def test_a_paragraph_of_which_nothing_is_known_is_left_out(model: LanguageModel) -> None:
    def filled(**slots: str) -> str:
        return PLAIN.filled(slots, 100, model.template)

    assert filled(task="B1", episode="B2") == "so B1\n\nwhy B2\n\nup"
    assert filled(task="B1") == filled(task="B1", episode="") == "so B1\n\nup"
    assert filled(task="{episode}", episode="left") == "so {episode}\n\nwhy left\n\nup"


def test_long_slots_share_the_budget(model: LanguageModel) -> None:
    slots = {"task": "> B1", "episode": "> " + " ".join(["left"] * 50)}
    filled = PLAIN.filled(slots, 40, model.template)
    assert "so > B1" in filled and "[...]" in filled
    assert len(model.template.encode_content(filled)) < 40 + 20
    assert "[...]" not in PLAIN.filled(slots, 200, model.template)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("system: a\n", "both must be there"),
        ("system: a\nrequest: '{tusk}'\n", "unknown slot {tusk}; did you mean 'task'"),
        ("system: a\nrequest: b\nneeds: [tusk]\n", "unknown slot {tusk}"),
        ("system: a\nrequest: b\nneeds: task\n", "a list of slots"),
        ("system: a\nrequst: b\n", "unknown key 'requst'; did you mean 'request'"),
    ],
)
def test_a_template_of_ones_own_is_checked(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValidationError) as raised:
        ModelWriter(template=str(path))
    assert why in str(raised.value) and str(path) in str(raised.value)
    with pytest.raises(ValidationError, match="did you mean 'reflection'"):
        ModelWriter(template="reflexion")


def test_what_is_asked_the_same_is_written_once(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, scribe = _ready(model, monkeypatch)
    assert _write(writer, "B1", "B2", "B1") == ["hint 0", "hint 1", "hint 0"]
    assert _write(writer, "B1", vote=1) == ["hint 2"], "another vote is another question"
    assert len(scribe.asked) == 3
    assert writer.scalars()["written_tokens"] == 3 * 4


def test_requests_are_answered_in_batches(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, scribe = _ready(model, monkeypatch, batch=2)
    tasks = [f"B{n}" for n in range(1, 5)] + ["up"]
    assert _write(writer, *tasks) == [f"hint {n}" for n in range(5)]
    assert [len(call) for call in scribe.requests] == [2, 2, 1]


def test_a_seed_hangs_on_what_is_asked_alone(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = []
    for order in (["B1", "B2"], ["B2", "B3", "B1"]):
        writer, scribe = _ready(model, monkeypatch)
        _write(writer, *order)
        found = {text: r.seed for text, r in zip(scribe.asked, scribe.requests[0], strict=True)}
        seeds.append([found[text] for text in sorted(found) if "B3" not in text])
    assert seeds[0] == seeds[1] and len(set(seeds[0])) == 2


def test_a_model_that_learns_writes_anew_each_step(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, _ = _ready(model, monkeypatch, model="student")
    first = _write(writer, "B1")
    writer.begin()
    assert _write(writer, "B1") != first
    assert writer.state() == {}


def test_what_a_model_that_stays_has_written_is_kept(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    for teacher in (FrozenTeacher(), LiveTeacher()):
        teacher.prepare(model)
        writer, _ = _ready(model, monkeypatch, model="teacher")
        writer.meet(model, teacher)
        first = _write(writer, "B1", "B2")
        other = ModelWriter(model="teacher")  # type: ignore[arg-type]
        other.meet(model, teacher)
        other.restore(json.loads(json.dumps(writer.state())))
        for one in (writer, other):
            one.begin()
            kept.append(_write(one, "B2", "B1") == first[::-1])
    assert kept == [True, True, False, False], "the live teacher learns"


def test_only_so_much_is_kept(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, _ = _ready(model, monkeypatch, remember=1)
    assert _write(writer, "B1", "B2", "B1") == ["hint 0", "hint 1", "hint 0"]
    assert _write(writer, "B2", "B1") == ["hint 1", "hint 2"]


def test_a_request_is_cut_to_what_the_model_can_read(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(TOY, max_position_embeddings=90)
    writer, scribe = _ready(model, monkeypatch, reply_tokens=20)
    long = "> " + " ".join(["left"] * 200)
    assert _write(writer, long) == ["hint 0"]
    (asked,) = scribe.requests[0]
    assert 40 < len(asked.ids) <= 70 and "[...]" in scribe.asked[0]
    tight, scribe = _ready(model, monkeypatch, reply_tokens=80)
    assert _write(tight, long) == [""] and not scribe.asked, "not even the request fits"


def test_thoughts_and_what_no_text_may_hold_are_left_out(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, scribe = _ready(model, monkeypatch)
    scribe.says = lambda _: "<think> why </think>\nhint"
    assert _write(writer, "B1\ufdd2\ufdd3\x00") == ["hint"]


def test_who_asks_no_teacher_asks_no_writer() -> None:
    """An arm of rewards alone leaves the privilege of its study as it is."""
    asked = "privilege=[{kind: reflection, writer: {model: teacher}}, peer_success]"
    parse_config(ENV, [asked, "mix={kind: rl, rl: {kind: reinforce}}"])
    with pytest.raises(ConfigError, match="plays each task once"):
        parse_config(ENV, [asked])


@pytest.mark.parametrize(
    ("reply", "text"), [(" well \n", "well"), ("NONE", ""), ("**None.**", ""), ("", "")]
)
def test_a_reply_that_says_nothing_is_none(reply: str, text: str) -> None:
    assert as_text(reply) == text


def test_lines_of_turns_are_read() -> None:
    reply = (
        "Here:\n**Turn 1**: none\n- Turn 2: too far\n3) a wall\nturn 2: again\nTurn 9: no\n4 more"
    )
    assert by_turn(reply, 4) == {1: "too far", 2: "a wall"}
    assert by_turn(reply, 0) == {}


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ('```json\n{"a": "b"}\n```', {"a": "b"}),
        ('{not it} {"a": {"b": 1}} {"c": 2}', {"a": {"b": 1}}),
        ("no object", None),
        ('{"a": "b"', None),
        ("[1, 2]", None),
        ("{" * 5_000, None),
    ],
)
def test_the_first_object_of_a_reply_is_read(reply: str, found: dict[str, Any] | None) -> None:
    assert as_object(reply) == found


def test_a_line_of_an_object_is_a_text() -> None:
    found = {"a": " one\n two ", "b": 3, "c": "None"}
    assert [line_of(found, key) for key in "abcd"] == ["one two", "", "", ""]


@given(st.text(max_size=200))
def test_no_reply_is_too_strange_to_be_read(reply: str) -> None:
    as_object(reply)
    assert all(0 <= turn < 3 and text for turn, text in by_turn(reply, 3).items())
    assert Counter(as_text(reply).split()) <= Counter(reply.split())
