"""Runs that die in the middle of a step, and whether what went on is what would have been."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from warm import python

from agentopd.running.checkpoint import latest


def checkpoint_of(out: Path) -> Path:
    found = latest(out / "checkpoints")
    assert found is not None
    return found


def tensors_of(out: Path) -> dict[str, torch.Tensor]:
    files = sorted(checkpoint_of(out).rglob("*.safetensors"))
    return {f"{file.stem}/{name}": t for file in files for name, t in load_file(file).items()}


def lines_of(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "stages")} for line in lines]


def assert_same_runs(one: Path, other: Path) -> None:
    found, expected = tensors_of(one), tensors_of(other)
    assert found.keys() == expected.keys()
    assert [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)] == []
    assert lines_of(one) == lines_of(other)


KILLED = """
import json, os, signal, sys
from pathlib import Path
from agentopd.learning.learner import Learner
from agentopd.running.reading import parse_config
from agentopd.running.train import train

apply = Learner._apply

def dying(self, norm, step):
    if step == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return apply(self, norm, step)

Learner._apply = dying
train(parse_config(json.loads(sys.argv[1]), sys.argv[3:]), Path(sys.argv[2]))
"""


def train_and_die(data: dict[str, Any], out: Path, overrides: Sequence[str] = ()) -> None:
    """Train in a process of its own, killed in the third step: gradients are there, and the
    optimizer is about to step.
    """
    died = python("-c", KILLED, json.dumps(data), str(out), *overrides)
    assert died.returncode == -signal.SIGKILL, died.stderr
