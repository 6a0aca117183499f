"""The learner: one gradient however the step is cut, what takes part, and what is skipped."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scenes import (
    AUXILIARY,
    ENV,
    Scene,
    assert_same,
    run_of,
    scene_of,
    taught,
    weights,
)

from agentopd.base.types import EndReason, Lesson, Trajectory
from agentopd.learning.learner import Learner
from agentopd.running.reading import parse_config
from agentopd.signal.evidence import SignalError

UNITS = {
    "token": "token",
    "turn": "{kind: turn, reduce: sum}",
    "turn_weight": "{kind: turn, use: weight}",
    "trajectory": "{kind: trajectory, reduce: mean}",
    "rubric": "{kind: rubric_span, criteria: [{name: tidy, fact: tidy, part: action}]}",
}


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


def test_the_loss_is_the_mean_divergence_over_the_sampled_tokens(scene: Scene) -> None:
    """By the models' own logits, one episode at a time, in probabilities and float64."""
    values: list[torch.Tensor] = []
    with torch.no_grad():
        for trajectory in scene.trajectories:
            ids_1T = torch.from_numpy(trajectory.ids)[None]
            before = torch.from_numpy(trajectory.trainable.nonzero()[0] - 1)
            models = (scene.student.module, scene.teacher.model.module)
            p_NV, q_NV = (
                m(input_ids=ids_1T).logits[0, before].double().softmax(-1) for m in models
            )
            values.append((p_NV * (p_NV / q_NV).log()).sum(-1))
    expected = torch.cat(values).mean().item()
    assert expected > 0.1
    assert scene.learn()[0].loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("normalise", ["token_mean", "turn_mean", "sequence_mean", "fixed"])
@pytest.mark.parametrize("unit", UNITS)
def test_one_batch_of_eight_learns_what_eight_of_one_do(
    scene: Scene, unit: str, normalise: str
) -> None:
    method = (f"unit={UNITS[unit]}", f"unit.normalise={normalise}", *AUXILIARY)
    whole, found, _ = scene.learn(*method, "learner.tokens_per_batch=8192")
    cut, other, _ = scene.learn(*method, "learner.tokens_per_batch=64")
    assert found is not None and other is not None
    assert_same(other, found)
    assert cut.scalars == pytest.approx(whole.scalars, rel=1e-4, abs=1e-6)
    assert {"hidden_gradient_distil", "hidden_gradient_rl", "sampler_gap"} <= set(whole.scalars)


@pytest.mark.parametrize("unit", UNITS)
def test_sampled_advantages_do_not_depend_on_the_micro_batches_either(
    scene: Scene, unit: str
) -> None:
    method = (f"unit={UNITS[unit]}", "divergence.support=sampled", "weight=[gap_gate, entropy]")
    found = scene.gradient(*method, "learner.tokens_per_batch=8192")
    assert_same(scene.gradient(*method, "learner.tokens_per_batch=64"), found)


def test_the_order_of_episodes_changes_nothing(scene: Scene) -> None:
    method = ("unit=turn", *AUXILIARY, "learner.tokens_per_batch=128")
    back = scene.gradient(
        *method, lessons=scene.lessons[::-1], trajectories=scene.trajectories[::-1]
    )
    assert_same(back, scene.gradient(*method))


def test_a_step_whose_schedule_silences_the_teacher_is_skipped(scene: Scene) -> None:
    update, gradient, _ = scene.learn("schedule.distil={kind: constant, value: 0}")
    assert update.skipped and gradient is None


def test_a_turns_mean_loss_teaches_what_its_tokens_do(scene: Scene) -> None:
    """Under token_mean: spreading a sum over the tokens it is made of gives the same sum."""
    assert_same(scene.gradient("unit=turn"), scene.gradient("unit=token"))


def test_rubric_weights_keep_the_scale_of_the_loss(scene: Scene) -> None:
    """The weights average to 1: where no criterion is judged, the loss is that of the tokens."""
    unjudged = "unit={kind: rubric_span, floor: 0.1, criteria: [{name: a, fact: unheard_of}]}"
    assert_same(scene.gradient(unjudged), scene.gradient("unit=token"))
    tokens, judged = (
        scene.learn("unit=token")[0].loss,
        scene.learn(f"unit={UNITS['rubric']}")[0].loss,
    )
    assert tokens is not None and judged is not None
    assert 0.5 < judged / tokens < 2


def test_as_advantages_all_units_teach_different_things(scene: Scene) -> None:
    gradients = [scene.gradient(f"unit={u}", "divergence.support=sampled") for u in UNITS.values()]
    for one, other in itertools.combinations(gradients, 2):
        assert (one - other).norm() > 1e-2 * one.norm()


