"""AdamW with moments of 8 bits goes where the one in float32 goes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scenes import run_of, scene_of, weights
from torch import nn

from agentopd.learning.optimizer import MasterAdamW, MasterAdamW8bit
from agentopd.running.run import Run

KINDS = (MasterAdamW, MasterAdamW8bit)


def _stepped(kind: type[MasterAdamW], gradients: list[torch.Tensor]) -> torch.Tensor:
    weight = nn.Parameter(torch.zeros_like(gradients[0]))
    optimizer = kind([weight], lr=1e-3, betas=(0.9, 0.95), weight_decay=0.01)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.detach()


def _noisy(seed: int, steps: int, shape: tuple[int, ...]) -> list[torch.Tensor]:
    """Gradients whose sizes differ by six decades between neighbours, of one direction each."""
    generator = torch.Generator().manual_seed(seed)
    size = 10 ** (-6 * torch.rand(shape, generator=generator))
    return [size * (0.5 + torch.randn(shape, generator=generator)) for _ in range(steps)]


@pytest.mark.parametrize("shape", [(4_096,), (100, 77)])
def test_steps_follow_float32_for_large_and_small_gradients_alike(shape: tuple[int, ...]) -> None:
    gradients = _noisy(0, 30, shape)
    exact, found = (_stepped(kind, gradients).flatten() for kind in KINDS)
    assert torch.cosine_similarity(found, exact, dim=0) > 0.995
    small = gradients[0].abs().flatten() < 1e-4
    assert torch.cosine_similarity(found[small], exact[small], dim=0) > 0.99
    assert (found.abs().max() / exact.abs().max()) < 1.2


def test_an_average_that_shrinks_slowly_shrinks_to_what_it_would() -> None:
    """Rounded to the nearest level, a second moment that loses 1 % a step would stay for ever."""
    gradients = [torch.full((4_096,), size) for size in (1.0, *[1e-3] * 300)]
    gradients = [g.index_fill(0, torch.tensor([0]), 1.0) for g in gradients]
    roots = []
    for kind in KINDS:
        weight = nn.Parameter(torch.zeros(4_096))
        optimizer = kind([weight], lr=1e-3, betas=(0.9, 0.99))
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimizer.step()
        roots.append(weight.detach()[1:])
    assert float(roots[1].mean()) == pytest.approx(float(roots[0].mean()), rel=0.02)


def test_few_numbers_are_stepped_in_float32() -> None:
    gradients = _noisy(1, 5, (8, 16))
    exact, found = (_stepped(kind, gradients) for kind in KINDS)
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-9)


def test_nothing_explodes_where_gradients_vanish() -> None:
    once = torch.zeros(4_096)
    once[::7] = 1e-12
    once[0] = 1.0
    found = _stepped(MasterAdamW8bit, [once, *[torch.zeros(4_096)] * 20])
    assert found.isfinite().all()
    assert found.abs().max() < 1e-2
    assert torch.equal(found[1:7], torch.zeros(6))


def test_moments_take_two_bytes_a_weight() -> None:
    weight = nn.Parameter(torch.ones(1_000, 1_000))
    optimizer = MasterAdamW8bit([weight], lr=0.1)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    held = sum(x.nbytes for key, x in optimizer.state[weight].items() if key != "step")
    assert held == optimizer.moments_bytes()
    assert held / weight.numel() == pytest.approx(2, rel=0.02)
    assert MasterAdamW([weight], lr=0.1).moments_bytes() == 8 * weight.numel()


def test_a_student_learns_with_it_as_in_float32(tiny_model: Path) -> None:
    scene, moved = scene_of(tiny_model), []
    for kind in ("adamw", "adamw_8bit"):
        _, _, twin = scene.learn(f"learner.optimizer={kind}", "learner.learning_rate=1e-4")
        moved.append(weights(twin) - weights(scene.student))
    assert torch.cosine_similarity(*moved, dim=0) > 0.98


def _steps(run: Run, *steps: int) -> list[list[list[int]]]:
    found = []
    for step in steps:
        trajectories = run.roll_out(step)
        run.record(
            step, trajectories, run.learn(trajectories, run.ask_teacher(trajectories, step), step)
        )
        found.append([t.ids.tolist() for t in trajectories])
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_resumed_run_goes_on_bit_for_bit(tiny_model: Path, tmp_path: Path, dtype: str) -> None:
    settings = (
        *("learner.optimizer=adamw_8bit", "learner.learning_rate=1e-3", f"student.dtype={dtype}"),
        *("steps=4", "rollout.max_turn_tokens=6", "evaluate.episodes=2"),
    )
    whole = run_of(tiny_model, tmp_path / "whole", *settings)
    course = _steps(whole, 0, 1, 2)
    halves = run_of(tiny_model, tmp_path / "halves", *settings)
    first = _steps(halves, 0, 1)
    halves.save()
    resumed = run_of(tiny_model, tmp_path / "halves", *settings, resume=True)
    assert first + _steps(resumed, 2) == course
    pairs = zip(resumed.learner.optimizer.held, whole.learner.optimizer.held, strict=True)
    large = 0
    for one, other in pairs:
        assert torch.equal(one, other)
        for key, value in whole.learner.optimizer.state[other].items():
            assert torch.equal(resumed.learner.optimizer.state[one][key], value)
            large += np.dtype(str(value.dtype).removeprefix("torch.")) == np.uint8
    assert large
