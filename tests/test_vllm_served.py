"""A served sampler: what it asks, what it gives, and what becomes of a server that fails."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_vllm import FakeServer
from http_servers import answering, free_port
from scripted import alone, random_model, toy_tokenizer

from agentopd.models.model import LanguageModel
from agentopd.rollout.sampler import Request, Sampler, SamplerFailed, answers
from agentopd.rollout.vllm.engines import VllmServer
from agentopd.rollout.vllm.parameters import seed_of
from agentopd.serving.http import ServerError
from agentopd.serving.server import command

CONTEXT = 64
PATIENCE = 60.0
"""Seconds that only a failing test takes."""


@pytest.fixture
def student() -> LanguageModel:
    return random_model(toy_tokenizer())


@pytest.fixture
def server(student: LanguageModel) -> FakeServer:
    return FakeServer(student)


@contextmanager
def _opened(
    server: FakeServer, student: LanguageModel, folder: Path, **settings: Any
) -> Iterator[Sampler]:
    with (
        answering(server) as url,
        VllmServer(url=url, folder=str(folder), **settings).open(student, CONTEXT) as sampler,
    ):
        yield sampler


def _requests(count: int = 6, temperature: float = 0.7) -> list[Request]:
    return [Request(key, [20 + key, 40], (0, key), 8, temperature) for key in range(count)]


def _assert_said_by(student: LanguageModel, sampler: Sampler, temperature: float = 0.7) -> None:
    """The sampler's log-probabilities are those of the student's plain forward pass."""
    requests = _requests(temperature=temperature)
    for request, said in zip(requests, answers(sampler, requests), strict=True):
        hidden_TH = alone(student, [*request.ids, *said.ids])[len(request.ids) - 1 : -1]
        own_TV = torch.log_softmax(student.logits(hidden_TH) / temperature, -1)
        own_T = own_TV.gather(1, torch.tensor(said.ids)[:, None]).squeeze(1)
        torch.testing.assert_close(torch.tensor(said.logprobs), own_T, rtol=0, atol=1e-3)
        assert said.cut == (said.ids[-1] not in student.stop_ids)


def test_answers_are_the_students_whose_weights_come_by_file(
    server: FakeServer, student: LanguageModel, tmp_path: Path
) -> None:
    with _opened(server, student, tmp_path) as sampler:
        _assert_said_by(student, sampler)
        with torch.no_grad():
            for weight in student.module.parameters():
                weight.mul_(1.2)
        numbers = sampler.sync(student)
        assert numbers is not None and numbers["sync_gap_most"] < 1e-4
        _assert_said_by(student, sampler)
    assert [*tmp_path.iterdir()] == []
    assert not server.paused


def test_a_sync_that_loses_a_weight_is_seen(
    server: FakeServer, student: LanguageModel, tmp_path: Path
) -> None:
    with _opened(server, student, tmp_path) as sampler:
        server.engine.lost = {"model.layers.1.mlp.down_proj.weight"}
        with torch.no_grad():
            student.module.get_submodule("model.layers.1.mlp.down_proj").weight.mul_(1.1)  # type: ignore[union-attr]
        with pytest.raises(SamplerFailed, match="nats off the student"):
            sampler.sync(student)
        server.engine.lost = set()
        sampler.sync(student)
    assert [*tmp_path.iterdir()] == []


def test_a_cache_that_is_not_emptied_is_seen(
    server: FakeServer, student: LanguageModel, tmp_path: Path
) -> None:
    server.forgets = False
    with (
        pytest.raises(SamplerFailed, match="keys and values of older weights"),
        _opened(server, student, tmp_path),
    ):
        pass


def test_an_answer_of_other_weights_is_refused(
    server: FakeServer, student: LanguageModel, tmp_path: Path
) -> None:
    with _opened(server, student, tmp_path) as sampler:
        server.said = "another-7"
        with pytest.raises(SamplerFailed, match="weights of another-7"):
            answers(sampler, _requests(1))


def test_a_busy_server_is_asked_again_with_the_same_seed(
    server: FakeServer, student: LanguageModel, tmp_path: Path
) -> None:
    with _opened(server, student, tmp_path) as sampler:
        expected = answers(sampler, _requests(3))
        server.refusing.extend([503, 429])
        assert answers(sampler, _requests(3)) == expected
        assert not server.refusing


def test_a_server_that_is_gone_ends_the_waiting(
    server: FakeServer, student: LanguageModel, tmp_path: Path
) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ServerError, match="nothing listens there"):
        VllmServer(url=nowhere, patience=0).check(None)  # type: ignore[arg-type]
    with _opened(server, student, tmp_path, patience=0.3) as sampler:
        server.refusing.extend([503] * 1_000)
        with pytest.raises(SamplerFailed, match="does not answer"):
            answers(sampler, _requests())
        server.refusing.clear()
        assert len(answers(sampler, _requests())) == 6


def test_an_answer_that_is_forgotten_is_never_given(
    server: FakeServer, student: LanguageModel, tmp_path: Path
) -> None:
    let = threading.Event()
    with _opened(server, student, tmp_path) as sampler:
        server.before = lambda: let.wait(PATIENCE)
        sampler.submit(_requests(3))
        with pytest.raises(ValueError, match="being answered"):
            sampler.submit(_requests(1))
        sampler.forget([0, 2])
        let.set()
        found = [a.key for _ in range(3) for a in sampler.ready()]
        assert found == [1]
        assert sampler.ready() == []


def test_it_comes_back_when_it_is_woken_or_its_time_is_over(
    server: FakeServer, student: LanguageModel, tmp_path: Path
) -> None:
    let, wake = threading.Event(), threading.Event()
    with _opened(server, student, tmp_path) as sampler:
        server.before = lambda: let.wait(PATIENCE)
        sampler.submit(_requests(1))
        assert sampler.ready(seconds=0.01) == []
        wake.set()
        assert sampler.ready(wake) == []
        wake.clear()
        threading.Timer(0.05, let.set).start()
        began = time.monotonic()
        (answer,) = sampler.ready(wake)
        assert answer.key == 0 and time.monotonic() - began < PATIENCE


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (Request(3, [], (0,), 8), "no token"),
        (Request(3, [10_000], (0,), 8), "another tokenizer"),
        (Request(3, [-1], (0,), 8), "another tokenizer"),
        (Request(3, [5] * 60, (0,), 8), "more than the 64"),
        (Request(3, [5], (0,), 8, 2.5), "temperatures from"),
        (Request(3, [5], (0,), 8, 0.001), "temperatures from"),
    ],
)
def test_what_vllm_would_not_survive_is_never_asked(
    server: FakeServer, student: LanguageModel, tmp_path: Path, request_: Request, why: str
) -> None:
    with _opened(server, student, tmp_path) as sampler:
        asked = len(server.calls)
        with pytest.raises(ValueError, match=why):
            sampler.submit([Request(1, [5], (0,), 8), request_])
        assert len(server.calls) == asked


def test_a_server_that_reads_too_little_is_refused(
    server: FakeServer, student: LanguageModel, tmp_path: Path
) -> None:
    server.longest = CONTEXT - 1
    with (
        pytest.raises(ServerError, match=f"--context {CONTEXT}"),
        _opened(server, student, tmp_path),
    ):
        pass


def test_files_of_learners_that_were_killed_are_deleted(
    server: FakeServer, student: LanguageModel, tmp_path: Path
) -> None:
    """Those of the living, and of other machines, stay."""
    name, dead = f"agentopd-weights-{os.uname().nodename}", 2**22 + 1
    for left in (f"{name}-{dead}-x-1", f"{name}-{os.getpid()}-x-1", f"{name}2-{dead}-x-1", "else"):
        (tmp_path / left).touch()
    with _opened(server, student, tmp_path):
        kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == sorted([f"{name}-{os.getpid()}-x-1", f"{name}2-{dead}-x-1", "else"])


def test_seeds_are_what_vllm_takes_and_differ() -> None:
    seeds = [seed_of((0, episode, turn)) for episode in range(50) for turn in range(20)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**62 for seed in seeds)
    assert seed_of((3, 1, 4)) == seed_of((3, 1, 4))


def test_on_processors_a_server_takes_no_more_memory_than_it_is_given(tiny_model: Path) -> None:
    """vLLM alone does not start there unless most of the machine's memory is free."""
    told = [
        command(str(tiny_model), "127.0.0.1", 1, CONTEXT, "float32", cpu) for cpu in (True, False)
    ]
    on_processors, on_a_gpu = told
    place = on_processors.index("--kv-cache-memory-bytes")
    assert int(on_processors[place + 1]) == 2**30
    assert "--kv-cache-memory-bytes" not in on_a_gpu
