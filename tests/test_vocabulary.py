"""Output rows that stand for no token are neither sampled, scored nor learnt."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scenes import AUXILIARY, Scene, assert_same, run_of, scene_of, taught, thawed, weights
from scripted import random_model, toy_tokenizer

from agentopd.models.model import LanguageModel, ModelSettings, load_model
from agentopd.rollout.sampler import Request, answers
from agentopd.rollout.transformers_sampler import TransformersSampler
from agentopd.running.run import Run
from agentopd.teacher import check_same_vocabulary
from agentopd.teachers.copies import FrozenTeacher

# V tokens of the vocabulary, R output rows, H hidden size

EXTRA, MORE = 13, 40
ZOO = sorted((Path(__file__).parents[1] / "agentopd" / "zoo" / "models").iterdir())


def _padded(model: LanguageModel, rows: int) -> LanguageModel:
    """A copy with so many more output rows, whose logits are far above all others or far below."""
    twin, known = thawed(model), len(model.output.weight)
    twin.module.resize_token_embeddings(known + rows, mean_resizing=False)
    with torch.no_grad():
        noise_RH = torch.randn(rows, twin.output.in_features, generator=_seeded())
        twin.output.weight[known:] = 1_000 * noise_RH
    return twin


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def _tied(model: LanguageModel) -> LanguageModel:
    twin = thawed(model)
    twin.module.config.tie_word_embeddings = True
    twin.module.tie_weights()
    assert twin.output.weight is twin.module.get_input_embeddings().weight
    return twin


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def plain(scene: Scene, request: pytest.FixtureRequest) -> LanguageModel:
    return _tied(scene.student) if request.param else scene.student


def test_the_vocabulary_is_what_the_tokenizer_knows(plain: LanguageModel) -> None:
    padded = _padded(plain, EXTRA)
    assert len(padded.output.weight) == plain.vocabulary + EXTRA
    assert padded.vocabulary == plain.vocabulary == len(plain.tokenizer)
    hidden_NH = torch.randn(5, plain.output.in_features, generator=_seeded())
    assert torch.equal(padded.logits(hidden_NH), plain.logits(hidden_NH))
    head, expected = padded.head(hidden_NH), plain.head(hidden_NH)
    assert torch.equal(head.weight_VH, expected.weight_VH)
    check_same_vocabulary(plain, padded)
    check_same_vocabulary(padded, _padded(plain, MORE))


def test_padding_has_no_bias_either() -> None:
    model = random_model(toy_tokenizer())
    known, size = model.output.weight.shape
    layer = torch.nn.Linear(size, known + EXTRA)
    model.module.set_output_embeddings(layer)
    with torch.no_grad():
        layer.bias[known:] = 1e4
    hidden_NH = torch.randn(5, size, generator=_seeded())
    logits_NV = (hidden_NH @ layer.weight.T + layer.bias)[:, :known]
    torch.testing.assert_close(model.logits(hidden_NH), logits_NV)
    head = model.head(hidden_NH)
    assert head.bias_V is not None
    assert torch.equal(head.bias_V, layer.bias[:known])


def _answers(model: LanguageModel, temperature: float) -> list[tuple[list[int], list[float]]]:
    requests = [Request(key, [20 + key, 40], (0, key), 8, temperature) for key in range(16)]
    found = answers(TransformersSampler(model), requests)
    return [(answer.ids, answer.logprobs) for answer in found]


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_padding_is_never_sampled(plain: LanguageModel, temperature: float) -> None:
    """Though its logits are the largest: the model's own would have nothing else said."""
    padded = _padded(plain, EXTRA)
    own_V = padded.module(input_ids=torch.tensor([[20, 40]])).logits[0, -1].softmax(-1)
    assert own_V[plain.vocabulary :].sum() > 0.99
    assert _answers(padded, temperature) == _answers(plain, temperature)


METHODS = {
    "distil": ("mix=distil",),
    "two_passes": ("weight=gap_gate",),
    "sampled": ("divergence.support=sampled",),
    "top_k": ("divergence={kind: jsd, support: {kind: union_top_k, k: 5}}",),
    "auxiliary": AUXILIARY,
    "reward": ("mix={kind: reward, rl: {kind: grpo, kl_coefficient: 0.5}}", "rollout.group=4"),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("student", "teacher"), [(EXTRA, 0), (0, MORE), (EXTRA, MORE)])
