"""Stages: what each takes from those before, one curve over all, the same bits after any kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from killed import tensors_of
from safetensors.torch import load_file
from warm import python

from agentopd.base.written import last_stage
from agentopd.looking.report.data import read_results
from agentopd.running.config import ConfigError, RunConfig
from agentopd.running.reading import parse_config, stage_configs
from agentopd.running.train import train

STAGES: dict[str, Any] = {
    "collect": {"collect": {"by": "oracle", "episodes": 6}},
    "sft": {"rollout": {"kind": "demonstrations", "path": "previous"}, "mix": "nll", "steps": 3},
    "opd": {"teacher": "initial", "privilege": "none"},
}


def _data(model: Path, stages: Any) -> dict[str, Any]:
    return {
        "steps": 2,
        "threads": 1,
        "student": {"path": str(model)},
        "env": {"id": "agentopd/Sokoban-v0", "options": {"prompt": "brief", "max_turns": 3}},
        "rollout": {"tasks": 4, "max_turns": 3, "max_turn_tokens": 4},
        "evaluate": {"episodes": 4},
        "save": {"checkpoint_every": 1},
        "stages": stages,
    }


def _config(model: Path, stages: Any, *overrides: str) -> RunConfig:
    return parse_config(_data(model, stages), overrides)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / "latest" / "student" / "model.safetensors")


def _lines(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "stages")} for line in lines]


@pytest.fixture(scope="module")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("staged") / "run"
    train(_config(tiny_model, STAGES), out)
    return out


def test_each_stage_is_an_ordinary_run_in_a_folder_of_its_own(
    whole: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """The last one is the run that a person would have started by hand from the second's end."""
    assert [p.name for p in sorted((whole / "stages").iterdir())] == ["1-collect", "2-sft", "3-opd"]
    by_hand = _data(tiny_model, {}) | {
        "student": {"path": str(whole / "stages/2-sft/checkpoints/latest/student")},
        "teacher": {"kind": "external", "source": {"path": str(tiny_model)}},
        "privilege": "none",
        "seed": stage_configs(_config(tiny_model, STAGES))[2][1].seed,
    }
    train(parse_config(by_hand), tmp_path / "hand")
    found, expected = _weights(whole / "stages/3-opd"), _weights(tmp_path / "hand")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_one_curve_and_one_summary_tell_all_stages(whole: Path) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    parts = [
        json.loads((whole / p / "summary.json").read_text())
        for p in ("stages/2-sft", "stages/3-opd")
    ]
    assert summary["steps"] == 5
    assert summary["episodes"] == sum(part["episodes"] for part in parts)
    assert summary["success_before"] == parts[0]["success_before"]
    assert summary["evaluation"] == parts[1]["evaluation"]
    assert [told["folder"] for told in summary["stages"]] == [
        "stages/1-collect", "stages/2-sft", "stages/3-opd",
    ]  # fmt: skip
    lines = _lines(whole)
    assert [line["step"] for line in lines] == [-1, 0, 1, 2, 3, 4]
    assert [line["stage"] for line in lines[1:]] == ["2-sft"] * 3 + ["3-opd"] * 2
    assert [line["episodes"] for line in lines] == [0, 4, 8, 12, 16, 20]
    results = read_results(whole)
    (arm,) = results.summary.arms.values()
    assert [point.step for point in arm.runs[0].curve] == [-1, 2, 4]


def test_demonstrations_are_not_counted_as_the_students_tokens(whole: Path) -> None:
    lines = _lines(whole)
    assert all(line["tokens"]["student"] == 0 for line in lines[1:4])
    assert all(line["tokens"]["student"] > 0 for line in lines[4:])


def test_whoever_asks_for_the_runs_student_gets_the_last_stages(whole: Path) -> None:
    assert last_stage(whole) == whole / "stages" / "3-opd"
    assert last_stage(whole / "stages" / "2-sft") == whole / "stages" / "2-sft"


