"""What is told of what a model writes: reflections, diagnoses, analyses, hints, skills, lessons."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from scribes import Scribe, attempts, ready, told
from scripted import random_model, toy_tokenizer

from agentopd.base.types import Trajectory
from agentopd.models.model import LanguageModel, ModelSettings, load_model
from agentopd.privilege.base import Source, gather, scalars_of
from agentopd.privilege.controls import Filler, Shuffled
from agentopd.privilege.environment import EnvFeedback
from agentopd.privilege.peers import PeerSuccess
from agentopd.privilege.texts import First
from agentopd.privilege.writing.experience import Experience
from agentopd.privilege.writing.hindsight import Analysis, Diagnosis, Reflection
from agentopd.privilege.writing.hints import HindsightHint, Hint
from agentopd.privilege.writing.model_writer import ModelWriter
from agentopd.privilege.writing.skills import Skill, SkillBank

Says = str | Callable[[str], str]
Ready = Callable[[Source, Says], Scribe]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> LanguageModel:
    return load_model(ModelSettings(path=str(tiny_model)))


@pytest.fixture
def asked(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> Ready:
    """Lets a scripted model write for a source."""
    return lambda source, says: ready(source, model, says, monkeypatch)


def _texts(source: Source, batch: Sequence[Trajectory]) -> list[list[str] | None]:
    return [None if x is None else [text for text, _ in x] for x in told(source, batch)]


def test_a_reflection_is_what_the_model_writes(asked: Ready) -> None:
    source = Reflection(writer=ModelWriter())
    scribe = asked(source, "wait so well")
    (trajectory,) = attempts(["up", "left"])
    assert told(source, [trajectory]) == [[("Reflection: wait so well", None)]]
    (text,) = scribe.asked
    assert "Turn 1, answer:\n> up" in text and "Turn 2, observation:\n> B2" in text
    assert "The task was not solved, in 2 turns." in text


def test_without_a_model_nothing_is_written() -> None:
    batch = attempts(["up"])
    for source in (
        Reflection(writer=ModelWriter()),
        Diagnosis(),
        Hint(),
        SkillBank(),
        Experience(),
    ):
        assert told(source, batch) == [None]


def test_a_level_tells_what_those_below_it_tell_and_one_thing_more(asked: Ready) -> None:
    batch = attempts(["up"], ["down"], solved=[0, 1], reference="right")
    known = {
        0: "", 1: "The task was not solved", 2: "The best action", 3: "A solution:\n> right",
        4: "which solved the task, did:\n> down",
    }  # fmt: skip
    for level in range(5):
        source = Reflection(writer=ModelWriter(), level=level)  # type: ignore[arg-type]
        scribe = asked(source, "so")
        told(source, batch[:1] + batch[1:])
        first = scribe.asked[0]
        assert [said in first for said in known.values()] == [n <= level for n in range(5)]
        assert ("What was said of the turns" in first) == (level >= 1)
    with pytest.raises(ValidationError, match="there is none: add writer"):
        Reflection(level=3)


def test_a_model_reflects_on_the_chosen_episodes_alone(asked: Ready) -> None:
    batch = attempts(["up"], ["left"], solved=[1, 0])
    source = Reflection(writer=ModelWriter(), when="failed")
    scribe = asked(source, "so")
    assert _texts(source, batch) == [None, ["Reflection: so"]]
    assert len(scribe.asked) == 1
    assert _texts(Reflection(when="solved"), batch)[1] is None


def test_what_cannot_be_read_is_no_privilege_and_is_counted(asked: Ready) -> None:
    batch = attempts(["up"], ["left"], ["down"])
    source = Analysis()
    asked(source, lambda text: '{"episode": "so"}' if "> left" in text else "rubbish {")
    assert _texts(source, batch) == [None, ["Skill: so"], None]
    assert not gather([source], batch)[0].available
    assert source.scalars()["asked"] == 3 and source.scalars()["unread"] == 2
    assert scalars_of([source, source])["analysis_2_unread"] == 2


@pytest.mark.parametrize(
    ("said", "shared"), [("up wait so", 0), ("up left down", 3), ("left up left down", 4)]
)
def test_how_much_of_a_text_is_copied_from_the_student_is_measured(
    said: str, shared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Phrases of four tokens, blanks among them: of `: ␣ up ␣ left ␣ down` the last three."""
    tokenizer = toy_tokenizer()
    source = Reflection(writer=ModelWriter())
    ready(source, random_model(tokenizer), said, monkeypatch)
    told(source, attempts(["up ␣ left ␣ down", "left ␣ up ␣ left"]))
    tokens = len(tokenizer.encode(f"Reflection: {said}"))
    assert source.scalars()["copied"] == pytest.approx(shared / (tokens - 3))


