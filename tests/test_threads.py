"""How many threads torch has, and how they wait: what is written, what was asked, what is fair."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from agentopd.running.config import RunConfig, thread_count
from agentopd.running.reading import load_config, parse_config
from agentopd.running.run import Run
from agentopd.running.studies.study import _environment


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Eight cores, and nothing asked."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS")
    return monkeypatch


def test_what_is_written_counts_before_what_is_asked(cores: pytest.MonkeyPatch) -> None:
    for asked in ("1", "3", "3,2"):
        cores.setenv("OMP_NUM_THREADS", asked)
        assert thread_count(None) == thread_count(None, processes=4) == int(asked[0])
        assert thread_count(5) == thread_count(5, processes=4) == 5


def test_otherwise_processes_share_the_cores_and_one_alone_takes_two(
    cores: pytest.MonkeyPatch,
) -> None:
    assert [thread_count(None, n) for n in (1, 2, 3, 8, 20)] == [2, 4, 2, 1, 1]
    cores.setenv("OMP_NUM_THREADS", "many")  # libgomp does not understand it either
    assert thread_count(None) == 2
    cores.setattr(os, "sched_getaffinity", lambda _: {3})
    assert thread_count(None) == 1


@pytest.mark.parametrize(("written", "expected"), [({}, 1), ({"threads": 2}, 2)])
def test_a_run_sets_them(
    written: dict[str, Any], expected: int, tiny_model: Path, tmp_path: Path
) -> None:
    """The tests themselves ask for one."""
    data = {"student": {"path": str(tiny_model)}, "env": {"id": "agentopd/Sokoban-v0"}, **written}
    before = torch.get_num_threads()
    try:
        Run(parse_config(data), tmp_path / "run", False, lambda _: None)
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_workers_inherit_what_was_asked(cores: pytest.MonkeyPatch) -> None:
    config: RunConfig = load_config("configs/quickstart.yaml")
    cores.delenv("OMP_WAIT_POLICY")
    assert _environment(config, 2) == {"OMP_NUM_THREADS": "4", "OMP_WAIT_POLICY": "PASSIVE"}
    cores.setenv("OMP_NUM_THREADS", "1")
    cores.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert _environment(config, 2) == {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "ACTIVE"}


@pytest.mark.parametrize("asked", [None, "ACTIVE"])
def test_the_command_has_threads_sleep_while_they_wait_unless_told_otherwise(
    asked: str | None,
) -> None:
    code = (
        "import sys, os, agentopd.cli as c; sys.argv = ['agentopd', '--version']\n"
        "try: c.app()\nfinally: print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": asked} if asked else {}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-2:] == [asked or "PASSIVE", "False"]
