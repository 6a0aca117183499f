"""Likelihood: its gradient by autograd over the logits, its filters, owners, weights; gold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scenes import ENV, Scene, assert_same, scene_of
from trajectories import played

from agentopd.base.types import Owner, Trajectory, Turn
from agentopd.divergences.kl import ForwardKL
from agentopd.divergences.linear import measure
from agentopd.divergences.question import Question
from agentopd.mixes.gold import Gold
from agentopd.models.head import Head
from agentopd.running.config import ConfigError
from agentopd.running.reading import parse_config
from agentopd.stored.demonstrations import Selection

NLL = "mix=nll"


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


def _by_autograd(
    scene: Scene, trajectories: Sequence[Trajectory], share: Sequence[float] | None = None
) -> torch.Tensor:
    """The gradient of the mean over all tokens of -log p, times each token's share, straight from
    the model's logits.
    """
    twin = scene.student.frozen_copy()
    twin.module.requires_grad_(True)
    losses = []
    for trajectory in trajectories:
        ids_1T = torch.from_numpy(trajectory.ids)[None]
        chosen = torch.from_numpy(trajectory.trainable.nonzero()[0])
        logits_NV = twin.module(input_ids=ids_1T).logits[0, chosen - 1]
        losses.append(
            torch.nn.functional.cross_entropy(logits_NV, ids_1T[0, chosen], reduction="none")
        )
    loss_N = torch.cat(losses)
    if share is not None:
        loss_N = loss_N * torch.tensor(share)
    loss_N.mean().backward()
    return torch.cat([p.grad.flatten() for p in twin.module.parameters() if p.grad is not None])


def test_it_is_the_mean_cross_entropy_of_the_tokens(scene: Scene) -> None:
    expected = _by_autograd(scene, scene.trajectories)
    for tokens in (64, 8192):
        found = scene.gradient(NLL, f"learner.tokens_per_batch={tokens}", lessons=[])
        assert_same(found, expected, within=3e-6)


def test_its_gradient_is_the_forward_kl_to_a_teacher_of_one_token() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden_NH = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    weight_VH = torch.randn(11, 7, generator=generator, dtype=torch.float64)
    ids_N = torch.randint(11, (5,), generator=generator)
    sure_NV = torch.full((5, 11), -60.0, dtype=torch.float64).scatter(1, ids_N[:, None], 60.0)
    gradients = []
    for divergence in (None, ForwardKL()):
        live_NH = hidden_NH.clone().requires_grad_()
        teacher = Head(sure_NV, torch.eye(11, dtype=torch.float64)) if divergence else None
        said = measure(Question(ids_N, divergence), Head(live_NH, weight_VH), teacher)
        loss_N = -said.student.logprob_N if divergence is None else said.divergence_N
        assert loss_N is not None
        loss_N.sum().backward()
        gradients.append(live_NH.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-12)


def test_rewards_change_nothing(scene: Scene) -> None:
    paid = [replace(t, turns=_paid(t)) for t in scene.trajectories]
    one, other = (
        scene.gradient(NLL, lessons=[], trajectories=x) for x in (scene.trajectories, paid)
    )
    assert torch.equal(one, other)


def test_the_solved_ones_alone_are_averaged_alone(scene: Scene) -> None:
    found = scene.gradient("mix={kind: nll, keep: {success: true}}", lessons=[])
    solved = [t for t in scene.trajectories if t.success]
    assert 0 < len(solved) < len(scene.trajectories)
    assert_same(found, _by_autograd(scene, solved), within=3e-6)


def test_rejection_keeps_the_scale_of_what_is_kept(scene: Scene) -> None:
    """Failures are in no average: a step of few solved episodes learns no less from each token."""
    kept = scene.gradient("mix={kind: nll, keep: {success: true}}", lessons=[])
    tokens = [(t.success, int(t.trainable.sum())) for t in scene.trajectories]
    share = sum(n for solved, n in tokens if solved) / sum(n for _, n in tokens)
    solved_N = [float(solved) for solved, n in tokens for _ in range(n)]
    assert_same(kept * share, _by_autograd(scene, scene.trajectories, solved_N), within=3e-6)


def test_owners_are_learnt_from_by_name(scene: Scene) -> None:
    """The second turn is somebody else's."""
    theirs = [
        replace(t, owner=np.where(t.trainable & (t.turn == 1), Owner.DEMO, t.owner))
        for t in scene.trajectories
    ]
    for owner, name in ((Owner.DEMO, "demo"), (Owner.STUDENT, "student")):
        found = scene.gradient(
            f"mix={{kind: nll, owners: [{name}]}}", lessons=[], trajectories=theirs
        )
        masked = [replace(t, trainable=t.owner == owner) for t in theirs]
        assert_same(found, _by_autograd(scene, masked), within=3e-6)
    found = scene.gradient(NLL, lessons=[], trajectories=theirs)
    assert_same(found, _by_autograd(scene, scene.trajectories), within=3e-6)


def test_nobodys_tokens_are_no_step(scene: Scene) -> None:
    update, gradient, _ = scene.learn("mix={kind: nll, owners: [teacher]}", lessons=[])
    assert gradient is None
    assert update.skipped == "mix: nll keeps no token of the step"


