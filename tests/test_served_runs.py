"""Runs under a served teacher that fails: saved, told in one line, and gone on with."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from http_servers import Asked, answering
from model_server import answer_of
from scenes import ENV, disturbed

from agentopd.models.model import ModelSettings, load_model
from agentopd.running.config import RunConfig
from agentopd.running.reading import parse_config
from agentopd.running.train import train
from agentopd.serving.http import ServerError


class Flaky:
    """A server of a model that fails while `failing` is set, once it has scored so many batches."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.failing, self.scored, self.after = answer, threading.Event(), 0, 0

    def __call__(self, asked: Asked) -> None:
        if asked.path == "/pooling" and self.failing.is_set():
            self.scored += 1
            if self.scored > self.after:
                asked.hang_up()
                return
        self.answer(asked)


@pytest.fixture
def served(tiny_model: Path, tmp_path: Path) -> Iterator[tuple[RunConfig, Flaky]]:
    """A run of three steps under a served teacher that is told nothing, and the server."""
    teacher = disturbed(load_model(ModelSettings(path=str(tiny_model))), 2)
    teacher.save(tmp_path / "teacher")
    flaky = Flaky(answer_of(teacher))
    with answering(flaky) as url:
        data = ENV | {
            "student": {"path": str(tiny_model)},
            "threads": 1,
            "steps": 3,
            "privilege": {"kind": "skill_summary"},
            "teacher": {
                "kind": "served",
                "server": {"url": url, "patience": 0.3},
                "source": {"path": str(tmp_path / "teacher")},
            },
            "evaluate": {"episodes": 2},
            "save": {"checkpoint_every": 10},
            "probe": {"pi_effect_every": 0},
        }
        data["env"] = {**ENV["env"], "options": {"prompt": "brief", "max_turns": 3}}
        yield parse_config(data, ["rollout.tasks=4"]), flaky


def _weights(run: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    (found,) = (run / "checkpoints").glob("*/student/model.safetensors")
    return load_file(found)


def test_a_run_whose_server_dies_is_saved_and_goes_on_as_if_it_had_not(
    served: tuple[RunConfig, Flaky], tmp_path: Path
) -> None:
    config, server = served
    train(config, tmp_path / "whole")
    server.failing.set()
    server.after = 2  # the probe before the first step, and that step
    with pytest.raises(ServerError) as told:
        train(config, tmp_path / "cut")
    assert str(told.value).startswith(f"step 2 ({tmp_path / 'cut'}): http://127.0.0.1:")
    assert "\n" not in str(told.value) and "/pooling" in str(told.value)
    server.failing.clear()
    summary = train(config, tmp_path / "cut", resume=True)
    assert summary["steps"] == 3
    whole, cut = _weights(tmp_path / "whole"), _weights(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_server_that_stumbles_changes_nothing(
    served: tuple[RunConfig, Flaky], tmp_path: Path
) -> None:
    config, server = served
    train(config, tmp_path / "whole")
    stumbled = []

    def once(asked: Asked) -> None:
        if asked.path == "/pooling" and not stumbled:
            stumbled.append(asked.path)
            asked.say(b"", status=503)
        else:
            answer(asked)

    answer, server.answer = server.answer, once
    train(config, tmp_path / "stumbled")
    whole, other = _weights(tmp_path / "whole"), _weights(tmp_path / "stumbled")
    assert stumbled and all(torch.equal(whole[name], other[name]) for name in whole)
