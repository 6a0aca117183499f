"""Trained on the real packages, killed and resumed: `make test-envs`, where torch is there too."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.envs, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize(
    ("package", "spec", "options", "split"),
    [
        (
            "scienceworld",
            "science:find-animal",
            {"simplifications": "easy", "memory": 512, "prompt": "brief", "shown": 300},
            {"split": "test"},
        ),
        ("gem", "gem:rg:chain_sum", {"prompt": "brief", "max_turns": 1}, {}),
        ("bm25s", "search:small", {"prompt": "brief"}, {"split": "test"}),
        ("verifiers", "verifiers:verified_sums", {"max_turns": 2}, {"taskset": {"split": "test"}}),
    ],
)
def test_two_steps_an_evaluation_and_a_kill_that_changes_nothing(
    tmp_path: Path, package: str, spec: str, options: dict[str, Any], split: dict[str, Any]
) -> None:
    """By an embedded student, who cannot play them: what is tested is that nothing is lost."""
    for needed in ("torch", package):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    from killed import assert_same_runs, lines_of, train_and_die

    from agentopd.running.reading import parse_config
    from agentopd.running.train import train

    data = {
        "steps": 3,
        "threads": 1,
        "student": {"path": "zoo:sokoban-easy"},
        "env": {"id": spec, "options": {"max_turns": 3, **options}},
        "rollout": {"tasks": 2, "slots": 1, "max_turn_tokens": 6, "env_seconds": 3600},
        "privilege": [{"kind": "text", "text": "Look around first."}],
        "learner": {"learning_rate": 0.001},
        "evaluate": {"episodes": 2, "every": 3, "options": split},
        "save": {"checkpoint_every": 1},
    }
    train_and_die(data, tmp_path / "killed")
    assert len(lines_of(tmp_path / "killed")) == 3
    config = parse_config(data, ())
    train(config, tmp_path / "killed", resume=True)
    train(config, tmp_path / "whole")
    assert_same_runs(tmp_path / "killed", tmp_path / "whole")
    assert lines_of(tmp_path / "whole")[-1]["evaluation"]
