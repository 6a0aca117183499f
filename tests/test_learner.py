"""The learner: one gradient however the step is cut, what takes part, and what is skipped."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trajectories import played

from agentopd.chat import ChatTemplate
from agentopd.config import parse_config
from agentopd.learner import Learner, Update
from agentopd.model import LanguageModel, ModelSettings, load_model
from agentopd.teacher import Teacher
from agentopd.teachers.copies import FrozenTeacher
from agentopd.train import Run
from agentopd.types import Briefed, EndReason, Lesson, Trajectory
from agentopd.view import SystemView

ENV: dict[str, Any] = {"env": {"id": "agentopd/Sokoban-v0"}}
UNITS = {
    "token": "token",
    "turn": "{kind: turn, reduce: sum}",
    "turn_weight": "{kind: turn, use: weight}",
    "trajectory": "{kind: trajectory, reduce: mean}",
    "rubric": "{kind: rubric_span, criteria: [{name: tidy, fact: tidy, part: action}]}",
}
AUXILIARY = ("mix={kind: auxiliary, coefficient: 0.5}", "rollout.group=4")


@dataclass(frozen=True)
class Scene:
    """A student, a teacher that disagrees with it, and a step's episodes with lessons on them."""

    student: LanguageModel
    teacher: Teacher
    trajectories: list[Trajectory]
    lessons: list[Lesson]

    def learn(
        self,
        *overrides: str,
        lessons: Sequence[Lesson] | None = None,
        trajectories: Sequence[Trajectory] | None = None,
    ) -> tuple[Update, torch.Tensor | None, LanguageModel]:
        """One update of a copy of the student: its record, the gradient, the copy."""
        config = parse_config(ENV, ["learner.clip=1e9", *overrides])
        twin = self.student.frozen_copy()
        twin.module.requires_grad_(True)
        learner = Learner(twin, self.teacher, config)
        seen: list[torch.Tensor] = []
        learner.optimizer.register_step_pre_hook(lambda *_: seen.append(_gradient(twin)))
        update = learner.update(
            self.trajectories if trajectories is None else trajectories,
            self.lessons if lessons is None else lessons,
            step=0,
        )
        return update, seen[0] if seen else None, twin

    def gradient(self, *overrides: str, **taking_part: Any) -> torch.Tensor:
        """The gradient of one step, which must not be skipped."""
        update, gradient, _ = self.learn(*overrides, **taking_part)
        assert gradient is not None, update.skipped
        return gradient


def _gradient(model: LanguageModel) -> torch.Tensor:
    parts = [p.grad for p in model.module.parameters() if p.grad is not None]
    return torch.cat([part.flatten() for part in parts])


def _weights(model: LanguageModel) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.module.parameters()])


def _disturbed(model: LanguageModel, seed: int) -> LanguageModel:
    """A copy with other weights, far enough from uniform that distributions differ."""
    twin, generator = model.frozen_copy(), torch.Generator().manual_seed(seed)
    for parameter in twin.module.parameters():
        parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return twin


def _episodes(vocabulary: int) -> list[Trajectory]:
    """Eight episodes of two tasks, of 36 to 57 tokens: one each in a micro-batch of 64."""
    rng = np.random.default_rng(0)
    return [
        played(
            *(
                rng.integers(9, vocabulary, size=size).tolist()
                for size in (1 + n % 3, 3, 4)[: 2 + n % 2]
            ),
            observed=15,
            reasoning=1,
            infos=[{"facts": {"tidy": n % 2 == turn}} for turn in range(3)],
            rewards=[0.0, float(n in (1, 2, 6))],
            logprob=-5.5,
            episode=n,
            task=n // 4,
        )
        for n in range(8)
    ]


def _taught(teacher: Teacher, trajectories: Sequence[Trajectory]) -> list[Lesson]:
    briefed = [Briefed(trajectory=t, privileges=()) for t in trajectories]
    return teacher.score(SystemView().build(briefed, ChatTemplate(teacher.model.tokenizer)))


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    loaded = load_model(ModelSettings(path=str(tiny_model)))
    student, teacher = _disturbed(loaded, 1), FrozenTeacher()
    teacher.prepare(_disturbed(loaded, 2))
    trajectories = _episodes(student.vocabulary)
    return Scene(student, teacher, trajectories, _taught(teacher, trajectories))


def _assert_same(found: torch.Tensor, expected: torch.Tensor, within: float = 1e-6) -> None:
    assert expected.norm() > 1e-3, "there is nothing to compare"
    assert (found - expected).norm() <= within * expected.norm().clamp(min=1)


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
    _assert_same(other, found)
    assert cut.scalars == pytest.approx(whole.scalars, rel=1e-4, abs=1e-6)
    assert {"hidden_gradient_distil", "hidden_gradient_rl", "sampler_gap"} <= set(whole.scalars)


@pytest.mark.parametrize("unit", UNITS)
def test_sampled_advantages_do_not_depend_on_the_micro_batches_either(
    scene: Scene, unit: str
) -> None:
    method = (f"unit={UNITS[unit]}", "divergence.support=sampled", "weight=[gap_gate, entropy]")
    found = scene.gradient(*method, "learner.tokens_per_batch=8192")
    _assert_same(scene.gradient(*method, "learner.tokens_per_batch=64"), found)


def test_the_order_of_episodes_changes_nothing(scene: Scene) -> None:
    method = ("unit=turn", *AUXILIARY, "learner.tokens_per_batch=128")
    back = scene.gradient(
        *method, lessons=scene.lessons[::-1], trajectories=scene.trajectories[::-1]
    )
    _assert_same(back, scene.gradient(*method))


