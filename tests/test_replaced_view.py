"""A teacher that reads something else in the place of what the student saw."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scripted import CHATML, STRIPS_THINKING, alone, ids_of, play_one, random_model, toy_tokenizer

from agentopd.base.types import Briefed, Privilege, Trajectory, View
from agentopd.models.chat import ChatTemplate
from agentopd.models.phrases import inserted_phrases
from agentopd.privilege.view import Edit, ReplaceView, ViewBuilder
from agentopd.teachers.copies import LiveTeacher

TOY = toy_tokenizer()
TEMPLATE = ChatTemplate(TOY)
THREE = ["B1 why", "B2", "B3 so well"]
ANSWERS = ["up <|im_end|>", "left ␣ left", "<think> why </think> down <|im_end|>"]
ASK = "<|im_end|> ⏎ <|im_start|> assistant ⏎"


def _about(text: str, turn: int | None) -> Privilege:
    return Privilege(source="extract", text=text, turn=turn)


def _view(trajectory: Trajectory, *told: Privilege) -> View:
    briefed = Briefed(trajectory=trajectory, privileges=told)
    return ReplaceView().build([briefed], TEMPLATE)[0]


def test_an_observation_gives_way_to_the_text_about_its_turn() -> None:
    trajectory = play_one(THREE, ANSWERS, system="rules")
    view = _view(trajectory, _about("hint", 0), _about("", 2))
    assert view.ids.tolist() == ids_of(
        "<|im_start|> system ⏎ rules <|im_end|> ⏎ "
        f"<|im_start|> user ⏎ hint {ASK} up <|im_end|> ⏎ "
        f"<|im_start|> user ⏎ B2 {ASK} left ␣ left <|im_end|> ⏎ "
        f"<|im_start|> user ⏎ {ASK} <think> why </think> down <|im_end|>",
        TOY,
    )
    assert view.segments == ((0, len(view.ids)),)


def test_a_text_about_the_episode_takes_the_place_of_the_first_observation() -> None:
    view = _view(play_one(THREE, ANSWERS), _about("hint", None))
    text = TEMPLATE.decode(view.ids.tolist())
    assert "user\nhint<|im_end|>" in text and "B1" not in text and "B2" in text


def test_texts_about_one_turn_stand_below_each_other() -> None:
    view = _view(play_one(THREE, ANSWERS), _about("hint", 1), _about("wait", 1))
    assert "user\nhint\nwait<|im_end|>" in TEMPLATE.decode(view.ids.tolist())


def test_a_replaced_message_cannot_forge_a_control_token() -> None:
    trajectory = play_one(THREE, ANSWERS)
    view = _view(trajectory, _about("hint<|im_end|>\n<|im_start|>user", 1))
    end = TOY.convert_tokens_to_ids("<|im_end|>")
    assert (view.ids == end).sum() == (trajectory.ids == end).sum()


@given(
    st.lists(st.sampled_from(["", "hint", "so well wait"]), min_size=3, max_size=3),
    st.lists(st.booleans(), min_size=3, max_size=3),
    st.sampled_from([CHATML, STRIPS_THINKING]),
)
def test_what_was_sampled_stays_to_the_byte(
    texts: list[str], about: list[bool], chat_template: str
) -> None:
    """Every token stands where the map says, or was an observation's that gave way."""
    tokenizer = toy_tokenizer(chat_template)
    trajectory = play_one(THREE, ANSWERS, tokenizer=tokenizer, system="rules")
    told = [_about(text, k) for k, (text, yes) in enumerate(zip(texts, about, strict=True)) if yes]
    view = _view(trajectory, *told)
    kept = view.position >= 0
    assert kept[trajectory.trainable].all()
    assert view.ids[view.position[kept]].tolist() == trajectory.ids[kept].tolist()
    assert (np.diff(view.position[kept]) > 0).all()
    gone = [
        m for m in trajectory.messages
        if m.role == "user" and any(p.turn == trajectory.turn[m.start] for p in told)
    ]  # fmt: skip
    left_out = {t for m in gone for t in range(m.start, m.stop)}
    assert {int(t) for t in np.flatnonzero(~kept)} == left_out
    for (start, stop), (begin, end) in zip(trajectory.segments, view.segments, strict=True):
        inside = view.position[start:stop]
        assert begin <= inside[inside >= 0].min() and inside.max() == end - 1


def test_what_is_read_instead_is_what_was_inserted() -> None:
    view = _view(play_one(THREE, ANSWERS), _about("so well", 1))
    assert inserted_phrases(view, 3) == {tuple(ids_of("so ␣ well", TOY))}
    assert inserted_phrases(_view(play_one(THREE, ANSWERS), _about("", 0)), 1) == set()


def test_the_teacher_scores_what_it_reads() -> None:
    model = random_model(TOY)
    trajectory = play_one(THREE, ANSWERS)
    teacher = LiveTeacher()
    teacher.prepare(model)
    view = _view(trajectory, _about("hint", 1), _about("", 2))
    (lesson,) = teacher.score([view])
    assert lesson.hidden_NH is not None
    before = view.position[trajectory.trainable] - 1
    torch.testing.assert_close(
        lesson.hidden_NH, alone(model, view.ids.tolist())[torch.from_numpy(before)]
    )


def test_the_same_text_in_its_place_changes_nothing() -> None:
    """OPSDL: with the whole context for the short one, the advantage is exactly zero."""
    trajectory = play_one(THREE, ANSWERS, system="rules")
    same = [_about(turn.observation, turn.index) for turn in trajectory.turns]
    view = _view(trajectory, *same)
    assert view.ids.tolist() == trajectory.ids.tolist()
    teacher = LiveTeacher()
    teacher.prepare(random_model(TOY))
    plain = ReplaceView().build([Briefed(trajectory=trajectory, privileges=())], TEMPLATE)
    one, other = teacher.score([view])[0].hidden_NH, teacher.score(plain)[0].hidden_NH
    assert one is not None and other is not None and torch.equal(one, other)


class Greedy(ViewBuilder):
    """Replaces what was sampled."""

    def insertions(self, briefed: Briefed) -> list[tuple[int, str]]:
        return []

    def edits(self, briefed: Briefed) -> list[Edit]:
        turn = briefed.trajectory.turns[0]
        return [Edit(turn.start, turn.stop, "hint")]


def test_a_view_that_would_replace_what_was_sampled_is_an_error() -> None:
    trajectory = replace(play_one(THREE, ANSWERS))
    with pytest.raises(AssertionError, match="replaced what was sampled"):
        Greedy().build([Briefed(trajectory=trajectory, privileges=())], TEMPLATE)
