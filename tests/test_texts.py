"""Texts of one's own by tag, the first source that speaks, and extracts of what was seen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from scribes import attempts, told

from agentopd.base.types import Trajectory
from agentopd.privilege.base import NoPrivilege, gather, scalars_of
from agentopd.privilege.environment import EnvFeedback, GroundTruth
from agentopd.privilege.extracted import ExtractedContext, OtherModality
from agentopd.privilege.peers import PeerSuccess
from agentopd.privilege.texts import First, Text
from agentopd.privilege.writing.skills import SkillSummary
from agentopd.running.config import ConfigError
from agentopd.running.reading import parse_config
from agentopd.teachers.copies import FrozenTeacher

ENV: dict[str, Any] = {"env": {"id": "agentopd/Sokoban-v0"}}


def _one(**prompt: Any) -> Trajectory:
    return attempts(["up", "left"], **prompt)[0]


def _said(source: Text, trajectory: Trajectory) -> str | None:
    (heard,) = told(source, [trajectory])
    return heard[0][0] if heard else None


def test_a_text_is_told_of_every_task() -> None:
    assert (
        told(Text(text="Be concise."), attempts(["up"], ["up"], ["up"]))
        == [[("Be concise.", None)]] * 3
    )


def test_a_text_is_found_by_the_tag_of_the_task() -> None:
    by_tag = Text(text={"push": "Push.", "default": "Go."})
    assert _said(by_tag, _one(skill="push")) == "Push."
    assert _said(by_tag, _one(skill="pull")) == _said(by_tag, _one()) == "Go."
    assert _said(Text(text={"push": "Push."}), _one(skill="pull")) is None


def test_a_text_says_what_the_environment_says() -> None:
    skill = Text(text='Skill: {guide} {"not": a slot} {task_id}')
    assert _said(skill, _one(guide="Go {up}.")) == 'Skill: Go {up}. {"not": a slot} {task_id}'
    assert _said(skill, _one()) is None, "an environment without advice"


def test_texts_are_read_from_files(tmp_path: Path) -> None:
    (tmp_path / "rules.md").write_text("Two\nlines.\n")
    (tmp_path / "skills.yaml").write_text("push: Push.\ndefault: |\n  Go.\n")
    assert _said(Text(path=str(tmp_path / "rules.md")), _one()) == "Two\nlines."
    by_tag = Text(path=str(tmp_path / "skills.yaml"))
    assert [_said(by_tag, _one(skill=tag)) for tag in ("push", "pull")] == ["Push.", "Go."]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({}, "needs either text"),
        ({"text": "a", "path": "b"}, "and not both"),
        ({"path": "nowhere.md"}, "there is no file nowhere.md"),
        ({"path": "list.yaml"}, "something else than a text by each tag"),
    ],
)
def test_a_text_that_is_none_is_refused(
    settings: dict[str, str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.yaml").write_text("push: [1, 2]\n")
    with pytest.raises(ValidationError, match=why):
        Text(**settings)


def test_the_first_that_speaks_is_heard_and_no_other() -> None:
    """SDPO: feedback only where there is no solved peer."""
    batch = attempts(["up"], ["left"], ["down"], ["right"], solved=[1, 0, 0, 0])
    source = First(of=[PeerSuccess(), EnvFeedback()])
    feedback = [("Feedback: well", 0)]
    assert told(source, batch) == [feedback, [("Solution: up", None)], feedback, feedback]


def test_nothing_is_heard_where_all_are_silent() -> None:
    batch = attempts(["up"], ["left"])
    assert told(First(of=[PeerSuccess(), GroundTruth()]), batch) == [None, None]
    briefed = gather([First(of=[PeerSuccess(), GroundTruth()])], batch)
    assert not any(b.available for b in briefed), "no peer, no feedback: no episode is learnt from"


def test_none_at_the_end_gives_every_episode_a_lesson() -> None:
    batch = attempts(["up"], ["left"])
    assert told(First(of=[GroundTruth(), NoPrivilege()]), batch) == [[], []]


def test_by_turn_a_text_about_the_turn_goes_before_one_about_the_episode() -> None:
    (trajectory,) = attempts(["up", "left", "down"], reference="up left down")
    turns = list(trajectory.turns)
    turns[1] = replace(turns[1], info={**turns[1].info, "feedback": ""})
    trajectory = replace(trajectory, turns=tuple(turns))
    whole = "Solution: up left down"
    for of in ([GroundTruth(), EnvFeedback()], [EnvFeedback(), GroundTruth()]):
        assert told(First(of=of, per="turn"), [trajectory]) == [
            [("Feedback: so", 0), (whole, 1), ("Feedback: well", 2)]
        ]


def test_the_first_remembers_what_its_sources_remember() -> None:
    def fresh() -> First:
        return First(of=[GroundTruth(), SkillSummary()])

    batch = attempts(["up"], ["left"], guide="Go.")
    before, after = fresh(), fresh()
    assert told(before, batch)[0] == [("Skill: Go. Solved 0 of 2.", None)]
    after.restore(json.loads(json.dumps(before.state())))
    assert [after.whisper(t, batch) for t in batch] == [before.whisper(t, batch) for t in batch]
    assert scalars_of([before]) == {}


def test_a_peer_inside_another_source_needs_groups_too() -> None:
    for within in ("{kind: first, of: [peer_success, none]}", "{kind: shuffled, of: peer_success}"):
        with pytest.raises(ConfigError, match=r"rollout\.group: 1 plays each task once"):
            parse_config(ENV, [f"privilege={within}"])


def _seen(*observations: str, **settings: Any) -> list[tuple[str, int | None]] | None:
    (played,) = attempts(["up"] * len(observations))
    turns = tuple(
        replace(turn, observation=text)
        for turn, text in zip(played.turns, observations, strict=True)
    )
    (heard,) = told(ExtractedContext(**settings), [replace(played, turns=turns)])
    return heard


def test_of_each_observation_the_new_lines_are_kept() -> None:
    assert _seen("a\nb\nc", "a\nx\nc", "a\nx\nc", "q") == [("x", 1), ("", 2)]
    assert _seen("a", "b", "c") is None, "all of it is new"


def test_lines_that_match_are_kept() -> None:
    found = _seen("# wall\ntree", "# wall", "tree", keep="matching", pattern="^#")
    assert found == [("# wall", 0), ("", 2)]


def test_what_the_environment_calls_relevant_is_kept() -> None:
    (played,) = attempts(["up", "up", "up"], relevant="the door")
    turns = list(played.turns)
    turns[0] = replace(turns[0], info={**turns[0].info, "relevant": ""})
    (heard,) = told(ExtractedContext(keep="relevant"), [replace(played, turns=tuple(turns))])
    assert heard == [("the door", 0), ("", 1)], "of the last turn nothing is known"


@pytest.mark.parametrize(
    "settings", [{"keep": "matching"}, {"pattern": "a"}, {"keep": "matching", "pattern": "("}]
)
def test_an_extract_without_sense_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"set both or neither|no regular expression"):
        ExtractedContext(**settings)


def test_another_modality_is_refused_with_the_reason() -> None:
    source = OtherModality()
    assert source.reads == "image" and told(source, attempts(["up"])) == [None]
    with pytest.raises(ValueError, match=r"info\['image'\].*a frozen teacher reads text alone"):
        source.meet(None, FrozenTeacher())  # type: ignore[arg-type]