def test_what_is_noted_of_observations_does_not_enter_the_gradient(scene: Scene) -> None:
    """An observation has no behaviour log-probability and no credit, whatever stands there."""

    def marked(trajectory: Trajectory) -> Trajectory:
        logprob = np.where(trajectory.trainable, trajectory.logprob, 7.0).astype(np.float32)
        turn = np.where(trajectory.trainable, trajectory.turn, 99).astype(np.int32)
        return replace(trajectory, logprob=logprob, turn=turn)

    lessons = [replace(lesson, trajectory=marked(lesson.trajectory)) for lesson in scene.lessons]
    trajectories = [lesson.trajectory for lesson in lessons]
    method = ("divergence.support=sampled", "unit=turn", *AUXILIARY)
    changed = scene.gradient(*method, lessons=lessons, trajectories=trajectories)
    assert torch.equal(changed, scene.gradient(*method))


def test_observations_are_seen_though_they_are_not_learnt(scene: Scene) -> None:
    first = scene.trajectories[0]
    ids = first.ids.copy()
    ids[first.turns[1].start - 3] = 42
    seen = [replace(first, ids=ids), *scene.trajectories[1:]]
    changed = scene.gradient(lessons=taught(scene.teacher, seen), trajectories=seen)
    assert (changed - scene.gradient()).norm() > 1e-4


@pytest.mark.parametrize("blank", [True, False], ids=["empty_lesson", "no_lesson"])
def test_missing_lessons_are_masked_and_never_filled_in(scene: Scene, blank: bool) -> None:
    known = [0, 3, 5]
    taught = [scene.lessons[n] for n in known]
    untold = [Lesson(trajectory=t) for t in scene.trajectories if t.episode not in known]
    alone = scene.gradient(lessons=taught, trajectories=[x.trajectory for x in taught])
    assert_same(scene.gradient(lessons=[*untold, *taught] if blank else taught), alone)


def test_episodes_that_ended_in_an_error_take_no_part(scene: Scene) -> None:
    failed = [replace(t, end=EndReason.ERROR) for t in scene.trajectories[:2]]
    trajectories = [*failed, *scene.trajectories[2:]]
    lessons = [replace(x, trajectory=t) for x, t in zip(scene.lessons, trajectories, strict=True)]
    found = scene.gradient(*AUXILIARY, lessons=lessons, trajectories=trajectories)
    without = scene.gradient(
        *AUXILIARY, lessons=scene.lessons[2:], trajectories=scene.trajectories[2:]
    )
    assert_same(found, without)


def test_a_schedule_multiplies_its_channel(scene: Scene) -> None:
    half = scene.gradient("schedule.distil={kind: constant, value: 0.5}")
    assert_same(half, 0.5 * scene.gradient())
    only_rl = scene.gradient(*AUXILIARY, "schedule.distil={kind: constant, value: 0.0}")
    assert_same(only_rl, scene.gradient("mix=rl", "rollout.group=4"))


def test_a_schedule_and_the_warm_up_multiply_the_learning_rate(scene: Scene) -> None:
    plain = scene.learn("learner.learning_rate=0.01")[0].scalars["learning_rate"]
    slow = ("learner.learning_rate=0.01", "learner.warmup=4")
    assert plain == pytest.approx(0.01)
    assert scene.learn(*slow)[0].scalars["learning_rate"] == pytest.approx(0.0025)
    decayed = (*slow, "schedule.learning_rate={kind: constant, value: 0.5}")
    assert scene.learn(*decayed)[0].scalars["learning_rate"] == pytest.approx(0.00125)


def test_the_gradient_is_clipped_to_its_norm(scene: Scene) -> None:
    free, clipped = scene.gradient(), scene.gradient("learner.clip=0.01")
    assert clipped.norm().item() == pytest.approx(0.01, rel=1e-3)
    torch.testing.assert_close(clipped / clipped.norm(), free / free.norm())


@pytest.mark.parametrize(
    ("overrides", "told"),
    [(("mix=rl", "rollout.group=4"), True), ((), False), (AUXILIARY, False)],
    ids=["dead_groups", "no_lessons", "neither"],
)
def test_a_step_with_nothing_to_learn_is_skipped(
    scene: Scene, overrides: tuple[str, ...], told: bool
) -> None:
    alike = [
        replace(t, turns=tuple(replace(u, reward=0.1) for u in t.turns[:2]))
        for t in scene.trajectories
    ]
    lessons = taught(scene.teacher, alike) if told else []
    update, gradient, student = scene.learn(*overrides, lessons=lessons, trajectories=alike)
    assert update.skipped == "no teacher signal and no advantage"
    assert (update.loss, update.scalars) == (None, {})
    assert gradient is None
    assert torch.equal(weights(student), weights(scene.student))


