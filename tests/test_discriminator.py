"""The discriminator: what it scores, learns and pays, and that it goes on where it stopped."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killed import tensors_of
from scenes import Scene, scene_of, weights

from agentopd.base.stopping import Interrupted
from agentopd.base.types import Trajectory
from agentopd.base.written import last_stage
from agentopd.models.adapters import LoraSettings
from agentopd.models.model import LanguageModel
from agentopd.running.config import RunConfig
from agentopd.running.reading import parse_config
from agentopd.running.train import train
from agentopd.stored.trajectories import save_trajectories
from agentopd.teachers.copies import FrozenTeacher
from agentopd.units.discriminator.network import Discriminator, accuracy, bradley_terry
from agentopd.units.discriminator.unit import DiscriminatorUnit

GAD = ("mix={kind: reward, score: unit, rl: grpo}", "rollout.group=4")


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


@pytest.fixture(scope="module")
def store(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of the teacher's episodes on the first task, one on a task that nobody plays."""
    folder = tmp_path_factory.mktemp("teacher")
    theirs = [replace(t, ids=_other(t, n), episode=n) for n, t in enumerate(_words(scene)[:2])]
    stranger = replace(theirs[0], episode=2, seed=99)
    save_trajectories([*theirs, stranger], folder / "episodes-00000.parquet")
    return folder


def _words(scene: Scene) -> list[Trajectory]:
    """The step's episodes with answers in words, as whoever reads a store checks them."""
    template = scene.student.template
    return [
        replace(t, turns=tuple(replace(u, action=template.action(_said(t, u))) for u in t.turns))
        for t in scene.trajectories
    ]


def _said(t: Trajectory, turn: Any) -> list[int]:
    return t.ids[turn.start : turn.stop].tolist()


def _other(t: Trajectory, seed: int) -> np.ndarray:
    """Other observations: the answers stay, so that their words do."""
    shown = np.random.default_rng(seed).integers(9, 40, len(t.ids))
    return np.where(t.trainable, t.ids, shown)


def _unit(store: Path, student: LanguageModel, **settings: Any) -> DiscriminatorUnit:
    unit = DiscriminatorUnit.model_validate({"path": str(store), **settings})
    unit.prepare(student, FrozenTeacher())
    return unit


def test_the_loss_of_equal_scores_is_ln_2_and_of_others_by_hand() -> None:
    equal_P = torch.tensor([0.3, -2.0])
    assert bradley_terry(equal_P, equal_P).item() == pytest.approx(math.log(2))
    better_P, worse_P = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    by_hand = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(2))) / 2
    assert bradley_terry(better_P, worse_P).item() == pytest.approx(by_hand)
    assert accuracy(torch.tensor([1.0, 0.0, 5.0]), torch.tensor([0.0, 2.0, 5.0])) == 0.5


def test_a_score_is_the_head_on_the_state_behind_the_last_answer(scene: Scene) -> None:
    """By a pass of its own over each episode; the rest of the batch changes nothing."""
    network = Discriminator(scene.student, True, 1e-2, 0.2, 64)
    head = next(iter(network.tensors().values()))
    generator = torch.Generator().manual_seed(5)
    moved = torch.randn(head.shape, generator=generator)
    network.restore(network.tensors() | {"weight/head": moved})
    for t, score in zip(scene.trajectories, network.scores(scene.trajectories), strict=True):
        hidden_TH = scene.student.hidden(torch.from_numpy(t.ids)[None])[0]
        assert score.item() == pytest.approx(float(hidden_TH[-1] @ moved), abs=1e-4)


@pytest.mark.parametrize("trunk", ["trained", "frozen"])
def test_it_learns_to_tell_the_teachers_from_the_students(
    scene: Scene, store: Path, trunk: str
) -> None:
    """At first all scores are equal; the student itself is not moved."""
    before = weights(scene.student).clone()
    unit, step = (
        _unit(store, scene.student, trunk=trunk, learning_rate=0.02, clip=10.0),
        _words(scene),
    )
    unit.learn(step)
    assert unit.scalars() == {
        "discriminator_pairs": 4.0,  # of the first task's four; nothing is stored of the second
        "discriminator_loss": pytest.approx(math.log(2)),
        "discriminator_accuracy": 0.5,
    }
    assert [unit.score(t) for t in step] == [0.0] * 8
    for _ in range(40):
        unit.learn(step)
    assert unit.scalars()["discriminator_accuracy"] == 1.0
    assert unit.scalars()["discriminator_loss"] < 0.3
    assert torch.equal(weights(scene.student), before)


def test_episodes_are_paid_before_the_step_teaches_the_discriminator(
    scene: Scene, store: Path
) -> None:
    unit, step = _unit(store, scene.student, learning_rate=0.02), _words(scene)
    unit.learn(step)
    known = unit.network.scores(step).tolist()
    unit.learn(step)
    assert [unit.score(t) for t in step] == known
    assert known != unit.network.scores(step).tolist()
    fresh = replace(step[0])  # one that it has not learnt from is scored as it is now
    assert unit.score(fresh) == pytest.approx(unit.network.scores(step[:1]).item(), abs=1e-5)


