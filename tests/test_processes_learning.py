"""One step of learning shared by two processes is the step of one, to the rounding of a sum."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scenes import AUXILIARY, Scene, scene_of, weights
from together import together

from agentopd.base.types import Trajectory
from agentopd.learning.learner import Update
from agentopd.models.adapters import LoraSettings
from agentopd.models.model import ModelSettings, load_model
from agentopd.parallel.processes import ALONE, Processes

GROUPS = ("rollout.group=4",)
BASE = ("base_layer.weight", "norm.weight", "embed_tokens.weight", "lm_head.weight")
STEP = "weight=[{kind: gap_gate, renormalise: step}]"


@dataclass(frozen=True)
class Case:
    """A method and the episodes it learns from.

    Args:
        tasks: of the eight episodes; whole tasks go to one process.
        told: episodes that have a lesson.
        frozen: endings of the names of weights that do not learn.
        student: `plain`, `tied` (embeddings and output layer share weights) or `adapted`.
    """

    method: tuple[str, ...] = ()
    tasks: Sequence[int] = (0, 0, 0, 0, 1, 1, 1, 1)
    told: Sequence[int] = range(8)
    frozen: tuple[str, ...] = ()
    student: str = "plain"


CASES = {
    "token_mean": Case(),
    "turn_mean": Case(("unit={kind: turn, normalise: turn_mean}",)),
    "sequence_mean": Case(("unit.normalise=sequence_mean",)),
    "sequence_sum": Case(("unit.normalise=sequence_sum",)),
    "sampled": Case(("divergence.support=sampled", "unit=turn", "weight=[gap_gate, entropy]")),
    "rubric": Case(("unit={kind: rubric_span, criteria: [{name: a, fact: tidy}]}",)),
    "grpo": Case(("mix=rl", *GROUPS)),
    "both channels": Case(AUXILIARY),
    "one advantage": Case(("mix=additive", *GROUPS, "divergence.support=sampled")),
    "scores as rewards": Case(("mix=reward", *GROUPS)),
    "weights over the step": Case((STEP, *AUXILIARY)),
    "centroid": Case(("weight=[{kind: kl_centroid, centroid: step, reach: 0.6}]",)),
    "routed": Case(("mix={kind: routed, success: likelihood}", *GROUPS)),
    "two passes": Case((*AUXILIARY, "learner.epochs=2", "learner.learning_rate=0.01")),
    "moments of 8 bits": Case(("learner.optimizer=adamw_8bit",)),
    "scores kept": Case(("save.scores_top_k=3",)),
    "unequal shares": Case((*AUXILIARY, "learner.tokens_per_batch=64"), (0, 0, 0, 0, 0, 0, 1, 2)),
    "nothing for one": Case(AUXILIARY, (0,) * 8),
    "nothing for one, surveyed": Case((STEP,), (0,) * 8),
    "lessons with one alone": Case(AUXILIARY, told=(0, 1)),
    "frozen weights": Case(frozen=("embed_tokens.weight", "q_proj.weight")),
    "tied weights": Case(AUXILIARY, student="tied"),
    "adapters": Case(AUXILIARY, frozen=BASE, student="adapted"),
    "the output layer alone": Case(frozen=("proj.weight", "norm.weight", "embed_tokens.weight")),
}


@dataclass(frozen=True)
class Learnt:
    """What one process has of a step."""

    update: Update
    gradient: torch.Tensor | None
    weights: torch.Tensor

    @property
    def numbers(self) -> dict[str, float]:
        """All that the step's line says, by path."""
        said = {"loss": self.update.loss, **self.update.scalars, **self.update.probes}
        return dict(_numbers(said))


def _numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        for key, one in inner:
            yield from _numbers(one, f"{path}/{key}")
    elif value is not None:
        yield path, float(value)


def _learn(processes: Processes, folders: dict[str, Path], names: Sequence[str]) -> list[Learnt]:
    torch.set_num_threads(1)
    scenes = {name: scene_of(folder) for name, folder in folders.items()}
    scenes["adapted"] = scene_of(folders["plain"], LoraSettings(rank=2))
    return [_learn_one(processes, scenes[CASES[name].student], CASES[name]) for name in names]


def _learn_one(processes: Processes, scene: Scene, case: Case) -> Learnt:
    tasks = dict(zip((t.episode for t in scene.trajectories), case.tasks, strict=True))

    def moved(trajectory: Trajectory) -> Trajectory:
        return replace(trajectory, task=tasks[trajectory.episode])

    lessons = [
        replace(lesson, trajectory=moved(lesson.trajectory))
        for lesson in scene.lessons
        if lesson.trajectory.episode in case.told
    ]
    update, gradient, student = scene.learn(
        *case.method,
        lessons=lessons,
        trajectories=[moved(t) for t in scene.trajectories],
        processes=processes,
        frozen=case.frozen,
    )
    return Learnt(update, gradient, weights(student))


@pytest.fixture(scope="module")
def learnt(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Learnt, Learnt, Learnt]]:
    """What one process alone and each of two together have learnt in each case."""
    model = load_model(ModelSettings(path=str(tiny_model)))
    model.module.config.tie_word_embeddings = True
    model.module.tie_weights()
    tied = tmp_path_factory.mktemp("tied") / "model"
    model.save(tied)
    folders, names = {"plain": tiny_model, "tied": tied}, [*CASES]
    alone = _learn(ALONE, folders, names)
    first, second = together(_learn, folders, names)
    return dict(zip(names, zip(alone, first, second, strict=True), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_two_processes_have_the_gradient_of_one(
    learnt: dict[str, tuple[Learnt, Learnt, Learnt]], name: str
) -> None:
    alone, first, second = learnt[name]
    assert alone.gradient is not None and first.gradient is not None
    assert alone.gradient.norm() > 1e-3, "there is nothing to compare"
    off = (first.gradient - alone.gradient).norm() / alone.gradient.norm()
    assert off <= 1e-6
    assert second.gradient is not None and torch.equal(second.gradient, first.gradient)


@pytest.mark.parametrize("name", CASES)
def test_their_weights_stay_the_same_bits(
    learnt: dict[str, tuple[Learnt, Learnt, Learnt]], name: str
) -> None:
    alone, first, second = learnt[name]
    assert torch.equal(first.weights, second.weights)
    assert first.weights.shape == alone.weights.shape


@pytest.mark.parametrize("name", CASES)
def test_the_steps_numbers_are_those_of_one(
    learnt: dict[str, tuple[Learnt, Learnt, Learnt]], name: str
) -> None:
    alone, first, second = learnt[name]
    assert len(alone.numbers) > 5
    assert first.numbers == pytest.approx(alone.numbers, rel=1e-5, abs=1e-5)
    assert second.numbers == first.numbers
    assert first.update.skipped == alone.update.skipped


def test_all_scores_are_there_to_be_kept(
    learnt: dict[str, tuple[Learnt, Learnt, Learnt]],
) -> None:
    alone, first, _ = learnt["scores kept"]
    expected = {x.lesson.trajectory.episode: x.measured for x in alone.update.scores}
    found = {x.lesson.trajectory.episode: x.measured for x in first.update.scores}
    assert found.keys() == expected.keys() == set(range(8))
    for episode, measured in expected.items():
        torch.testing.assert_close(
            found[episode].student.logprob_N, measured.student.logprob_N, rtol=1e-5, atol=1e-5
        )