def test_a_diagnosis_is_told_before_the_turn_it_is_about(asked: Ready) -> None:
    source = Diagnosis()
    asked(source, "Turn 2: left was well\nTurn 1: none\nTurn 7: so")
    assert told(source, attempts(["up", "left"])) == [[("Diagnosis: left was well", 1)]]
    heard = source.whisper(attempts(["up", "left"])[0], [])
    assert heard is not None and heard[0].quotes


@pytest.mark.parametrize("both", [False, True])
def test_a_turns_own_skill_takes_the_place_of_the_episodes(asked: Ready, both: bool) -> None:
    source = Analysis(both=both)
    asked(source, '{"episode": "wait", "steps": {"2": "left", "9": "so", "x": "so", "3": 4}}')
    own = [("Skill: left", 1), *([("Skill: wait", 1)] if both else [])]
    assert told(source, attempts(["up", "left", "down"])) == [
        [("Skill: wait", 0), *own, ("Skill: wait", 2)]
    ]


def test_only_so_many_turns_have_a_skill_of_their_own(asked: Ready) -> None:
    reply = '{"episode": "", "steps": {"3": "c", "1": "a", "2": "b"}}'
    source, none = Analysis(steps=2), Analysis(steps=0)
    asked(source, reply)
    assert told(source, attempts(["up", "up", "up"])) == [[("Skill: a", 0), ("Skill: b", 1)]]
    asked(none, '{"episode": "wait", "steps": {"1": "a"}}')
    assert told(none, attempts(["up", "up"])) == [[("Skill: wait", None)]]


def test_a_hint_is_written_once_a_task_by_who_knows_the_solution(asked: Ready) -> None:
    batch = attempts(["up"], ["left"], reference="right down")
    source = Hint(level=2)
    scribe = asked(source, "so well")
    assert _texts(source, batch) == [["Hint: so well"]] * 2
    (text,) = scribe.asked
    assert "> right down" in text and "in their order, and no action" in text
    assert "> up" not in text and "> left" not in text, "nothing of an attempt"
    heard = source.whisper(batch[0], batch)
    assert heard is not None and not heard[0].quotes


def test_a_hint_that_gives_the_solution_away_is_none(asked: Ready) -> None:
    source = Hint()
    asked(source, "wait: right\n down")
    assert _texts(source, attempts(["up"], reference="right down")) == [None]
    assert source.scalars()["unread"] == 1
    assert _texts(source, attempts(["up"])) == [None], "no solution, no hint"


def test_of_several_votes_the_longest_hint_of_a_positive_one_is_told(asked: Ready) -> None:
    replies = iter(
        [
            '{"vote": 1, "hint": "wait so"}', '{"vote": -1, "hint": "left left left"}',
            '{"vote": 1, "hint": "wait so well"}',
            '{"vote": -1}', "rubbish", '{"vote": 1, "hint": "so"}',
        ]
    )  # fmt: skip
    source = HindsightHint(votes=3, least=5)
    scribe = asked(source, lambda _: next(replies))
    assert told(source, attempts(["up", "left"])) == [[("Hint: wait so well", 0)]]
    assert "What came of it:\n> B2\n> so" in scribe.asked[0]
    assert len({r.seed for call in scribe.requests for r in call}) == 6


def test_without_a_positive_vote_nothing_is_told(asked: Ready) -> None:
    batch = attempts(["up", "left"])
    source = HindsightHint()
    asked(source, '{"vote": -1, "hint": "left left left left"}')
    assert told(source, batch) == [None]


def test_a_skill_is_chosen_by_its_upper_confidence_bound() -> None:
    """Means .5 and .4, told 10 times and once of 11, c 1: .99 against 1.95."""
    known = Skill("a", told=10, reward=0.5), Skill("b", told=1, reward=0.4)
    assert [round(skill.bound(11, 1.0), 2) for skill in known] == [0.99, 1.95]
    assert Skill("c").bound(11, 1.0) > 1e9, "what was never told comes first"
    skill = Skill("d")
    for reward in (1.0, 0.0, 0.5):
        skill.note(reward)
    assert (skill.told, skill.reward) == (3, 0.5)


