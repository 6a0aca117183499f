"""An agent learns: the smallest claim of the toolkit, end to end, on a real task."""

from __future__ import annotations

from pathlib import Path

from agentopd.running.reading import load_config
from agentopd.running.train import train


def test_a_frozen_teacher_with_a_skill_teaches_a_poor_student_sokoban(tmp_path: Path) -> None:
    changes = ["steps=13", "evaluate.episodes=48", "evaluate.every=0", "threads=1"]
    summary = train(load_config("configs/quickstart.yaml", changes), tmp_path / "run")
    assert summary["success_before"] < 0.25
    assert summary["success_after"] > 0.45
