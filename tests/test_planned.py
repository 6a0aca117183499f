"""What a planned run takes of memory, from shapes alone; the ready files fit their GPUs."""

from __future__ import annotations

import re
import shlex
from dataclasses import asdict
from pathlib import Path

import pytest
from qwen3 import PARAMETERS, SHAPES, VOCABULARY, qwen3
from transformers import LlamaConfig, PretrainedConfig

from agentopd.learning.forecast import Forecast, forecast
from agentopd.learning.learner import Learner
from agentopd.models.model import load_model
from agentopd.running.preparation.planned import planned_forecast
from agentopd.running.reading import load_config, parse_config

READY = Path(__file__).parents[1] / "configs" / "real"
SHAPE = qwen3(128, 2, 16, 256, tied=True, vocabulary=1_000)
GIB = 2**30


def _planned(*overrides: str, shape: PretrainedConfig = SHAPE) -> Forecast:
    data = {
        "student": {"path": "models/planned"},
        "env": {"id": "agentopd/FrontDesk-v0"},
        "learner": {"tokens_per_batch": 512},
    }
    return planned_forecast(parse_config(data, list(overrides)), shape, SHAPE)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("learner.checkpoint_layers=true", "learner.optimizer=adamw_8bit"),
        ("student.lora={rank: 4}", "teacher=adapter_off"),
        ("student.dtype=bfloat16", "teacher=live"),
    ],
)
def test_it_is_what_is_measured_once_there_are_weights(overrides: tuple[str, ...]) -> None:
    """Of the same model; what is held by then is not compared, the libraries being in it."""
    path = "zoo:sokoban-easy"
    config = parse_config(
        {"student": {"path": path}, "env": {"id": "agentopd/Sokoban-v0"}}, list(overrides)
    )
    student = load_model(config.student)
    shape = student.module.config
    planned = asdict(planned_forecast(config, shape))
    config.teacher.prepare(student)
    measured = asdict(forecast(Learner(student, config.teacher, config)))
    held, activations = planned.pop("held"), planned.pop("activations")
    assert held >= planned["student"] + planned["teacher"]
    assert 1 <= activations / measured.pop("activations") <= 1.15
    measured.pop("held")
    for name, size in planned.items():
        assert size == pytest.approx(measured[name], rel=0.01), name


def test_a_shape_of_135_million_comes_to_what_was_measured_of_smollm2() -> None:
    """6.03 GiB with 0.45 GiB of libraries, for micro-batches of 2,048 tokens in float32."""
    smollm2 = LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1_536,
        tie_word_embeddings=True,
    )
    planned = _planned("learner.tokens_per_batch=2048", shape=smollm2)
    assert planned.peak / GIB == pytest.approx(6.03 - 0.45, rel=0.15)
    assert planned.moments / 8 == pytest.approx(134.5e6, rel=0.01)


def test_a_master_copy_and_its_gradient_are_float32_where_the_model_is_not() -> None:
    wide, narrow = _planned("teacher=live"), _planned("teacher=live", "student.dtype=bfloat16")
    number = wide.gradients // 4
    assert (wide.held, narrow.held) == (
        pytest.approx(4 * number, rel=0.01),
        pytest.approx((2 + 4) * number, rel=0.01),
    )
    assert (narrow.gradients, narrow.moments) == (wide.gradients, wide.moments)


def test_of_a_teacher_only_what_is_here_counts() -> None:
    source = "source: {path: models/other}"
    served = _planned(f"teacher={{kind: served, server: 'http://localhost:1', {source}}}")
    external = _planned(f"teacher={{kind: external, {source}}}")
    assert served.teacher == 4 * 1_000 * 128
    assert external.teacher == external.student
    assert _planned("mix=rl", "rollout.group=4").teacher == 0
    data = {"env": {"id": "agentopd/FrontDesk-v0"}, "teacher": "external"}
    with pytest.raises(ValueError, match="give the shape of its model"):
        planned_forecast(parse_config(data), SHAPE)


def test_a_gpu_has_narrow_logits_in_both_precisions() -> None:
    here, there = (
        _planned("student.dtype=bfloat16", f"student.device={device}") for device in ("cpu", "cuda")
    )
    assert there.logits > here.logits
    assert there.activations == here.activations


@pytest.mark.parametrize("name", SHAPES)
def test_the_shapes_have_the_numbers_of_parameters_that_are_published(name: str) -> None:
    shape = SHAPES[name]
    hidden, heads = shape.hidden_size, shape.num_attention_heads
    assert hidden is not None and heads is not None
    attention = hidden * 128 * (2 * heads + 2 * 8) + 2 * 128
    layer = attention + 3 * hidden * shape.intermediate_size + 2 * hidden
    embeddings = VOCABULARY * hidden * (1 if shape.tie_word_embeddings else 2)
    parameters = shape.num_hidden_layers * layer + embeddings + hidden
    assert parameters == pytest.approx(PARAMETERS[name], rel=0.015)


def _asked() -> list[tuple[int, str]]:
    """Each command of the ready files' headers, with its device's gigabytes."""
    found = list[tuple[int, str]]()
    for path in sorted(READY.glob("*.yaml")):
        size = 0
        for line in path.read_text().splitlines():
            if told := re.search(r"GPUs? of (\d+) GB", line):
                size = int(told[1])
            if size and line.startswith("#   ") and "agentopd train" in line:
                found.append((size, line[1:].strip()))
    return found


def test_there_is_a_ready_file_for_every_size_and_machine() -> None:
    names = " ".join(command for _, command in _asked())
    for name in ("qwen3_0.6b", "qwen3_1.7b", "qwen3_4b", "qwen3_8b"):
        assert names.count(name) == 2, "adapters and all weights"
    assert "eight_gpus" in names and "two_machines" in names


@pytest.mark.parametrize(("gigabytes", "command"), _asked())
def test_a_ready_file_fits_the_gpu_that_it_names(gigabytes: int, command: str) -> None:
    """A tenth stays free, for what the driver and the allocator take."""
    words = shlex.split(command.partition("agentopd train ")[2])
    overrides = [word for word in words[1:] if "=" in word]
    config = load_config(READY.parents[1] / words[0], overrides)
    student = SHAPES[config.student.path.rpartition("/")[2]]
    planned = planned_forecast(config, student, SHAPES["Qwen3-32B"])
    room = int(0.9 * gigabytes * 1e9)
    planned.check(room)
    if config.sampler.kind == "transformers":  # it plays here, while nothing is learnt
        contexts = config.rollout.slots * config.rollout.max_context
        assert planned.held + planned.moments + contexts * planned.context <= room
