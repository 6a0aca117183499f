"""Loading refuses, with the reason, what would go wrong without a word."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from families import CHATML, FAMILIES, R1, Family, tokenizer_of
from safetensors.torch import load_file
from scenes import episodes, taught
from scripted import play_one, random_model, toy_tokenizer
from transformers import PreTrainedTokenizerFast

from agentopd.base.types import EndReason
from agentopd.learning.learner import Learner
from agentopd.models.model import LanguageModel, ModelSettings, load_model
from agentopd.rollout.transformers_sampler import check_actor
from agentopd.running.reading import parse_config
from agentopd.teachers.copies import FrozenTeacher

ENDS_IN_WORDS = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


def _folder(path: Path, tokenizer: PreTrainedTokenizerFast, **config: Any) -> str:
    model = random_model(tokenizer, **config)
    model.module.generation_config.eos_token_id = tokenizer.eos_token_id
    model.module.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def _loaded(path: Path, family: Family, **config: Any) -> LanguageModel:
    return load_model(ModelSettings(path=_folder(path, tokenizer_of(family), **config)))


@pytest.mark.parametrize("name", FAMILIES)
def test_models_of_every_family_load_and_end_as_their_template_closes(
    name: str, tmp_path: Path
) -> None:
    model = _loaded(tmp_path, FAMILIES[name])
    closing = {"phi-3": "<|end|>", "gemma": "<end_of_turn>"}.get(name, "</s>")
    closing = "<|im_end|>" if "chatml" in name else closing
    assert model.tokenizer.convert_tokens_to_ids(closing) in model.stop_ids


def test_what_the_template_closes_answers_with_ends_them_though_nothing_names_it(
    tmp_path: Path,
) -> None:
    base = Family(CHATML, tags=("<|im_start|>", "<|im_end|>"), eos="</s>")
    model = _loaded(tmp_path, base)
    ends = model.tokenizer.encode("<|im_end|></s>", add_special_tokens=False)
    assert model.stop_ids == set(ends)


def test_a_template_that_closes_answers_with_words_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"writes '\\n\\nuser: ' behind an answer.* write on"):
        _loaded(tmp_path, Family(ENDS_IN_WORDS))


def test_a_tokenizer_that_spells_a_control_token_is_refused(tmp_path: Path) -> None:
    tokenizer = toy_tokenizer(CHATML.replace("<|im_end|>", "assistant!"))
    tokenizer.add_tokens(["assistant!"])
    tokenizer.backend_tokenizer.add_special_tokens(["up"])
    with pytest.raises(ValueError, match="makes the control token 'up' of its plain letters"):
        load_model(ModelSettings(path=_folder(tmp_path, tokenizer)))


def test_a_tokenizer_whose_encoding_cannot_be_followed_is_refused(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(FAMILIES["chatml"])
    template = load_model(ModelSettings(path=_folder(tmp_path, tokenizer))).template
    template.tokenizer = _Odd(tokenizer)  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"from token \d+ on a probe gives .* and the tokenizer"):
        template.check()


class _Odd:
    """Encodes a double space as one."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def encode(self, text: str, **settings: Any) -> list[int]:
        return self.tokenizer.encode(text.replace("  ", " "), **settings)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("weight", ["model.layers.1.mlp.up_proj.weight", "lm_head.weight"])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, weight: str, value: float) -> None:
    tokenizer = toy_tokenizer()
    model = random_model(tokenizer)
    with torch.no_grad():
        model.module.get_parameter(weight)[3] = value
    model.module.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"'{weight}' hold NaN or infinite numbers"):
        load_model(ModelSettings(path=str(tmp_path)))


def test_a_pass_that_overflows_is_told_from_a_head_that_is_none(tmp_path: Path) -> None:
    tokenizer = toy_tokenizer()
    model = random_model(tokenizer)
    with torch.no_grad():
        model.output.weight.fill_(3e38)
        model.module.get_parameter("model.norm.weight").fill_(1e30)
    model.module.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="weights are finite, but its logits are not"):
        load_model(ModelSettings(path=str(tmp_path)))


