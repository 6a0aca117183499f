"""Contexts leave room for what the teacher is told, and a lesson that is lost for want of it is
told.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from scenes import run_of

from agentopd.commands.progress import Status
from agentopd.running.run import Run

POSITIONS = 260


@pytest.fixture(scope="module")
def short_sighted(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model with so few positions that an episode fills them."""
    folder = tmp_path_factory.mktemp("short") / "model"
    shutil.copytree(tiny_model, folder)
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"max_position_embeddings": POSITIONS}
    path.write_text(json.dumps(config))
    return folder


def _run(model: Path, out: Path, *more: str, resume: bool = False) -> Run:
    long = ("env.options.max_turns=40", "steps=3", "evaluate.episodes=2")
    return run_of(model, out, *long, *more, resume=resume)


def _step(run: Run, step: int) -> tuple[int, int, dict[str, Any]]:
    """A step's longest segment of the student and of the teacher, and its line of metrics."""
    lines: list[dict[str, Any]] = []
    run.records.watch = lines.append
    trajectories = run.roll_out(step)
    lessons = run.ask_teacher(trajectories, step)
    run.record(step, trajectories, run.learn(trajectories, lessons, step))
    own = max(b - a for t in trajectories for a, b in t.segments)
    told = max(b - a for x in lessons if x.view for a, b in x.view.segments)
    return own, told, lines[0]


def test_the_steps_after_the_first_leave_room_for_the_teacher_s_text(
    short_sighted: Path, tmp_path: Path
) -> None:
    run = _run(short_sighted, tmp_path / "run")
    own, told, first = _step(run, 0)
    assert own <= POSITIONS < told
    assert first["unheard"] > 0
    assert run.room == told - own
    own, told, second = _step(run, 1)
    assert told <= POSITIONS
    assert "unheard" not in second
    assert second["probes"]["scalars"]["taught"] == 1.0


def test_the_room_survives_a_restart(short_sighted: Path, tmp_path: Path) -> None:
    run = _run(short_sighted, tmp_path / "run")
    _step(run, 0)
    run.save()
    assert _run(short_sighted, tmp_path / "run", resume=True).room == run.room > 0


def test_a_context_far_below_the_positions_is_left_as_it_is(
    tiny_model: Path, tmp_path: Path
) -> None:
    run = _run(tiny_model, tmp_path / "run", "rollout.max_context=150")
    own, _, line = _step(run, 0)
    assert own <= 150
    assert run._roomy(run.config.rollout) == run.config.rollout
    assert "unheard" not in line


def test_lessons_that_are_lost_are_a_warning() -> None:
    line = {"step": 4, "episodes": 160, "unheard": 3}
    (warning,) = Status(steps=9, episodes=32).warnings(line)
    assert warning.startswith("the teacher's context of 3 of 32 episodes of step 5 is longer than")
