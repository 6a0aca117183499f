"""Rows whose teacher is told something: what each is where its own part has nothing to add."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scenes import Scene, assert_same, row_of, run_of, scene_of
from scribes import Scribe, attempts, ready, told
from scripted import toy_tokenizer
from trajectories import evidence_of, opinion_of, played

from agentopd.base.types import Briefed, Lesson, Privilege, Trajectory, View
from agentopd.models.chat import ChatTemplate
from agentopd.models.model import LanguageModel, ModelSettings, load_model
from agentopd.privilege.base import Source, gather
from agentopd.privilege.view import EveryTurnView
from agentopd.privilege.writing.hindsight import Reflection

LOG_3 = math.log(3)
GROUPED = ("rollout.tasks=2", "rollout.group=4")


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> LanguageModel:
    return load_model(ModelSettings(path=str(tiny_model)))


@pytest.fixture
def asked(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Scribe]:
    """Lets a scripted model write for a source."""
    return lambda source, says: ready(source, model, says, monkeypatch)


def _source(name: str) -> Source:
    (source,) = row_of(name).privilege
    return source


def _axes(name: str, *changes: str, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """The values of a row on the axes, but for some."""
    dumped = row_of(name, *changes).model_dump(mode="json")
    left_out = {"method", "rollout", *without}
    return {k: v for k, v in dumped.items() if k not in left_out}


@pytest.mark.parametrize(
    ("row", "rl"),
    [
        ("srpo", "{kind: grpo}"),
        ("step_opsd", "{kind: grpo}"),
        ("opid", "{kind: grpo, kl_coefficient: 0.01}"),
        ("seed", "{kind: grpo, kl_coefficient: 0.01}"),
        ("sdar", "{kind: grpo, kl_coefficient: 0.01}"),
        ("openclaw_rl", "{kind: grpo, kl_coefficient: 0.01}"),
        ("agent_opsd", "{kind: grpo, clip: 0.2, kl_coefficient: 0.01}"),
    ],
)
def test_where_nothing_is_told_these_are_grpo(scene: Scene, row: str, rl: str) -> None:
    """No solved peer in the step, no skill that could be read, no positive vote."""
    normalise = f"unit.normalise={row_of(row).unit.normalise}"
    plain = scene.gradient(f"mix={{kind: rl, rl: {rl}}}", *GROUPED, normalise, lessons=[])
    assert_same(scene.gradient(f"method={row}", *GROUPED, lessons=[]), plain)


def test_step_opsd_of_no_strength_is_grpo(scene: Scene) -> None:
    plain = scene.gradient("mix={kind: rl}", *GROUPED, "unit.normalise=turn_mean", lessons=[])
    none = ("method=step_opsd", *GROUPED, "schedule={strength: {kind: constant, value: 0.0}}")
    assert_same(scene.gradient(*none), plain)


def test_of_peers_sdpo_tells_first_and_of_nothing_it_learns_nothing() -> None:
    source = _source("sdpo")
    solved = attempts(["up"], ["left"], solved=[1, 0])
    assert told(source, solved)[1] == [("Solution: up", None)]
    failed = [
        replace(t, turns=tuple(replace(k, info={**k.info, "feedback": ""}) for k in t.turns))
        for t in attempts(["up"], ["left"], ["down"])
    ]
    assert [b.available for b in gather([source], failed)] == [False] * 3


@pytest.mark.parametrize(
    "row", ["sdft", "opsdc", "opcd", "ra_opd_c", "hero", "opsdl", "sdpo", "sdpo_tr"]
)
def test_a_copy_of_the_student_that_is_told_nothing_teaches_nothing(
    row: str, tiny_model: Path, tmp_path: Path
) -> None:
    """Before its first step the teacher is the student: the loss is zero, and so its gradient."""
    told_nothing = [f"method={row}", "control=no_pi", "rollout.group=2", "rollout.tasks=1"]
    run = run_of(tiny_model, tmp_path / "run", *told_nothing)
    trajectories = run.roll_out(0)
    lessons = run.ask_teacher(trajectories, 0)
    assert any(x.hidden_NH is not None for x in lessons)
    update = run.learn(trajectories, lessons, 0)
    assert update.loss == pytest.approx(0.0, abs=1e-6) or update.skipped


def test_opsdc_teaches_with_an_instruction_that_the_student_does_not_see() -> None:
    source = _source("opsdc")
    (heard,) = told(source, attempts(["up"]))
    assert heard and "briefly" in heard[0][0] and heard[0][1] is None
    assert row_of("opsdc").teacher.every == 50  # type: ignore[attr-defined]


def test_opcd_tells_advice_before_there_is_experience(asked: Callable[..., Scribe]) -> None:
    source = _source("opcd")
    asked(source, "wait for it")
    known, unknown = attempts(["up"], guide="Go."), attempts(["up"])
    heard = [told(source, batch)[0] for batch in (unknown, known, known)]
    assert heard[0] is None, "nor advice: no lesson"
    assert heard[1:] == [[("Experience:\n- wait for it", None)]] * 2
    fresh = _source("opcd")
    asked(fresh, "wait for it")
    assert told(fresh, known) == [[("Skill: Go.", None)]]


def test_hero_without_diagnoses_is_feedback_sd(scene: Scene) -> None:
    said = [
        replace(
            lesson,
            view=replace(
                lesson.view,
                briefed=Briefed(
                    trajectory=lesson.trajectory,
                    privileges=tuple(
                        Privilege(source="env_feedback", text="so", turn=turn.index)
                        for turn in lesson.trajectory.turns
                    ),
                ),
            ),
        )
        for lesson in scene.lessons
        if lesson.view is not None
    ]
    full = "divergence.support=full"
    assert_same(
        scene.gradient("method=hero", lessons=said),
        scene.gradient("method=feedback_sd", full, lessons=said),
    )
    assert _axes("hero", "privilege=env_feedback", "weight=[]") == _axes("feedback_sd", full)


def test_hero_teaches_nothing_in_a_turn_of_which_nothing_is_said() -> None:
    (weight,) = row_of("hero").weight
    trajectory = played([5, 6], [7], [8, 9])
    about = Privilege(source="diagnosis", text="so", turn=1)
    lesson = _lesson(trajectory, about)
    said = opinion_of([0.5] * 5)
    assert weight.of(evidence_of(said, said, lesson)).tolist() == [0, 0, 5, 0, 0]


def _lesson(trajectory: Trajectory, *privileges: Privilege) -> Lesson:
    """A lesson of a teacher that was told something, wherever that was put."""
    view = View(
        briefed=Briefed(trajectory=trajectory, privileges=privileges),
        ids=trajectory.ids,
        position=np.arange(len(trajectory.ids)),
        segments=trajectory.segments,
    )
    return Lesson(trajectory=trajectory, view=view)


def test_skills_written_by_hand_are_told_by_the_environment_or_by_tag() -> None:
    for row in ("sdar", "agent_opsd"):
        (heard,) = told(_source(row), attempts(["up"], guide="Go on."))
        assert heard == [("Skill: Go on.", None)]
        assert told(_source(row), attempts(["up"])) == [None]


def test_agent_opsd_moves_a_belief_by_all_that_was_said() -> None:
    """From even odds a gap of log 3 goes to 3/4 and stays: increments 1/4 and 0, z 1 and -1."""
    (weight,) = row_of("agent_opsd", "rollout.group=8").weight
    gaps = [LOG_3, 0.0]
    evidence = evidence_of(
        opinion_of([0.1, 0.1]),
        opinion_of([0.1 * math.exp(gap) for gap in gaps]),
        played([0], [0]),
        advantages=[1.0],
        success=[0.5],
    )
    assert weight.of(evidence).tolist() == pytest.approx([1.2, 0.8], abs=1e-4)
    single = evidence_of(
        opinion_of([0.1]), opinion_of([0.3]), played([0]), advantages=[1.0], success=[0.5]
    )
    assert weight.of(single).tolist() == [1.0], "one turn: as GRPO has it"


def test_step_opsd_is_shown_nothing_of_a_peers_future() -> None:
    batch = attempts(["up", "left"], ["down", "right"], solved=[1, 0])
    heard = told(_source("step_opsd"), batch)
    assert heard[0] is None and heard[1] is not None
    assert [(text.rpartition(" ")[2], turn) for text, turn in heard[1]] == [("up", 0), ("left", 1)]


def test_srpo_distils_failed_episodes_that_have_a_peer_alone() -> None:
    batch = attempts(["up"], ["left"], ["down"], ["right"], solved=[1, 0, 0, 0])
    (source,) = row_of("srpo").privilege
    assert [b.available for b in gather([source], batch)] == [False, True, False, False]


def test_srpo_trusts_a_teacher_that_is_sure() -> None:
    """Two tokens at which it hesitates between one and between two: 1 and 1/2, of mean 1."""
    (weight,) = row_of("srpo").weight
    teacher = replace(opinion_of([1.0, 0.5]), entropy_N=torch.tensor([0.0, math.log(2)]))
    evidence = evidence_of(opinion_of([0.5, 0.5]), teacher, played([5], [6]))
    assert weight.of(evidence).tolist() == pytest.approx([4 / 3, 2 / 3], abs=1e-5)


def test_in_opid_a_turn_with_its_own_skill_is_not_told_the_episodes(
    asked: Callable[..., Scribe],
) -> None:
    source, template = _source("opid"), ChatTemplate(toy_tokenizer())
    asked(source, '{"episode": "wait", "steps": {"2": "left"}}')
    views = EveryTurnView().build(gather([source], attempts(["up", "down", "up"])), template)
    said = template.decode(views[0].ids.tolist())
    shown = [part.partition("<|im_end|>")[0] for part in said.split("user\n")[1:]]
    assert ["wait" in text for text in shown] == [True, False, True]
    assert ["left" in text for text in shown] == [False, True, False]


def test_seed_is_sdar_with_skills_that_are_written() -> None:
    assert _axes("seed", without=("privilege",)) == _axes("sdar", without=("privilege",))


def test_resd_without_what_it_writes_and_keeps_is_sdpos_feedback() -> None:
    """But for the divergence, the weight of rare outcomes, and how fast the teacher follows."""
    same = ["weight=[]", "teacher.rate=0.05", "divergence={kind: jsd, beta: 0.5, scaled: false, "
            "support: {kind: student_top_k, k: 100}}", "privilege=env_feedback"]  # fmt: skip
    assert _axes("resd", *same) == _axes("sdpo", "privilege=env_feedback")


def test_resd_tells_an_attempt_its_feedback_and_never_its_own_solution() -> None:
    sources = row_of("resd").privilege
    first = attempts(["up"], solved=[1])
    again = [replace(first[0], episode=5, task=9)]
    heard = [[p.text for p in gather(sources, batch)[0].privileges] for batch in (first, again)]
    assert heard[0] == ["Attempt, solved: up", "Feedback: well"]
    assert heard[1] == [*heard[0], "Solution: up"]


def test_ra_opd_c_in_words_of_a_template_is_reflection() -> None:
    batch = attempts(["up", "left"], ["down"], solved=[0, 1])
    by_template = row_of("ra_opd_c", "privilege=[{kind: reflection}]").privilege[0]
    assert told(by_template, batch) == told(Reflection(), batch)
    assert all(told(by_template, batch))


def test_ra_opd_d_of_a_teacher_that_knows_no_more_is_c(asked: Callable[..., Scribe]) -> None:
    batch = attempts(["up", "left"], ["down"], solved=[0, 1], reference="right")
    equal = "privilege=[{kind: reflection, level: 1, writer: {model: teacher}}]"
    found = []
    sources = (_source("ra_opd_c"), row_of("ra_opd_d", equal).privilege[0], _source("ra_opd_d"))
    for source in sources:
        scribe = asked(source, lambda text: f"so {len(text)}")
        found.append((told(source, batch), scribe.asked))
    assert found[0] == found[1] != found[2]
    assert _axes("ra_opd_c", without=("privilege",)) == _axes("ra_opd_d", without=("privilege",))


def test_openclaw_rl_distils_where_there_is_a_hint_alone(asked: Callable[..., Scribe]) -> None:
    source = _source("openclaw_rl")
    hint = '{"vote": %d, "hint": "wait for it"}'
    asked(source, lambda text: hint % (1 if "> left" in text else -1))
    heard = told(source, attempts(["up", "left"], ["down"]))
    assert heard == [[("Hint: wait for it", 1)], None]
    (weight,) = row_of("openclaw_rl").weight
    trajectory = played([5, 6], [7])
    lesson = _lesson(trajectory, Privilege(source="hindsight_hint", text="so", turn=1))
    said = opinion_of([0.5] * 3)
    assert weight.of(evidence_of(said, said, lesson)).tolist() == [0, 0, 1]


def test_opsdl_reads_of_each_observation_what_is_new() -> None:
    row = row_of("opsdl")
    (played_,) = attempts(["up", "left"])
    turns = [
        replace(turn, observation=text)
        for turn, text in zip(played_.turns, ("B1\nB2", "B1\nB3"), strict=True)
    ]
    assert told(row.privilege[0], [replace(played_, turns=tuple(turns))]) == [[("B3", 1)]]
    assert row.view.kind == "replace" and row.teacher.is_student
