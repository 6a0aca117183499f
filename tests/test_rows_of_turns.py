"""Rows that credit or weigh single turns: by hand, and in the words of the rows they must equal."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scenes import ENV, Scene, assert_same, scene_of, taught
from trajectories import lessons_of, played, tokens_of

from agentopd.learning.method import Method
from agentopd.learning.plan import Plan
from agentopd.learning.survey import Survey
from agentopd.mixes.scored import TurnReward
from agentopd.running.reading import parse_config
from agentopd.signal.evidence import Measured, Opinion

GROUPED = ("rollout.tasks=2", "rollout.group=4")


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


def _row(name: str, *changes: str) -> Method:
    return parse_config(ENV, [f"method={name}", *changes])


def _opinion(chances: list[float]) -> Opinion:
    logprob_N = torch.tensor(chances).log()
    return Opinion(logprob_N, torch.zeros_like(logprob_N), logprob_N)


def _survey(*turns: tuple[list[list[float]], float, int]) -> Survey:
    """Episodes of one token or more a turn, by the teacher's chances; reward and task of each."""
    episodes = [
        played(
            *([5] * len(turn) for turn in chances),
            rewards=[0.0] * (len(chances) - 1) + [reward],
            episode=n,
            task=task,
        )
        for n, (chances, reward, task) in enumerate(turns)
    ]
    said = [chance for chances, _, _ in turns for turn in chances for chance in turn]
    return Survey.of(lessons_of(*episodes), Measured(_opinion(said), _opinion(said)))


def _planned(method: Method, survey: Survey) -> Plan:
    return Plan.of(method, survey.lessons, [], 0, survey=survey)


def test_tamtrl_scales_turns_over_the_whole_step() -> None:
    """Mean chances of (.2, .5, .8) are shares of (0, .5, 1), in whichever episodes they stand."""
    survey = _survey(([[0.1, 0.3], [0.5]], 1.0, 0), ([[0.8]], 1.0, 1))
    share_K = TurnReward().turn_shares(survey.measured, survey.tokens)
    assert share_K.tolist() == pytest.approx([0, 0.5, 1])


def test_tamtrl_compares_all_turns_of_a_task() -> None:
    """Shares 0, .5 and 1 of reward 1, none of reward 0, by mean and deviation of the six turns."""
    survey = _survey(
        ([[0.2], [0.5], [0.8]], 1.0, 0), ([[0.8], [0.8], [0.8]], 0.0, 0), ([[0.3]], 1.0, 1)
    )
    found = _planned(_row("tamtrl", *GROUPED), survey).turn_advantages
    mean, deviation = 0.25, (1 / 6 * (0.75**2 + 0.25**2) + 4 / 6 * 0.25**2) ** 0.5
    expected = [(x - mean) / (deviation + 1e-6) for x in (0, 0.5, 1)]
    assert list(found[0].values()) == pytest.approx(expected)
    # What failed is paid nothing in any turn, however likely the teacher finds it.
    assert list(found[1].values()) == pytest.approx([expected[0]] * 3)
    assert found[2] == {0: 0.0}


def test_tamtrl_gives_each_token_its_turns_advantage() -> None:
    survey = _survey(([[0.2, 0.2], [0.8]], 1.0, 0), ([[0.5]], 0.0, 0))
    plan = _planned(_row("tamtrl", *GROUPED), survey)
    lessons = survey.lessons[::-1]
    tokens = tokens_of(*(x.trajectory for x in lessons))
    low, high = plan.turn_advantages[0].values()
    other = plan.turn_advantages[1][0]
    assert low == other < 0 < high
    expected = [other, low, low, high]
    assert plan.advantage(tokens, lessons).tolist() == pytest.approx(expected)


def test_tamtrl_with_a_teacher_that_likes_all_turns_alike_is_grpo(scene: Scene) -> None:
    """Where episodes of a task have as many turns: depth would count in the mean."""
    even = [t for t in scene.trajectories if t.episode % 2 == 0]
    flat = scene.student.frozen_copy()
    for parameter in flat.module.parameters():
        parameter.zero_()
    teacher = type(scene.teacher)()
    teacher.prepare(flat)
    lessons = taught(teacher, even)
    blank = Scene(scene.student, teacher, even, lessons)
    rl = "mix.rl.clip=0.2", "mix.rl.clip_high=0.28", "mix.rl.kl_coefficient=0.001"
    grpo = blank.gradient("method=grpo", *rl, *GROUPED, lessons=[])
    tamtrl = blank.gradient("method=tamtrl", *GROUPED, "privilege=none", "view=system")
    assert_same(tamtrl, grpo)
    own = Scene(scene.student, scene.teacher, even, taught(scene.teacher, even))
    told = own.gradient("method=tamtrl", *GROUPED, "privilege=none", "view=system")
    assert (told - grpo).norm() > 1e-2 * grpo.norm()


def test_tamtrl_without_a_teachers_signal_is_grpo(scene: Scene) -> None:
    rl = "mix.rl.clip=0.2", "mix.rl.clip_high=0.28", "mix.rl.kl_coefficient=0.001"
    found = scene.gradient("method=tamtrl", "control=zero_signal", *GROUPED)
    assert_same(found, scene.gradient("method=grpo", *rl, *GROUPED, lessons=[]))


def test_tamtrl_leaves_out_episodes_that_nobody_judged(scene: Scene) -> None:
    """They have no advantage, and no turn is measured against them."""
    some = scene.lessons[1:]
    alone = [t for t in scene.trajectories if t.episode]
    still = ("mix.rl.kl_coefficient=0",)
    found = scene.gradient("method=tamtrl", *GROUPED, *still, lessons=some)
    tokens = [sum(int(t.trainable.sum()) for t in x) for x in (alone, scene.trajectories)]
    expected = scene.gradient("method=tamtrl", *GROUPED, *still, lessons=some, trajectories=alone)
    assert_same(found, expected * tokens[0] / tokens[1])


def test_tamtrl_refuses_a_baseline_of_other_rewards() -> None:
    with pytest.raises(ValueError, match="another quantity"):
        _row("tamtrl", "mix.rl={kind: reinforce, baseline: running}")