def test_tokens_nobody_sampled_have_no_ratio_and_raise_no_alarm(scene: Scene) -> None:
    unknown = [replace(t, logprob=np.full_like(t.logprob, np.nan)) for t in scene.trajectories]
    update, gradient, _ = scene.learn(NLL, lessons=[], trajectories=unknown)
    assert gradient is not None
    assert_same(gradient, _by_autograd(scene, scene.trajectories), within=3e-6)
    assert "sampler_gap" not in update.scalars


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_a_power_multiplies_each_token_by_its_own_probability(scene: Scene, power: float) -> None:
    found = scene.gradient(f"mix={{kind: nll, power: {power}}}", lessons=[])
    shares: list[float] = []
    for trajectory in scene.trajectories:
        ids_1T = torch.from_numpy(trajectory.ids)[None]
        chosen = torch.from_numpy(trajectory.trainable.nonzero()[0])
        p_NV = scene.student.module(input_ids=ids_1T).logits[0, chosen - 1].softmax(-1)
        shares += (p_NV.gather(1, ids_1T[0, chosen, None]).squeeze(1) ** power).tolist()
    assert_same(found * 1000, 1000 * _by_autograd(scene, scene.trajectories, shares), within=1e-4)


def test_weights_of_places_multiply_it(scene: Scene) -> None:
    """The first token of each answer counts nothing, and the others keep the scale."""
    found = scene.gradient(
        NLL, "weight=[{kind: skip_first, tokens: 1, renormalise: off}]", lessons=[]
    )
    first: list[float] = []
    for trajectory in scene.trajectories:
        starts = {turn.start for turn in trajectory.turns}
        first += [0.0 if p in starts else 1.0 for p in trajectory.trainable.nonzero()[0]]
    assert_same(found, _by_autograd(scene, scene.trajectories, first), within=3e-6)


def test_its_temperature_is_the_models_own(scene: Scene) -> None:
    """What was sampled hot is learnt as what a model says that is not tempered."""
    found = scene.gradient(NLL, "rollout.temperature=1.5", lessons=[])
    assert_same(found, _by_autograd(scene, scene.trajectories), within=3e-6)


def test_the_shortest_are_dropped_by_share() -> None:
    trajectories = [played([1] * n, episode=n) for n in (5, 2, 9, 2, 7)]

    def kept(**how: float | bool) -> list[int]:
        return [t.episode for t in Selection.model_validate(how).of(trajectories)]

    assert kept() == [5, 2, 9, 2, 7]
    assert kept(drop_shortest=0.1) == [5, 2, 9, 2, 7]
    assert kept(drop_shortest=0.2) == [5, 9, 2, 7]
    assert kept(drop_shortest=0.65) == [9, 7]


def test_a_reward_is_a_threshold() -> None:
    trajectories = [played([1], rewards=[r], episode=n) for n, r in enumerate((0.0, 0.5, 1.0))]
    found = Selection.model_validate({"reward": 0.5}).of(trajectories)
    assert [t.episode for t in found] == [1, 2]


def test_gold_is_a_term_of_its_own(scene: Scene) -> None:
    """The sum of the distillation's gradient and a share of the demonstrations' likelihood."""
    gold = [replace(t, episode=100 + t.episode) for t in scene.trajectories[:3]]
    settings = Gold(path="unused", coefficient=0.25, per_prompt=3)
    beside = settings.beside(scene.trajectories[:1], gold, seed=0, step=0)
    assert len(beside.trajectories) == 3
    alone = scene.gradient()
    both = scene.gradient(gold=beside)
    assert_same(both - alone, 0.25 * _by_autograd(scene, gold), within=3e-5)


def test_gold_is_of_the_steps_own_tasks_where_there_is_some() -> None:
    store = [replace(played([n + 1], episode=n), seed=n // 2) for n in range(6)]
    step = [replace(played([1]), seed=seed) for seed in (1, 1, 7)]
    for number in range(5):
        beside = Gold(path="", per_prompt=2).beside(step, store, seed=3, step=number)
        seeds = [t.seed for t in beside.trajectories]
        assert len(seeds) == 4  # two of task 1, and two of any for the task that has none
        assert seeds[:2] == [1, 1]
        assert len({tuple(t.ids) for t in beside.trajectories[2:]}) == 2


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["mix={kind: nll, owners: []}"], "learns from nobody"),
        ([NLL, "weight=gap_gate"], "looks at what the teacher says"),
        (["mix=rl", "rollout={kind: demonstrations, path: d}"], "which these are not"),
        (["divergence.support=sampled", "rollout={kind: demonstrations, path: d}"], "mix: nll"),
        (["mix={kind: nll, keep: {drop_shortest: 1.0}}"], "less than 1"),
    ],
)
def test_what_makes_no_sense_is_told_in_one_line(settings: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_config(ENV, settings)
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)


def _paid(trajectory: Trajectory) -> tuple[Turn, ...]:
    return tuple(replace(turn, reward=turn.reward + 3.0) for turn in trajectory.turns)