def test_a_task_is_told_a_skill_of_earlier_steps_and_the_bank_learns(asked: Ready) -> None:
    first = attempts(["up"], ["left"], skill="push")
    later = attempts(["down"], ["right"], ["down"], solved=[1, 0, 0], skill="push")
    source = SkillBank(exploration=0.0)
    asked(source, lambda text: '{"skill": "%s"}' % ("a" if "> up" in text else "b"))
    assert _texts(source, first) == [None, None], "none of its own"
    assert _texts(source, later) == [["Skill: a"], ["Skill: a"], ["Skill: b"]]
    bank = source.state()["bank"]["push"]
    assert [(s["text"], s["told"], s["reward"]) for s in bank] == [
        ("Skill: a", 1, 0.5), ("Skill: b", 1, 0.0),
    ]  # fmt: skip
    assert _texts(source, later) == [["Skill: a"]] * 3


def test_the_bank_keeps_the_skills_of_the_highest_reward(asked: Ready) -> None:
    source = SkillBank(size=2)
    asked(source, '{"skill": "c"}')
    bank = {"push": [
        {"text": "a", "told": 1, "reward": 0.9}, {"text": "b", "told": 2, "reward": 0.1},
    ]}  # fmt: skip
    source.restore({"writer": {}, "bank": bank})
    told(source, attempts(["up"], skill="push", reference="x")[:1])
    assert {s["text"] for s in source.state()["bank"]["push"]} == {"a", "Skill: c"}


def test_lessons_are_told_from_the_next_step_on_and_the_oldest_leave(asked: Ready) -> None:
    source = Experience(lessons=3)
    replies = iter(["- wait\n- so", "NONE", "1. well\nwait\n2. up", "left"])
    scribe = asked(source, lambda _: next(replies))
    batch = attempts(["up"], ["left"], solved=[1, 0])
    heard = [_texts(source, batch)[0] for _ in range(4)]
    assert heard[:2] == [None, ["Experience:\n- wait\n- so"]]
    assert heard[2:] == [heard[1], ["Experience:\n- so\n- well\n- up"]]
    assert "> left" in scribe.asked[0], "the failed episode is read first"
    assert "Notes so far:\n> wait\n> so" in scribe.asked[1]


def test_experience_is_gathered_so_often_and_of_so_many(asked: Ready) -> None:
    source = Experience(every=2, episodes=2, added=1)
    scribe = asked(source, "so\nwell")
    batch = attempts(["up"], ["left"], ["down"])
    for _ in range(3):
        told(source, batch)
    assert len(scribe.asked) == 4
    assert source.state()["memory"] == {"scripted": ["so"]}


def test_a_source_that_is_not_heard_writes_nothing(asked: Ready) -> None:
    batch = attempts(["up"], ["left"], ["down"], solved=[1, 0, 0])
    source = First(of=[PeerSuccess(), Reflection(writer=ModelWriter()), EnvFeedback()])
    scribe = asked(source, "so")
    assert _texts(source, batch) == [["Reflection: so"], ["Solution: up"], ["Reflection: so"]]
    assert len(scribe.asked) == 2
    assert source.scalars()["reflection_asked"] == 2


@pytest.mark.parametrize("control", [Shuffled, Filler])
def test_controls_stand_in_for_what_is_written(asked: Ready, control: Any) -> None:
    batch = attempts(["up"], ["left"], ["down"], ["right"])
    source = control(of=Reflection(writer=ModelWriter()))
    asked(source, lambda text: "well" if "> up" in text or "> left" in text else "wait")
    heard = _texts(source, batch)
    assert all(heard)
    expected = [["Reflection: wait"]] * 2 + [["Reflection: well"]] * 2
    assert (heard == expected) == (control is Shuffled)
    assert json.dumps(source.state()) and source.scalars()["asked"] == 4


def test_shuffling_texts_that_are_all_the_same_is_no_control(asked: Ready) -> None:
    source = Shuffled(of=Reflection(writer=ModelWriter()))
    asked(source, "so")
    with pytest.raises(ValueError, match="tells every task of this step the same"):
        told(source, attempts(["up"], ["left"], ["down"]))
