"""Every method's row runs: two steps of each, a gradient, and the same bits when it is resumed."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from killed import assert_same_runs, lines_of

from agentopd.base.types import Trajectory
from agentopd.base.written import last_stage
from agentopd.running.config import RunConfig
from agentopd.running.reading import method_names, parse_config
from agentopd.running.run import Run
from agentopd.running.train import train

SMALL: dict[str, Any] = {
    "steps": 2,
    "threads": 1,
    "student": {"path": "zoo:sokoban-easy"},
    "env": {
        "id": "agentopd/Sokoban-v0",
        "options": {"prompt": "brief", "min_moves": 1, "max_moves": 2, "max_turns": 3},
    },
    "evaluate": {"episodes": 1},
    "save": {"checkpoint_every": 1},
}


def _config(name: str) -> RunConfig:
    """The row with few episodes; groups stay groups, of which half the tasks can be solved."""
    config = parse_config(SMALL, [f"method={name}"])
    small = [f"method={name}", "rollout.max_turns=3"]
    small += ["rollout.tasks=2", "rollout.group=4"] if config.rollout.group > 1 else []
    small += [] if config.rollout.group > 1 else ["rollout.tasks=4"]
    if config.rollout.kind == "retry":  # what is read and written of an attempt takes longest
        small += ["rollout.quoted_tokens=32", "rollout.reflection_tokens=8"]
    small += ["stages.cycles.repeat=1"] if name == "copd" else []
    for path in _collected(config.model_dump(mode="json")["stages"]):
        small.append(f"{path}.episodes=8")
    return parse_config(SMALL, small)


def _collected(stages: dict[str, Any], above: str = "stages") -> list[str]:
    """Where a row collects demonstrations."""
    found = []
    for name, stage in stages.items():
        found += [f"{above}.{name}.collect"] if stage["collect"] else []
        found += _collected(stage["stages"], f"{above}.{name}.stages")
    return found


@pytest.fixture
def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the folder `whole` would be, had the run been killed as its second step began."""
    begin = Run.roll_out

    def copy_first(run: Run, step: int) -> list[Trajectory]:
        if step == 1 and not (tmp_path / "killed").exists():
            shutil.copytree(tmp_path / "whole", tmp_path / "killed")
        return begin(run, step)

    monkeypatch.setattr(Run, "roll_out", copy_first)
    return tmp_path / "killed"


@pytest.mark.parametrize("name", method_names())
def test_a_row_learns_and_goes_on_where_it_was_killed(
    name: str, tmp_path: Path, killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What changes nothing is found by experiments that are tried elsewhere, and take longer.
    monkeypatch.setattr(RunConfig, "notices", lambda self: [])
    config, whole = _config(name), tmp_path / "whole"
    train(config, whole)
    lines = [line for line in lines_of(whole) if line["step"] >= 0]
    learnt = [line for line in lines if line["loss"] is not None]
    assert learnt, [line["skipped"] for line in lines]
    assert all(math.isfinite(line["loss"]) for line in learnt)
    assert any(line["probes"]["scalars"]["gradient_norm"] > 0 for line in learnt)

    assert len(lines_of(killed)) == 2  # the untrained student's, and the first step's
    train(config, killed, resume=True)
    assert_same_runs(last_stage(killed), last_stage(whole))
    assert lines_of(killed) == lines_of(whole)
