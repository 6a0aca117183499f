"""Whole updates under each mix: what the channels add up to, and what they remember of the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scenes import (
    AUXILIARY,
    ENV,
    Scene,
    assert_same,
    disturbed,
    run_of,
    scene_of,
    taught,
    thawed,
    weights,
    written_out,
)

from agentopd.base.types import Trajectory
from agentopd.learning.learner import Learner
from agentopd.mixes.advantages import Grpo
from agentopd.running.reading import parse_config

SAMPLED = "divergence.support=sampled"
MIXES = {
    "distil": ("mix=distil",),
    "anchored": ("mix={kind: distil, kl_coefficient: 0.5}",),
    "auxiliary": AUXILIARY,
    "additive": ("mix={kind: additive, coefficient: 0.5}", SAMPLED, "unit={kind: turn}"),
    "multiplicative": ("mix=multiplicative", "weight=[{kind: gap_gate, renormalise: off}]"),
    "trust_ratio": ("mix=trust_ratio",),
    "reward": ("mix={kind: reward, reduce: sum, environment: 0.5}",),
    "routed": ("mix=routed",),
    "likelihood": ("mix={kind: routed, success: likelihood, perplexity_temperature: 2}",),
    "dead_group_fallback": ("mix=dead_group_fallback",),
    "rloo": ("mix={kind: rl, rl: {kind: rloo, entropy_bonus: 0.1}}",),
    "reinforce": ("mix={kind: rl, rl: {kind: reinforce, clip_high: 0.4}}",),
}


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


@pytest.mark.parametrize("mix", MIXES)
def test_no_mix_depends_on_the_micro_batches_or_the_order(scene: Scene, mix: str) -> None:
    """Of three tasks one is dead; every third episode has no lesson."""
    trajectories = [*scene.trajectories, *_dead(scene)]
    lessons = [x for n, x in enumerate(taught(scene.teacher, trajectories)) if n % 3]
    method = (*MIXES[mix], "rollout.group=4")
    found, cut, back = (
        scene.gradient(
            *method,
            f"learner.tokens_per_batch={tokens}",
            lessons=lessons[::order],
            trajectories=trajectories[::order],
        )
        for tokens, order in ((8192, 1), (64, 1), (8192, -1))
    )
    assert_same(cut, found, within=3e-6)
    assert_same(back, found, within=3e-6)


def test_the_parts_of_a_shared_advantage_are_compared_over_the_step(scene: Scene) -> None:
    """By hand: log q - log p of every token, halved, beside GRPO's advantages."""
    whole, cut = (
        scene.learn(
            *MIXES["additive"], "rollout.group=4", "unit=token", "save.scores_top_k=1", tokens
        )[0]
        for tokens in ("learner.tokens_per_batch=8192", "learner.tokens_per_batch=64")
    )
    distil, rl = 0.0, 0.0
    advantages = Grpo().of(scene.trajectories)
    for one in whole.scores:
        teacher = one.measured.teacher
        assert teacher is not None
        gap_N = teacher.logprob_N.double() - one.measured.student.logprob_N.double()
        distil += (0.5 * gap_N).square().sum().item()
        rl += len(gap_N) * advantages[one.lesson.trajectory.episode] ** 2
    assert whole.scalars["advantage_ratio"] == pytest.approx((distil / rl) ** 0.5, rel=1e-5)
    assert cut.scalars["advantage_ratio"] == pytest.approx(whole.scalars["advantage_ratio"])
    assert "gradient_ratio" not in whole.scalars


def _dead(scene: Scene) -> list[Trajectory]:
    """Two episodes of another task that are rewarded alike."""
    return [
        replace(t, episode=8 + n, task=7, turns=tuple(replace(u, reward=0.1) for u in t.turns[:2]))
        for n, t in enumerate((scene.trajectories[0], scene.trajectories[6]))
    ]


def test_dead_groups_alone_fall_back_on_the_teacher(scene: Scene) -> None:
    """Each channel's average is over all of the step's tokens, so both gradients simply add up."""
    dead = _dead(scene)
    trajectories = [*scene.trajectories, *dead]
    lessons = taught(scene.teacher, trajectories)
    fallback = scene.gradient(
        "mix=dead_group_fallback", "rollout.group=4", lessons=lessons, trajectories=trajectories
    )
    tokens = sum(int(t.trainable.sum()) for t in trajectories)
    fixed = f"unit={{kind: token, normalise: fixed, budget: {tokens}}}"
    teacher = scene.gradient(fixed, lessons=lessons[8:], trajectories=dead)
    rewards = scene.gradient(fixed, "mix=rl", "rollout.group=4")
    assert_same(fallback, teacher + rewards, within=1e-5)