def test_a_turns_mean_loss_teaches_what_its_tokens_do(scene: Scene) -> None:
    """Under token_mean: spreading a sum over the tokens it is made of gives the same sum."""
    _assert_same(scene.gradient("unit=turn"), scene.gradient("unit=token"))


def test_rubric_weights_keep_the_scale_of_the_loss(scene: Scene) -> None:
    """The weights average to 1: where no criterion is judged, the loss is that of the tokens."""
    unjudged = "unit={kind: rubric_span, floor: 0.1, criteria: [{name: a, fact: unheard_of}]}"
    _assert_same(scene.gradient(unjudged), scene.gradient("unit=token"))
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
    changed = scene.gradient(lessons=_taught(scene.teacher, seen), trajectories=seen)
    assert (changed - scene.gradient()).norm() > 1e-4


@pytest.mark.parametrize("blank", [True, False], ids=["empty_lesson", "no_lesson"])
def test_missing_lessons_are_masked_and_never_filled_in(scene: Scene, blank: bool) -> None:
    known = [0, 3, 5]
    taught = [scene.lessons[n] for n in known]
    untold = [Lesson(trajectory=t) for t in scene.trajectories if t.episode not in known]
    alone = scene.gradient(lessons=taught, trajectories=[x.trajectory for x in taught])
    _assert_same(scene.gradient(lessons=[*untold, *taught] if blank else taught), alone)


def test_episodes_without_a_lesson_still_learn_from_their_reward(scene: Scene) -> None:
    taught = scene.lessons[:3]
    distil = scene.gradient(lessons=taught)
    rewards = scene.gradient("mix=rl", "rollout.group=4")
    both = scene.gradient(*AUXILIARY, lessons=taught)
    _assert_same(both, 0.5 * distil + rewards, within=1e-5)


def test_episodes_that_ended_in_an_error_take_no_part(scene: Scene) -> None:
    failed = [replace(t, end=EndReason.ERROR) for t in scene.trajectories[:2]]
    trajectories = [*failed, *scene.trajectories[2:]]
    lessons = [replace(x, trajectory=t) for x, t in zip(scene.lessons, trajectories, strict=True)]
    found = scene.gradient(*AUXILIARY, lessons=lessons, trajectories=trajectories)
    without = scene.gradient(
        *AUXILIARY, lessons=scene.lessons[2:], trajectories=scene.trajectories[2:]
    )
    _assert_same(found, without)


def test_a_schedule_multiplies_its_channel(scene: Scene) -> None:
    half = scene.gradient("schedule.distil={kind: constant, value: 0.5}")
    _assert_same(half, 0.5 * scene.gradient())
    only_rl = scene.gradient(*AUXILIARY, "schedule.distil={kind: constant, value: 0.0}")
    _assert_same(only_rl, scene.gradient("mix=rl", "rollout.group=4"))


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
    lessons = _taught(scene.teacher, alike) if told else []
    update, gradient, student = scene.learn(*overrides, lessons=lessons, trajectories=alike)
    assert update.skipped == "no teacher signal and no advantage"
    assert (update.loss, update.scalars) == (None, {})
    assert gradient is None
    assert torch.equal(_weights(student), _weights(scene.student))


def test_without_episodes_there_is_nothing_to_learn(scene: Scene) -> None:
    update, gradient, _ = scene.learn(lessons=[], trajectories=[])
    assert update.skipped and gradient is None


def test_a_gradient_that_is_not_finite_skips_the_step(scene: Scene) -> None:
    hidden_NH = scene.lessons[0].hidden_NH
    assert hidden_NH is not None
    broken = replace(scene.lessons[0], hidden_NH=torch.full_like(hidden_NH, torch.nan))
    update, gradient, student = scene.learn(lessons=[broken, *scene.lessons[1:]])
    assert update.skipped == "the gradient is not finite"
    assert gradient is None
    assert torch.equal(_weights(student), _weights(scene.student))
    assert all(p.grad is None for p in student.module.parameters())


def test_learning_brings_the_student_nearer_to_the_teacher(scene: Scene) -> None:
    config = parse_config(ENV, ["learner.learning_rate=0.01"])
    twin = scene.student.frozen_copy()
    twin.module.requires_grad_(True)
    learner = Learner(twin, scene.teacher, config)
    losses = [learner.update(scene.trajectories, scene.lessons, s).loss or 0.0 for s in range(8)]
    assert losses[-1] < 0.7 * losses[0]


def _run(tiny_model: Path, out: Path, *overrides: str) -> Run:
    data = ENV | {"student": {"path": str(tiny_model)}, "threads": 1}
    data["env"] = {**ENV["env"], "options": {"prompt": "brief", "max_turns": 3}}
    return Run(parse_config(data, ["rollout.tasks=4", *overrides]), out, False, lambda _: None)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_learner_recomputes_the_samplers_log_probabilities(
    tiny_model: Path, tmp_path: Path, temperature: float
) -> None:
    run = _run(tiny_model, tmp_path / "run", f"rollout.temperature={temperature}")
    with torch.no_grad():
        run.student.output.weight.mul_(20.0)  # near-uniform distributions would agree anyhow
    run.sampler.sync(run.student)
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
    run = _run(tiny_model, tmp_path / "run", *method)
    before = _weights(run.student)
    for step in range(3):
        trajectories = run.roll_out(step)
        update = run.learn(trajectories, run.ask_teacher(trajectories, step), step)
        assert update.skipped == ""
        assert update.loss == pytest.approx(0.0, abs=1e-6)
        assert max(update.probes["by_turn"]["divergence"]) < 1e-6
        # Not merely small: the optimizer would make full steps of a gradient of 1e-8.
        assert update.scalars["gradient_norm"] == 0.0
    assert torch.equal(_weights(run.student), before)
