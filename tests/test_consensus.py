"""GATES: told episodes that agree are learnt beside untold ones, each by an average of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scenes import ENV, Scene, assert_same, run_of, scene_of, taught
from trajectories import lessons_of, played

from agentopd.base.types import EndReason, Trajectory
from agentopd.mixes.base import Route
from agentopd.mixes.routing import Consensus
from agentopd.running.reading import parse_config
from agentopd.running.run import Run

GATES = ("method=gates", "rollout.tasks=2", "rollout.group=4")
BOUNDED = "{kind: reverse_kl, support: sampled, estimator: {kind: bounded, floor: -5, ceiling: 5}}"
NOTHING = Route(distil=0.0, rl=0.0)


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


def _ending(trajectory: Trajectory, answer: str, told: bool, reward: float = 0.0) -> Trajectory:
    """The same with that last answer, of whom was told or not."""
    last = replace(trajectory.turns[-1], action=answer, reward=reward)
    turns = (*trajectory.turns[:-1], last)
    return replace(trajectory, turns=turns, told=trajectory.trainable if told else None)


def _group(
    answers: Sequence[str], task: int = 0, rewards: Sequence[float] = ()
) -> list[Trajectory]:
    """One untold episode, and told ones that end so."""
    one = _ending(played([5], episode=100 * task, task=task), "other", told=False)
    told = [
        _ending(
            replace(played([5], episode=100 * task + n, task=-1 - task), seed=task),
            answer,
            told=True,
            reward=rewards[n - 1] if rewards else 0.0,
        )
        for n, answer in enumerate(answers, 1)
    ]
    return [one, *told]


def _learnt(mix: Consensus, step: list[Trajectory]) -> tuple[set[int], set[int]]:
    """The episodes that learn from the teacher, and those that are made likelier."""
    routes = mix.routes(lessons_of(*step))
    assert all(not route.rl for route in routes.values())
    distilled = {e for e, route in routes.items() if route.distil}
    likelier = {e for e, route in routes.items() if route.likelihood}
    assert not distilled & likelier
    return distilled, likelier


@pytest.mark.parametrize(
    ("answers", "agreed"),
    [
        (list("abacadae"), {1, 3, 5, 7}),  # 4 of 8
        (list("abacadfe"), set[int]()),  # 3 of 8
        (list("aabb"), {1, 2}),  # the first of two
        (["<action>a</action>", "<think>b</think> so <action>a</action>", "a ", "b"], {1, 2, 3}),
    ],
)
def test_who_agrees_is_learnt(answers: list[str], agreed: set[int]) -> None:
    distilled, likelier = _learnt(Consensus(), _group(answers))
    assert likelier == agreed
    assert distilled == ({0} if agreed else set())


def test_each_task_has_a_gate_of_its_own() -> None:
    step = [*_group(["a", "a"]), *_group(["a", "b", "c"], task=1), *_group(["c"], task=2)]
    alone = replace(played([5], episode=7, task=9), seed=9)  # of which nobody was told
    distilled, likelier = _learnt(Consensus(), [*step, alone])
    assert distilled == {0, 200} and likelier == {1, 2, 201}


def test_episodes_may_agree_by_their_outcome() -> None:
    step = _group(["a", "b", "c", "d"], rewards=[1.0, 0.0, 1.0, 0.5])
    assert _learnt(Consensus(by="outcome"), step) == ({0}, {1, 3})
    assert _learnt(Consensus(), step) == (set(), set())


def _step(scene: Scene, *answers: str) -> tuple[Scene, list[Trajectory], list[Trajectory]]:
    """The scene's first four episodes as the student's, the others as told ones of their task."""
    own = [_ending(t, "x", told=False) for t in scene.trajectories[:4]]
    told = [
        replace(_ending(t, answer, told=True), task=-1, seed=0)
        for t, answer in zip(scene.trajectories[4:], answers, strict=True)
    ]
    step = [*own, *told]
    return Scene(scene.student, scene.teacher, step, taught(scene.teacher, step)), own, told


def test_a_gate_that_stays_shut_leaves_no_gradient_at_all(scene: Scene) -> None:
    shut, _, _ = _step(scene, "a", "b", "c", "d")
    update, gradient, _ = shut.learn(*GATES)
    assert gradient is None and update.loss is None
    assert update.skipped == "no teacher signal and no advantage"


def test_the_students_own_term_alone_is_opd_by_the_sampled_token(scene: Scene) -> None:
    """With every gate open, and nothing made likelier: told episodes are not in the average."""
    open_, own, _ = _step(scene, "a", "b", "c", "d")
    settings = ("mix.share=0", "mix.likelihood=0", "mix.coefficient=1")
    found = open_.gradient(*GATES, *settings)
    lessons = [x for x in open_.lessons if x.trajectory.told is None]
    opd = f"divergence={BOUNDED}"
    expected = scene.gradient("method=opd", opd, trajectories=own, lessons=lessons)
    assert_same(found, expected)
    assert_same(open_.gradient(*GATES, "mix.share=0", "mix.likelihood=0"), 0.1 * expected)


def test_two_kinds_of_data_have_averages_of_their_own(scene: Scene) -> None:
    """The likelihood of the three that agree, and a tenth of the student's own."""
    step, own, told = _step(scene, "a", "a", "b", "a")
    found = step.gradient(*GATES)
    lessons = [x for x in step.lessons if x.trajectory.told is None]
    opd = scene.gradient("method=opd", f"divergence={BOUNDED}", trajectories=own, lessons=lessons)
    agreed = [replace(told[n], told=None) for n in (0, 1, 3)]
    nll = scene.gradient("mix=nll", trajectories=agreed, lessons=[])
    assert_same(found, nll + 0.1 * opd)


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    small = "rollout.tasks=2", "rollout.group=2", "rollout.max_turns=2", "evaluate.episodes=1"
    return run_of(tiny_model, tmp_path_factory.mktemp("gates") / "run", "method=gates", *small)


def test_told_episodes_stand_beside_the_students_own(run: Run) -> None:
    """Those are what it would have played anyway; the told ones learn without what was told."""
    step = run.roll_out(0)
    own, told = step[:4], step[4:]
    assert len(told) == 4 and len({t.episode for t in step}) == 8
    assert all(t.end is not EndReason.ERROR for t in step)
    alone = parse_config(ENV, ["rollout={kind: student, tasks: 2, group: 2, max_turns: 2}"]).rollout
    expected = alone.collect(run.config.env, run.student, run.sampler.current(), 0, 0)
    assert [t.ids.tolist() for t in own] == [t.ids.tolist() for t in expected]
    for one, other in zip(own, told, strict=True):
        assert one.told is None and other.told is not None
        assert other.told[other.trainable].all()
        assert (other.seed, other.task) == (one.seed, -1 - one.task)
        shown = one.turns[0].start
        assert other.ids[:shown].tolist() == one.ids[:shown].tolist()
    lessons = run.ask_teacher(step, 0)
    assert torch.isfinite(torch.tensor(run.learn(step, lessons, 0).loss or 0.0))


def test_a_gate_that_nothing_could_open_is_refused() -> None:
    for overrides in (("rollout=student",), ("rollout.learn_under=hint",)):
        with pytest.raises(ValueError, match="where told episodes agree"):
            parse_config(ENV, [*GATES[:1], *overrides])
