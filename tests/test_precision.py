"""A student in bfloat16 learns as one in float32 does: its optimizer's weights are float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from scenes import ENV, episodes, run_of, taught
from torch import nn

from agentopd.learning.learner import Learner
from agentopd.learning.optimizer import MasterAdamW, held_for
from agentopd.models.model import LanguageModel, ModelSettings, load_model
from agentopd.running.checkpoint import latest
from agentopd.running.reading import parse_config
from agentopd.running.run import Run
from agentopd.teacher import Teacher
from agentopd.teachers.copies import EmaTeacher, FrozenTeacher

DTYPES = ("float32", "bfloat16")
BFLOAT16 = "student.dtype=bfloat16"


def _student(folder: Path, dtype: str) -> LanguageModel:
    """The same weights in either dtype: those that bfloat16 can hold."""
    model = load_model(ModelSettings(path=str(folder), dtype="bfloat16"))
    model.module.to(getattr(torch, dtype))
    model.module.requires_grad_(True)
    return model


def _teacher(student: LanguageModel) -> Teacher:
    teacher, generator = FrozenTeacher(), torch.Generator().manual_seed(2)
    teacher.prepare(student)
    with torch.no_grad():
        for weight in teacher.model.module.parameters():
            noise = 0.3 * torch.randn(weight.shape, generator=generator)
            weight.copy_(weight.float() + noise)
    return teacher


def _learn(student: LanguageModel, steps: int, rate: float, **settings: Any) -> Learner:
    teacher = _teacher(student)
    overrides = [f"learner.{key}={value}" for key, value in settings.items()]
    config = parse_config(ENV, [f"learner.learning_rate={rate}", *overrides])
    learner = Learner(student, teacher, config)
    trajectories = episodes(student.vocabulary)
    for step in range(steps):
        update = learner.update(trajectories, taught(teacher, trajectories), step)
        assert not update.skipped
    return learner


def _moved(student: LanguageModel, before: list[torch.Tensor], learner: Learner) -> torch.Tensor:
    held = [held_for(learner.optimizer, p) for p in student.module.parameters()]
    assert all(weight.dtype == torch.float32 for weight in held)
    pairs = zip(held, before, strict=True)
    return torch.cat([(weight.detach() - start).flatten() for weight, start in pairs])


@pytest.mark.parametrize("rate", [1e-6, 1e-5, 3e-4])
def test_six_small_steps_move_the_weights_as_in_float32(tiny_model: Path, rate: float) -> None:
    moved: list[torch.Tensor] = []
    for dtype in DTYPES:
        student = _student(tiny_model, dtype)
        before = [p.detach().float().clone() for p in student.module.parameters()]
        moved.append(_moved(student, before, _learn(student, 6, rate)))
    exact, found = moved
    assert exact.abs().mean() > rate
    assert float(found.abs().mean()) == pytest.approx(float(exact.abs().mean()), rel=0.1)
    assert torch.cosine_similarity(found, exact, dim=0) > 0.8


def test_the_passes_keep_the_models_dtype_and_run_on_the_rounded_masters(tiny_model: Path) -> None:
    student = _student(tiny_model, "bfloat16")
    learner = _learn(student, 3, 1e-3)
    for parameter in student.module.parameters():
        master = learner.optimizer.masters[parameter]
        assert parameter.dtype == torch.bfloat16
        assert parameter.grad is None
        assert torch.equal(parameter, master.bfloat16())
        assert not torch.equal(parameter.float(), master)


def test_a_float32_student_is_stepped_itself_as_by_torch() -> None:
    torch.manual_seed(0)
    plain = nn.Linear(5, 3)
    twin = nn.Linear(5, 3)
    twin.load_state_dict(plain.state_dict())
    ours = MasterAdamW(plain.parameters(), lr=0.1, weight_decay=0.01)
    theirs = torch.optim.AdamW(twin.parameters(), lr=0.1, weight_decay=0.01)
    assert not ours.masters
    for _ in range(3):
        x = torch.randn(4, 5)
        for layer, optimizer in ((plain, ours), (twin, theirs)):
            layer(x).pow(2).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    for one, other in zip(plain.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other)


def test_micro_batches_add_up_in_float32() -> None:
    """Each is 1/256 of the first: in bfloat16 none would be added."""
    weight = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    optimizer = MasterAdamW([weight], lr=0.1)
    for size in (1.0, *[2.0**-9] * 64):
        (weight * size).sum().backward()
    (master,) = optimizer.held
    assert master.grad is not None
    assert master.grad.item() == 1 + 64 * 2.0**-9
    optimizer.zero_grad()
    assert master.grad is None
    assert weight.grad is None


def test_the_micro_batches_bound_memory_and_not_the_result(tiny_model: Path) -> None:
    found = []
    for tokens in (64, 4096):
        student = _student(tiny_model, "bfloat16")
        before = [p.detach().float().clone() for p in student.module.parameters()]
        learner = _learn(student, 1, 1e-3, tokens_per_batch=tokens)
        found.append(_moved(student, before, learner))
    assert torch.cosine_similarity(*found, dim=0) > 0.95


def _steps(run: Run, *steps: int) -> list[Any]:
    found = []
    for step in steps:
        trajectories = run.roll_out(step)
        update = run.learn(trajectories, run.ask_teacher(trajectories, step), step)
        assert not update.skipped
        run.record(step, trajectories, update)
        found.append(([t.ids.tolist() for t in trajectories], update.loss))
    return found


@pytest.mark.parametrize("teacher", ["frozen", "{kind: ema, rate: 0.3}"])
def test_a_resumed_run_goes_on_bit_for_bit(tiny_model: Path, tmp_path: Path, teacher: str) -> None:
    settings = (
        *(BFLOAT16, f"teacher={teacher}", "steps=4", "learner.learning_rate=1e-5"),
        *("rollout.max_turn_tokens=6", "evaluate.episodes=2"),
    )
    whole = run_of(tiny_model, tmp_path / "whole", *settings)
    course = _steps(whole, 0, 1, 2, 3)
    halves = run_of(tiny_model, tmp_path / "halves", *settings)
    first = _steps(halves, 0, 1)
    halves.save()
    resumed = run_of(tiny_model, tmp_path / "halves", *settings, resume=True)
    assert first + _steps(resumed, 2, 3) == course
    for one, other in zip(
        resumed.learner.optimizer.held, whole.learner.optimizer.held, strict=True
    ):
        assert torch.equal(one, other)
        for key, value in whole.learner.optimizer.state[other].items():
            assert torch.equal(resumed.learner.optimizer.state[one][key], value)


def test_a_checkpoint_without_masters_gives_them_its_weights(
    tiny_model: Path, tmp_path: Path
) -> None:
    """As bfloat16 runs left them before there were masters: moments in bfloat16, too."""
    settings = (BFLOAT16, "steps=2", "rollout.max_turn_tokens=6", "evaluate.episodes=2")
    run = run_of(tiny_model, tmp_path, *settings)
    _steps(run, 0)
    run.save()
    found = latest(tmp_path / "checkpoints")
    assert found is not None
    file = found / "optimizer.safetensors"
    kept = {k: v for k, v in load_file(file).items() if not k.endswith("/master")}
    old = {k: v if k.endswith("/step") else v.bfloat16() for k, v in kept.items()}
    save_file(old, file)
    (found / "sums.json").unlink()
    resumed = run_of(tiny_model, tmp_path, *settings, resume=True)
    for parameter in resumed.student.module.parameters():
        master = resumed.learner.optimizer.masters[parameter]
        assert torch.equal(master, parameter.float())
        assert resumed.learner.optimizer.state[master]["exp_avg"].dtype == torch.float32
    _steps(resumed, 1)


def test_averaged_and_frozen_teachers_follow_what_the_passes_run_on(tiny_model: Path) -> None:
    student = _student(tiny_model, "bfloat16")
    frozen, average = FrozenTeacher(), EmaTeacher(rate=0.5)
    start = [p.detach().clone() for p in student.module.parameters()]
    for teacher in (frozen, average):
        teacher.prepare(student)
    _learn(student, 2, 1e-2)
    average.sync(student, 0)
    rows = zip(
        start,
        student.module.parameters(),
        frozen.model.module.parameters(),
        average.model.module.parameters(),
        strict=True,
    )
    for began, now, kept, averaged in rows:
        assert torch.equal(kept, began)
        assert torch.equal(averaged, (0.5 * began.float() + 0.5 * now.float()).bfloat16())