def test_the_end_tokens_embedding_learns_though_it_also_pads(tmp_path: Path) -> None:
    tokenizer = toy_tokenizer()
    (end,) = tokenizer.encode("<|im_end|>")
    path = _folder(tmp_path, tokenizer, pad_token_id=end)
    assert json.loads((tmp_path / "config.json").read_text())["pad_token_id"] == end
    student = load_model(ModelSettings(path=path))
    embedding = student.module.get_input_embeddings()
    assert isinstance(embedding, torch.nn.Embedding)
    before = embedding.weight[end].detach().clone()
    trajectories = [t for t in episodes(len(tokenizer)) if len(t.turns) == 3]
    for t in trajectories:
        t.ids[2] = end
    teacher = FrozenTeacher()
    teacher.prepare(random_model(tokenizer, seed=1))
    config = parse_config({"env": {"id": "agentopd/Sokoban-v0"}}, ["learner.learning_rate=0.01"])
    update = Learner(student, teacher, config).update(
        trajectories, taught(teacher, trajectories), 0
    )
    assert not update.skipped
    assert not torch.equal(embedding.weight[end], before)


def test_a_template_that_cannot_be_rendered_is_refused_with_its_reason(tmp_path: Path) -> None:
    demanding = "{{ raise_exception('bring tools') }}"
    with pytest.raises(ValueError, match=r"refuses the conversation: .*bring tools"):
        _loaded(tmp_path, Family(demanding + CHATML))


def test_an_empty_answer_costs_its_turn_where_the_template_refuses_it() -> None:
    tokenizer = toy_tokenizer(
        "{% for m in messages %}{% if not m['content'].strip() %}"
        "{{ raise_exception('nothing was said') }}{% endif %}{% endfor %}" + CHATML
    )
    answers = ["<|im_end|>", "up <|im_end|>", "␣ <|im_end|>", "left <|im_end|>"]
    found = play_one(["B1", "B2", "B3", "B4"], answers, tokenizer=tokenizer)
    assert found.end is EndReason.TERMINATED
    assert [turn.action for turn in found.turns] == ["", "up", " ", "left"]
    assert len(found.segments) == 1


def test_an_episode_that_the_template_refuses_ends_with_the_reason() -> None:
    tokenizer = toy_tokenizer(
        "{% if messages | length > 3 %}{{ raise_exception('too long') }}{% endif %}" + CHATML
    )
    found = play_one(["B1", "B2", "B3"], ["up <|im_end|>"] * 3, tokenizer=tokenizer)
    assert found.end is EndReason.ERROR
    assert "the chat template refuses the conversation" in found.error
    assert "too long" in found.error


@pytest.mark.parametrize("template", [R1, R1.replace("<think>\n", "<think>")])
def test_a_thought_that_the_prompt_opens_reaches_the_environment(template: str) -> None:
    tokenizer = toy_tokenizer(template.replace("{{ bos_token }}", ""))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>"]})
    answers = ["up so why <|im_end|>", "why </think> left <|im_end|>", "left <|im_end|>"]
    found = play_one(["B1", "B2", "B3"], answers, tokenizer=tokenizer)
    opened = "<think>\n" if "\n" in template else "<think>"
    said = ("upsowhy", "why</think>left", "left")
    assert [turn.action for turn in found.turns] == [opened + text for text in said]
    parts = [(turn.act - turn.start, turn.stop - turn.start) for turn in found.turns]
    assert parts == [(3, 4), (2, 4), (1, 2)]
    assert found.trainable.sum() == 10
    assert len(found.segments) == 2  # the template takes the second answer's thought away


def test_an_index_of_pickles_is_refused_before_anything_is_read(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "pytorch_model.bin")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"index\.json names 'pytorch_model\.bin'"):
        load_model(ModelSettings(path=str(folder)))


@pytest.mark.parametrize("key", [("model_type", ["a"]), ("vocab_size", "many")])
def test_a_config_of_another_form_is_one_line(
    tiny_model: Path, tmp_path: Path, key: tuple[str, object]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | dict([key])))
    settings = ModelSettings(path=str(folder))
    check_actor(settings)
    with pytest.raises(ValueError, match=r"cannot be loaded as a causal language model: .+"):
        load_model(settings)
