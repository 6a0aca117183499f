"""Teachers that are made of others: one a tag, and two in one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from model_server import serving
from scenes import ENV, Scene, assert_same, disturbed, run_of, scene_of, weights
from test_served_teacher import taught_by

from agentopd.base.written import ConfigError
from agentopd.models.model import ModelSettings, StudentSettings, load_model
from agentopd.running.reading import parse_config
from agentopd.teacher import Teacher
from agentopd.teachers.routed import RoutedTeacher
from agentopd.teachers.trust_region import TrustRegionTeacher

METHODS = (
    "divergence=reverse_kl",
    "divergence={kind: jsd, support: {kind: union_top_k, k: 9}}",
    "divergence={kind: reverse_kl, support: sampled}",
)


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


@pytest.fixture(scope="module")
def folders(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two models that are neither the student's nor each other's."""
    model, found = load_model(ModelSettings(path=str(tiny_model))), []
    for seed in (2, 3):
        folder = tmp_path_factory.mktemp("teacher")
        disturbed(model, seed).save(folder)
        found.append(str(folder))
    return found


def _external(folder: str) -> dict[str, Any]:
    return {"kind": "external", "source": {"path": folder}}


def _under(scene: Scene, told: dict[str, Any]) -> Scene:
    """The step under another teacher; of every three episodes one bears the tag `a`, one `b`."""
    teacher = Teacher.model_validate(told)
    teacher.prepare(scene.student)
    tags = ({"skill": "a"}, {"skill": "b"}, {})
    played = [replace(t, prompt=tags[t.episode % 3]) for t in scene.trajectories]
    return replace(scene, teacher=teacher, lessons=taught_by(teacher, scene.student, played))