def test_padding_changes_no_gradient_and_has_none(
    scene: Scene, plain: LanguageModel, student: int, teacher: int, method: str
) -> None:
    expected = replace(scene, student=plain).learn(*METHODS[method])[2]
    told = FrozenTeacher()
    told.prepare(_padded(scene.teacher.model, teacher))
    padded = replace(
        scene,
        student=_padded(plain, student),
        teacher=told,
        lessons=taught(told, scene.trajectories),
    )
    update, gradient, found = padded.learn(*METHODS[method])
    assert not update.skipped and gradient is not None
    assert update.scalars["gradient_norm"] > 1e-3
    sizes = {name: p.shape for name, p in expected.module.named_parameters()}
    starts = dict(padded.student.module.named_parameters())
    cut = []
    for name, parameter in found.module.named_parameters():
        known = sizes[name][0]
        assert torch.equal(parameter[known:], starts[name][known:]), name
        cut.append(parameter.detach()[:known].flatten())
    moved = torch.cat(cut) - weights(plain)
    assert_same(moved, weights(expected) - weights(plain), within=1e-3 * float(moved.norm()))


def _folder(model: LanguageModel, path: Path) -> str:
    model.module.save_pretrained(path)
    model.tokenizer.save_pretrained(path)
    return str(path)


def _run(student: str, teacher: str, out: Path, resume: bool = False) -> Run:
    return run_of(
        Path(student),
        out,
        f"teacher={{kind: external, source: {{path: {teacher}}}}}",
        "rollout.max_turn_tokens=6",
        "learner.learning_rate=0.01",
        "evaluate.episodes=2",
        "save.scores_top_k=4",
        "steps=2",
        resume=resume,
    )


def _steps(run: Run, *steps: int) -> list[tuple[list[int], float]]:
    """The sampled ids and the sampler's distance from the learner, by step."""
    found = []
    for step in steps:
        trajectories = run.roll_out(step)
        update = run.learn(trajectories, run.ask_teacher(trajectories, step), step)
        assert not update.skipped
        run.record(step, trajectories, update)
        said = np.concatenate([t.ids for t in trajectories]).tolist()
        found.append((said, update.scalars["sampler_gap"]))
    return found


def test_a_padded_student_learns_from_a_padded_teacher_and_goes_on(
    plain: LanguageModel, scene: Scene, tmp_path: Path
) -> None:
    student = _folder(_padded(plain, EXTRA), tmp_path / "student")
    teacher = _folder(_padded(scene.teacher.model, MORE), tmp_path / "teacher")
    bare = _folder(plain, tmp_path / "plain"), _folder(scene.teacher.model, tmp_path / "told")
    whole = _run(student, teacher, tmp_path / "whole")
    course = _steps(whole, 0, 1)
    assert max(gap for _, gap in course) < 1e-4
    expected = _steps(_run(*bare, tmp_path / "bare"), 0, 1)
    assert [said for said, _ in course] == [said for said, _ in expected]

    halves = _run(student, teacher, tmp_path / "halves")
    first = _steps(halves, 0)
    halves.save()
    resumed = _run(student, teacher, tmp_path / "halves", resume=True)
    assert first + _steps(resumed, 1) == course
    assert torch.equal(weights(resumed.student), weights(whole.student))


@pytest.mark.parametrize("folder", ZOO, ids=lambda path: path.name)
def test_the_embedded_models_have_no_padding(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    added = [token["id"] for token in tokenizer["added_tokens"]]
    assert config["vocab_size"] == max(*tokenizer["model"]["vocab"].values(), *added) + 1


def test_a_token_without_an_output_row_is_refused(scene: Scene, tmp_path: Path) -> None:
    path = _folder(scene.student, tmp_path / "model")
    tokenizer = load_model(ModelSettings(path=path)).tokenizer
    tokenizer.add_tokens(["a token of its own"])
    tokenizer.save_pretrained(path)
    last = len(tokenizer) - 1
    with pytest.raises(ValueError, match=rf"ids go up to {last}, and .* those below {last}: .*"):
        load_model(ModelSettings(path=path))


def test_an_id_without_a_token_is_refused(scene: Scene, tmp_path: Path) -> None:
    path = _folder(_padded(scene.student, EXTRA), tmp_path / "model")
    file = tmp_path / "model" / "tokenizer.json"
    told = json.loads(file.read_text())
    vocabulary = told["model"]["vocab"]
    last = max(vocabulary, key=lambda word: vocabulary[word])
    first, vocabulary[last] = vocabulary[last], vocabulary[last] + 10
    file.write_text(json.dumps(told))
    with pytest.raises(ValueError, match=rf"go up to {first + 10}, and 6 of them, {first} first, "):
        load_model(ModelSettings(path=path))
