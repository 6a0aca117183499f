"""Tokens credited with what they lead to: in a divergence's place, and beside an exact one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scenes import ENV, Scene, assert_same, scene_of, taught, thawed
from trajectories import played, tokens_of

from agentopd.divergences.base import from_samples
from agentopd.divergences.future import RewardToGo
from agentopd.divergences.kl import JensenShannon, ReverseKL
from agentopd.learning.objective import Objective
from agentopd.learning.plan import Plan
from agentopd.learning.survey import Survey
from agentopd.running.reading import parse_config
from agentopd.signal.evidence import Measured, Opinion
from agentopd.signal.tokens import Tokens
from agentopd.teachers.copies import FrozenTeacher

OWN = ("teacher=frozen", "privilege=none", "mix=distil")
WHITENED = "{kind: reward_to_go, discount: 0.9, per: remaining_length, most: 1, whiten: true}"


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


def _gradient(scene: Scene, divergence: str, *others: str) -> torch.Tensor:
    return scene.gradient(*OWN, f"divergence={divergence}", *others)


def test_what_follows_is_averaged_over_what_is_left() -> None:
    """The log-ratios 1, -1 and 2 of one episode, and one more of the next."""
    tokens, all_4 = tokens_of(played([5, 6, 7]), played([8])), torch.ones(4, dtype=torch.bool)
    rule = RewardToGo(per="remaining_length")
    found = rule.credited(torch.tensor([1.0, -1.0, 2.0, 7.0]), all_4, tokens)
    torch.testing.assert_close(found, torch.tensor([2 / 3, 1 / 2, 2.0, 7.0]))
    masked = torch.tensor([True, False, True, True])
    found = rule.credited(torch.tensor([1.0, -1.0, 2.0, 7.0]), masked, tokens)
    torch.testing.assert_close(found[[0, 2, 3]], torch.tensor([3 / 2, 2.0, 7.0]))


def test_a_log_ratio_counts_within_its_bounds() -> None:
    gap_N = RewardToGo(most=0.5).per_token(
        torch.tensor([-1.0, -3.0, -1.2]),
        torch.tensor([-3.0, -1.0, -1.0]),
        tokens_of(played([1] * 3)),
    )
    torch.testing.assert_close(gap_N, torch.tensor([-0.5, 0.5, 0.2]))


def test_whitened_credits_have_no_mean_and_a_deviation_of_one() -> None:
    rule, all_3 = RewardToGo(whiten=True), torch.ones(3, dtype=torch.bool)
    found = rule.settled(torch.tensor([1.0, 2.0, 6.0]), all_3)
    np.testing.assert_allclose(found, np.array([-2.0, -1.0, 3.0]) / np.sqrt(14 / 3), rtol=1e-6)
    kept = torch.tensor([True, True, False])
    assert rule.settled(torch.tensor([1.0, 3.0, 9.0]), kept)[:2].tolist() == [-1.0, 1.0]
    assert not rule.settled(torch.tensor([2.0, 2.0, 2.0]), all_3).any()


@pytest.mark.parametrize("others", [(), ("weight=depth_decay", "unit.normalise=turn_mean")])
def test_both_terms_are_added(scene: Scene, others: tuple[str, ...]) -> None:
    rule = "{kind: reward_to_go, discount: 0.9}"
    both = _gradient(scene, f"{{kind: reverse_kl, support: full, plus: {rule}}}", *others)
    exact = _gradient(scene, "{kind: reverse_kl, support: full}", *others)
    sampled = _gradient(
        scene, f"{{kind: reverse_kl, support: sampled, estimator: {rule}}}", *others
    )
    assert_same(both, exact + sampled)
    assert not torch.allclose(both, exact, rtol=1e-2)


def _written_out(scene: Scene) -> torch.Tensor:
    """The gradient of the whitened term, by the models' own logits and a loop from behind."""
    student = thawed(scene.student)
    said, credits = [], []
    for trajectory in scene.trajectories:
        ids_1T = torch.from_numpy(trajectory.ids)[None]
        chosen = torch.from_numpy(trajectory.trainable.nonzero()[0])
        p_N, q_N = (
            model.module(input_ids=ids_1T)
            .logits[0, chosen - 1]
            .log_softmax(-1)
            .gather(1, ids_1T[0, chosen, None])
            .squeeze(1)
            for model in (student, scene.teacher.model)
        )
        total, own = 0.0, list[float]()
        for left, gap in enumerate(reversed((q_N - p_N).tolist()), 1):
            total = min(max(gap, -1.0), 1.0) + 0.9 * total
            own.append(total / left)
        said.append(p_N)
        credits += reversed(own)
    credit_N = torch.tensor(credits, dtype=torch.float32)
    credit_N = (credit_N - credit_N.mean()) / credit_N.std(correction=0)
    ratio_N = (torch.cat(said) + 5.5).exp()
    bounded_N = torch.minimum(ratio_N * credit_N, ratio_N.clamp(0.8, 1.2) * credit_N)
    (-bounded_N.mean()).backward()
    return torch.cat([p.grad.flatten() for p in student.module.parameters() if p.grad is not None])