@pytest.mark.parametrize("method", METHODS)
def test_each_episode_is_taught_by_the_teacher_of_its_tag(
    scene: Scene, folders: list[str], method: str
) -> None:
    """The gradient is the sum of those of the teachers' own episodes, each taught alone."""
    first, second = map(_external, folders)
    routed = _under(scene, {"kind": "routed", "teachers": {"b": second}, "default": first})
    found = routed.gradient(method, "unit.normalise=fixed", "unit.budget=100")
    total = torch.zeros_like(found)
    for told, own in ((first, (0, 2)), (second, (1,))):
        alone = _under(scene, told)
        lessons = [x for x in alone.lessons if x.trajectory.episode % 3 in own]
        played = [x.trajectory for x in lessons]
        total += alone.gradient(
            method, "unit.normalise=fixed", "unit.budget=100", lessons=lessons, trajectories=played
        )
    assert_same(found, total, within=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_tags_of_one_teacher_are_that_teacher(
    scene: Scene, folders: list[str], method: str
) -> None:
    one = _external(folders[0])
    routed = _under(scene, {"kind": "routed", "teachers": {"a": one, "b": one}, "default": one})
    assert_same(routed.gradient(method), _under(scene, one).gradient(method))


@pytest.fixture
def mixed(folders: list[str]) -> Iterator[dict[str, Any]]:
    """One teacher here, one by hidden states, one by log-probabilities."""
    models = [load_model(ModelSettings(path=folder)) for folder in folders]
    with serving(models[0]) as (one, _), serving(models[1]) as (other, _):
        yield {
            "kind": "routed",
            "teachers": {
                "a": {"kind": "served", "server": one, "source": {"path": folders[0]}},
                "b": {"kind": "logprobs", "server": other, "source": {"path": folders[1]}},
            },
            "default": _external(folders[0]),
        }


def test_teachers_of_all_kinds_stand_side_by_side(
    scene: Scene, folders: list[str], mixed: dict[str, Any]
) -> None:
    here = {"a": _external(folders[0]), "b": _external(folders[1])}
    local = _under(scene, {**mixed, "teachers": here})
    assert_same(_under(scene, mixed).gradient(METHODS[2]), local.gradient(METHODS[2]), within=1e-4)


def test_each_teacher_is_checked(mixed: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="teacher: logprobs does not tell"):
        parse_config({**ENV, "teacher": mixed}, ["divergence=reverse_kl"])
    parse_config({**ENV, "teacher": mixed}, [METHODS[2]])
    told = {"kind": "routed", "teachers": {"a": "live"}, "default": "frozen"}
    with pytest.raises(ConfigError, match="is that student"):
        parse_config({**ENV, "teacher": told}, ["learner.epochs=2"])
    with pytest.raises(ConfigError, match="without its adapters"):
        parse_config({**ENV, "teacher": {**told, "default": "adapter_off"}})


def test_its_settings_are_written_and_read_again(mixed: dict[str, Any]) -> None:
    config = parse_config({**ENV, "teacher": mixed}, [METHODS[2]]).fresh()
    assert isinstance(config.teacher, RoutedTeacher)
    assert [type(x).kind for x in config.teacher._all] == ["served", "logprobs", "external"]


def test_teachers_that_follow_do_and_are_restored(scene: Scene) -> None:
    told = {
        "teachers": {"a": {"kind": "ema", "rate": 0.5}},
        "default": {"kind": "lagged", "every": 1},
    }
    student = scene.student.frozen_copy()
    teacher, other = (Teacher.model_validate({"kind": "routed", **told}) for _ in range(2))
    teacher.prepare(student)
    other.prepare(student)
    assert isinstance(teacher, RoutedTeacher) and isinstance(other, RoutedTeacher)
    with torch.no_grad():
        for parameter in student.module.parameters():
            parameter += 1
    before = weights(scene.student)
    teacher.sync(student, 0)
    assert torch.allclose(
        weights(teacher.teachers["a"].model) - before, torch.tensor(0.5), atol=1e-5
    )
    assert torch.allclose(weights(teacher.default.model) - before, torch.tensor(1.0), atol=1e-5)
    other.restore({name: x.clone() for name, x in teacher.tensors().items()})
    for one, twin in zip(teacher._all, other._all, strict=True):
        assert torch.equal(weights(one.model), weights(twin.model))
    with pytest.raises(ValueError, match="teacher: routed only scores"):
        _ = teacher.model


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_trust_region_mixes_logits(scene: Scene, share: float) -> None:
    student = scene.student.frozen_copy()
    teacher = TrustRegionTeacher(share=share)
    teacher.prepare(student)
    start = student.frozen_copy()
    with torch.no_grad():
        for parameter in student.module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator())
    lessons = taught_by(teacher, scene.student, scene.trajectories)
    found_NV = teacher.speaker(lessons).logits(512)(slice(0, 512))
    expected = []
    for trajectory in scene.trajectories:
        ids_1T = torch.from_numpy(trajectory.ids)[None]
        places = torch.from_numpy(trajectory.trainable.nonzero()[0]) - 1
        with torch.no_grad():
            old_NV, new_NV = (
                m.module(input_ids=ids_1T).logits[0, places] for m in (start, student)
            )
        expected.append(torch.lerp(old_NV, new_NV, share))
    torch.testing.assert_close(found_NV, torch.cat(expected), atol=1e-4, rtol=1e-4)


def test_a_trust_region_of_adapters_shares_one_output_layer(tiny_model: Path) -> None:
    student = load_model(StudentSettings.model_validate({"path": str(tiny_model), "lora": {}}))
    teacher = TrustRegionTeacher(share=0.25)
    teacher.prepare(student)
    with torch.no_grad():
        for parameter in student.weights().values():
            parameter += 0.1
    hidden_NH = torch.randn(3, 2 * student.output.in_features, generator=torch.Generator())
    old_NH, new_NH = hidden_NH.chunk(2, -1)
    head = teacher.head(hidden_NH)
    assert head.weight_VH.data_ptr() == student.output.weight.data_ptr()
    assert torch.equal(head.hidden_NH, old_NH + new_NH)


def test_a_run_under_a_trust_region_goes_on_as_if_it_had_not_stopped(
    tiny_model: Path, tmp_path: Path
) -> None:
    told = ("teacher={kind: trust_region, share: 0.5}", "steps=2", "save.checkpoint_every=1")

    def step(run: Any, number: int) -> None:
        played = run.roll_out(number)
        run.record(number, played, run.learn(played, run.ask_teacher(played, number), number))

    whole = run_of(tiny_model, tmp_path / "whole", *told)
    step(whole, 0)
    step(whole, 1)
    step(run_of(tiny_model, tmp_path / "cut", *told), 0)
    again = run_of(tiny_model, tmp_path / "cut", *told, resume=True)
    step(again, 1)
    assert torch.equal(weights(again.student), weights(whole.student))
