"""What engines are sent makes, in an empty model, the student that it came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scenes import thawed
from scripted import random_model, toy_tokenizer
from transformers import AutoModelForCausalLM

from agentopd.models.adapters import LoraSettings, adapted, merged
from agentopd.models.model import LanguageModel
from agentopd.serving.weights import engine_weights

EXTRA = 13
IDS = torch.tensor([[20, 40, 3, 7, 11]])


def _plain() -> LanguageModel:
    return random_model(toy_tokenizer())


def _tied() -> LanguageModel:
    return random_model(toy_tokenizer(), tie_word_embeddings=True)


def _padded(model: LanguageModel) -> LanguageModel:
    known = len(model.output.weight)
    model.module.resize_token_embeddings(known + EXTRA, mean_resizing=False)
    return model


def _adapted(model: LanguageModel, rslora: bool = False) -> LanguageModel:
    """With adapters that say something."""
    module = adapted(model.module, LoraSettings(rank=4, rslora=rslora))
    torch.manual_seed(5)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if ".lora_B" in name:
                weight.normal_(0, 0.1)
    return replace(model, module=module.eval(), base="random")


STUDENTS: dict[str, Callable[[], LanguageModel]] = {
    "untied": _plain,
    "tied": _tied,
    "untied, padded": lambda: _padded(_plain()),
    "tied, padded": lambda: _padded(_tied()),
    "adapted": lambda: _adapted(_plain()),
    "adapted, tied, padded": lambda: _adapted(_padded(_tied())),
    "adapted by rank": lambda: _adapted(_plain(), rslora=True),
    "biased": lambda: random_model(toy_tokenizer(), attention_bias=True),
    "adapted, biased": lambda: _adapted(random_model(toy_tokenizer(), attention_bias=True)),
}


@pytest.fixture(params=STUDENTS.values(), ids=[*STUDENTS])
def student(request: pytest.FixtureRequest) -> LanguageModel:
    return request.param()


def test_a_model_that_loads_them_by_name_says_what_the_student_says(
    student: LanguageModel,
) -> None:
    """The other model has no padding, and ties nothing, so that each name has its own weights."""
    config = student.module.config
    described = {**config.to_dict(), "vocab_size": student.vocabulary, "tie_word_embeddings": False}
    other = AutoModelForCausalLM.from_config(type(config).from_dict(described)).eval()
    sent = dict(engine_weights(student))
    assert sent.keys() == other.state_dict().keys()
    other.load_state_dict(sent)
    with torch.no_grad():
        own = student.module(IDS).logits[..., : student.vocabulary]
        torch.testing.assert_close(other(IDS).logits, own, rtol=1e-4, atol=1e-4)


def test_each_name_comes_once_and_nothing_of_it_is_differentiated(student: LanguageModel) -> None:
    sent = list(engine_weights(student))
    names = [name for name, _ in sent]
    assert len(set(names)) == len(names)
    assert not any(tensor.requires_grad for _, tensor in sent)
    assert not any(".lora_" in name or "base_layer" in name for name in names)


def test_the_student_keeps_every_bit(student: LanguageModel) -> None:
    before = {n: x.clone() for n, x in student.module.state_dict().items()}
    for _ in engine_weights(student):
        pass
    after = student.module.state_dict()
    assert before.keys() == after.keys()
    assert [n for n, x in before.items() if not torch.equal(after[n], x)] == []


def test_it_stays_whole_when_who_takes_them_stops_in_the_middle() -> None:
    student = _adapted(_plain())
    before = {n: x.clone() for n, x in student.module.state_dict().items()}
    taking = engine_weights(student)
    for _ in range(5):
        next(taking)
    del taking
    assert all(torch.equal(student.module.state_dict()[n], x) for n, x in before.items())


def test_merged_layers_are_those_that_export_merges() -> None:
    student = _adapted(_plain())
    sent = {n: x.clone() for n, x in engine_weights(student)}
    expected = merged(thawed(student).module).state_dict()
    assert sent.keys() == expected.keys()
    assert [n for n, x in expected.items() if not torch.equal(sent[n], x)] == []


def test_a_sharded_weight_is_gathered(tmp_path: Path) -> None:
    from torch.distributed import destroy_process_group, init_process_group
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    student = _plain()
    expected = {n: x.clone() for n, x in engine_weights(student)}
    init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        for layer in student.module.modules():
            for name, weight in list(layer.named_parameters(recurse=False)):
                sharded = distribute_tensor(weight.detach(), mesh, [Shard(0)])
                setattr(layer, name, torch.nn.Parameter(sharded))
        assert isinstance(student.output.weight, DTensor)
        sent = dict(engine_weights(student))
    finally:
        destroy_process_group()
    assert not any(isinstance(tensor, DTensor) for tensor in sent.values())
    assert all(torch.equal(sent[name], tensor) for name, tensor in expected.items())
