"""Options of the chat template: given to every rendering, and refused where nothing reads them."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from command_line import SOKOBAN, call, problem
from pydantic import ValidationError
from scripted import CHATML, toy_tokenizer
from transformers import AutoTokenizer

from agentopd.models.model import ModelSettings, load_model
from agentopd.models.template import ChatTemplate
from agentopd.running.reading import parse_config
from agentopd.running.train import train

_ASK = "<|im_start|>assistant\n"
THINKS = CHATML.replace(
    _ASK, _ASK + "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
)
"""As Qwen3's: the option set to false answers the thought in the model's place."""
LATER = CHATML.replace("m.content", "(m.content if keep else m.content.split('</think>')[-1])")
"""An option that shows only once the model has thought."""
MESSAGES = [{"role": "system", "content": "rules"}, {"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def thinking(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The tiny model with a template that has an option."""
    folder = tmp_path_factory.mktemp("options") / "model"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    written = str(tokenizer.chat_template)
    marker = "{% if add_generation_prompt %}"
    extra = "{% if enable_thinking is false %}quiet {% endif %}"
    assert marker in written.replace("{%- ", "{% ").replace(" -%}", " %}")
    tokenizer.chat_template = extra + written
    load_model(ModelSettings(path=str(tiny_model))).module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_an_option_reaches_the_rendering_as_the_tokenizer_would_have_it() -> None:
    tokenizer = toy_tokenizer(THINKS)
    every: list[dict[str, Any]] = [{}, {"enable_thinking": False}, {"enable_thinking": True}]
    for options in every:
        template = ChatTemplate(tokenizer, options)
        template.check_options()
        template.check()
        text = tokenizer.apply_chat_template(
            MESSAGES, tokenize=False, add_generation_prompt=True, **options
        )
        assert template.render(MESSAGES) == text
        ids = tokenizer.apply_chat_template(
            MESSAGES, tokenize=True, add_generation_prompt=True, return_dict=False, **options
        )
        assert template.encoded(template.pieces(MESSAGES)).ids == ids
    quiet = ChatTemplate(tokenizer, {"enable_thinking": False}).render(MESSAGES)
    assert quiet.endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize("value", [False, True, None])
def test_an_option_that_is_read_is_taken_whatever_its_value(value: bool | None) -> None:
    ChatTemplate(toy_tokenizer(THINKS), {"enable_thinking": value}).check_options()
    ChatTemplate(toy_tokenizer(LATER), {"keep": value}).check_options()


def test_an_option_that_nothing_reads_is_refused() -> None:
    for options in ({"enable_thinkin": False}, {"enable_thinking": False, "keep": 1}):
        with pytest.raises(ValueError, match=f"never reads '{[*options][-1]}'"):
            ChatTemplate(toy_tokenizer(THINKS), options).check_options()


def test_a_model_is_not_loaded_with_an_option_that_nothing_reads(tiny_model: Path) -> None:
    settings = ModelSettings(path=str(tiny_model), template_options={"enable_thinking": False})
    with pytest.raises(ValueError, match="never reads 'enable_thinking'"):
        load_model(settings)


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt", "tokenize"])
def test_what_the_conversation_says_is_no_option(name: str) -> None:
    with pytest.raises(ValidationError, match=f"{name}: the conversation itself"):
        ModelSettings(template_options={name: True})


@pytest.mark.parametrize("value", [datetime.date(2024, 7, 26), {1, 2}, float("nan")])
def test_what_is_not_json_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError, match=r"date_string: .* is no value of JSON"):
        ModelSettings(template_options={"date_string": value})


def test_a_run_and_what_looks_at_it_render_alike(thinking: Path, tmp_path: Path) -> None:
    config = parse_config(
        {
            "steps": 1,
            "threads": 1,
            "student": {"path": str(thinking), "template_options": {"enable_thinking": False}},
            "env": {"id": SOKOBAN, "options": {"max_turns": 1}},
            "rollout": {"tasks": 1, "max_turn_tokens": 2},
            "evaluate": {"episodes": 1},
        }
    )
    train(config, tmp_path / "run")
    model = load_model(config.student)
    assert model.frozen_copy().template.render(MESSAGES).startswith("quiet ")
    called = call("eval", tmp_path / "run", "--episodes", "1", "--json", "--no-habits")
    plain = call("eval", tmp_path / "run", "--episodes", "1", "--template-option",
                 "enable_thinking=true", "--json", "--no-habits")  # fmt: skip
    assert json.loads(called.stdout)["errors"] == json.loads(plain.stdout)["errors"] == 0
    wrong = call("play", tmp_path / "run", "--template-option", "think=true")
    assert "never reads 'think'" in problem(wrong)
