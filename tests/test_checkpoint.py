"""Checkpoints: a run that stopped goes on bit for bit, and a crash leaves a whole checkpoint."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from agentopd.base.stopping import Interrupted
from agentopd.environment.contract import Info, TextEnv
from agentopd.models.model import LanguageModel, ModelSettings, load_model
from agentopd.running import checkpoint as checkpoints
from agentopd.running.checkpoint import (
    Progress,
    latest,
    load_progress,
    restore_weights,
    save_checkpoint,
)
from agentopd.running.config import RunConfig
from agentopd.running.evaluate import untrained_success
from agentopd.running.reading import parse_config
from agentopd.running.run import Run
from agentopd.running.train import train

STEPS = 4
GROUPS = ("rollout.tasks=2", "rollout.group=2", f"env={{id: {__name__}:Lottery}}")
METHODS = {
    "ema": ("teacher={kind: ema, rate: 0.3}",),
    "lagged": ("teacher={kind: lagged, every: 3}", "divergence.support=sampled"),
    "auxiliary": ("mix={kind: auxiliary, coefficient: 0.5}", "unit=turn", *GROUPS),
    "written": (
        "privilege=[{kind: reflection, writer: {model: teacher, reply_tokens: 12}}, {kind: "
        "experience, every: 2, writer: {model: student, reply_tokens: 12, temperature: 1.0}}]",
        "teacher={kind: ema, rate: 0.3}",
    ),
    "rl": ("mix={kind: rl, rl: {kind: grpo, std: false}}", *GROUPS),
}


class Lottery(TextEnv):
    """Three draws: the reward is made of the letters said, so that even random weights get some."""

    max_turns = 3

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        self.drawn = 0
        return f"Draw {seed}.", {"task_id": str(seed), "success": False, "guide": "Say more."}

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        self.drawn += 1
        reward = sum(map(ord, action)) % 5 / 4
        info = {"task_id": "", "success": reward > 0.5, "action_valid": True}
        return "Again.", reward, False, self.drawn == self.max_turns, info


def _config(model: Path, *overrides: str) -> RunConfig:
    data: dict[str, Any] = {
        "steps": STEPS,
        "threads": 1,
        "student": {"path": str(model)},
        "env": {"id": "agentopd/Sokoban-v0", "options": {"prompt": "brief", "max_turns": 3}},
        "rollout": {"kind": "student", "tasks": 4, "max_turn_tokens": 6},
        "learner": {"learning_rate": 0.01},
        "evaluate": {"episodes": 2},
        "save": {"checkpoint_every": 0, "trajectories_every": 0},
    }
    return parse_config(data, overrides)


def _stop_after(step: int) -> Callable[[dict[str, Any]], None]:
    """A watcher that presses Ctrl-C while `step` is being recorded."""

    def watch(line: dict[str, Any]) -> None:
        if line["step"] == step:
            signal.raise_signal(signal.SIGINT)

    return watch


def _tensors(out: Path) -> dict[str, torch.Tensor]:
    """All that the run's last checkpoint holds: student, optimizer and teacher."""
    files = sorted((out / "checkpoints" / "latest").rglob("*.safetensors"))
    assert {file.stem for file in files} == {"model", "optimizer", "teacher"}
    return {f"{file.stem}/{name}": t for file in files for name, t in load_file(file).items()}


