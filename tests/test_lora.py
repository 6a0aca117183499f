"""`student.lora`: what adapters say, what learns, what copies share, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from scenes import AUXILIARY, ENV, assert_same, scene_of, taught, written_out
from torch import nn

from agentopd.learning.learner import Learner
from agentopd.models.model import (
    LanguageModel,
    ModelSettings,
    StudentSettings,
    load_model,
)
from agentopd.running.config import ConfigError
from agentopd.running.reading import parse_config
from agentopd.teacher import Teacher
from agentopd.teachers.copies import (
    AdapterOffTeacher,
    EmaTeacher,
    FrozenTeacher,
    LaggedTeacher,
    LiveTeacher,
)

# B sequences, T tokens, V vocabulary

IDS_BT = torch.tensor([[9, 10, 11, 12, 13], [20, 14, 9, 30, 31]])
LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def _student(folder: Path, dtype: str = "float32", **lora: Any) -> LanguageModel:
    return load_model(
        StudentSettings.model_validate({"path": str(folder), "dtype": dtype, "lora": lora})
    )


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def folder(tiny_model: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A small model, with an output layer of its own or the embeddings as output layer."""
    if not request.param:
        return tiny_model
    model = load_model(ModelSettings(path=str(tiny_model)))
    model.module.config.tie_word_embeddings = True
    model.module.tie_weights()
    model.save(tmp_path / "tied")
    return tmp_path / "tied"


