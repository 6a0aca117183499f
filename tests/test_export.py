"""`agentopd export`: folders that transformers and peft load, and what their cards say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from command_line import SOKOBAN, call, problem
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from agentopd.models.model import ModelSettings, load_model
from agentopd.running.checkpoint import latest
from agentopd.running.reading import parse_config
from agentopd.running.run import Run
from agentopd.running.train import train

IDS_BT = torch.tensor([[9, 10, 11, 12, 13], [20, 14, 9, 30, 31]])
LORA = "student.lora={rank: 4, alpha: 8}"
MODES = {
    "full": (),
    "adapter": (LORA,),
    "adapter_in_bfloat16": (LORA, "student.dtype=bfloat16"),
}


def _trained(model: Path, out: Path, *overrides: str) -> torch.Tensor:
    """A run of two steps; the logits of its student, straight from its weights."""
    data = {
        "steps": 2,
        "seed": 11,
        "threads": 1,
        "student": {"path": str(model)},
        "env": {"id": SOKOBAN, "options": {"prompt": "brief", "max_turns": 2}},
        "rollout": {"kind": "student", "tasks": 3, "max_turn_tokens": 6},
        "learner": {"learning_rate": 0.05},
        "teacher": {"kind": "ema", "rate": 0.25},
        "evaluate": {"episodes": 4, "options": {"split": "test"}},
        "save": {"trajectories_every": 0},
    }
    config = parse_config(data, overrides)
    train(config, out)
    return _logits(Run(config, out, True, lambda _: None).student.module)


@torch.no_grad()
def _logits(module: torch.nn.Module) -> torch.Tensor:
    return module(input_ids=IDS_BT).logits.float()


@pytest.fixture(scope="module", params=MODES)
def trained(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[Path, torch.Tensor]:
    out = tmp_path_factory.mktemp(request.param) / "run"
    return out, _trained(tiny_model, out, *MODES[request.param])


def _export(run: Path, to: Path, *options: str) -> Path:
    assert call("export", run, "--to", to, *options).stdout == f"the model: {to}\n"
    assert [path.name for path in to.parent.iterdir() if "unfinished" in path.name] == []
    return to


def _dtype(run: Path) -> torch.dtype:
    return getattr(torch, yaml.safe_load((run / "config.yaml").read_text())["student"]["dtype"])


def _is_adapted(run: Path) -> bool:
    return "lora:\n" in (run / "config.yaml").read_text()


def test_what_transformers_loads_is_the_runs_student(
    trained: tuple[Path, torch.Tensor], tiny_model: Path, tmp_path: Path
) -> None:
    run, expected = trained
    to = _export(run, tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(to, dtype=_dtype(run))
    # Of a bfloat16 base transformers rounds the adapter too, which peft leaves in float32.
    within = 1e-6 if loaded.dtype == torch.float32 else 3e-2
    torch.testing.assert_close(_logits(loaded), expected, atol=within, rtol=within)
    start = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=_dtype(run))
    assert not torch.allclose(_logits(start), expected, atol=1e-2), "nothing was learnt"
    tokenizer = AutoTokenizer.from_pretrained(to)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(tiny_model).chat_template
    if _is_adapted(run):
        apart = PeftModel.from_pretrained(start, to)
        torch.testing.assert_close(_logits(apart), expected, atol=1e-6, rtol=1e-5)
        assert not (to / "config.json").exists()
    else:
        ends = AutoModelForCausalLM.from_pretrained(tiny_model).generation_config.eos_token_id
        assert loaded.generation_config.eos_token_id == ends


def test_what_is_merged_says_the_same_within_rounding(
    trained: tuple[Path, torch.Tensor], tmp_path: Path
) -> None:
    run, expected = trained
    if not _is_adapted(run):
        told = problem(call("export", run, "--to", tmp_path / "out", "--merge"))
        assert "has no adapters to merge" in told and not list(tmp_path.iterdir())
        return
    to = _export(run, tmp_path / "out", "--merge")
    assert {path.name for path in to.iterdir()} >= {"config.json", "generation_config.json"}
    assert not (to / "adapter_config.json").exists()
    loaded = AutoModelForCausalLM.from_pretrained(to)
    assert loaded.dtype == _dtype(run)
    within = 1e-5 if loaded.dtype == torch.float32 else 3e-2
    torch.testing.assert_close(_logits(loaded), expected, atol=within, rtol=within)


@pytest.mark.parametrize("merge", [False, True])
def test_an_export_is_a_model_for_eval_and_a_start_for_a_run(
    trained: tuple[Path, torch.Tensor], tmp_path: Path, merge: bool
) -> None:
    run, expected = trained
    adapted = _is_adapted(run)
    to = _export(run, tmp_path / "out", *["--merge"] * (merge and adapted))
    dtype = str(_dtype(run)).removeprefix("torch.")
    model = load_model(ModelSettings(path=str(to), dtype=dtype))
    within = 3e-2 if merge else 1e-6
    torch.testing.assert_close(_logits(model.module), expected, atol=within, rtol=within)
    limits = ("--episodes", "2", "--max-turns", "1", "--max-turn-tokens", "2")
    result = call("eval", to, "--env", SOKOBAN, "--dtype", dtype, *limits)
    assert result.exit_code == 0, result.output
    if dtype == "float32":
        _trained(to, tmp_path / "next", *[LORA] * (adapted and not merge), "steps=1")


def test_the_card_tells_method_data_and_figures(
    trained: tuple[Path, torch.Tensor], tmp_path: Path
) -> None:
    run, _ = trained
    text = (_export(run, tmp_path / "out", "--base", "someone/tiny") / "README.md").read_text()
    front, body = text.removeprefix("---\n").split("\n---\n")
    adapted = _is_adapted(run)
    assert yaml.safe_load(front) == {
        "base_model": "someone/tiny",
        "library_name": "peft" if adapted else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["agentopd", "on-policy-distillation"],
    }
    assert body.startswith("\n# out\n\nAn adapter" if adapted else "\n# out\n\nA model")
    summary = json.loads((run / "summary.json").read_text())
    for told in (
        "The licence of someone/tiny applies to it",
        "| teacher | `{kind: ema, rate: 0.25}` |",
        f"in `{SOKOBAN}` with `{{prompt: brief, max_turns: 2}}`",
        f"2 steps of 3 episodes, {summary['student_tokens']:,} tokens of its own",
        "Seed 11.",
        "on 4 held-out tasks with `{split: test}`",
        "| 0 | 0 % | 0\u201349 % |",
        "| 2 | 0 % | 0\u201349 % |",
    ):
        assert told in body
    assert ("| lora | `{rank: 4, alpha: 8" in body) is adapted
    if adapted:
        named = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
        assert named["base_model_name_or_path"] == "someone/tiny"


def test_a_card_says_what_was_not_measured_and_names_the_row(
    tiny_model: Path, tmp_path: Path
) -> None:
    _trained(tiny_model, tmp_path / "run", "method=sdft", "steps=1")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    del last["evaluation"]
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join([*lines[:-1], json.dumps(last), ""]))
    text = (_export(tmp_path / "run", tmp_path / "out") / "README.md").read_text()
    assert "The row `sdft`; its values on the axes" in text
    assert "| 1 | not measured | |" in text
    assert "base_model" not in text.partition("\n---\n")[0], "nobody else finds a folder here"


def test_what_cannot_be_exported_is_told_in_a_line(tiny_model: Path, tmp_path: Path) -> None:
    out, to = tmp_path / "run", tmp_path / "to"
    assert "config.yaml" in problem(call("export", tmp_path, "--to", to))
    _trained(tiny_model, out, "steps=0")
    to.mkdir()
    (to / "mine").write_text("precious")
    assert "holds something already" in problem(call("export", out, "--to", to))
    assert [path.name for path in to.iterdir()] == ["mine"]
    found = latest(out / "checkpoints")
    assert found is not None
    (found / "progress.json").unlink()
    assert "holds no checkpoint" in problem(call("export", out, "--to", tmp_path / "new"))
    assert not (tmp_path / "new").exists()
