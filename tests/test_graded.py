"""Judges of whole episodes, and grades as rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scenes import Scene, scene_of
from scribes import TOY, Scribe
from scripted import random_model
from trajectories import played

from agentopd.asking import grading
from agentopd.asking.grading import ModelJudge, grade_of
from agentopd.base.types import Owner, Trajectory
from agentopd.models.model import LanguageModel
from agentopd.rollout.acting.judging import FactJudge, Judge
from agentopd.running.reading import parse_config
from agentopd.teachers.copies import FrozenTeacher
from agentopd.units.graded import GradedUnit

ENV = {"env": {"id": "agentopd/Sokoban-v0"}}
REWARD = ("mix={kind: reward, score: unit, rl: grpo}", "rollout.group=4")


class Alike(Judge):
    """One grade for all."""

    def grades(self, trajectories: Sequence[Trajectory]) -> list[int | None]:
        return [7] * len(trajectories)


class ByNumber(Judge):
    """The episode's number, and none for the last of a task."""

    def grades(self, trajectories: Sequence[Trajectory]) -> list[int | None]:
        return [None if t.episode % 4 == 3 else t.episode for t in trajectories]


def _stating(*facts: dict[str, Any], success: bool = False) -> Trajectory:
    infos: list[dict[str, Any]] = [{"facts": f} for f in facts]
    infos[-1]["success"] = success
    return played(*([5] for _ in facts), infos=infos)


@pytest.mark.parametrize(
    ("facts", "success", "grade"),
    [
        (({"near": True, "tidy": 2},), False, 8),  # all that is wanted, and not solved
        (({"near": True}, {"near": False}, {"near": False}), False, 3),  # 9 / 3
        (({"near": False, "tidy": 2}, {"near": False, "tidy": 1}), False, 2),  # 9 / 4 = 2.25
        (({"near": False},), False, 0),
        (({"near": False},), True, 9),
        (({"other": True},), False, None),
        (({},), True, 9),
    ],
)
def test_a_grade_by_facts_is_the_share_that_is_met(
    facts: Any, success: bool, grade: int | None
) -> None:
    judge = FactJudge(wants={"near": True, "tidy": 2})
    assert judge.grades([_stating(*facts, success=success)]) == [grade]


@pytest.mark.parametrize(
    ("reply", "grade"),
    [
        ("7", 7),
        ("Grade: 0.", 0),
        ("7/9", 7),
        ("<think>2 or 3</think>\n5", 5),
        ("10", None),
        ("3.5", None),
        ("excellent", None),
        ("", None),
    ],
)
def test_the_grade_is_the_first_digit_that_stands_alone(reply: str, grade: int | None) -> None:
    assert grade_of(reply) == grade


def _said(*answers: str, episode: int = 0) -> Trajectory:
    blank = played(*([5, 6] for _ in answers), episode=episode)
    turns = [
        replace(turn, observation=f"B{1 + n}", action=answer)
        for n, (turn, answer) in enumerate(zip(blank.turns, answers, strict=True))
    ]
    return replace(blank, turns=tuple(turns))


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return random_model(TOY, seed=1)


def _asked(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, says: Any, **settings: Any
) -> tuple[ModelJudge, Scribe]:
    scribe = Scribe(model, says)
    monkeypatch.setattr(grading, "TransformersSampler", lambda _: scribe)
    judge = ModelJudge.model_validate({"model": "student", "reply_tokens": 16, **settings})
    judge.prepare(model, FrozenTeacher())
    return judge, scribe


def test_a_model_is_asked_of_all_episodes_at_once(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads the task and every turn; a reply without a digit gives no grade, and is counted."""
    judge, scribe = _asked(model, monkeypatch, lambda text: "8" if "left" in text else "well")
    unit = GradedUnit(judge=judge)
    step = [_said("up", "left"), _said("wait", "up", episode=1)]
    unit.learn(step)
    assert [unit.score(t) for t in step] == [pytest.approx(8 / 9), None]
    assert unit.scalars() == {"grade": 8.0, "ungraded": 1.0}
    assert [len(requests) for requests in scribe.requests] == [2]
    assert all(word in scribe.asked[0] for word in ("B1", "up", "B2", "left"))


def test_a_judge_is_not_told_who_wrote_the_episode(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, scribe = _asked(model, monkeypatch, lambda _: "5")
    own = _said("up", "left")
    theirs = replace(own, owner=np.where(own.trainable, Owner.TEACHER, own.owner).astype(np.uint8))
    won = replace(own.turns[-1], info={"success": True}, reward=1.0)
    judge.grades([own, theirs, replace(own, turns=(*own.turns[:-1], won))])
    assert len({tuple(request.ids) for request in scribe.requests[0]}) == 1


def test_long_episodes_are_cut_and_what_never_fits_has_no_grade(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = _said(*["left up wait"] * 400)
    judge, scribe = _asked(model, monkeypatch, lambda _: "5", tokens=64)
    assert judge.grades([long]) == [5]
    assert len(scribe.requests[0][0].ids) < 1_000
    short = random_model(TOY, seed=1, max_position_embeddings=64)
    judge, _ = _asked(short, monkeypatch, lambda _: "5", tokens=64)
    assert judge.grades([long]) == [None]


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("system: s\nrequest: grade {episod}", "unknown slot {episod}; did you mean 'episode'?"),
        ("system: s\nrequest: grade {task}", "would not see the {episode}"),
        ("system: s\nrequests: grade {episode}", "unknown key 'requests'; did you mean 'request'?"),
        ("request: grade {episode}", "`system` and `request` are texts"),
    ],
)
def test_a_request_of_ones_own_that_cannot_be_asked_is_refused(
    tmp_path: Path, written: str, told: str
) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(written)
    with pytest.raises(ValueError) as refused:
        ModelJudge(template=str(path))
    assert told in str(refused.value)


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


def test_equal_grades_as_rewards_teach_nothing(scene: Scene) -> None:
    update, gradient, _ = scene.learn(
        "unit={kind: graded, judge: 'test_graded:Alike'}", *REWARD, lessons=[]
    )
    assert gradient is None and update.skipped == "no teacher signal and no advantage"


def test_grades_are_rewards_of_those_that_have_one(scene: Scene) -> None:
    """As the environment's rewards would be that are the same numbers; one without stays out."""
    found = scene.gradient(
        "unit={kind: graded, judge: 'test_graded:ByNumber'}", *REWARD, lessons=[]
    )
    rewarded = [
        replace(
            t,
            turns=tuple(replace(u, reward=t.episode / 9 if not u.index else 0.0) for u in t.turns),
        )
        for t in scene.trajectories
    ]
    graded = [t for t in rewarded if t.episode % 4 != 3]
    tokens = [sum(t.trainable.sum() for t in some) for some in (graded, rewarded)]
    expected = scene.gradient("mix=rl", "rollout.group=4", trajectories=graded, lessons=[])
    share = tokens[0] / tokens[1]  # the mean is over all tokens of the step
    assert (found - expected * share).norm() < 1e-5 * found.norm()


def test_a_judge_that_is_a_teacher_whom_nobody_asks_is_refused() -> None:
    with pytest.raises(
        ValueError, match="the judge is the teacher, and mix: reward asks no teacher"
    ):
        parse_config(ENV, ["unit={kind: graded, judge: {kind: model}}", *REWARD])