def _learn(model: LanguageModel, seed: int = 3) -> LanguageModel:
    """Adapters that say something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.weights().values():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    return model


@torch.no_grad()
def _logits(model: LanguageModel) -> torch.Tensor:
    return model.logits(model.hidden(IDS_BT))


def test_new_adapters_say_nothing_and_alone_require_gradients(folder: Path) -> None:
    student, base = _student(folder), load_model(ModelSettings(path=str(folder)))
    assert torch.equal(_logits(student), _logits(base))
    live = {n for n, p in student.module.named_parameters() if p.requires_grad}
    assert live == student.weights().keys()
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in live} == LINEAR
    assert {w.shape for n, w in student.weights().items() if "q_proj.lora_A" in n} == {(16, 16)}


@pytest.mark.parametrize(
    ("lora", "scale", "layers"),
    [
        ({"rank": 4, "alpha": 6}, 1.5, LINEAR),
        ({"rank": 4, "alpha": 6, "rslora": True}, 3.0, LINEAR),
        ({"rank": 2, "alpha": 5, "targets": ["q_proj", "mlp.up_proj"]}, 2.5, {"q_proj", "up_proj"}),
    ],
)
def test_logits_are_those_of_the_base_with_the_products_in_its_weights(
    folder: Path, lora: dict[str, Any], scale: float, layers: set[str]
) -> None:
    student, by_hand = _learn(_student(folder, **lora)), load_model(ModelSettings(path=str(folder)))
    products = {
        a.split(".lora_A")[0].removeprefix("base_model.model."): (
            student.weights()[a.replace("lora_A", "lora_B")] @ student.weights()[a]
        )
        for a in student.weights()
        if ".lora_A" in a
    }
    assert {name.rpartition(".")[2] for name in products} == layers
    before = _logits(by_hand)
    with torch.no_grad():
        for name, product in products.items():
            layer = by_hand.module.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            layer.weight.add_(scale * product)
    torch.testing.assert_close(_logits(student), _logits(by_hand), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(before, _logits(by_hand), atol=1e-2)


def test_an_update_is_that_of_the_loss_written_out(folder: Path) -> None:
    """Through the body, the adapters and a frozen head, which may be the embeddings."""
    scene, student = scene_of(folder), _learn(_student(folder, rank=3))
    base = {n: p.clone() for n, p in student.module.named_parameters() if not p.requires_grad}
    learner = Learner(student, scene.teacher, parse_config(ENV, ["learner.clip=1e9", *AUXILIARY]))
    expected = torch.autograd.grad(written_out(scene, student), learner.parameters)
    seen: list[torch.Tensor] = []
    learner.optimizer.register_step_pre_hook(lambda *_: seen.append(_gradient(learner.parameters)))
    assert not learner.update(scene.trajectories, scene.lessons, step=0).skipped
    assert_same(seen[0], torch.cat([g.flatten() for g in expected]), within=1e-5)
    for name, weight in student.module.named_parameters():
        assert name not in base or torch.equal(weight, base[name]), name


def _gradient(parameters: list[nn.Parameter]) -> torch.Tensor:
    return torch.cat([p.grad.flatten().clone() for p in parameters if p.grad is not None])


def test_adapters_of_a_bfloat16_base_are_float32_and_need_no_masters(tiny_model: Path) -> None:
    student = _student(tiny_model, "bfloat16")
    assert student.module.dtype == torch.bfloat16
    assert {weight.dtype for weight in student.weights().values()} == {torch.float32}
    teacher = FrozenTeacher()
    teacher.prepare(student)
    learner = Learner(student, teacher, parse_config(ENV))
    assert not learner.optimizer.masters
    assert learner.optimizer.held == list(student.weights().values())


def _pointers(model: LanguageModel, *names: str) -> set[int]:
    found = model.module.named_parameters()
    return {p.data_ptr() for n, p in found if not names or any(name in n for name in names)}


def test_every_copy_shares_the_base_and_has_adapters_of_its_own(folder: Path) -> None:
    student = _learn(_student(folder))
    base = _pointers(student) - _pointers(student, "lora_")
    for twin in (student.frozen_copy(), student.snapshot()):
        assert torch.equal(_logits(twin), _logits(student))
        assert _pointers(twin) - _pointers(twin, "lora_") == base
        assert _pointers(twin, "lora_").isdisjoint(_pointers(student))
        assert not any(p.requires_grad for p in twin.module.parameters())
    off = student.without_adapters()
    assert _pointers(off) == base
    assert torch.equal(_logits(off), _logits(load_model(ModelSettings(path=str(folder)))))
    # and the student is none the worse
    assert all(weight.requires_grad for weight in student.weights().values())
    assert not torch.allclose(_logits(student), _logits(off), atol=1e-2)


def test_a_snapshot_of_new_adapters_is_the_base_itself(folder: Path) -> None:
    student = _student(folder)
    assert _pointers(student.snapshot()) == _pointers(student) - _pointers(student, "lora_")
    assert student.snapshot().digest() == student.snapshot().digest()
    assert student.digest() == _student(folder).digest()  # whatever A was drawn
    before = student.digest()
    assert _learn(student).digest() != before


KINDS: dict[str, tuple[Callable[[], Teacher], tuple[float, float, float]]] = {
    "live": (LiveTeacher, (0, 0, 1)),
    "frozen": (FrozenTeacher, (1, 0, 0)),
    "lagged": (lambda: LaggedTeacher(every=1), (0, 0, 1)),
    "ema": (lambda: EmaTeacher(rate=0.25), (0.5625, 0.1875, 0.25)),
}
"""Shares, in the teacher after two steps, of the student before the first and after each."""


@pytest.mark.parametrize("kind", KINDS)
def test_teachers_are_made_of_the_students_adapters(tiny_model: Path, kind: str) -> None:
    make, shares = KINDS[kind]
    student, teacher = _learn(_student(tiny_model), seed=0), make()
    teacher.prepare(student)
    course = [{n: w.clone() for n, w in student.weights().items()}]
    for step in range(2):
        _learn(student, seed=step + 1)
        teacher.sync(student, step)
        course.append({n: w.clone() for n, w in student.weights().items()})
    for name, weight in teacher.model.weights().items():
        expected = sum(share * past[name] for share, past in zip(shares, course, strict=True))
        torch.testing.assert_close(weight, expected)
    assert teacher.tensors().keys() <= student.weights().keys(), "the base was to be saved"
    assert _pointers(teacher.model) & _pointers(student), "the base was copied"


def test_without_adapters_is_the_base_however_far_these_are(tiny_model: Path) -> None:
    student, teacher = _learn(_student(tiny_model)), AdapterOffTeacher()
    teacher.prepare(student)
    _learn(student)
    teacher.sync(student, 0)
    assert torch.equal(
        _logits(teacher.model), _logits(load_model(ModelSettings(path=str(tiny_model))))
    )
    assert teacher.tensors() == {}


def test_an_average_of_factors_misses_that_of_products_by_their_covariance(
    tiny_model: Path,
) -> None:
    """Two states, a half each: mean(A) mean(B) = mean(A B) - (B1 - B0)(A1 - A0) / 4."""
    student, teacher = _learn(_student(tiny_model, rank=2)), EmaTeacher(rate=0.5)
    teacher.prepare(student)
    a = next(name for name in student.weights() if "up_proj.lora_A" in name)
    b = a.replace("lora_A", "lora_B")

    def factors(model: LanguageModel) -> tuple[torch.Tensor, torch.Tensor]:
        weights = model.weights()
        return weights[a].detach().clone(), weights[b].detach().clone()

    a0, b0 = factors(student)
    a1, b1 = factors(_learn(student, seed=4))
    teacher.sync(student, 0)
    mean_a, mean_b = factors(teacher.model)
    missed = (b1 - b0) @ (a1 - a0) / 4
    torch.testing.assert_close(mean_b @ mean_a, (b0 @ a0 + b1 @ a1) / 2 - missed)
    assert missed.norm() > 1e-3


def test_a_teachers_pass_between_the_students_two_leaves_no_trace(tiny_model: Path) -> None:
    scene, student = scene_of(tiny_model), _learn(_student(tiny_model))
    teacher = AdapterOffTeacher()
    teacher.prepare(student)

    def gradient(asking: bool) -> torch.Tensor:
        loss = student.logits(student.hidden(IDS_BT)).square().mean()
        if asking:
            taught(teacher, scene.trajectories)
            with pytest.raises(RuntimeError, match="broken"):
                _broken(teacher)
        weights = list(student.weights().values())
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])

    assert torch.equal(gradient(asking=True), gradient(asking=False))


def _broken(teacher: Teacher) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("broken")

    handle = teacher.model.body.register_forward_hook(fail)
    try:
        teacher.model.hidden(IDS_BT)
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("student.lora.targets=[q_proj, qproj]", "'qproj' is no linear layer .* down_proj, gate"),
        ("student.lora.targets=[lm_head]", "'lm_head' is no linear layer below the output layer"),
        ("student.lora.targets=[embed_tokens]", "'embed_tokens' is no linear layer"),
    ],
)
def test_targets_are_linear_layers_below_the_output(
    tiny_model: Path, setting: str, told: str
) -> None:
    config = parse_config(ENV | {"student": {"path": str(tiny_model)}}, [setting])
    with pytest.raises(ValueError, match=told):
        load_model(config.student)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["student.lora.dropout=0.1"], "blur every log-probability"),
        (["student.lora.targets=[]"], "student.lora.targets"),
        (["student.lora.rank=0"], "student.lora.rank"),
        (["teacher=adapter_off"], r"set student.lora=\{\}"),
        (["teacher={kind: external, source: {lora: {}}}"], "unknown key 'lora'"),
        (["student.lora={}", "teacher=adapter_off", "control=frozen_teacher"], "is no such copy"),
    ],
)
def test_what_cannot_be_is_refused_when_the_config_is_read(settings: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse_config(ENV, settings)


def test_a_student_without_adapters_has_none_to_switch_off(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="has no adapters that could be off"):
        AdapterOffTeacher().prepare(load_model(ModelSettings(path=str(tiny_model))))


@pytest.mark.parametrize(
    ("large", "lora", "rate", "told"),
    [
        (False, None, 3e-4, ""),
        (False, {}, 3e-3, "adapters alone learn: learner.learning_rate=0.003 unless"),
        (True, None, 1e-5, "is no embedded model: rollout.max_turn_tokens=256, learner.l"),
        (True, {}, 1e-4, "is no embedded model and adapters alone learn: "),
    ],
)
def test_adapters_learn_at_ten_times_the_rate(
    tmp_path: Path, large: bool, lora: dict[str, Any] | None, rate: float, told: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({}))
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(2**28 if large else 2**10)
    data = ENV | {"student": {"path": str(tmp_path), "lora": lora}}
    config = parse_config(data)
    assert config.learner.learning_rate == rate
    assert any(told in notice for notice in config.notices()) if told else not config.notices()
    assert parse_config(data, ["learner.learning_rate=0.5"]).learner.learning_rate == 0.5
    again = parse_config(config.model_dump(mode="json"))
    assert again.model_dump() == config.model_dump() and again.notices() == []