def test_the_teachers_score_of_an_episode_is_its_reward(scene: Scene) -> None:
    """By the models' own logits: the episodes' mean gaps take the rewards' place."""
    scored: list[Trajectory] = []
    for trajectory, lesson in zip(scene.trajectories, scene.lessons, strict=True):
        assert lesson.hidden_NH is not None
        ids_N = torch.from_numpy(trajectory.ids[trajectory.trainable])
        teacher_NV = scene.teacher.model.logits(lesson.hidden_NH).double().log_softmax(-1)
        gap = teacher_NV.gather(1, ids_N[:, None]).mean().item() + 5.5
        first, *others = (replace(turn, reward=0.0) for turn in trajectory.turns)
        scored.append(replace(trajectory, turns=(replace(first, reward=gap), *others)))
    expected = scene.gradient("mix=rl", "rollout.group=4", trajectories=scored)
    assert_same(scene.gradient("mix=reward", "rollout.group=4"), expected, within=1e-5)
    assert_same(
        scene.gradient("mix=reward", "rollout.group=4", "learner.tokens_per_batch=64"),
        expected,
        within=1e-5,
    )


def test_the_penalty_holds_the_student_to_what_it_was(scene: Scene) -> None:
    """GRPO's k3 by the models' own logits, of a student that has moved since."""
    config = parse_config(
        ENV, ["mix={kind: rl, rl: {kind: grpo, kl_coefficient: 2.0}}", "rollout.group=4"]
    )
    moved = disturbed(scene.student, 3)
    moved.module.requires_grad_(True)
    learner = Learner(thawed(scene.student), scene.teacher, config)
    learner.student, learner.parameters = moved, list(moved.module.parameters())
    update = learner.update(scene.trajectories, (), step=0)
    plain = parse_config(ENV, ["mix=rl", "rollout.group=4"])
    without = Learner(thawed(moved), scene.teacher, plain).update(scene.trajectories, (), step=0)
    k3 = []
    for trajectory in scene.trajectories:
        ids_1T = torch.from_numpy(trajectory.ids)[None]
        chosen = torch.from_numpy(trajectory.trainable.nonzero()[0])
        now_N, then_N = (
            m.module(input_ids=ids_1T)
            .logits[0, chosen - 1]
            .double()
            .log_softmax(-1)
            .gather(1, ids_1T[0, chosen, None])
            for m in (learner.reference or moved, moved)
        )
        gap_N = now_N - then_N
        k3.append(gap_N.exp() - gap_N - 1)
    assert update.loss is not None and without.loss is not None
    penalty = 2.0 * torch.cat(k3).mean().item()
    assert penalty > 0.1
    assert update.loss - without.loss == pytest.approx(penalty, rel=1e-4)


def test_a_distilled_student_is_held_to_what_it_was(scene: Scene) -> None:
    """The gradient of both written out, by the models' own logits; rewards are not looked at.

    GRPO's k3 of the sampled tokens, every one of an episode that has a lesson or has none.
    """
    config = parse_config(ENV, ["mix={kind: distil, kl_coefficient: 2.0}", "learner.clip=1e9"])
    learner = Learner(thawed(scene.student), scene.teacher, config)
    moved = learner.student.module
    moved.load_state_dict(disturbed(scene.student, 3).module.state_dict())
    assert learner.reference is not None
    losses: dict[str, list[torch.Tensor]] = {"distil": [], "anchor": []}
    for number, trajectory in enumerate(scene.trajectories):
        ids_1T = torch.from_numpy(trajectory.ids)[None]
        chosen = torch.from_numpy(trajectory.trainable.nonzero()[0])
        now_NV, then_NV, told_NV = (
            m(input_ids=ids_1T).logits[0, chosen - 1].log_softmax(-1)
            for m in (moved, learner.reference.module, scene.teacher.model.module)
        )
        if number < 5:
            losses["distil"].append((now_NV.exp() * (now_NV - told_NV)).sum(-1))
        gap_N = (then_NV - now_NV).gather(1, ids_1T[0, chosen, None])[:, 0]
        losses["anchor"].append(2.0 * (gap_N.exp() - gap_N - 1))
    terms = {name: torch.cat(parts).mean() for name, parts in losses.items()}
    expected = torch.autograd.grad(terms["distil"] + terms["anchor"], list(moved.parameters()))
    seen: list[torch.Tensor] = []
    learner.optimizer.register_step_pre_hook(lambda *_: seen.append(_gradients(learner)))
    update = learner.update(scene.trajectories, scene.lessons[:5], step=0)
    assert_same(seen[0], torch.cat([g.flatten() for g in expected]), within=1e-5)
    assert update.scalars["loss_distil"] == pytest.approx(terms["distil"].item(), rel=1e-4)
    assert update.scalars["loss_rl"] == pytest.approx(terms["anchor"].item(), rel=1e-4)
    assert terms["anchor"] > 0.1