def test_a_constant_discriminator_teaches_nothing(scene: Scene, store: Path) -> None:
    """As it begins; the step is none, and so is the gradient."""
    unit = f"unit={{kind: discriminator, path: {store}}}"
    update, gradient, _ = scene.learn(unit, *GAD, trajectories=_words(scene), lessons=[])
    assert gradient is None and update.skipped == "no teacher signal and no advantage"


def test_its_scores_are_the_rewards(scene: Scene, store: Path) -> None:
    """The gradient is that of the environment's rewards if these were the scores."""
    unit, step = _unit(store, scene.student, learning_rate=0.02), _words(scene)
    unit.learn(step)
    scores = unit.network.scores(step).tolist()
    rewarded = [_rewarded(t, score) for t, score in zip(step, scores, strict=True)]
    config = parse_config(
        {"env": {"id": "agentopd/Sokoban-v0"}},
        [f"unit={{kind: discriminator, path: {store}}}", *GAD],
    )
    unit.learn(step)
    found = config.mix.rewards(step, {t.episode: unit.score(t) for t in step})
    assert config.mix.rl_channel is not None
    assert config.mix.rl_channel.of(step, found) == config.mix.rl_channel.of(rewarded)


def _rewarded(t: Trajectory, reward: float) -> Trajectory:
    turns = tuple(replace(u, reward=0.0 if u.index else reward) for u in t.turns)
    return replace(t, turns=turns)


def _steps(unit: DiscriminatorUnit, step: Sequence[Trajectory], count: int) -> None:
    for _ in range(count):
        unit.learn(step)


@pytest.mark.parametrize("trunk", ["trained", "frozen"])
def test_it_goes_on_where_it_stopped(scene: Scene, store: Path, trunk: str) -> None:
    step = _words(scene)
    straight, stopped, resumed = (_unit(store, scene.student, trunk=trunk) for _ in range(3))
    _steps(straight, step, 5)
    _steps(stopped, step, 2)
    resumed.load(stopped.tensors())
    _steps(resumed, step, 3)
    one, other = straight.tensors(), resumed.tensors()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (len(one) > 4) == (trunk == "trained")


def test_tensors_of_another_discriminator_are_refused(scene: Scene, store: Path) -> None:
    head, whole = (_unit(store, scene.student, trunk=x) for x in ("frozen", "trained"))
    with pytest.raises(ValueError, match=r"learnt with another unit\.trunk"):
        whole.load(head.tensors())


def test_of_a_student_with_adapters_its_own_adapters_learn(tiny_model: Path, store: Path) -> None:
    lora = scene_of(tiny_model, LoraSettings(rank=2))
    before = weights(lora.student).clone()
    unit = _unit(store, lora.student, learning_rate=0.02)
    _steps(unit, _words(lora), 3)
    moments = [name for name in unit.tensors() if name.endswith("/exp_avg")]
    assert moments and all("lora" in name or "head" in name for name in moments)
    assert torch.equal(weights(lora.student), before)


def _small() -> RunConfig:
    """The row on the shortest levels; the discriminator is alone for one step."""
    data = {
        "steps": 3,
        "threads": 1,
        "student": {"path": "zoo:sokoban-easy"},
        "env": {
            "id": "agentopd/Sokoban-v0",
            "options": {"prompt": "brief", "min_moves": 1, "max_moves": 2, "max_turns": 2},
        },
        "evaluate": {"episodes": 1},
        "save": {"checkpoint_every": 1},
    }
    return parse_config(
        data,
        [
            "method=gad",
            "rollout.tasks=2",
            "rollout.group=4",
            "rollout.max_turns=2",
            "stages.demonstrations.collect={by: oracle, episodes: 8}",
            "stages.pairs.collect={by: oracle, episodes: 8}",
            "stages.sft.mix={kind: nll}",
            "stages.sft.steps=1",
            "stages.gad.schedule.rl.boundaries=[1]",
            "stages.gad.unit.learning_rate=0.01",
        ],
    )


def test_a_run_learns_from_it_and_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunConfig, "notices", lambda self: [])
    config, stop = _small(), threading.Event()
    train(config, tmp_path / "whole")
    lines = [json.loads(x) for x in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    *_, first, second, third = [line for line in lines if line["step"] >= 0]
    assert first["loss"] is None  # the discriminator alone
    for line in (second, third):
        assert line["probes"]["scalars"]["gradient_norm"] > 0
    told = [x["probes"]["scalars"]["discriminator_loss"] for x in (first, second, third)]
    assert told[0] == pytest.approx(math.log(2)) and told[2] < told[0]

    def soon(line: dict[str, Any]) -> None:
        if line["step"] == second["step"]:
            stop.set()

    with pytest.raises(Interrupted):
        train(config, tmp_path / "stopped", watch=soon, stop=stop)
    train(config, tmp_path / "stopped", resume=True)
    found, expected = (tensors_of(last_stage(tmp_path / x)) for x in ("stopped", "whole"))
    assert any(name.startswith("unit/") for name in expected)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