def test_without_episodes_there_is_nothing_to_learn(scene: Scene) -> None:
    update, gradient, _ = scene.learn(lessons=[], trajectories=[])
    assert update.skipped and gradient is None


def test_a_teacher_without_numbers_is_named_by_episode_and_turn(scene: Scene) -> None:
    hidden_NH = scene.lessons[2].hidden_NH
    assert hidden_NH is not None
    first = scene.trajectories[2].turns[0]
    broken_NH = hidden_NH.clone()
    broken_NH[first.stop - first.start] = torch.nan
    lessons = [
        replace(x, hidden_NH=broken_NH) if x is scene.lessons[2] else x for x in scene.lessons
    ]
    for mix in ("distil", "reward"):
        with pytest.raises(SignalError, match="episode 2, turn 2: the teacher's log-probability"):
            scene.learn(f"mix={mix}", "rollout.group=4", lessons=lessons)


def test_a_gradient_that_is_not_finite_skips_the_step(scene: Scene) -> None:
    """A loss of some 1e30 is a number; the sum of its gradient's squares is none in float32."""
    update, gradient, student = scene.learn("schedule.distil={kind: constant, value: 1e30}")
    assert update.loss is not None and 1e29 < update.loss < 1e31
    assert update.skipped == "the gradient is not finite"
    assert gradient is None
    assert torch.equal(weights(student), weights(scene.student))
    assert all(p.grad is None for p in student.module.parameters())


def test_learning_brings_the_student_nearer_to_the_teacher(scene: Scene) -> None:
    config = parse_config(ENV, ["learner.learning_rate=0.01"])
    twin = scene.student.frozen_copy()
    twin.module.requires_grad_(True)
    learner = Learner(twin, scene.teacher, config)
    losses = [learner.update(scene.trajectories, scene.lessons, s).loss or 0.0 for s in range(8)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_learner_recomputes_the_samplers_log_probabilities(
    tiny_model: Path, tmp_path: Path, temperature: float
) -> None:
    run = run_of(tiny_model, tmp_path / "run", f"rollout.temperature={temperature}")
    with torch.no_grad():
        run.student.output.weight.mul_(20.0)  # near-uniform distributions would agree anyhow
    run.sampler.moved()
    trajectories = run.roll_out(0)
    update = run.learn(trajectories, run.ask_teacher(trajectories, 0), step=0)
    assert 0 < update.scalars["sampler_gap"] < 1e-5


@pytest.mark.parametrize(
    "divergence", ["reverse_kl", "forward_kl", "jsd", "{kind: reverse_kl, support: sampled}"]
)
def test_a_frozen_teacher_that_knows_nothing_more_teaches_nothing(
    tiny_model: Path, tmp_path: Path, divergence: str
) -> None:
    # One budget for both: equal batches round alike.
    equal = (
        "teacher.kind=frozen",
        "teacher.tokens_per_batch=4096",
        "learner.tokens_per_batch=4096",
    )
    method = ("privilege=none", *equal, f"divergence={divergence}")
    run = run_of(tiny_model, tmp_path / "run", *method)
    before = weights(run.student)
    for step in range(3):
        trajectories = run.roll_out(step)
        update = run.learn(trajectories, run.ask_teacher(trajectories, step), step)
        assert update.skipped == ""
        assert update.loss == pytest.approx(0.0, abs=1e-6)
        by_turn = update.probes["by_turn"]
        assert max(by_turn.get("divergence", by_turn["log_ratio"])) < 1e-6
        # Not merely small: the optimizer would make full steps of a gradient of 1e-8.
        assert update.scalars["gradient_norm"] == 0.0
    assert torch.equal(weights(run.student), before)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_a_sampler_that_is_another_model_than_the_learner_is_told(
    tiny_model: Path, tmp_path: Path, shift: float
) -> None:
    run = run_of(tiny_model, tmp_path / "run", "evaluate.episodes=2")
    lines: list[dict[str, Any]] = []
    run.records.watch = lines.append
    played = [replace(t, logprob=t.logprob - shift) for t in run.roll_out(0)]
    run.record(0, played, run.learn(played, run.ask_teacher(played, 0), 0))
    told = [x for x in lines[0].get("warnings", ()) if x.startswith("sampler and learner differ")]
    assert len(told) == (shift > 0)
