"""Runs whose sampler is a server: what is logged, and what is kept of them when it is gone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import call
from fake_vllm import FakeServer
from http_servers import answering
from killed import tensors_of

from agentopd.models.model import ModelSettings, load_model
from agentopd.rollout.sampler import SamplerFailed
from agentopd.running.reading import load_stored, parse_config
from agentopd.running.train import train

STEPS = 4


def _data(model: Path, url: str) -> dict[str, Any]:
    return {
        "steps": STEPS,
        "threads": 1,
        "env": {"id": "agentopd/Sokoban-v0", "options": {"prompt": "brief", "max_turns": 2}},
        "student": {"path": str(model)},
        "sampler": {"kind": "vllm_server", "url": url, "patience": 0.3},
        "rollout": {"tasks": 2, "max_turn_tokens": 4, "max_context": 512},
        "evaluate": {"episodes": 2},
        "save": {"checkpoint_every": 0, "trajectories_every": 0},
    }


@pytest.fixture
def server(tiny_model: Path) -> FakeServer:
    return FakeServer(load_model(ModelSettings(path=str(tiny_model))))


def _lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_each_step_tells_its_syncs_gap_and_seconds(
    server: FakeServer, tiny_model: Path, tmp_path: Path
) -> None:
    with answering(server) as url:
        summary = train(parse_config(_data(tiny_model, url)), tmp_path / "run")
    assert summary["steps"] == STEPS
    scalars = [line["probes"]["scalars"] for line in _lines(tmp_path / "run") if line["step"] >= 0]
    assert [x["sync_gap_most"] < 1e-3 for x in scalars[1:]] == [True] * (STEPS - 1)
    assert all(x["sync_seconds"] > 0 for x in scalars[1:])
    assert all(x["sampler_gap"] < 1e-3 for x in scalars)
    assert server.version.endswith(f"-{STEPS + 1}"), "one sync a step, and one to begin with"


def test_a_server_that_is_gone_costs_no_step_that_was_finished(
    server: FakeServer, tiny_model: Path, tmp_path: Path
) -> None:
    """It goes in the third step; another server takes its place, at another address."""
    out, syncs = tmp_path / "run", lambda: server.calls.count("/resume")

    def die() -> None:
        if syncs() == 3:
            server.refusing.append(503)

    server.before = die
    with answering(server) as url, pytest.raises(SamplerFailed, match=r"does not answer|not reach"):
        train(parse_config(_data(tiny_model, url)), out)
    assert [line["step"] for line in _lines(out)] == [-1, 0, 1]
    assert tensors_of(out), "the steps before were saved"
    server.before = lambda: None
    server.refusing.clear()
    with answering(server) as url:
        config = load_stored(out, [f"sampler.url={url}"])
        summary = train(config, out, resume=True)
    assert summary["steps"] == STEPS
    assert [line["step"] for line in _lines(out)] == [-1, 0, 1, 2, 3]


def test_a_server_that_goes_before_an_evaluation_leaves_the_step_whole(
    server: FakeServer, tiny_model: Path, tmp_path: Path
) -> None:
    """It goes after the last step, whose success is measured when the run goes on."""
    out = tmp_path / "run"

    def die() -> None:
        if server.calls.count("/resume") == STEPS + 1:
            server.refusing.append(503)

    server.before = die
    with answering(server) as url, pytest.raises(SamplerFailed):
        train(parse_config(_data(tiny_model, url)), out)
    lines = _lines(out)
    assert [line["step"] for line in lines] == [-1, 0, 1, 2, 3]
    assert "evaluation" not in lines[-1]
    before = tensors_of(out)
    server.before = lambda: None
    server.refusing.clear()
    with answering(server) as url:
        summary = train(load_stored(out, [f"sampler.url={url}"]), out, resume=True)
    assert summary["success_after"] is not None
    after = tensors_of(out)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_broken_sync_stops_the_run_with_the_reason(
    server: FakeServer, tiny_model: Path, tmp_path: Path
) -> None:
    def lose() -> None:
        server.engine.lost = {"model.norm.weight", "model.embed_tokens.weight", "lm_head.weight"}

    server.before = lose  # after the first sync's weights
    data = _data(tiny_model, "") | {"learner": {"learning_rate": 0.05}}
    with answering(server) as url, pytest.raises(SamplerFailed, match="nats off the student"):
        train(parse_config(data, [f"sampler.url={url}"]), tmp_path / "run")


def test_a_saved_run_without_a_sampler_is_the_students_own(tiny_model: Path) -> None:
    data = _data(tiny_model, "")
    del data["sampler"]
    assert parse_config(data).model_dump()["sampler"] == {"kind": "transformers"}


def test_eval_asks_the_sampler_that_is_named(server: FakeServer, tiny_model: Path) -> None:
    with answering(server) as url:
        words = ("--env", "agentopd/Sokoban-v0", "-o", "prompt=brief", "-o", "max_turns=2")
        limits = ("--episodes", "2", "--max-turn-tokens", "4", "--no-habits", "--json")
        named = ("--sampler", f"{{kind: vllm_server, url: '{url}'}}", "--max-context", "512")
        said = json.loads(call("eval", tiny_model, *words, *limits, *named).stdout)
    assert said["episodes"] == 2 and said["errors"] == 0
    assert server.calls.count("/resume") == 1 and "/inference/v1/generate" in server.calls
