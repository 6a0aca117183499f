"""Runs shared by two processes: the episodes and the curve of one; either goes on as the other."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killed import checkpoint_of, lines_of, tensors_of
from together import together

from agentopd.base.stopping import Interrupted
from agentopd.learning.learner import Learner
from agentopd.parallel.group import ProcessLost
from agentopd.parallel.processes import ALONE, Processes
from agentopd.running.checkpoint import load_progress
from agentopd.running.reading import parse_config
from agentopd.running.train import train
from agentopd.stored.trajectories import load_trajectories

STEPS = 4


def _data(model: Path) -> dict[str, Any]:
    """Three tasks, of which one process plays two."""
    return {
        "steps": STEPS,
        "threads": 1,
        "student": {"path": str(model)},
        "env": {"id": "agentopd/Sokoban-v0", "options": {"prompt": "brief", "max_turns": 3}},
        "rollout": {"kind": "student", "tasks": 3, "group": 2, "max_turn_tokens": 6},
        "privilege": [{"kind": "shuffled", "of": {"kind": "ground_truth"}}, "skill_summary"],
        "mix": {"kind": "auxiliary"},
        "learner": {"learning_rate": 0.01},
        "evaluate": {"episodes": 3},
        "probe": {"pi_effect_every": 1},
        "save": {"checkpoint_every": 2, "scores_top_k": 2},
    }


def _run(processes: Processes, data: dict[str, Any], out: Path, steps: int, resume: bool) -> None:
    train(parse_config(data, [f"steps={steps}"]), out, resume, processes=processes)


def _runs(processes: Processes, data: dict[str, Any], folder: Path) -> None:
    _run(processes, data, folder / "two", STEPS, False)
    _run(processes, data, folder / "two, then two", 2, False)
    _run(processes, data, folder / "two, then two", STEPS, True)
    _run(processes, data, folder / "two, then one", 2, False)
    _run(processes, data, folder / "one, then two", STEPS, True)


@pytest.fixture(scope="module")
def runs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of runs by one process, by two, and of those that went on with others."""
    folder, data = tmp_path_factory.mktemp("runs"), _data(tiny_model)
    _run(ALONE, data, folder / "one", STEPS, False)
    _run(ALONE, data, folder / "one, then two", 2, False)
    together(_runs, data, folder)
    _run(ALONE, data, folder / "two, then one", STEPS, True)
    return folder


SHARED = ("two", "one, then two", "two, then one", "two, then two")


@pytest.mark.parametrize("name", SHARED)
def test_the_episodes_are_those_of_one(runs: Path, name: str) -> None:
    for step in range(STEPS):
        file = f"trajectories/step-{step:05d}.parquet"
        expected, found = (
            load_trajectories(runs / "one" / file),
            load_trajectories(runs / name / file),
        )
        assert [t.episode for t in found] == [t.episode for t in expected]
        for one, other in zip(expected, found, strict=True):
            assert np.array_equal(one.ids, other.ids)
            np.testing.assert_allclose(other.logprob, one.logprob, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SHARED)
def test_the_curve_is_that_of_one(runs: Path, name: str) -> None:
    alone, shared = lines_of(runs / "one"), lines_of(runs / name)
    assert [line["step"] for line in shared] == [line["step"] for line in alone]
    for one, other in zip(alone[1:], shared[1:], strict=True):
        assert other["train"] == one["train"]
        assert other["tokens"] == one["tokens"]
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-3, abs=1e-5)
        assert other["probes"]["scalars"].keys() == one["probes"]["scalars"].keys()
    assert shared[-1]["evaluation"] == alone[-1]["evaluation"]


@pytest.mark.parametrize("name", SHARED)
def test_the_weights_are_those_of_one(runs: Path, name: str) -> None:
    """To what the optimizer makes of rounding: it divides by the root of tiny squares."""
    expected, found = tensors_of(runs / "one"), tensors_of(runs / name)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        if key.startswith("model/"):
            torch.testing.assert_close(found[key], tensor, rtol=1e-2, atol=2e-3)


def test_two_that_go_on_as_two_have_the_bits_of_two(runs: Path) -> None:
    assert [
        name
        for name, tensor in tensors_of(runs / "two").items()
        if not torch.equal(tensor, tensors_of(runs / "two, then two")[name])
    ] == []


def _asked_in_the_second(processes: Processes, data: dict[str, Any], out: Path) -> int:
    """Where a run stops of which one process alone is asked to, in its second step."""
    stop, update = threading.Event(), Learner.update

    def asked(self: Learner, *given: Any) -> Any:
        if processes.rank == 1 and given[2] == 1:
            stop.set()
        return update(self, *given)

    Learner.update = asked  # type: ignore[method-assign]  (in a process of its own)
    try:
        train(parse_config(data, ["save.checkpoint_every=0"]), out, stop=stop, processes=processes)
    except Interrupted as stopped:
        return stopped.step
    return -1


def test_asked_in_one_process_all_stop_and_one_saves(tiny_model: Path, tmp_path: Path) -> None:
    assert together(_asked_in_the_second, _data(tiny_model), tmp_path / "run") == [2, 2]
    assert load_progress(checkpoint_of(tmp_path / "run")).step == 2


def _dying_in_the_third(processes: Processes, data: dict[str, Any], out: Path) -> str:
    """What a run comes to of which one process is killed with its gradients made."""
    add = processes.add_gradients
    seen = iter(range(STEPS))

    def dying(*given: Any) -> None:
        if next(seen) == 2 and processes.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        add(*given)

    object.__setattr__(processes, "add_gradients", dying)
    try:
        train(parse_config(data), out, processes=processes)
    except ProcessLost as lost:
        return str(lost)
    return "nothing happened"


def test_a_process_that_is_killed_ends_the_others_and_the_run_goes_on(
    runs: Path, tiny_model: Path, tmp_path: Path
) -> None:
    data, out = _data(tiny_model), tmp_path / "run"
    told, _ = together(_dying_in_the_third, data, out, lost=1)
    assert told.startswith("another process of this run was ended")
    assert load_progress(checkpoint_of(out)).step == 2
    _run(ALONE, data, out, STEPS, True)
    expected = runs / "two, then one"
    assert tensors_of(out).keys() == tensors_of(expected).keys()
    for name, tensor in tensors_of(expected).items():
        assert torch.equal(tensors_of(out)[name], tensor), name
    assert lines_of(out)[-1] == lines_of(expected)[-1]
