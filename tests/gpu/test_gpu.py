"""On a GPU: the step of the CPU, a sampler that agrees with its learner, runs that go on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from killed import lines_of
from scenes import AUXILIARY, Scene, run_of, scene_of

from agentopd.models.model import LanguageModel
from agentopd.running.reading import parse_config
from agentopd.running.train import train
from agentopd.teachers.copies import FrozenTeacher

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
GPU = "student.device=cuda"


def _moved(model: LanguageModel) -> LanguageModel:
    twin = model.frozen_copy()
    torch.nn.Module.to(twin.module, torch.device("cuda"))
    return twin


@pytest.mark.parametrize(
    "method",
    [(), AUXILIARY, ("weight=[{kind: gap_gate, renormalise: step}]",)],
    ids=["token", "both channels", "weights over the step"],
)
def test_a_gradient_is_that_of_the_cpu(tiny_model: Path, method: tuple[str, ...]) -> None:
    scene = scene_of(tiny_model)
    expected = scene.gradient(*method)
    teacher = FrozenTeacher()
    teacher.prepare(_moved(scene.teacher.model))
    views = [lesson.view for lesson in scene.lessons if lesson.view is not None]
    there = Scene(_moved(scene.student), teacher, scene.trajectories, teacher.score(views))
    found = there.gradient(*method).cpu()
    assert (found - expected).norm() <= 1e-3 * expected.norm()


def test_the_sampler_says_what_the_learner_says(tiny_model: Path, tmp_path: Path) -> None:
    run = run_of(tiny_model, tmp_path / "run", GPU)
    trajectories = run.roll_out(0)
    update = run.learn(trajectories, run.ask_teacher(trajectories, 0), 0)
    assert update.scalars["sampler_gap"] < 1e-3


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("student.dtype=bfloat16", "learner.optimizer=adamw_8bit"),
        ("student.lora={rank: 4}", "learner.checkpoint_layers=true"),
    ],
    ids=["float32", "bfloat16", "adapters"],
)
def test_a_run_goes_on_from_its_checkpoint(
    tiny_model: Path, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    data = {
        "steps": 2,
        "student": {"path": str(tiny_model)},
        "env": {"id": "agentopd/Sokoban-v0", "options": {"prompt": "brief", "max_turns": 3}},
        "rollout": {"kind": "student", "tasks": 4, "max_turn_tokens": 6},
        "evaluate": {"episodes": 4},
    }
    train(parse_config(data, [GPU, *settings]), tmp_path / "run")
    train(parse_config(data, [GPU, *settings, "steps=3"]), tmp_path / "run", resume=True)
    lines = lines_of(tmp_path / "run")
    assert [line["step"] for line in lines] == [-1, 0, 1, 2]
    assert all(line["loss"] == line["loss"] for line in lines[1:])