@pytest.mark.parametrize("tokens", [64, 4096])
def test_whitening_is_over_the_step_however_it_is_cut(scene: Scene, tokens: int) -> None:
    rule = f"{WHITENED[:-1]}, clip: 0.2}}"
    divergence = f"{{kind: reverse_kl, support: sampled, estimator: {rule}}}"
    found = _gradient(scene, divergence, f"learner.tokens_per_batch={tokens}")
    assert_same(found, _written_out(scene), within=1e-5)


def test_later_passes_keep_the_credits_of_the_first(scene: Scene) -> None:
    config = parse_config(
        ENV, [*OWN, f"divergence={{kind: reverse_kl, support: full, plus: {WHITENED}}}"]
    )
    objective, lessons = Objective(config), scene.lessons
    tokens = Tokens.of(lessons, torch.device("cpu"))
    assert objective.surveyed(lessons, [], 0) == lessons
    found = []
    survey = Survey.of(lessons, _said(scene, tokens, 0.0))
    plan = Plan.of(config, lessons, [], 0, survey=survey)
    for moved in (0.0, 0.3):
        own = objective.channels(_said(scene, tokens, moved), tokens, lessons, plan).distillation
        assert own is not None and own.plus is not None
        found.append(own.plus.credit_N)
    assert torch.equal(found[0], found[1])
    assert found[0].abs().max() > 0.1


def _said(scene: Scene, tokens: Tokens, moved: float) -> Measured:
    """Numbers of a student that has moved by so many nats where ids are even."""
    drawn_N = -1 - (tokens.ids_N % 5) / 3
    own_N, other_N = drawn_N + moved * (tokens.ids_N % 2), -1 - (tokens.ids_N % 7) / 4
    zero_N = torch.zeros_like(own_N)
    opinions = (Opinion(x, zero_N + 1, zero_N) for x in (own_N, other_N))
    return Measured(*opinions, divergence_N=zero_N)


def test_equal_models_teach_nothing(scene: Scene) -> None:
    same = FrozenTeacher()
    same.prepare(scene.student)
    alike = replace(scene, teacher=same, lessons=taught(same, scene.trajectories))
    found = _gradient(alike, f"{{kind: reverse_kl, support: full, plus: {WHITENED}}}")
    assert found.abs().max() < 1e-6


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("{kind: reverse_kl, support: sampled, plus: reward_to_go}", "leave plus out"),
        ("{kind: jsd, plus: reward_to_go}", "cannot be estimated from the sampled token"),
        ("{kind: reverse_kl, plus: importance}", "estimates the forward_kl"),
    ],
)
def test_a_term_that_makes_no_sense_is_refused(override: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_config(ENV, [*OWN, f"divergence={override}"])


def test_what_learns_from_samples_is_refused_demonstrations_and_likeliest_tokens() -> None:
    plus = "divergence={kind: reverse_kl, plus: reward_to_go}"
    for other in ("rollout={kind: demonstrations, path: x}", "rollout.temperature=0"):
        with pytest.raises(ValueError, match="samples of the student"):
            parse_config(ENV, [*OWN, plus, other])
    assert from_samples(ReverseKL(plus=RewardToGo())) == RewardToGo()
    assert from_samples(JensenShannon()) is None
