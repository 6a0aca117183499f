"""What each source tells the teacher, word for word."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scripted import play_one

from agentopd.base.types import EndReason, Privilege, Trajectory, Turn
from agentopd.environment.contract import TextEnv
from agentopd.privilege.base import NoPrivilege, Source, gather, missing_keys
from agentopd.privilege.controls import Shuffled
from agentopd.privilege.environment import EnvFeedback, GroundTruth, OracleNext
from agentopd.privilege.view import EveryTurnView, SystemView
from agentopd.privilege.whispered import WhisperingEnv
from agentopd.privilege.writing.hindsight import Reflection
from agentopd.privilege.writing.skills import SkillSummary


def _episode(
    steps: Sequence[dict[str, Any]] = ({},), task: int = 0, solved: bool = False, **prompt: Any
) -> Trajectory:
    """One turn a step, of which the environment said that."""
    played = play_one(["B1"], ["up <|im_end|>"])
    turns = tuple(
        Turn(
            index=index,
            observation="B1",
            action="up",
            start=0,
            act=0,
            stop=1,
            cut=False,
            reward=0.0,
            info={**info, "success": solved and index == len(steps) - 1},
        )
        for index, info in enumerate(steps)
    )
    return replace(played, turns=turns, task=task, prompt=prompt, env="grid")


def _texts(source: Source, trajectory: Trajectory) -> list[tuple[str, int | None]] | None:
    told = source.whisper(trajectory, [trajectory])
    return None if told is None else [(p.text, p.turn) for p in told]


WALL = {"feedback": "a wall", "mistake": "bump"}
STUCK = {"feedback": "stuck", "mistake": "deadlock"}
FINE = {"feedback": "closer", "mistake": ""}


def test_the_control_tells_nothing_but_there_is_a_lesson() -> None:
    assert NoPrivilege().whisper(_episode(), []) == ()


def test_ground_truth_is_the_environments_reference() -> None:
    assert _texts(GroundTruth(), _episode(reference="up up")) == [("Solution: up up", None)]
    assert _texts(GroundTruth(), _episode()) is None


class Roads(TextEnv):
    """Three roads, each best taken in its turn; `between` separates the actions of a plan."""

    def __init__(self, between: str | None = " ") -> None:
        self.action_between = between
        self.names = ["north", "far east", "south"] if between != " " else ["up", "left", "up"]

    def told(self) -> dict[str, Any]:
        plan = (self.action_between or " ").join(self.names[self.taken :])
        return {"task_id": "0", "success": False, "oracle": plan}

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        self.taken = 0
        return "road 1", self.told()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.taken += 1
        told = self.told() | {"action_valid": True, "feedback": "well done"}
        return f"road {self.taken + 1}", 0.0, False, self.taken == 3, told


def test_the_oracle_says_what_is_best_where_each_turn_begins() -> None:
    steps = ({"oracle": "left up"}, {"oracle": ""}, {"oracle": "not looked at"})
    trajectory = _episode(steps, oracle="up left up")
    assert _texts(OracleNext(), trajectory) == [("Best next: up", 0), ("Best next: left", 1)]
    assert _texts(OracleNext(actions=2), trajectory) == [
        ("Best next: up left", 0),
        ("Best next: left up", 1),
    ]
    assert _texts(OracleNext(actions=0), trajectory) == [
        ("Best next: up left up", 0),
        ("Best next: left up", 1),
    ]
    assert _texts(OracleNext(), _episode()) is None


@pytest.mark.parametrize(
    ("between", "first"), [("\n", "north"), (None, "north far east south"), (" ", "up")]
)
def test_the_oracles_actions_are_told_apart_as_the_environment_declares(
    between: str | None, first: str
) -> None:
    env = Roads(between)
    for source in (OracleNext(), Shuffled(of=OracleNext())):
        source.enter(env)
        told = source.of if isinstance(source, Shuffled) else source
        assert _texts(told, _episode(**env.reset()[1])) == [(f"Best next: {first}", 0)]


def test_an_actor_is_told_the_next_action_before_each_answer() -> None:
    env = WhisperingEnv(Roads("\n"), [OracleNext()], EveryTurnView())
    seen = [env.reset(seed=0)[0], *(env.step("on")[0] for _ in range(3))]
    assert seen == [
        "road 1\n\nBest next: north",
        "road 2\n\nBest next: far east",
        "road 3\n\nBest next: south",
        "road 4",
    ]


@pytest.mark.parametrize("view", [SystemView(), EveryTurnView()])
@pytest.mark.parametrize("source", [EnvFeedback(), Reflection()])
def test_an_actor_is_told_nothing_that_looks_back(
    source: Source, view: SystemView | EveryTurnView
) -> None:
    with pytest.raises(ValueError, match="anything to say before the episode is played"):
        WhisperingEnv(Roads(), [source], view).reset(seed=0)


def test_a_source_whose_key_the_environment_never_tells_is_named() -> None:
    played = [_episode(({"feedback": ""}, {}), oracle="up")]
    sources = [GroundTruth(), Shuffled(of=EnvFeedback()), OracleNext(), SkillSummary()]
    found = missing_keys(sources, played)
    assert [line.partition(" has")[0] for line in found] == [
        "privilege: ground_truth",
        "privilege: shuffled",
    ]
    assert "info never holds 'reference'" in found[0] and "'feedback'" in found[1]
    assert missing_keys(sources, []) == []


def test_feedback_is_told_of_the_turn_it_is_about() -> None:
    assert _texts(EnvFeedback(), _episode([WALL, {}, FINE])) == [
        ("Feedback: a wall", 0),
        ("Feedback: closer", 2),
    ]
    assert _texts(EnvFeedback(), _episode([{}, {"feedback": ""}])) is None


def test_a_reflection_names_the_end_and_the_last_mistakes() -> None:
    steps = [WALL, FINE, STUCK, WALL]
    assert _texts(Reflection(mistakes=2), _episode(steps)) == [
        ("Reflection: not solved in 4 turns. Turn 3: stuck Turn 4: a wall", None)
    ]
    assert _texts(Reflection(), _episode([FINE], solved=True)) == [
        ("Reflection: solved in 1 turns.", None)
    ]
    assert _texts(Reflection(), _episode([])) is None


def test_no_mistakes_are_told_where_none_are_asked_for() -> None:
    assert _texts(Reflection(mistakes=0), _episode([WALL, STUCK])) == [
        ("Reflection: not solved in 2 turns.", None)
    ]
    skill = SkillSummary(mistakes=0)
    skill.learn([_episode([WALL])])
    assert _texts(skill, _episode(guide="Push.")) == [("Skill: Push. Solved 0 of 1.", None)]


def test_a_skill_is_advice_the_rate_of_success_and_the_commonest_mistakes() -> None:
    skill = SkillSummary(mistakes=2)
    trained = _episode(guide="Push.", skill="push")
    assert _texts(skill, trained) == [("Skill: Push.", None)]
    skill.learn([_episode([WALL, WALL, STUCK], skill="push"), _episode([STUCK], skill="push")])
    skill.learn([_episode([FINE], solved=True, skill="push"), _episode([WALL], skill="pull")])
    assert _texts(skill, trained) == [
        ("Skill: Push. Solved 1 of 3. Mistakes: deadlock 2, bump 1.", None)
    ]
    assert _texts(skill, _episode(skill="pull")) == [
        ("Skill: Solved 0 of 1. Mistakes: bump 1.", None)
    ]
    assert _texts(skill, _episode(skill="lift")) is None


def test_without_a_tag_skills_are_filed_under_the_environment() -> None:
    skill = SkillSummary()
    skill.learn([_episode(solved=True)])
    assert _texts(skill, _episode(skill="grid")) == [("Skill: Solved 1 of 1.", None)]


def test_a_skill_remembers_the_latest_episodes_alone() -> None:
    skill = SkillSummary(memory=2)
    skill.learn([_episode([WALL]), _episode(solved=True), _episode(solved=True)])
    assert _texts(skill, _episode()) == [("Skill: Solved 2 of 2.", None)]


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_a_source_remembers_survives_a_restart(wrapped: bool) -> None:
    def fresh() -> Source:
        skill = SkillSummary(memory=3)
        return Shuffled(of=skill) if wrapped else skill

    def told(source: Source) -> list[tuple[str, int | None]] | None:
        batch = [_episode(task=0), _episode(task=1)]
        found = source.whisper(batch[0], batch)
        return None if found is None else [(p.text, p.turn) for p in found]

    before, after = fresh(), fresh()
    before.learn([_episode([WALL, STUCK]), _episode([STUCK]), _episode(solved=True)])
    after.restore(json.loads(json.dumps(before.state())))
    assert told(after) == told(before)
    assert told(before) == [("Skill: Solved 1 of 3. Mistakes: deadlock 2, bump 1.", None)]
    for source in (before, after):
        source.learn([_episode(solved=True)])
    assert told(after) == told(before) == [("Skill: Solved 2 of 3. Mistakes: deadlock 1.", None)]


def test_shuffled_text_is_of_another_task_and_of_this_step() -> None:
    tasks = [0, 0, 1, 1, 1, 2]
    batch = [_episode(task=t, reference=f"plan {t}") for t in tasks]
    for trajectory in batch:
        told = Shuffled(of=GroundTruth()).whisper(trajectory, batch)
        assert told is not None
        assert told[0].text in {f"Solution: plan {t}" for t in {0, 1, 2} - {trajectory.task}}
        assert told[0].source == "ground_truth"


def test_shuffled_passes_over_those_of_whom_nothing_is_known() -> None:
    batch = [_episode(task=0), _episode(task=1), _episode(task=2, reference="up")]
    told = Shuffled(of=GroundTruth()).whisper(batch[0], batch)
    assert told == (Privilege(source="ground_truth", text="Solution: up"),)


def _heard(*tasks: str) -> list[str]:
    """What the episodes of each task are told, of a letter each of their own; - is none."""
    batch = [
        _episode(task=task, reference=text.strip("-"))
        for task, texts in enumerate(tasks)
        for text in texts
    ]
    found = [""] * len(tasks)
    for trajectory in batch:
        told = Shuffled(of=GroundTruth()).whisper(trajectory, batch)
        assert told is not None
        found[trajectory.task] += told[0].text.removeprefix("Solution: ")
    return found


def test_shuffled_shifts_whole_groups() -> None:
    """Every text is told once: the teacher is told what it is told without the control."""
    assert _heard("abcd", "efgh", "ijkl") == ["efgh", "ijkl", "abcd"]


def test_shuffled_counts_around_where_the_next_group_has_fewer_texts() -> None:
    assert _heard("abc", "de", "f") == ["ded", "ff", "a"]
    assert _heard("a-c", "-ef", "-") == ["efe", "aca", "a"]


def test_shuffled_takes_the_next_text_where_one_speaks_of_no_turn_that_was_played() -> None:
    short = [_episode([{}], task=0) for _ in range(2)]
    other = [_episode([{}, WALL], task=1), _episode([FINE, WALL], task=1)]
    shuffled = Shuffled(of=EnvFeedback())
    fine = (Privilege(source="env_feedback", text="Feedback: closer", turn=0),)
    assert [shuffled.whisper(t, [*short, *other]) for t in short] == [fine, fine]


@pytest.mark.parametrize("tasks", [[0], [0, 0, 0]])
def test_shuffled_has_nothing_to_say_where_there_is_one_task(tasks: list[int]) -> None:
    batch = [_episode(task=t, reference="up") for t in tasks]
    assert Shuffled(of=GroundTruth()).whisper(batch[0], batch) is None
    assert Shuffled(of=GroundTruth()).whisper(batch[0], []) is None


def test_shuffled_tells_of_no_turn_that_was_not_played() -> None:
    short, long = _episode([FINE], task=0), _episode([{}, WALL, STUCK], task=1)
    middle = _episode([{}, FINE], task=2)
    shuffled = Shuffled(of=EnvFeedback())
    assert shuffled.whisper(short, [short, long]) is None
    told = shuffled.whisper(middle, [middle, long])
    assert told == (Privilege(source="env_feedback", text="Feedback: a wall", turn=1),)


def test_the_shuffled_control_is_a_lesson_without_text() -> None:
    batch = [_episode(task=0), _episode(task=1)]
    assert Shuffled(of=NoPrivilege()).whisper(batch[0], batch) == ()


def test_every_source_that_has_something_to_say_is_heard_in_order() -> None:
    known, unknown = _episode([WALL], reference="up"), _episode([{}])
    briefed = gather([EnvFeedback(), GroundTruth()], [known, unknown])
    assert [p.text for p in briefed[0].privileges] == ["Feedback: a wall", "Solution: up"]
    assert [b.trajectory for b in briefed] == [known, unknown]
    assert [b.available for b in briefed] == [True, False]
    assert briefed[1].privileges == ()


def test_none_is_a_lesson_and_unavailable_is_not() -> None:
    unknown = _episode()
    assert gather([NoPrivilege()], [unknown])[0].available
    assert not gather([GroundTruth()], [unknown])[0].available
    assert gather([GroundTruth(), NoPrivilege()], [unknown])[0].available


def test_an_episode_that_failed_gets_no_lesson_and_teaches_nothing() -> None:
    good = _episode([WALL], task=0, guide="Push.")
    failed = replace(_episode([STUCK], task=1, guide="Push."), end=EndReason.ERROR, error="fire")
    briefed = gather([SkillSummary()], [failed, good])
    assert [b.available for b in briefed] == [False, True]
    assert briefed[0].privileges == ()
    assert [p.text for p in briefed[1].privileges] == [
        "Skill: Push. Solved 0 of 1. Mistakes: bump 1."
    ]
    assert not any(b.available for b in gather([Shuffled(of=EnvFeedback())], [failed, good]))


def test_sources_leave_the_trajectory_as_it_is() -> None:
    trajectory = _episode([WALL], reference="up")
    before = trajectory.ids.copy()
    gather([GroundTruth(), EnvFeedback(), SkillSummary(), Reflection()], [trajectory])
    np.testing.assert_array_equal(trajectory.ids, before)
    assert trajectory.prompt == {"reference": "up"}
