"""A student, a teacher that disagrees with it, and the episodes of a step, for whole updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from trajectories import played

from agentopd.base.types import Briefed, Lesson, Trajectory
from agentopd.learning.learner import Learner, Update
from agentopd.learning.method import AXES
from agentopd.mixes.advantages import Grpo
from agentopd.mixes.gold import NONE, GoldEpisodes
from agentopd.models.adapters import LoraSettings
from agentopd.models.chat import ChatTemplate
from agentopd.models.model import LanguageModel, StudentSettings, load_model
from agentopd.parallel.episodes import known_elsewhere, own_episodes
from agentopd.parallel.processes import ALONE, Processes
from agentopd.privilege.view import SystemView
from agentopd.running.config import RunConfig
from agentopd.running.reading import parse_config, stage_configs
from agentopd.running.train import Run
from agentopd.teacher import Teacher
from agentopd.teachers.copies import FrozenTeacher

ENV: dict[str, Any] = {"env": {"id": "agentopd/Sokoban-v0"}}
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
        processes: Processes = ALONE,
        frozen: Sequence[str] = (),
        gold: GoldEpisodes = NONE,
    ) -> tuple[Update, torch.Tensor | None, LanguageModel]:
        """One update of a copy of the student: its record, the gradient, the copy.

        Args:
            processes: who make it together; the others' lessons are then known to be there alone.
            frozen: endings of the names of weights that do not learn.
        """
        config = parse_config(ENV, ["learner.clip=1e9", *overrides])
        twin = self.student.frozen_copy()
        for name, parameter in twin.module.named_parameters():
            parameter.requires_grad_(not name.endswith(tuple(frozen)))
        learner = Learner(twin, self.teacher, config, processes)
        played = self.trajectories if trajectories is None else trajectories
        own = own_episodes(processes, played)
        seen: list[torch.Tensor] = []
        learner.optimizer.register_step_pre_hook(lambda *_: seen.append(_gradient(twin)))
        update = learner.update(
            played,
            [
                lesson if lesson.trajectory.episode in own else known_elsewhere(lesson)
                for lesson in (self.lessons if lessons is None else lessons)
            ],
            step=0,
            gold=gold,
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


def weights(model: LanguageModel) -> torch.Tensor:
    """All parameters, end to end."""
    return torch.cat([p.detach().flatten() for p in model.module.parameters()])


def disturbed(model: LanguageModel, seed: int) -> LanguageModel:
    """A copy with other weights, far enough from uniform that distributions differ."""
    twin, generator = model.frozen_copy(), torch.Generator().manual_seed(seed)
    for parameter in twin.module.parameters():
        parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return twin


def episodes(vocabulary: int) -> list[Trajectory]:
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
            infos=[
                {"facts": {"tidy": n % 2 == turn}, "success": n in (1, 2, 6)} for turn in range(3)
            ],
            rewards=[0.0, float(n in (1, 2, 6))],
            logprob=-5.5,
            episode=n,
            task=n // 4,
        )
        for n in range(8)
    ]


def taught(teacher: Teacher, trajectories: Sequence[Trajectory]) -> list[Lesson]:
    """A lesson on each trajectory, told nothing more."""
    briefed = [Briefed(trajectory=t, privileges=()) for t in trajectories]
    return teacher.score(SystemView().build(briefed, ChatTemplate(teacher.model.tokenizer)))


def written_out(scene: Scene, student: LanguageModel) -> torch.Tensor:
    """The loss of `AUXILIARY`, by the models' own logits."""
    advantages, losses = Grpo().of(scene.trajectories), []
    for trajectory in scene.trajectories:
        ids_1T = torch.from_numpy(trajectory.ids)[None]
        chosen = torch.from_numpy(trajectory.trainable.nonzero()[0])
        p_NV = student.module(input_ids=ids_1T).logits[0, chosen - 1].log_softmax(-1)
        q_NV = scene.teacher.model.module(input_ids=ids_1T).logits[0, chosen - 1].log_softmax(-1)
        ratio_N = (p_NV.gather(1, ids_1T[0, chosen, None]).squeeze(1) + 5.5).exp()
        advantage = advantages[trajectory.episode]
        gain_N = torch.minimum(ratio_N * advantage, ratio_N.clamp(0.8, 1.2) * advantage)
        losses.append(0.5 * (p_NV.exp() * (p_NV - q_NV)).sum(-1) - gain_N)
    return torch.cat(losses).mean()


def row_of(name: str, *overrides: str) -> RunConfig:
    """A method's row on the usual environment."""
    return parse_config(ENV, [f"method={name}", *overrides])


def stages_of(name: str, *overrides: str) -> dict[str, RunConfig]:
    """The stages of a row, by their folders."""
    return {leg.folder: own for leg, own in stage_configs(row_of(name, *overrides))}


def axes_of(config: RunConfig, *without: str) -> dict[str, object]:
    """A method's values on its axes, and its gold."""
    return config.model_dump(mode="json", include={*AXES, "gold"} - {*without})


def assert_same(found: torch.Tensor, expected: torch.Tensor, within: float = 1e-6) -> None:
    """Whether two gradients agree, of which there must be something to compare."""
    assert expected.norm() > 1e-3, "there is nothing to compare"
    assert (found - expected).norm() <= within * expected.norm().clamp(min=1)


def thawed(model: LanguageModel) -> LanguageModel:
    """A copy that can be trained."""
    twin = model.frozen_copy()
    twin.module.requires_grad_(True)
    return twin


def scene_of(folder: Path, lora: LoraSettings | None = None) -> Scene:
    """The scene of a small model, disturbed once for the student and once for the teacher."""
    torch.manual_seed(0)  # of which new adapters are drawn
    loaded = load_model(StudentSettings(path=str(folder), lora=lora))
    student, teacher = disturbed(loaded, 1), FrozenTeacher()
    teacher.prepare(disturbed(loaded, 2))
    trajectories = episodes(student.vocabulary)
    return Scene(student, teacher, trajectories, taught(teacher, trajectories))


def run_of(tiny_model: Path, out: Path, *overrides: str, resume: bool = False) -> Run:
    """A short run, alive; nothing of it has happened yet."""
    data = ENV | {"student": {"path": str(tiny_model)}, "threads": 1}
    data["env"] = {**ENV["env"], "options": {"prompt": "brief", "max_turns": 3}}
    return Run(parse_config(data, ["rollout.tasks=4", *overrides]), out, resume, lambda _: None)