def _gradients(learner: Learner) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in learner.parameters if p.grad is not None])


def test_what_holds_a_student_to_itself_costs_nothing_at_first(scene: Scene) -> None:
    assert_same(
        scene.gradient("mix={kind: distil, kl_coefficient: 2.0}"), scene.gradient(), within=1e-6
    )


@pytest.mark.parametrize("tied", [True, False])
def test_the_whole_gradient_is_that_of_the_loss_written_out(scene: Scene, tied: bool) -> None:
    """By the models' own logits and one backward pass, also where the output layer is the
    embedding, through which the gradient then comes twice.
    """
    student = thawed(scene.student)
    embedding = student.module.get_input_embeddings()
    assert isinstance(embedding, torch.nn.Embedding)
    if tied:
        student.output.weight = embedding.weight
    written_out(scene, student).backward()
    parameters = list(student.module.parameters())
    assert any(p is student.output.weight for p in parameters)
    assert (student.output.weight is embedding.weight) == tied
    expected = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    found = replace(scene, student=student).gradient(*AUXILIARY)
    assert_same(found, expected, within=1e-5)


def test_a_phase_hands_over_from_the_teacher_to_rewards(scene: Scene) -> None:
    phases = (
        "schedule.distil={kind: phase, threshold: 0.5}",
        "schedule.rl={kind: phase, threshold: 0.5, before: 0, after: 1}",
    )
    learner = Learner(
        thawed(scene.student), scene.teacher, parse_config(ENV, [*AUXILIARY, *phases])
    )
    found = []
    for success in (0.4, 0.6, 0.0):
        update = learner.update(scene.trajectories, scene.lessons, step=len(learner.history))
        found.append([bool(update.scalars[f"loss_{channel}"]) for channel in ("distil", "rl")])
        learner.history.append({"success": success})
    assert found == [[True, False], [True, False], [False, True]]


@pytest.mark.parametrize("estimated", ["full", "sampled", "live"])
def test_the_teacher_takes_over_from_a_scheduled_target(scene: Scene, estimated: str) -> None:
    """With beta 0.8, 0.4 and none in three steps of a student that does not move."""
    support = "sampled" if estimated == "sampled" else "full"
    student = "live" if estimated == "live" else "detached"

    def aimed(beta: float) -> str:
        target = f"{{kind: veto, beta: {beta}, student: {student}}}"
        return f"divergence={{kind: reverse_kl, support: {support}, target: {target}}}"

    schedule = "schedule.target={kind: linear, steps: 2}"
    config = parse_config(ENV, [aimed(0.8), schedule, "learner.learning_rate=1e-30"])
    learner = Learner(thawed(scene.student), scene.teacher, config)
    found = [learner.update(scene.trajectories, scene.lessons, step).loss for step in range(3)]
    plain = f"divergence.support={support}"
    expected = [scene.learn(method)[0].loss for method in (aimed(0.8), aimed(0.4), plain)]
    assert found == expected
    assert len(set(found)) == 3


def test_episodes_without_a_lesson_still_learn_from_their_reward(scene: Scene) -> None:
    taught = scene.lessons[:3]
    distil = scene.gradient(lessons=taught)
    rewards = scene.gradient("mix=rl", "rollout.group=4")
    both = scene.gradient(*AUXILIARY, lessons=taught)
    assert_same(both, 0.5 * distil + rewards, within=1e-5)


def test_a_resumed_run_keeps_the_first_student_and_the_past(
    tiny_model: Path, tmp_path: Path
) -> None:
    rule = "{kind: reinforce, baseline: running, kl_coefficient: 0.1, entropy_bonus: 0.1}"
    method = (f"mix={{kind: rl, rl: {rule}}}", "steps=9", "learner.learning_rate=0.01")
    run = run_of(tiny_model, tmp_path / "run", *method)
    first = weights(run.student)
    for step in range(2):
        trajectories = run.roll_out(step)
        run.record(step, trajectories, run.learn(trajectories, [], step))
    run.save()
    resumed = run_of(tiny_model, tmp_path / "run", *method, resume=True)
    assert torch.equal(weights(resumed.student), weights(run.student))
    assert not torch.equal(weights(run.student), first)
    assert resumed.learner.reference is not None
    assert torch.equal(weights(resumed.learner.reference), first)
    assert resumed.learner.history == run.learner.history
    assert len(resumed.learner.history) == 2
