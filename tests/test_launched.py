"""Runs that accelerate launched as two processes: one voice, and an end whatever ends one of them.

The launcher's own lines, of which it writes many, are left out.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from killed import checkpoint_of, lines_of
from processes import alive, until

from agentopd.running.checkpoint import latest, load_progress
from agentopd.running.reading import load_stored
from agentopd.running.train import train

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
CPU = Path(__file__).parents[1] / "configs" / "scale" / "cpu.yaml"
SHORT = """
steps: 200
threads: 1
env: {id: agentopd/Sokoban-v0, options: {prompt: brief, max_turns: 3}}
rollout: {kind: student, tasks: 2, max_turn_tokens: 6}
evaluate: {episodes: 2}
save: {checkpoint_every: 1, trajectories_every: 0}
"""


@contextmanager
def _launched(folder: Path, model: Path, *overrides: str) -> Iterator[subprocess.Popen[str]]:
    """A run by two processes in `folder/run`; whatever the test does to it, nothing is left."""
    (folder / "short.yaml").write_text(SHORT)
    command = [
        *LAUNCH, str(CPU), "-m", "agentopd", "train", str(folder / "short.yaml"),
        f"student.path={model}", "--out", str(folder / "run"), *overrides,
    ]  # fmt: skip
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    launcher = subprocess.Popen(command, **pipes)  # type: ignore[call-overload]
    try:
        yield launcher
    finally:
        left = [pid for pid in _children(launcher.pid) if alive(pid)]
        launcher.kill()
        for pid in left:
            os.kill(pid, signal.SIGKILL)


def _children(parent: int) -> list[int]:
    path = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def _stepped(folder: Path, steps: int) -> bool:
    checkpoint = latest(folder / "run" / "checkpoints")
    return checkpoint is not None and load_progress(checkpoint).step >= steps


def _ours(text: str) -> list[str]:
    """What agentopd says."""
    return [line for line in text.splitlines() if line.startswith(("error:", "stopped", "  agent"))]


def test_killed_in_one_process_a_run_ends_with_one_line_and_goes_on_in_one(
    tiny_model: Path, tmp_path: Path
) -> None:
    with _launched(tmp_path, tiny_model) as launcher:
        until(lambda: _stepped(tmp_path, 1), launcher)
        members = _children(launcher.pid)
        assert len(members) == 2
        os.kill(members[1], signal.SIGKILL)
        _, told = launcher.communicate(timeout=120)
        assert launcher.returncode != 0
        assert not any(map(alive, members))
    assert len(_ours(told)) == 1
    assert "another process of this run was ended" in told
    done = load_progress(checkpoint_of(tmp_path / "run")).step
    train(load_stored(tmp_path / "run", [f"steps={done + 1}"]), tmp_path / "run", resume=True)
    assert [line["step"] for line in lines_of(tmp_path / "run")] == [*range(-1, done + 1)]


def test_ctrl_c_finishes_the_step_saves_it_and_says_how_to_go_on(
    tiny_model: Path, tmp_path: Path
) -> None:
    with _launched(tmp_path, tiny_model, "save.checkpoint_every=2") as launcher:
        until(lambda: _stepped(tmp_path, 2), launcher)
        members = _children(launcher.pid)
        launcher.send_signal(signal.SIGINT)
        out, told = launcher.communicate(timeout=120)
        assert not any(map(alive, members))
    done = load_progress(checkpoint_of(tmp_path / "run")).step
    assert _ours(told) == [
        f"stopped after {done} steps; to go on:",
        f"  agentopd resume {tmp_path / 'run'}",
    ]
    assert lines_of(tmp_path / "run")[-1]["step"] == done - 1
    assert out.count("step 0/200") == 1


def test_a_mistake_is_told_once(tiny_model: Path, tmp_path: Path) -> None:
    with _launched(tmp_path, tiny_model, "stepz=3") as launcher:
        _, told = launcher.communicate(timeout=120)
    assert [line for line in _ours(told) if "stepz" in line] == _ours(told)
    assert len(_ours(told)) == 1
    assert not (tmp_path / "run").exists()