def test_a_run_that_has_ended_is_not_done_again(
    whole: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """And a folder that was moved goes on where it stands."""
    shutil.copytree(whole, tmp_path / "moved")
    again = train(_config(tiny_model, STAGES), tmp_path / "moved", resume=True)
    assert again == json.loads((whole / "summary.json").read_text()) | {"name": "moved"}
    assert _lines(tmp_path / "moved") == _lines(whole)


KILLED = """
import json, os, signal, sys
from pathlib import Path
from agentopd.learning.learner import Learner
from agentopd.running.collecting import collect
from agentopd.running.reading import parse_config
from agentopd.running.train import train

left = int(sys.argv[3])

def counting(work):
    def counted(*args, **named):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return work(*args, **named)
    return counted

Learner._apply = counting(Learner._apply)
collect.save_trajectories = counting(collect.save_trajectories)
out = Path(sys.argv[2])
train(parse_config(json.loads(sys.argv[1])), out, resume=(out / "config.yaml").is_file())
"""


def test_a_run_killed_in_every_stage_ends_in_the_same_bits(
    whole: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """While it collects, in the first and in the last stage; then it is let go on."""
    out, data = tmp_path / "run", json.dumps(_data(tiny_model, STAGES))
    for left in (1, 2, 2, 9):
        done = python("-c", KILLED, data, str(out), str(left))
        assert done.returncode == (0 if left == 9 else -signal.SIGKILL)
    for stage in ("stages/2-sft", "stages/3-opd"):
        found, expected = tensors_of(out / stage), tensors_of(whole / stage)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert _lines(out) == _lines(whole)
    stores = [p / "stages/1-collect/episodes-00001.parquet" for p in (out, whole)]
    assert len({path.read_bytes() for path in stores}) == 1


def test_rounds_are_gone_through_together(tiny_model: Path) -> None:
    config = _config(
        tiny_model,
        {"first": {"mix": "nll"}, "round": {"repeat": 2, "stages": [{"name": "a"}, {"name": "b"}]}},
    )
    assert [leg.folder for leg in config.legs] == ["1-first", "2-a", "3-b", "4-a", "5-b"]
    assert config.all_steps == 10
    seeds = [own.seed for _, own in stage_configs(config)]
    assert seeds[0] == config.seed
    assert len(set(seeds)) == 5


def test_what_is_collected_is_of_the_tasks_of_the_stage_behind_it(tiny_model: Path) -> None:
    config = _config(tiny_model, {"a": {}, "c": {"collect": {}}, "b": {"mix": "nll"}})
    first, collected, last = (own.seed for _, own in stage_configs(config))
    assert first != collected == last


def test_a_stages_setting_can_be_changed_by_its_name(tiny_model: Path) -> None:
    config = _config(tiny_model, STAGES, "stages.sft.steps=7", "stages.collect.collect.by=told")
    assert [own.steps for leg, own in stage_configs(config) if leg.name == "sft"] == [7]
    collect = config.legs[0].stage.collect
    assert collect is not None
    assert collect.by == "told"


def test_what_is_written_reads_the_same(tiny_model: Path) -> None:
    config = _config(tiny_model, [{"name": "x", "steps": 1}, {"method": "opd"}])
    again = parse_config(config.model_dump(mode="json"))
    assert again.model_dump(mode="json") == config.model_dump(mode="json")
    assert [leg.name for leg in again.legs] == ["x", "opd"]


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        ({"a": {"teacher": "previous"}}, "stage 1-a: previous refers to nothing"),
        (
            {"a": {"teacher": {"kind": "external", "source": {"path": "stage:b"}}}, "b": {}},
            "stage 1-a: stage:b refers to nothing: no stage of that name before it trains",
        ),
        (
            {"a": {"rollout": {"kind": "demonstrations", "path": "previous"}, "mix": "nll"}},
            "stage 1-a: previous refers to nothing",
        ),
        ({"a": {"collect": {}}}, "none of them trains"),
        ({"a": {"repeat": 10**9}}, "less than or equal to 1000"),
        ({"a": {"repeat": 0}}, "greater than or equal to 1"),
        ({"a": {"repeat": 600, "stages": {"b": {}, "c": {}}}}, "more than 1000"),
        ({"a/b": {}}, "cannot be the name of a folder"),
        ([{"name": "a"}, {"name": "a"}], "two stages are called 'a'"),
        ({"a": {"stpes": 3}}, "stage 1-a: unknown key 'stpes'; did you mean 'steps'?"),
        ({"a": {"method": "sft"}}, "has stages of its own"),
        ({"a": {"steps": 3, "stages": {"b": {}}}}, "has no settings of its own"),
        ({"a": {"collect": {"by": "oracel"}}}, "did you mean 'oracle'?"),
        ({"a": 3}, "a stage is a mapping"),
    ],
)
def test_a_stage_that_cannot_be_is_told_in_one_line(
    tiny_model: Path, tmp_path: Path, stages: Any, told: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        train(_config(tiny_model, stages), tmp_path / "run")
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not os.path.lexists(tmp_path / "run")
