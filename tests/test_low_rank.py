"""Low-rank adapters over frozen weights: they alone learn, and teachers copy and average them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scenes import AUXILIARY, ENV, Scene, assert_same, run_of, scene_of, thawed, written_out
from torch import nn

import agentopd.running.run
from agentopd.learning.learner import Learner
from agentopd.models.model import LanguageModel, ModelSettings, load_model
from agentopd.running.reading import parse_config
from agentopd.running.run import Run
from agentopd.teacher import Teacher

# H sizes of hidden states, r rank

RANK = 2
Weights = dict[str, torch.Tensor]


class LowRank(nn.Module):
    """A frozen linear layer, plus the product of two thin matrices."""

    def __init__(self, base: nn.Linear, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base
        self.lora_A_rH = nn.Parameter(torch.randn(RANK, base.in_features, generator=generator))
        self.lora_B_Hr = nn.Parameter(torch.randn(base.out_features, RANK, generator=generator))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.base(hidden) + 0.1 * (hidden @ self.lora_A_rH.T) @ self.lora_B_Hr.T


def _by_hand(model: LanguageModel, head: bool, seed: int) -> LanguageModel:
    """Adapters around every linear layer below the output layer."""
    twin, generator = thawed(model), torch.Generator().manual_seed(seed)
    twin.module.requires_grad_(False)
    for layer in list(twin.body.modules()):
        for name, child in list(layer.named_children()):
            if isinstance(child, nn.Linear):
                setattr(layer, name, LowRank(child, generator))
    twin.output.weight.requires_grad_(head)
    return twin


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def _by_peft(model: LanguageModel, head: bool, seed: int) -> LanguageModel:
    peft = pytest.importorskip("peft")
    torch.manual_seed(seed)
    settings = peft.LoraConfig(
        r=RANK,
        target_modules=["q_proj", "v_proj", "down_proj"],
        modules_to_save=["lm_head"] if head else None,
        init_lora_weights=False,  # or the adapters would change nothing at first
    )
    return replace(model, module=peft.get_peft_model(thawed(model).module, settings))


ADAPTED = {"by_hand": _by_hand, "by_peft": _by_peft}


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


@pytest.fixture(params=[False, True], ids=["frozen_head", "trained_head"])
def head(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture(params=ADAPTED)
def student(scene: Scene, head: bool, request: pytest.FixtureRequest) -> LanguageModel:
    return ADAPTED[request.param](scene.student, head, seed=1)


def _weights(model: LanguageModel) -> Weights:
    return {name: p.detach().clone() for name, p in model.module.named_parameters()}


def _learns(name: str, head: bool) -> bool:
    return "lora_" in name or (head and "lm_head" in name and "original" not in name)


def _assert_only_these_moved(before: Weights, after: Weights, head: bool) -> None:
    for name, weight in before.items():
        assert torch.equal(after[name], weight) is not _learns(name, head), name


METHODS = {
    "one_pass": AUXILIARY,
    "two_passes": (*AUXILIARY, "weight=[{kind: overlap, k: 999, renormalise: false}]"),
    "small_batches": (*AUXILIARY, "learner.tokens_per_batch=64"),
}


@pytest.mark.parametrize("method", METHODS)
def test_an_update_is_that_of_the_loss_written_out_and_moves_adapters_alone(
    scene: Scene, student: LanguageModel, head: bool, method: str
) -> None:
    live = {n: p for n, p in student.module.named_parameters() if p.requires_grad}
    assert live and all(_learns(name, head) for name in live)
    assert any("lm_head" in name for name in live) is head
    expected = torch.autograd.grad(written_out(scene, student), list(live.values()))
    config = parse_config(ENV, ["learner.clip=1e9", *METHODS[method]])
    learner, before = Learner(student, scene.teacher, config), _weights(student)
    seen: list[torch.Tensor] = []
    learner.optimizer.register_step_pre_hook(
        lambda *_: seen.append(torch.cat([_gradient(p) for p in live.values()]))
    )
    update = learner.update(scene.trajectories, scene.lessons, step=0)
    assert not update.skipped
    assert_same(seen[0], torch.cat([g.flatten() for g in expected]), within=1e-5)
    _assert_only_these_moved(before, _weights(student), head)
    held = [p for group in learner.optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in live.values()}
    assert {id(p) for p in learner.optimizer.state} == {id(p) for p in live.values()}


def _gradient(parameter: nn.Parameter) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad.flatten().clone()


SHARES: Mapping[str, tuple[float, float, float]] = {
    "{kind: frozen}": (1.0, 0.0, 0.0),
    "{kind: lagged, every: 2}": (0.0, 0.0, 1.0),
    "{kind: ema, rate: 0.25}": (0.5625, 0.1875, 0.25),
}
"""Shares, in the teacher after two steps, of the student before the first and after each."""


@pytest.mark.parametrize("kind", SHARES)
def test_teachers_copy_and_average_the_adapters(
    scene: Scene, student: LanguageModel, head: bool, kind: str
) -> None:
    config = parse_config(ENV, [f"teacher={kind}", "learner.learning_rate=0.01"])
    teacher: Teacher = config.teacher
    teacher.prepare(student)
    course = [_weights(student)]
    learner = Learner(student, scene.teacher, config)
    for step in range(2):
        learner.update(scene.trajectories, scene.lessons, step)
        teacher.sync(student, step)
        course.append(_weights(student))
    _assert_only_these_moved(course[0], course[2], head)
    for name, weight in _weights(teacher.model).items():
        expected = sum(s * past[name] for s, past in zip(SHARES[kind], course, strict=True))
        torch.testing.assert_close(weight, expected, atol=1e-6, rtol=0)
        assert _learns(name, head) or torch.equal(weight, course[0][name]), name
    assert not any(p.requires_grad for p in teacher.model.module.parameters())
    teacher.restore({name: tensor.clone() for name, tensor in teacher.tensors().items()})


def test_a_run_samples_with_its_adapters_and_goes_on_with_them(
    scene: Scene, head: bool, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sampler, the teacher's average and a checkpoint, around the learner."""
    loaded = load_model(ModelSettings(path=str(tiny_model)))

    def run(seed: int, resume: bool = False) -> Run:
        adapted = _by_hand(loaded, head, seed)
        monkeypatch.setattr(agentopd.running.run, "load_model", lambda _: adapted)
        method = ("teacher={kind: ema, rate: 0.5}", "learner.learning_rate=0.01")
        short = ("rollout.max_turn_tokens=6", "evaluate.episodes=2")
        return run_of(tiny_model, tmp_path / "run", *method, *short, resume=resume)

    whole = run(seed=1)
    whole.begin()
    start = _weights(whole.student)
    _step(whole, 0)
    _assert_only_these_moved(start, _weights(whole.student), head)
    whole.save()
    other = run(seed=2, resume=True)
    for step in (1, 2):
        models = ((r.student, r.config.teacher.model) for r in (whole, other))
        for expected, found in zip(*models, strict=True):
            again = _weights(found)
            assert all(torch.equal(again[name], w) for name, w in _weights(expected).items())
        for each in (whole, other):
            _step(each, step)


def _step(run: Run, step: int) -> None:
    trajectories = run.roll_out(step)
    update = run.learn(trajectories, run.ask_teacher(trajectories, step), step)
    assert not update.skipped
    run.record(step, trajectories, update)
    assert update.scalars["sampler_gap"] < 1e-5