def _lines(out: Path) -> list[dict[str, Any]]:
    """The metrics, without what a clock has measured."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "stages")} for line in lines]


def _sources(out: Path) -> Any:
    return load_progress(out / "checkpoints" / "latest").sources


def _assert_equal_runs(one: Path, other: Path) -> None:
    found, expected = _tensors(one), _tensors(other)
    assert found.keys() == expected.keys()
    different = [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)]
    assert different == []
    assert _lines(one) == _lines(other)
    assert _sources(one) == _sources(other)


@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_and_resumed_run_is_the_run_that_never_stopped(
    tiny_model: Path, tmp_path: Path, method: str
) -> None:
    config = _config(tiny_model, *METHODS[method], "evaluate.every=2")
    train(config, tmp_path / "whole")
    with pytest.raises(Interrupted) as stopped:
        train(config, tmp_path / "halves", watch=_stop_after(1))
    assert stopped.value.step == 2
    halfway = _tensors(tmp_path / "halves")
    train(config, tmp_path / "halves", resume=True)
    _assert_equal_runs(tmp_path / "halves", tmp_path / "whole")

    # and the comparison could have failed: the second half did change things
    moved = _tensors(tmp_path / "whole")
    assert any(not torch.equal(halfway[name], tensor) for name, tensor in moved.items())
    assert not any("skipped" in line for line in _lines(tmp_path / "whole"))
    assert [line["step"] for line in _lines(tmp_path / "whole")] == [-1, 0, 1, 2, 3]


def test_a_run_that_died_goes_on_from_its_last_checkpoint(tiny_model: Path, tmp_path: Path) -> None:
    """Lines and steps after the checkpoint are done again, and come out the same."""
    config = _config(tiny_model, "save.checkpoint_every=2")
    train(config, tmp_path / "whole")

    class PowerCut(Exception):
        pass

    def die(line: dict[str, Any]) -> None:
        if line["step"] == 2:
            raise PowerCut

    with pytest.raises(PowerCut):
        train(config, tmp_path / "died", watch=die)
    assert len(_lines(tmp_path / "died")) == 4
    train(config, tmp_path / "died", resume=True)
    _assert_equal_runs(tmp_path / "died", tmp_path / "whole")


@pytest.mark.parametrize("steps", [0, 3])
def test_a_run_that_died_before_its_summary_ends_as_it_would_have(
    tiny_model: Path, tmp_path: Path, steps: int
) -> None:
    config = _config(tiny_model, f"steps={steps}")
    out = tmp_path / "run"
    whole = train(config, out)
    lines = _lines(out)
    (out / "summary.json").unlink()
    again = train(config, out, resume=True)
    assert _lines(out) == lines
    assert again | {"seconds": 0} == whole | {"seconds": 0}
    assert again["success_after"] is not None


def test_a_run_made_longer_that_died_before_its_summary_does_not_keep_the_shorter_ones(
    tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    train(_config(tiny_model, "steps=1"), out)
    short = (out / "summary.json").read_text()
    whole = train(_config(tiny_model, "steps=2"), out, resume=True)
    (out / "summary.json").write_text(short)
    again = train(_config(tiny_model, "steps=2"), out, resume=True)
    assert again["steps"] == 2 and again | {"seconds": 0} == whole | {"seconds": 0}


def test_a_run_cut_short_measures_the_student_where_it_stands(
    tiny_model: Path, tmp_path: Path
) -> None:
    config = _config(tiny_model)
    with pytest.raises(Interrupted):
        train(config, tmp_path / "run", watch=_stop_after(1))
    summary = train(_config(tiny_model, "steps=2"), tmp_path / "run", resume=True)
    assert summary["evaluation"]["episodes"] == 2 and summary["steps"] == 2


def test_weights_that_never_moved_are_not_measured_again(tiny_model: Path, tmp_path: Path) -> None:
    """A teacher that is told nothing says what the student says: no gradient at all."""
    for control, measured in (("no_pi", 0), ("filler", STEPS)):
        config = _config(tiny_model, "evaluate.every=1", f"control={control}")
        summary = train(config, tmp_path / control)
        lines = (tmp_path / control / "metrics.jsonl").read_text().splitlines()
        after = [json.loads(line) for line in lines[1:]]
        assert sum(line["stages"]["evaluate"] > 0 for line in after) == measured
        assert all("evaluation" in line for line in after)
        # and to measure them again gives the same
        resumed = Run(config, tmp_path / control, True, lambda _: None)
        assert resumed._measure() == summary["evaluation"]


def test_what_is_known_of_the_untrained_student_is_not_measured(
    tiny_model: Path, tmp_path: Path
) -> None:
    config, known = _config(tiny_model, "steps=1"), {"success": 0.125, "episodes": 8}
    summary = train(config, tmp_path / "told", untrained=known)
    assert _lines(tmp_path / "told")[0]["evaluation"] == known
    assert summary["success_before"] == 0.125 and summary["evaluation"]["episodes"] == 2
    # what a study tells its runs is what they would have found
    found = untrained_success(config)
    train(config, tmp_path / "alone")
    assert _lines(tmp_path / "alone")[0]["evaluation"] == found


def test_whoever_is_asked_before_the_first_step_has_nothing_to_save(
    tiny_model: Path, tmp_path: Path
) -> None:
    stop = threading.Event()
    stop.set()
    config, out = _config(tiny_model), tmp_path / "run"
    with pytest.raises(Interrupted) as stopped:
        train(config, out, stop=stop)
    assert stopped.value.step == 0
    train(config, out, resume=True)
    train(config, tmp_path / "whole")
    _assert_equal_runs(out, tmp_path / "whole")


def test_steps_without_an_update_are_counted_across_a_restart(
    tiny_model: Path, tmp_path: Path
) -> None:
    silent = "schedule.distil={kind: step, boundaries: [1, 2], values: [1, 0, 1]}"
    reason, summary = "no teacher signal and no advantage", tmp_path / "run" / "summary.json"
    for steps, skipped in ((1, 0), (3, 1), (4, 1)):
        config = _config(tiny_model, silent, f"steps={steps}")
        train(config, tmp_path / "run", resume=steps > 1)
        assert json.loads(summary.read_text())["skipped"] == ({reason: skipped} if skipped else {})
    assert [line.get("skipped") for line in _lines(tmp_path / "run")] == [
        *(None, None, reason, None, None)
    ]


def test_one_seed_gives_one_run_and_another_seed_another(tiny_model: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        train(_config(tiny_model, "steps=2", f"seed={seed}"), tmp_path / name)
    _assert_equal_runs(tmp_path / "same", tmp_path / "one")
    one, other = _tensors(tmp_path / "one"), _tensors(tmp_path / "other")
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_the_averaged_teacher_is_neither_the_student_nor_the_start(
    tiny_model: Path, tmp_path: Path
) -> None:
    """So that restoring it means something."""
    train(_config(tiny_model, *METHODS["ema"], "steps=2"), tmp_path / "run")
    found, start = _tensors(tmp_path / "run"), load_file(tiny_model / "model.safetensors")
    name = "lm_head.weight"
    assert not torch.equal(found[f"teacher/{name}"], found[f"model/{name}"])
    assert not torch.equal(found[f"teacher/{name}"], start[name])
    assert _sources(tmp_path / "run")[0]["sokoban"]


@pytest.fixture
def student(tiny_model: Path) -> LanguageModel:
    return load_model(ModelSettings(path=str(tiny_model)))


def _stepped(model: LanguageModel) -> torch.optim.AdamW:
    """An optimizer that has made one step on `model`."""
    optimizer = torch.optim.AdamW(model.module.parameters(), lr=0.01)
    ids = torch.arange(9, 15)[None]
    model.module(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def _progress(step: int) -> Progress:
    return Progress(
        step=step,
        seconds=1.5,
        student_tokens=10,
        teacher_tokens=20,
        stages={"rollout": 1.5},
        sources=[{"sokoban": [[True, ["stuck"]]]}, {}],
        success_before=0.25,
    )


def _save(folder: Path, model: LanguageModel, step: int) -> torch.optim.AdamW:
    optimizer = _stepped(model)
    teacher = {name: 2 * tensor for name, tensor in model.module.state_dict().items()}
    save_checkpoint(folder, model, optimizer, teacher, _progress(step))
    return optimizer


@pytest.mark.parametrize("tied", [False, True])
def test_everything_is_put_back_as_it_was(
    student: LanguageModel, tmp_path: Path, tied: bool
) -> None:
    if tied:
        student.module.config.tie_word_embeddings = True
        student.module.tie_weights()
    optimizer = _save(tmp_path, student, step=7)
    fresh = student.frozen_copy()
    with torch.no_grad():
        for parameter in fresh.module.requires_grad_(True).parameters():
            parameter.zero_()
    found = latest(tmp_path)
    assert found is not None
    assert load_progress(found) == _progress(7)
    other = torch.optim.AdamW(fresh.module.parameters(), lr=0.01)
    teacher = restore_weights(found, fresh, other)
    state = student.module.state_dict()
    for name, tensor in fresh.module.state_dict().items():
        assert torch.equal(tensor, state[name]), name
        assert torch.equal(teacher[name], 2 * state[name]), name
    pairs = zip(student.module.parameters(), fresh.module.parameters(), strict=True)
    for old, new in pairs:
        assert optimizer.state[old].keys() == other.state[new].keys()
        for key, value in optimizer.state[old].items():
            assert torch.equal(other.state[new][key], value), key


def test_a_checkpoint_of_several_shards_is_put_back(
    student: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = student.module.save_pretrained
    monkeypatch.setattr(
        student.module, "save_pretrained", lambda folder: save(folder, max_shard_size="20KB")
    )
    _save(tmp_path, student, step=1)
    found = latest(tmp_path)
    assert found is not None
    assert len(list((found / "student").glob("*.safetensors"))) > 1
    state = {name: tensor.clone() for name, tensor in student.module.state_dict().items()}
    with torch.no_grad():
        for parameter in student.module.parameters():
            parameter.zero_()
    restore_weights(found, student, torch.optim.AdamW(student.module.parameters()))
    for name, tensor in student.module.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_there_is_no_checkpoint_before_the_first(tmp_path: Path) -> None:
    assert latest(tmp_path / "nowhere") is None
    (tmp_path / "writing").mkdir()
    assert latest(tmp_path) is None


class Crash(Exception):
    """The process dies here."""


def _step_found(folder: Path) -> int:
    found = latest(folder)
    assert found is not None, "no checkpoint was left"
    for file in found.rglob("*.safetensors"):
        load_file(file)
    return load_progress(found).step


@pytest.mark.parametrize("file", ["optimizer.safetensors", "teacher.safetensors"])
def test_an_interrupted_write_leaves_the_checkpoint_before_it(
    student: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    _save(tmp_path, student, step=1)

    def torn(tensors: dict[str, torch.Tensor], path: Path) -> None:
        path.write_bytes(b"half")
        if path.name == file:
            raise Crash

    with monkeypatch.context() as broken:
        broken.setattr(checkpoints, "save_file", torn)
        with pytest.raises(Crash):
            _save(tmp_path, student, step=2)
    assert _step_found(tmp_path) == 1
    _save(tmp_path, student, step=3)
    assert _step_found(tmp_path) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["latest"]


def test_at_every_moment_of_the_exchange_a_whole_checkpoint_can_be_found(
    student: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dies before each move or removal in turn, then saves on top of what that left."""
    _save(tmp_path, student, step=0)
    rename, rmtree = Path.rename, shutil.rmtree

    def die_at(wanted: int) -> None:
        reached = 0

        def counted(act: Callable[..., Any]) -> Callable[..., Any]:
            def acting(*args: Any, **kwargs: Any) -> Any:
                nonlocal reached
                reached += 1
                if reached == wanted:
                    raise Crash
                return act(*args, **kwargs)

            return acting

        monkeypatch.setattr(Path, "rename", counted(rename))
        monkeypatch.setattr(checkpoints.shutil, "rmtree", counted(rmtree))

    last, deaths = 0, 0
    # Each death is followed by another, at every point, before a save may succeed.
    for first in range(1, 6):
        for second in range(1, 6):
            for place in (first, second):
                die_at(place)
                try:
                    save_checkpoint(tmp_path, student, _stepped(student), {}, _progress(last + 1))
                except Crash:
                    deaths += 1
                monkeypatch.undo()
                assert _step_found(tmp_path) in (last, last + 1)
                last = _step_found(tmp_path)
    assert deaths >= 40
