"""Several passes over a step's episodes: each an update of its own, recorded by the first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scenes import AUXILIARY, ENV, Scene, scene_of, thawed, weights

from agentopd.base.types import Trajectory
from agentopd.learning.learner import Learner
from agentopd.running.reading import parse_config

REWARDS = ("mix=rl", "rollout.group=4")
FAST = "learner.learning_rate=1e-2"


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


@pytest.mark.parametrize(
    "method", [(), AUXILIARY, REWARDS, ("divergence.support=sampled",)], ids=" ".join
)
def test_three_passes_are_three_updates(scene: Scene, method: tuple[str, ...]) -> None:
    once = thawed(scene.student)
    learner = Learner(once, scene.teacher, parse_config(ENV, ["learner.clip=1e9", FAST, *method]))
    updates = [learner.update(scene.trajectories, scene.lessons, step=0) for _ in range(3)]
    thrice, _, student = scene.learn(*method, FAST, "learner.epochs=3")
    assert torch.equal(weights(student), weights(once))
    first, last = updates[0], updates[-1]
    assert thrice.loss == first.loss
    assert thrice.scalars == first.scalars | {"drift": last.scalars["sampler_gap"]}
    assert thrice.probes == first.probes
    assert thrice.scalars["drift"] != first.scalars["sampler_gap"]


def test_scores_are_saved_as_they_were_before_the_first_pass(scene: Scene) -> None:
    found = [
        scene.learn("save.scores_top_k=4", FAST, f"learner.epochs={epochs}")[0].scores
        for epochs in (1, 3)
    ]
    assert len(found[1]) == len(scene.trajectories)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one.measured.student.logprob_N, other.measured.student.logprob_N)


def test_from_the_second_pass_on_the_clip_has_something_to_clip(scene: Scene) -> None:
    """Of episodes whose recorded log-probabilities are the student's own."""

    def learnt(clip: float, epochs: int) -> torch.Tensor:
        method = (*REWARDS, FAST, f"mix.rl.clip={clip}", f"learner.epochs={epochs}")
        return weights(scene.learn(*method, trajectories=own, lessons=[])[2])

    own = on_policy(scene)
    assert torch.equal(learnt(0.01, 1), learnt(100, 1))
    assert not torch.equal(learnt(0.01, 3), learnt(100, 3))


def on_policy(scene: Scene) -> list[Trajectory]:
    """The scene's episodes, as if this student had played them."""
    scores = scene.learn("save.scores_top_k=1")[0].scores
    own = []
    for one in sorted(scores, key=lambda one: one.lesson.trajectory.episode):
        trajectory = one.lesson.trajectory
        logprob = trajectory.logprob.copy()
        logprob[trajectory.trainable] = one.measured.student.logprob_N.numpy()
        own.append(replace(trajectory, logprob=logprob))
    return own


def test_after_a_gradient_that_is_not_finite_there_is_no_further_pass(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[float] = []

    def norms(*_: object) -> torch.Tensor:
        passes.append(1.0 if not passes else torch.inf)
        return torch.tensor(passes[-1])

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", norms)
    update, _, _ = scene.learn("learner.epochs=4")
    assert update.skipped == "the gradient is not finite"
    assert len(passes) == 2


def test_a_teacher_that_is_the_student_cannot_be_asked_once_for_several_passes() -> None:
    with pytest.raises(ValueError, match=r"learner\.epochs: 2 .* teacher: live .* use teacher"):
        parse_config(ENV, ["teacher=live", "learner.epochs=2"])
    for allowed in (["teacher=frozen"], ["teacher=live", *REWARDS], ["teacher=ema"]):
        assert parse_config(ENV, [*allowed, "learner.epochs=2"]).learner.epochs == 2
