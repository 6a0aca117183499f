"""Runs of adapters: what is saved, what goes on bit for bit, and from what a run may start."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from killed import assert_same_runs, checkpoint_of, lines_of, tensors_of, train_and_die
from safetensors.torch import load_file, save_file

from agentopd.models.model import ModelSettings, StudentSettings, load_model
from agentopd.running.config import RunConfig
from agentopd.running.reading import parse_config
from agentopd.running.run import Run
from agentopd.running.train import train

LORA = "student.lora={rank: 4, alpha: 8}"
STEPS = 3


def _data(model: Path) -> dict[str, Any]:
    return {
        "steps": STEPS,
        "threads": 1,
        "student": {"path": str(model)},
        "env": {"id": "agentopd/Sokoban-v0", "options": {"prompt": "brief", "max_turns": 3}},
        "rollout": {"kind": "student", "tasks": 2, "max_turn_tokens": 6},
        "learner": {"learning_rate": 0.01},
        "evaluate": {"episodes": 2},
        "save": {"checkpoint_every": 1, "trajectories_every": 0},
    }


def _config(model: Path, *overrides: str) -> RunConfig:
    return parse_config(_data(model), overrides)


class PowerCut(Exception):
    """The run dies here."""


def _begun(config: RunConfig, out: Path) -> None:
    """A run that dies in its third step, after the checkpoint of its second."""

    def die(line: dict[str, Any]) -> None:
        if line["step"] == 2:
            raise PowerCut

    with pytest.raises(PowerCut):
        train(config, out, watch=die)


@pytest.mark.parametrize("lora", [(LORA,), ()], ids=["lora", "full"])
def test_killed_in_the_middle_of_a_step_a_run_goes_on_as_if_it_had_not_been(
    tiny_model: Path, tmp_path: Path, lora: tuple[str, ...]
) -> None:
    """Gradients are there and the optimizer is about to step."""
    train_and_die(_data(tiny_model), tmp_path / "killed", lora)
    assert len(lines_of(tmp_path / "killed")) == 3
    config = _config(tiny_model, *lora)
    train(config, tmp_path / "killed", resume=True)
    train(config, tmp_path / "whole")
    assert_same_runs(tmp_path / "killed", tmp_path / "whole")


TEACHERS = {
    "frozen": 0,
    "adapter_off": 0,
    "live": 0,
    "{kind: lagged, every: 2}": 14,
    "{kind: ema, rate: 0.3}": 14,
}
"""How many weights each saves: A and B of seven layers, or none."""


@pytest.mark.parametrize("teacher", TEACHERS)
def test_a_resumed_run_is_the_whole_one_and_saves_adapters_alone(
    tiny_model: Path, tmp_path: Path, teacher: str
) -> None:
    settings = (LORA, f"teacher={teacher}")
    _begun(_config(tiny_model, *settings), tmp_path / "halves")
    before = tensors_of(tmp_path / "halves")
    train(_config(tiny_model, *settings), tmp_path / "halves", resume=True)
    train(_config(tiny_model, *settings), tmp_path / "whole")
    assert_same_runs(tmp_path / "halves", tmp_path / "whole")
    saved = tensors_of(tmp_path / "whole")
    assert any(not torch.equal(before[name], tensor) for name, tensor in saved.items())
    assert all(".lora_" in name for name in saved)
    counts = {kind: sum(n.startswith(f"{kind}/") for n in saved) for kind in FILES}
    assert counts == FILES | {"teacher": TEACHERS[teacher]}


FILES = {"adapter_model": 14, "optimizer": 3 * 14, "teacher": 0}
"""Two moments and a count of steps for each weight; no master."""


def test_a_full_run_saves_each_weight_once_and_no_frozen_teacher(
    tiny_model: Path, tmp_path: Path
) -> None:
    tied = load_model(ModelSettings(path=str(tiny_model)))
    tied.module.config.tie_word_embeddings = True
    tied.module.tie_weights()
    tied.save(tmp_path / "tied")
    size = sum(p.numel() for p in tied.module.parameters())
    for teacher, copies in (("frozen", 0), ("{kind: ema, rate: 0.3}", 1)):
        out = tmp_path / teacher[:5]
        train(_config(tmp_path / "tied", f"teacher={teacher}", "steps=1"), out)
        saved = {n: t for n, t in tensors_of(out).items() if t.dim()}
        assert sum(t.numel() for t in saved.values()) == (1 + 2 + copies) * size
        train(_config(tmp_path / "tied", f"teacher={teacher}"), out, resume=True)


@pytest.mark.parametrize(
    "settings", [(LORA,), (), ("teacher=ema", "divergence={kind: reverse_kl, target: extrapolate}")]
)
def test_a_run_does_not_go_on_from_another_start(
    tiny_model: Path, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    """Adapters need their base, a frozen teacher and a reference are the start."""
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    config = _config(model, *settings, "steps=1")
    train(config, tmp_path / "run")
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"] = 1.5 * weights["model.norm.weight"]
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"is not the one that the run started from"):
        train(_config(model, *settings), tmp_path / "run", resume=True)
    train(_config(model, "teacher=ema", "steps=1"), tmp_path / "other")
    shutil.copytree(tiny_model, model, dirs_exist_ok=True)
    train(_config(model, "teacher=ema"), tmp_path / "other", resume=True)  # needs none of it


def test_a_checkpoint_that_holds_its_frozen_teacher_still_goes_on(
    tiny_model: Path, tmp_path: Path
) -> None:
    """As earlier versions wrote them: with the teacher's weights, and no digest of anything."""
    config, out = _config(tiny_model), tmp_path / "old"
    _begun(config, out)
    folder = checkpoint_of(out)
    start = load_model(ModelSettings(path=str(tiny_model))).module.state_dict()
    save_file({n: t.clone() for n, t in start.items()}, folder / "teacher.safetensors")
    progress = json.loads((folder / "progress.json").read_text())
    del progress["start"]
    (folder / "progress.json").write_text(json.dumps(progress))
    (folder / "sums.json").unlink()
    train(config, out, resume=True)
    train(config, tmp_path / "whole")
    assert_same_runs(out, tmp_path / "whole")


