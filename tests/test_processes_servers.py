"""Two processes of one run that ask one server, to sample or to teach: what one finds, and what
becomes of both when the server fails one of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_vllm import FakeServer
from http_servers import answering
from killed import checkpoint_of, lines_of, tensors_of
from model_server import answer_of
from scenes import disturbed
from together import together

from agentopd.models.model import ModelSettings, load_model
from agentopd.parallel.processes import ALONE, Processes
from agentopd.rollout.sampler import Answer, SamplerFailed
from agentopd.rollout.vllm.engines import VllmEngine
from agentopd.rollout.vllm.served import ServedSampler
from agentopd.running.checkpoint import load_progress
from agentopd.running.reading import parse_config
from agentopd.running.train import train
from agentopd.serving.http import ServerError
from agentopd.stored.trajectories import load_trajectories
from agentopd.teachers.served import ServedTeacher

STEPS = 3


def _data(model: Path, **parts: Any) -> dict[str, Any]:
    return {
        "steps": STEPS,
        "threads": 1,
        "student": {"path": str(model)},
        "env": {"id": "agentopd/Sokoban-v0", "options": {"prompt": "brief", "max_turns": 2}},
        "rollout": {"tasks": 4, "max_turn_tokens": 4, "max_context": 512},
        "evaluate": {"episodes": 2},
        "save": {"checkpoint_every": 0},
        "probe": {"pi_effect_every": 0},
        **parts,
    }


def _run(processes: Processes, data: dict[str, Any], out: Path) -> None:
    train(parse_config(data), out, processes=processes)


def _failure(processes: Processes, data: dict[str, Any], out: Path) -> str:
    """What a run ends with in this process."""
    try:
        _run(processes, data, out)
    except (SamplerFailed, ServerError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def _assert_same(one: Path, other: Path) -> None:
    """The same episodes and curve, and weights to the rounding of sums."""
    for step in range(STEPS):
        file = f"trajectories/step-{step:05d}.parquet"
        pairs = zip(load_trajectories(one / file), load_trajectories(other / file), strict=True)
        assert all(np.array_equal(x.ids, y.ids) for x, y in pairs)
    assert lines_of(other)[-1]["evaluation"] == lines_of(one)[-1]["evaluation"]
    expected, found = tensors_of(one), tensors_of(other)
    for key, tensor in expected.items():
        if key.startswith("model/"):
            torch.testing.assert_close(found[key], tensor, rtol=1e-2, atol=2e-3)


@pytest.fixture
def server(tiny_model: Path) -> FakeServer:
    return FakeServer(load_model(ModelSettings(path=str(tiny_model))))


def _sampled(url: str) -> dict[str, Any]:
    return {"kind": "vllm_server", "url": url, "patience": 0.3}


def test_two_ask_one_sampler_to_which_the_first_brings_the_weights(
    server: FakeServer, tiny_model: Path, tmp_path: Path
) -> None:
    with answering(server) as url:
        data = _data(tiny_model, sampler=_sampled(url))
        _run(ALONE, data, tmp_path / "one")
        brought = server.calls.count("/collective_rpc")
        together(_run, data, tmp_path / "two")
    assert brought == STEPS + 1
    assert server.calls.count("/collective_rpc") == 2 * brought
    _assert_same(tmp_path / "one", tmp_path / "two")


def test_a_sync_that_is_broken_ends_both_for_the_same_reason(
    server: FakeServer, tiny_model: Path, tmp_path: Path
) -> None:
    server.engine.lost = {"model.norm.weight"}
    with answering(server) as url:
        told = together(_failure, _data(tiny_model, sampler=_sampled(url)), tmp_path / "run")
    assert "nats off the student" in told[0]
    assert told[0] == told[1]
    assert not (tmp_path / "run").exists()


def _unanswered_in_the_third(processes: Processes, data: dict[str, Any], out: Path) -> str:
    """What a run ends with whose second process gets no answers in the third step."""
    ready, sync, syncs = ServedSampler.ready, ServedSampler.sync, []

    def counted(self: ServedSampler, *given: Any) -> Any:
        syncs.append(1)
        return sync(self, *given)

    def failing(self: ServedSampler, *given: Any) -> list[Answer]:
        if processes.rank == 1 and len(syncs) == STEPS:
            raise SamplerFailed("it is gone")
        return ready(self, *given)

    ServedSampler.ready, ServedSampler.sync = failing, counted  # type: ignore[method-assign]
    return _failure(processes, data, out)


def test_a_sampler_that_fails_one_of_two_ends_both_and_the_steps_before_are_saved(
    server: FakeServer, tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with answering(server) as url:
        data = _data(tiny_model, sampler=_sampled(url))
        told = together(_unanswered_in_the_third, data, out)
    assert told == ["SamplerFailed: it is gone"] * 2
    assert load_progress(checkpoint_of(out)).step == STEPS - 1


def test_in_process_vllm_is_one_processes_affair() -> None:
    engine = VllmEngine()
    engine.join(Processes(rank=1, size=2, local=2))
    with pytest.raises(ValueError, match="2 processes learn here: start a server") as told:
        engine.check(ModelSettings())
    assert "\n" not in str(told.value)


def _teaching(url: str, folder: Path) -> dict[str, Any]:
    server = {"url": url, "patience": 0.3}
    return {
        "teacher": {"kind": "served", "server": server, "source": {"path": str(folder)}},
        "privilege": {"kind": "skill_summary"},
    }


def _untaught_in_the_third(processes: Processes, data: dict[str, Any], out: Path) -> str:
    """What a run ends with whose second process finds no teacher in the third step."""
    score, steps = ServedTeacher.score, []

    def failing(self: ServedTeacher, *given: Any) -> Any:
        steps.append(1)
        if processes.rank == 1 and len(steps) == STEPS:
            raise ServerError("it is gone")
        return score(self, *given)

    ServedTeacher.score = failing  # type: ignore[method-assign]
    return _failure(processes, data, out)


def test_two_ask_one_served_teacher_and_end_together_when_it_fails_one(
    tiny_model: Path, tmp_path: Path
) -> None:
    teacher = disturbed(load_model(ModelSettings(path=str(tiny_model))), 2)
    teacher.save(tmp_path / "teacher")
    with answering(answer_of(teacher)) as url:
        data = _data(tiny_model, **_teaching(url, tmp_path / "teacher"))
        _run(ALONE, data, tmp_path / "one")
        together(_run, data, tmp_path / "two")
        told = together(_untaught_in_the_third, data, tmp_path / "cut")
    _assert_same(tmp_path / "one", tmp_path / "two")
    assert told == [f"ServerError: step {STEPS} ({tmp_path / 'cut'}): it is gone"] * 2
    assert load_progress(checkpoint_of(tmp_path / "cut")).step == STEPS - 1
