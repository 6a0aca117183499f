"""A vLLM server: the same answers as in process, and what is said when it dies."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_vllm import CONTEXT, SMALL, gap, move, requests, serving

from agentopd.models.model import LanguageModel, ModelSettings, load_model
from agentopd.rollout.sampler import SamplerFailed, answers
from agentopd.rollout.vllm.engines import VllmEngine, VllmServer
from agentopd.running.reading import load_config
from agentopd.running.train import train

Server = tuple[str, subprocess.Popen[bytes]]
STEPS = 6


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(SMALL, CONTEXT) as found:
        yield found


def test_it_says_what_the_engine_in_process_says(small: LanguageModel, server: Server) -> None:
    asked = requests(small)
    with VllmServer(url=server[0]).open(small, CONTEXT) as sampler:
        served = answers(sampler, asked)
    with VllmEngine().open(small, CONTEXT) as sampler:
        own = answers(sampler, asked)
    assert [said.ids for said in served] == [said.ids for said in own]
    assert max(gap(small, *pair) for pair in zip(asked, served, strict=True)) <= 1e-4


def test_its_weights_follow(server: Server) -> None:
    model = load_model(ModelSettings(path=SMALL))
    with VllmServer(url=server[0]).open(model, CONTEXT) as sampler:
        gaps = []
        for _ in range(20):
            move(model)
            gaps.append((sampler.sync(model) or {})["sync_gap_most"])
        assert max(gaps) <= 1e-4, gaps
        found = zip(requests(model), answers(sampler, requests(model)), strict=True)
        assert max(gap(model, *pair) for pair in found) <= 1e-4


def test_a_student_comes_as_far_with_each_sampler(server: Server, tmp_path: Path) -> None:
    """The intervals of 64 held-out tasks overlap, and each has learnt something."""
    found = {}
    for sampler in ("transformers", "vllm", f"{{kind: vllm_server, url: '{server[0]}'}}"):
        changes = [
            *("study=null", f"steps={STEPS}", "threads=1", "rollout.tasks=16"),
            *(f"rollout.max_context={CONTEXT}", "evaluate.episodes=64", f"sampler={sampler}"),
        ]
        summary = train(load_config("quickstart", changes), tmp_path / f"run-{len(found)}")
        found[sampler] = summary["evaluation"]["interval"]
        assert summary["success_after"] > summary["success_before"] + 0.1, summary
    low, high = max(x[0] for x in found.values()), min(x[1] for x in found.values())
    assert low <= high, found


def test_an_engine_that_is_killed_ends_the_waiting(small: LanguageModel, server: Server) -> None:
    """The last test: what it leaves is no server."""
    url, process = server
    with VllmServer(url=url, seconds=20, patience=5).open(small, CONTEXT) as sampler:
        sampler.submit(requests(small, max_tokens=400))
        for child in _children(process.pid):
            os.kill(child, signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(SamplerFailed, match="does not answer"):
            while True:
                sampler.ready()
        assert time.monotonic() - began < 120


def _children(parent: int) -> list[int]:
    told = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(pid) for pid in told.split()]
