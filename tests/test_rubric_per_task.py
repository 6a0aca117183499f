"""Criteria for each task of a step, from a teacher's episodes against the student's (ROPD)."""

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

from agentopd.base.types import Owner, Trajectory
from agentopd.learning.method import Method
from agentopd.models.chat import ChatTemplate
from agentopd.models.model import LanguageModel, ModelSettings, load_model
from agentopd.running.reading import parse_config
from agentopd.stored.trajectories import save_trajectories
from agentopd.teachers.copies import FrozenTeacher
from agentopd.units.rubric import rubricator
from agentopd.units.rubric.criteria import Criterion
from agentopd.units.rubric.induction import Attempt, FactWriter, RubricWriter
from agentopd.units.rubric.judges import Case, Verifier, question_ids
from agentopd.units.rubric.rubricator import ModelWriter
from agentopd.units.rubric.unit import RubricSpanUnit

LEFT, RIGHT = "Does the action go left?", "Does the action go right?"


class Words(Verifier):
    """Whether the question's last word stands in the answer."""

    def verdicts(self, cases: Sequence[Case]) -> list[float | None]:
        return [float(case.text.rstrip("?").split()[-1] in case.turn.action) for case in cases]


class Same(Verifier):
    """Everybody meets everything."""

    def verdicts(self, cases: Sequence[Case]) -> list[float | None]:
        return [1.0] * len(cases)


class Both(RubricWriter):
    """Two criteria of weights 2 and 1, whatever was played."""

    def write(self, good: Sequence[Attempt], bad: Sequence[Attempt]) -> list[Criterion]:
        return [
            Criterion(name="left", text=LEFT, weight=2.0),
            Criterion(name="right", text=RIGHT, weight=1.0),
        ]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return random_model(TOY, seed=1)


def _episode(
    task: int, episode: int, answer: str = "up", success: bool = False, **facts: Any
) -> Trajectory:
    """One turn; what the environment states of it, and how it ended."""
    ids = TOY.encode(answer, add_special_tokens=False)
    blank = played(ids, infos=[{"facts": facts, "success": success}], task=task, episode=episode)
    turns = (replace(blank.turns[0], observation=f"B{1 + task % 4}", action=answer),)
    return replace(blank, turns=turns)


def _store(folder: Path, *episodes: Trajectory) -> str:
    save_trajectories(episodes, folder / "episodes-00000.parquet")
    return str(folder)


def _ready(
    writer: RubricWriter, model: LanguageModel, judge: Verifier | None = None
) -> RubricSpanUnit:
    unit = RubricSpanUnit(induce=writer, judge=judge)
    unit.prepare(model, FrozenTeacher())
    return unit


def test_each_task_has_the_criteria_of_its_own_episodes(
    tmp_path: Path, model: LanguageModel
) -> None:
    """By hand: on task 1 the teacher is near where half of the students are, so 1 - 1/2 is the
    weight; on task 2 it is tidy; of task 3 nothing is stored.
    """
    path = _store(
        tmp_path,
        _episode(1, 0, near=True, tidy=False),
        _episode(1, 1, near=True, tidy=False),
        _episode(2, 2, near=False, tidy=True),
    )
    step = [
        _episode(1, 10, near=True, tidy=False),
        _episode(
            1, 11, near=False, tidy=False, success=True
        ),  # counts as the student's all the same
        _episode(2, 12, near=False, tidy=False),
        _episode(2, 13, near=False, tidy=True),
        _episode(3, 14, near=True, tidy=True),
    ]
    unit = _ready(FactWriter(per="task", path=path, support=1), model)
    unit.learn(step)
    first, second, third = (unit.rubric_of(step[n]) for n in (0, 2, 4))
    assert [(c.fact, c.want, c.weight) for c in first] == [("near", True, 0.5)]
    assert [(c.fact, c.want, c.weight) for c in second] == [("tidy", True, 0.5)]
    assert third == ()
    assert [unit.score(t) for t in step] == [1.0, 0.0, 0.0, 1.0, None]
    assert unit.scalars() == {"induced_criteria": 1.0, "induced_tasks": 2.0}


def test_without_a_store_the_solved_episodes_of_the_task_are_the_good_ones(
    model: LanguageModel,
) -> None:
    step = [
        _episode(1, 0, near=True, success=True),
        _episode(1, 1, near=False),
        _episode(2, 2, near=True, success=True),  # nobody failed
    ]
    unit = _ready(FactWriter(per="task", support=1), model)
    unit.learn(step)
    assert [unit.score(t) for t in step] == [1.0, 0.0, None]


