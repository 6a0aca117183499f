"""Studies that are stopped or killed: the step is saved, and nobody is left."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import SOKOBAN
from processes import members, until

from agentopd.running.studies.study import run_folder

linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="groups are read in /proc")


def write_config(folder: Path, model: Path) -> Path:
    """A study of one arm that does not end."""
    config = {
        "steps": 100_000,
        "student": {"path": str(model)},
        "env": {"id": SOKOBAN, "options": {"prompt": "brief", "max_turns": 2}},
        "rollout": {"kind": "student", "tasks": 2, "max_turn_tokens": 4},
        "evaluate": {"episodes": 2},
        "study": {"seeds": [0], "arms": {"token": {}}},
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def lines(run: Path) -> list[dict[str, Any]]:
    metrics = run / "metrics.jsonl"
    found = metrics.read_text().split("\n")[:-1] if metrics.is_file() else []
    return [json.loads(line) for line in found]


def _without_warnings(told: str) -> list[str]:
    """The model is a random one, of whose answers there is something to say."""
    return [line for line in told.splitlines() if not line.startswith("warning:")]


def everybody(group: int, signal_: signal.Signals) -> None:
    os.killpg(group, signal_)


def the_study(group: int, signal_: signal.Signals) -> None:
    os.kill(group, signal_)


def a_worker(group: int, signal_: signal.Signals) -> None:
    """The one that works: it trains, where the other has nothing to do any more."""

    def spent(pid: int) -> int:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(words[11]) + int(words[12])

    before = {pid: spent(pid) for pid in set(members(group)) - {group}}
    time.sleep(2)
    os.kill(max(before, key=lambda pid: spent(pid) - before[pid]), signal_)


STOPS = {
    "the study is killed while its workers load": (the_study, signal.SIGKILL, False),
    "the study is killed while one trains and one waits": (the_study, signal.SIGKILL, True),
    "a worker is killed": (a_worker, signal.SIGKILL, True),
    "a scheduler ends the group": (everybody, signal.SIGTERM, True),
    "a key is pressed": (everybody, signal.SIGINT, True),
}


@linux
@pytest.mark.parametrize("how", STOPS)
def test_a_minute_after_a_stop_nobody_is_left(how: str, tiny_model: Path, tmp_path: Path) -> None:
    """With one arm the second worker measures the teacher and then waits for more."""
    kill, number, training = STOPS[how]
    path, out = write_config(tmp_path, tiny_model), tmp_path / "a study"
    run = run_folder(out, "token", 0)
    process = subprocess.Popen(
        [sys.executable, "-m", "agentopd", "compare", str(path), "--out", str(out)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        if training:
            until(lambda: len(lines(run)) > 2, process)
        else:  # multiprocessing's own tracker is the second of the group, workers come after it
            until(lambda: len(members(process.pid)) > 2, process)
        kill(process.pid, number)
        _, told = process.communicate(timeout=120)
        until(lambda: not members(process.pid), seconds=60)
    finally:
        for pid in members(process.pid):
            os.kill(pid, signal.SIGKILL)
    if kill is a_worker:
        assert process.returncode == 2, told
        (line,) = _without_warnings(told)
        assert line.startswith(
            "error: the process of arm token, seed 0 was ended by signal SIGKILL"
        )
    elif training:
        done = json.loads((run / "checkpoints/latest/progress.json").read_text())["step"]
        assert done == lines(run)[-1]["step"] + 1, "the last step was finished and saved"
    if number in (signal.SIGTERM, signal.SIGINT):
        assert process.returncode == 130, told
        said, again = _without_warnings(told)
        assert said == "stopped with every step saved; to go on:"
        assert shlex.split(again)[:3] == ["agentopd", "resume", str(out)]
