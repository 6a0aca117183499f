"""What a study's arms do: first gradients beside the exact one, what they made of a student."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from agentopd.running.config import RunConfig
from agentopd.running.effects import study
from agentopd.running.effects.change import Start, measure_change
from agentopd.running.effects.gradients import Estimate, looks_at_less, measure_gradients
from agentopd.running.effects.study import effects_tables, study_effects
from agentopd.running.reading import load_config
from agentopd.running.train import train

pytest.importorskip("textarena")

SMALL = ("study=null", "rollout.tasks=2", "threads=1", "evaluate.episodes=2", "probe.enabled=false")


def run_of(*overrides: str) -> RunConfig:
    return load_config("configs/pathologies/content.yaml", [*SMALL, *overrides])


def pairs(rows: np.ndarray) -> float:
    """The mean product of two different rows."""
    return float(np.mean([a @ b for a, b in combinations(rows, 2)]))


def test_bias_and_noise_are_read_from_products_of_different_batches() -> None:
    rng = np.random.default_rng(0)
    exact, found = rng.normal(size=(5, 3)) + 2, rng.normal(size=(5, 3)) + 3
    got = Estimate.of(torch.tensor(found), torch.tensor(exact), episodes=4)
    scale = np.sqrt(pairs(exact))
    assert got.bias == pytest.approx(np.sqrt(pairs(found - exact)) / scale)
    spread = (found**2).sum(1).mean() - pairs(found)
    assert got.noise == pytest.approx(np.sqrt(spread) / scale)
    left = np.array([pairs(np.delete(found - exact, b, 0)) for b in range(5)])
    error = np.sqrt(4 / 5 * np.sum(np.square(left - np.mean(left))))
    assert got.bias_error == pytest.approx(error / (2 * np.sqrt(pairs(found - exact))) / scale)
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(exact, axis=1)
    assert got.cosine == pytest.approx(np.mean((found * exact).sum(1) / norms))
    assert (got.batches, got.episodes) == (5, 4)


def test_noise_without_a_bias_is_told_from_a_bias() -> None:
    rng = torch.Generator().manual_seed(0)
    exact = torch.ones(64, 200) + 0.1 * torch.randn(64, 200, generator=rng)
    noise = 3 * torch.randn(64, 200, generator=rng)
    unbiased = Estimate.of(exact + noise, exact, 1)
    biased = Estimate.of(exact + noise + 0.5, exact, 1)
    assert unbiased.bias < 2 * unbiased.bias_error < 0.6
    assert biased.bias == pytest.approx(0.5, abs=3 * biased.bias_error)
    assert biased.bias > 4 * biased.bias_error
    assert unbiased.noise == pytest.approx(3.0, rel=0.1) == biased.noise


def test_the_whole_vocabulary_is_exact_and_two_estimators_have_one_gradient() -> None:
    whole = measure_gradients(run_of(), 2)
    assert whole is not None and (whole.bias, whole.bias_error) == (0.0, 0.0)
    assert whole.cosine == pytest.approx(1.0, abs=1e-6)
    k1, rho_k3 = (
        measure_gradients(run_of("divergence.support=sampled", f"divergence.estimator={e}"), 2)
        for e in ("k1", "rho_k3")
    )
    assert k1 is not None and rho_k3 is not None
    assert k1.cosine < 0.99 and k1.noise > whole.noise
    assert rho_k3.described() == pytest.approx(k1.described(), rel=1e-3)


def test_only_what_looks_at_less_is_an_estimate() -> None:
    assert not looks_at_less(run_of())
    assert looks_at_less(run_of("divergence.support=sampled"))
    assert looks_at_less(run_of("divergence.plus=reward_to_go"))
    rewards = run_of("mix=rl", "privilege=none", "rollout.group=2")
    assert not looks_at_less(rewards) and measure_gradients(rewards, 2) is None


def test_a_student_that_did_not_move_is_what_it_was(tmp_path: Path) -> None:
    config = run_of("steps=1", "learner.learning_rate=1e-30", "evaluate.every=0")
    train(config, tmp_path / "run")
    found = measure_change(config, tmp_path / "run", 2)
    assert found is not None and found.before == found.after
    assert (found.kl_thought, found.kl_action) == (0.0, 0.0)
    assert found.before.thought > 3 and found.before.claims is not None


def test_only_what_is_taught_or_drags_along_moves(tmp_path: Path) -> None:
    action = "unit={kind: turn, part: action, reduce: sum}"
    config = run_of("steps=2", "learner.learning_rate=1e-2", "evaluate.every=0", action)
    train(config, tmp_path / "run")
    start = Start.of(config, 2)
    found = measure_change(config, tmp_path / "run", 2, start)
    assert found is not None and found.before == start.conduct
    assert found.kl_thought is not None and found.kl_action is not None
    assert found.kl_thought > 1e-4 and found.kl_action > 1e-4
    assert measure_change(config, tmp_path / "none", 2, start) is None


def test_a_study_keeps_what_it_has_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "TASKS", 2)
    monkeypatch.setattr(study, "BATCHES", 2)
    arms = "study={seeds: [0], arms: {sick: {divergence.support: sampled}}}"
    config = load_config("configs/pathologies/content.yaml", [*SMALL[1:], "steps=1", arms])
    folder = tmp_path / "arms" / "sick" / "seed-0"
    train(run_of("steps=1", "divergence.support=sampled", "evaluate.every=0"), folder)
    found = study_effects(config, tmp_path)
    assert set(found["gradients"]) == {"sick"} and len(found["changes"]["sick"]) == 1
    assert len(list(effects_tables(found))) == 2
    (tmp_path / "effects.json").write_text('{"gradients": {}, "changes": {}}')
    assert study_effects(config, tmp_path) == {"gradients": {}, "changes": {}}, "measured twice"