def test_the_next_step_has_other_criteria_and_keeps_none(
    tmp_path: Path, model: LanguageModel
) -> None:
    path = _store(tmp_path, _episode(1, 0, near=True), _episode(2, 1, near=True))
    unit = _ready(FactWriter(per="task", path=path, support=1), model)
    unit.learn([_episode(1, 10, near=False)])
    unit.learn([last := _episode(2, 11, near=False)])
    assert unit.score(last) == 0.0
    assert unit.rubric_of(_episode(1, 12, near=False)) == ()


def test_an_episodes_score_is_the_weighted_share_that_it_meets(
    tmp_path: Path, model: LanguageModel
) -> None:
    """Weights (2, 1) and verdicts (1, 0): 2/3."""
    path = _store(tmp_path, _episode(1, 0, "left"))
    unit = _ready(Both(per="task", path=path), model, Words())
    step = [
        _episode(1, n, answer) for n, answer in enumerate(("left", "right", "up", "left right"))
    ]
    unit.learn(step)
    assert [unit.score(t) for t in step] == pytest.approx([2 / 3, 1 / 3, 0.0, 1.0])


def test_the_judge_never_sees_who_wrote(model: LanguageModel) -> None:
    own = _episode(1, 0, "left")
    theirs = replace(own, owner=np.where(own.trainable, Owner.TEACHER, own.owner).astype(np.uint8))
    template = ChatTemplate(TOY)
    asked = [
        question_ids(Case(t, t.turns[0], LEFT, "turn"), template, model.stop_ids).tolist()
        for t in (own, replace(theirs, episode=7, task=3))
    ]
    assert asked[0] == asked[1]


def test_a_model_writes_for_all_tasks_at_once_and_reads_each_ones_own(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(ModelSettings(path=str(tiny_model)))

    def spelled(trajectory: Trajectory) -> Trajectory:
        """In the tokens of this model."""
        ids = model.template.encode_content(trajectory.turns[0].action)
        own = played(ids, task=trajectory.task, episode=trajectory.episode)
        turn = replace(own.turns[0], observation="B", action=trajectory.turns[0].action)
        return replace(own, turns=(turn,))

    path = _store(tmp_path, spelled(_episode(1, 0, "left")), spelled(_episode(2, 1, "right")))

    def says(text: str) -> str:
        way = "left" if "left" in text else "right"
        return f"goes {way} | Does the action go {way}? | 2 | every answer"

    scribe = Scribe(model, says)
    monkeypatch.setattr(rubricator, "TransformersSampler", lambda _: scribe)
    writer = ModelWriter.model_validate(
        {"model": "student", "per": "task", "path": path, "difference": None, "reply_tokens": 200}
    )
    unit = _ready(writer, model, Words())
    step = [_episode(1, 10, "up"), _episode(1, 11, "left"), _episode(2, 12, "right")]
    step = [spelled(t) for t in step]
    unit.learn(step)
    assert [len(requests) for requests in scribe.requests] == [2]
    assert "right" not in scribe.asked[0] and "left" not in scribe.asked[1]
    assert [c.text for c in unit.rubric_of(step[0])] == [LEFT]
    assert [c.text for c in unit.rubric_of(step[2])] == [RIGHT]
    assert [unit.score(t) for t in step] == [0.0, 1.0, 1.0]


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


def test_where_all_verdicts_are_equal_nothing_is_learnt(scene: Scene) -> None:
    here = "test_rubric_per_task"
    unit = (
        f"unit={{kind: rubric_span, induce: {{kind: '{here}:Both', per: task}}, "
        f"judge: '{here}:Same'}}"
    )
    reward = "mix={kind: reward, score: unit, rl: grpo}"
    update, gradient, _ = scene.learn(unit, reward, "rollout.group=4", lessons=[])
    assert gradient is None and update.skipped == "no teacher signal and no advantage"
    words = unit.replace("Same", "Words")
    told = [
        replace(
            t, turns=tuple(replace(u, action="left" if t.episode % 2 else "up") for u in t.turns)
        )
        for t in scene.trajectories
    ]
    assert (
        scene.gradient(words, reward, "rollout.group=4", trajectories=told, lessons=[]).norm() > 0
    )


def test_the_row_says_what_the_paper_does() -> None:
    config = parse_config({"env": {"id": "agentopd/Sokoban-v0"}}, ["method=ropd"])
    collected = config.stages["collect"].settings["rollout"]
    assert collected == {"kind": "acted", "group": 4}
    assert config.rollout.group == 8
    assert isinstance(config, Method)
