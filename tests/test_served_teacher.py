"""A teacher on a server, by its hidden states, against the same model loaded here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from http_servers import Asked, answering, free_port
from model_server import serving
from scenes import AUXILIARY, Scene, assert_same, disturbed, episodes, scene_of

from agentopd.base.types import Briefed, Lesson, Trajectory
from agentopd.models.model import LanguageModel, ModelSettings, load_model
from agentopd.privilege.view import SystemView
from agentopd.serving.http import ServerError, ServerSettings
from agentopd.serving.output_layer import load_output_layer
from agentopd.teacher import Teacher
from agentopd.teachers.external import ExternalTeacher
from agentopd.teachers.served import ServedTeacher

GONE = {"patience": 0.0, "seconds": 30.0}


def taught_by(teacher: Teacher, student: LanguageModel, played: list[Trajectory]) -> list[Lesson]:
    """A lesson on each trajectory, told nothing more."""
    briefed = [Briefed(trajectory=t, privileges=()) for t in played]
    return teacher.score(SystemView().build(briefed, student.template))


@dataclass(frozen=True)
class Twins:
    """One step under the same teacher, loaded here and on a server."""

    here: Scene
    there: Scene
    folder: str
    asked: list[dict[str, Any]]


@pytest.fixture(scope="module")
def twins(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    student = scene_of(tiny_model).student
    saved = tmp_path_factory.mktemp("teacher")
    disturbed(load_model(ModelSettings(path=str(tiny_model))), 2).save(saved)
    folder = str(saved)
    local = ExternalTeacher(source=ModelSettings(path=folder))
    local.prepare(student)
    played = episodes(student.vocabulary)
    with serving(local.model) as (url, asked):
        source = ModelSettings(path=folder)
        server = ServerSettings(url=url)
        served = ServedTeacher(server=server, source=source, tokens_per_batch=64)
        served.prepare(student)
        here, there = (
            Scene(student, teacher, played, taught_by(teacher, student, played))
            for teacher in (local, served)
        )
        yield Twins(here, there, folder, asked)


DIVERGENCES = ("reverse_kl", "forward_kl", "jsd", "skew", "alpha", "entropy_switched")
SUPPORTS = ("full", "student_top_k", "teacher_top_k", "intersection_top_k", "union_top_k")
TARGETS = ("veto", "extrapolate")


def _combinations() -> list[str]:
    wide = [
        f"divergence={{kind: {kind}, support: {{kind: {support}}}}}"
        if support == "full"
        else f"divergence={{kind: {kind}, support: {{kind: {support}, k: 60}}}}"
        for kind in DIVERGENCES
        for support in SUPPORTS
    ]
    aimed = [
        f"divergence={{kind: {kind}, target: {target}}}"
        for kind in ("reverse_kl", "forward_kl", "jsd")
        for target in TARGETS
    ]
    sampled = [
        f"divergence={{kind: reverse_kl, support: sampled, estimator: {estimator}}}"
        for estimator in ("k1", "k2", "rho_k3", "gated", "reward_to_go")
    ]
    return wide + aimed + sampled


@pytest.mark.parametrize("method", _combinations())
def test_every_divergence_support_and_target_is_as_with_the_model_here(
    twins: Twins, method: str
) -> None:
    expected, by_expected, _ = twins.here.learn(method)
    found, by_found, _ = twins.there.learn(method)
    assert expected.loss is not None and found.loss is not None
    assert by_expected is not None and by_found is not None
    assert abs(found.loss - expected.loss) <= 1e-4 * max(1.0, abs(expected.loss))
    assert_same(by_found, by_expected, within=1e-4)
    for name, value in expected.scalars.items():
        assert found.scalars[name] == pytest.approx(value, abs=1e-4, rel=1e-4), name


@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_a_temperature_works_too(twins: Twins, temperature: float) -> None:
    method = (f"rollout.temperature={temperature}", *AUXILIARY)
    assert_same(twins.there.gradient(*method), twins.here.gradient(*method), within=1e-4)


@pytest.mark.parametrize(("wire", "within"), [("float16", 2e-3), ("bfloat16", 2e-2)])
def test_a_narrow_wire_rounds_and_no_more(twins: Twins, wire: str, within: float) -> None:
    with serving(twins.here.teacher.model) as (url, asked):
        told = {"kind": "served", "server": url, "source": {"path": twins.folder}, "wire": wire}
        teacher = Teacher.model_validate(told)
        teacher.prepare(twins.here.student)
        lessons = taught_by(teacher, twins.here.student, twins.here.trajectories)
    assert {body["embed_dtype"] for body in asked} == {wire}
    states = [x.hidden_NH for x in twins.here.lessons if x.hidden_NH is not None]
    for lesson, expected_NH in zip(lessons, states, strict=True):
        assert lesson.hidden_NH is not None and lesson.hidden_NH.dtype == torch.float32
        gap_NH = (lesson.hidden_NH - expected_NH).abs()
        assert (gap_NH <= within * expected_NH.abs().clamp(min=1e-2)).all()


def test_requests_hold_as_many_sequences_as_fit(twins: Twins) -> None:
    sizes = [[len(ids) for ids in body["input"]] for body in twins.asked[1:]]
    assert all(sum(lengths) <= 64 or len(lengths) == 1 for lengths in sizes)
    assert sum(len(lengths) for lengths in sizes) == len(twins.there.trajectories)


def test_the_layer_alone_is_kept_here(twins: Twins) -> None:
    weight_VH = twins.here.teacher.model.output.weight
    assert [x.shape for x in twins.there.teacher.held()] == [weight_VH.shape]
    assert not twins.there.teacher.local
    with pytest.raises(ValueError, match="only scores: no model of it is here"):
        _ = twins.there.teacher.model


@pytest.mark.parametrize("served_length", [50, 2_048])
def test_a_context_that_the_server_cannot_read_is_no_lesson(
    twins: Twins, served_length: int
) -> None:
    with serving(twins.here.teacher.model, max_model_len=served_length) as (url, _):
        told = {"kind": "served", "server": url, "source": {"path": twins.folder}}
        teacher = Teacher.model_validate(told)
        teacher.prepare(twins.here.student)
        lessons = taught_by(teacher, twins.here.student, twins.here.trajectories)
    assert [x.taught for x in lessons] == [len(x.trajectory.ids) <= served_length for x in lessons]


def _teacher(url: str, folder: str, **settings: Any) -> Teacher:
    server = {"url": url, **GONE}
    return Teacher.model_validate(
        {"kind": "served", "server": server, "source": {"path": folder}, **settings}
    )


def test_another_vocabulary_is_refused_before_the_server_is_asked(twins: Twins) -> None:
    teacher = _teacher(f"http://127.0.0.1:{free_port()}", "zoo:sokoban-easy")
    with pytest.raises(ValueError, match="have different vocabularies"):
        teacher.prepare(twins.here.student)


def test_a_server_that_is_not_there_is_told_at_once(twins: Twins) -> None:
    with pytest.raises(ServerError, match="nothing listens there; start the server"):
        _teacher(f"http://127.0.0.1:{free_port()}", twins.folder).prepare(twins.here.student)


def test_a_server_of_other_models_is_told(twins: Twins) -> None:
    with (
        serving(twins.here.teacher.model) as (url, _),
        pytest.raises(ServerError, match="no model 'mine', but teacher; name one"),
    ):
        _teacher(url, twins.folder, name="mine").prepare(twins.here.student)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"\0" * 40, "40 bytes for 32 tokens"),
        (b"\xff" * (32 * 16 * 4), "no finite number"),
        (b"", "0 bytes for 32 tokens"),
    ],
)
def test_an_answer_that_is_no_states_is_told(twins: Twins, answer: bytes, said: str) -> None:
    def wrong(asked: Asked) -> None:
        listed = {"data": [{"id": "teacher"}]}
        asked.say(listed if asked.path == "/v1/models" else answer)

    with answering(wrong) as url, pytest.raises(ServerError, match=said):
        _teacher(url, twins.folder).prepare(twins.here.student)


def test_another_model_of_the_same_size_is_found_where_one_asks(twins: Twins) -> None:
    with serving(disturbed(twins.here.teacher.model, 5)) as (url, _):
        _teacher(url, twins.folder).prepare(twins.here.student)
        with pytest.raises(ServerError, match="nats from those of"):
            _teacher(url, twins.folder, verify=True).prepare(twins.here.student)
    with serving(twins.here.teacher.model) as (url, _):
        _teacher(url, twins.folder, verify=True).prepare(twins.here.student)


def test_a_cap_after_the_output_layer_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    """A model of an architecture that scales its logits, to the tokens of another."""
    from transformers import CohereConfig, CohereForCausalLM

    model = load_model(ModelSettings(path=str(tiny_model)))
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 2}
    told = CohereConfig(vocab_size=model.vocabulary, logit_scale=0.5, **sizes, **heads)
    CohereForCausalLM(told).save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a cap or a scale follows it"):
        load_output_layer(ModelSettings(path=str(tmp_path)))


@pytest.mark.parametrize("tied", [False, True])
def test_the_layer_read_alone_is_the_models(tmp_path: Path, tiny_model: Path, tied: bool) -> None:
    model = load_model(ModelSettings(path=str(tiny_model)))
    if tied:
        model.module.config.tie_word_embeddings = True
        model.module.tie_weights()
    model.module.resize_token_embeddings(model.vocabulary + 13, mean_resizing=False)
    model.save(tmp_path)
    layer = load_output_layer(ModelSettings(path=str(tmp_path)))
    hidden_NH = torch.randn(5, layer.size, generator=torch.Generator().manual_seed(0))
    assert torch.equal(layer.head(hidden_NH).weight_VH, model.head(hidden_NH).weight_VH)
    assert (layer.stop_ids, layer.positions) == (model.stop_ids, model.positions)


def test_a_layer_of_another_models_folder_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    model = load_model(ModelSettings(path=str(tiny_model)))
    model.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_size": 32}))
    with pytest.raises(ValueError, match="the two belong to different models"):
        load_output_layer(ModelSettings(path=str(tmp_path)))