def test_a_damaged_adapter_is_named(tiny_model: Path, tmp_path: Path) -> None:
    train(_config(tiny_model, LORA, "steps=1"), tmp_path / "run")
    file = checkpoint_of(tmp_path / "run") / "student" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors.popitem()
    save_file(tensors, file)
    with pytest.raises(ValueError, match=r"adapter_model.safetensors is damaged"):
        train(_config(tiny_model, LORA), tmp_path / "run", resume=True)
    (checkpoint_of(tmp_path / "run") / "sums.json").unlink()  # without them it is seen later
    with pytest.raises(ValueError, match=r"student is damaged \(weights .*lora_.* not there"):
        train(_config(tiny_model, LORA), tmp_path / "run", resume=True)


def test_an_adapter_that_lacks_a_weight_is_not_filled_up(tiny_model: Path, tmp_path: Path) -> None:
    folder = _adapter(tiny_model, tmp_path)
    tensors = load_file(folder / "adapter_model.safetensors")
    name, _ = tensors.popitem()
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=rf"{name}' and 0 more are in one of them alone"):
        load_model(ModelSettings(path=str(folder)))


def _adapter(tiny_model: Path, tmp_path: Path) -> Path:
    """The adapter that a short run has left."""
    train(_config(tiny_model, LORA, "steps=1"), tmp_path / "first")
    return checkpoint_of(tmp_path / "first") / "student"


def test_a_run_may_go_on_with_the_adapter_of_another(tiny_model: Path, tmp_path: Path) -> None:
    folder = _adapter(tiny_model, tmp_path)
    run = Run(_config(folder, LORA), tmp_path / "second", False, lambda _: None)
    kept = load_file(folder / "adapter_model.safetensors")
    for name, weight in run.student.weights().items():
        assert weight.requires_grad and torch.equal(weight, kept[name.replace(".default", "")])
    frozen = run.config.teacher.model  # the start: with the adapter, which says something
    assert {n: w.tolist() for n, w in frozen.weights().items()} == {
        n: w.tolist() for n, w in run.student.weights().items()
    }
    train(_config(folder, LORA, "steps=1"), tmp_path / "second")
    again = checkpoint_of(tmp_path / "second") / "student" / "adapter_config.json"
    assert json.loads(again.read_text())["base_model_name_or_path"] == str(tiny_model)


def test_an_adapter_acts_and_teaches_and_learns_only_as_itself(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder = _adapter(tiny_model, tmp_path)
    acting = load_model(ModelSettings(path=str(folder)))
    assert not any(p.requires_grad for p in acting.module.parameters())
    with pytest.raises(ValueError, match="is an adapter, and nothing of it would learn"):
        train(_config(folder), tmp_path / "plain")
    external = f"teacher={{kind: external, source: {{path: {folder}}}}}"
    train(_config(tiny_model, external, "steps=1"), tmp_path / "taught")
    other = StudentSettings.model_validate({"path": str(folder), "lora": {"targets": ["q_proj"]}})
    with pytest.raises(ValueError, match=r"lora_alpha is 8, not 32; r is 4, not 16; target_mod"):
        load_model(other)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"peft_type": "IA3"}, "holds no low-rank adapter"),
        ({"base_model_name_or_path": None}, "names no base_model_name_or_path"),
        ({"base_model_name_or_path": "gone"}, "is an adapter of 'gone', and no model lies there"),
        ({"r": 5}, "does not fit its base"),
    ],
)
def test_an_adapter_that_cannot_be_read_is_refused(
    tiny_model: Path, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    folder = _adapter(tiny_model, tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=told):
        load_model(ModelSettings(path=str(folder)))
