"""Teachers on servers that are vLLM, against the same model loaded here."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from http_servers import free_port
from scenes import Scene, assert_same, episodes
from test_served_teacher import taught_by

from agentopd.models.folders import model_folder
from agentopd.models.model import ModelSettings, load_model
from agentopd.serving.http import HttpClient, ServerError, ServerSettings
from agentopd.teacher import Teacher

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="there is no vLLM: make test-vllm"
)
STUDENT, TEACHER = "zoo:sokoban-easy", "zoo:sokoban-expert"
PATIENCE = 300.0
"""Seconds that a server may take to start."""
POOLING = (
    "--runner", "pooling", "--convert", "embed",
    "--pooler-config", json.dumps({"task": "token_embed", "use_activation": False}),
)  # fmt: skip


@contextmanager
def serving(*arguments: str) -> Iterator[str]:
    """The address of a server of the teacher, once it is ready; it is gone at the end."""
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(model_folder(TEACHER)), "--served-model-name", "expert"]
    command += ["--port", str(port), "--host", "127.0.0.1", "--dtype", "float32"]
    command += ["--enforce-eager", "--max-model-len", "1024", *arguments]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, **quiet) as process:
        try:
            _wait_for(url, process)
            yield url
        finally:
            process.terminate()
            process.wait()


def _wait_for(url: str, process: subprocess.Popen[Any]) -> None:
    until = time.monotonic() + PATIENCE
    with HttpClient(ServerSettings(url=url)) as asking:
        while time.monotonic() < until:
            assert process.poll() is None, "the server ended"
            try:
                asking.get("/health", patience=0)
                return
            except ServerError:
                time.sleep(1)
    raise AssertionError("the server did not start")


@pytest.fixture(scope="module")
def here() -> Scene:
    """A step under the teacher as it is loaded here."""
    return _under({"kind": "external", "source": {"path": TEACHER}})


def _under(told: dict[str, Any]) -> Scene:
    student = load_model(ModelSettings(path=STUDENT))
    teacher = Teacher.model_validate(told)
    teacher.prepare(student)
    played = episodes(student.vocabulary)
    return Scene(student, teacher, played, taught_by(teacher, student, played))


@pytest.fixture(scope="module")
def pooling() -> Iterator[str]:
    with serving(*POOLING) as url:
        yield url


@pytest.mark.parametrize(("wire", "within"), [("float32", 1e-4), ("float16", 1e-2)])
def test_hidden_states_give_the_divergence_over_the_whole_vocabulary(
    here: Scene, pooling: str, wire: str, within: float
) -> None:
    served = {"kind": "served", "server": pooling, "source": {"path": TEACHER}, "verify": True}
    there = _under({**served, "wire": wire})
    (found, by_found, _), (expected, by_expected, _) = there.learn(), here.learn()
    assert found.loss is not None and expected.loss is not None and expected.loss > 0.1
    assert abs(found.loss - expected.loss) <= within * expected.loss
    assert by_found is not None and by_expected is not None
    assert_same(by_found, by_expected, within=within)
    for lesson, own in zip(there.lessons, here.lessons, strict=True):
        assert lesson.hidden_NH is not None and own.hidden_NH is not None
        said, meant = (
            scene.teacher.speaker([x]).logits(99)(slice(0, 99)).log_softmax(-1)
            for scene, x in ((there, lesson), (here, own))
        )
        assert (said - meant).abs().max() <= within * 10


def test_a_pooling_server_tells_no_log_probabilities(pooling: str) -> None:
    told = {"url": pooling, "patience": 0}
    with pytest.raises(ServerError, match="/v1/completions: status 404"):
        _under({"kind": "logprobs", "server": told, "source": {"path": TEACHER}})


@pytest.fixture(scope="module")
def completions() -> Iterator[str]:
    with serving("--max-logprobs", "20", "--no-enable-chunked-prefill") as url:
        yield url


@pytest.mark.parametrize("asking", ["prompt_logprobs", "echo"])
@pytest.mark.parametrize(
    "method",
    [
        "divergence={kind: reverse_kl, support: sampled}",
        "divergence={kind: jsd, support: {kind: teacher_top_k, k: 20}}",
    ],
)
def test_log_probabilities_give_what_they_tell(
    here: Scene, completions: str, asking: str, method: str
) -> None:
    told = {"kind": "logprobs", "server": completions, "source": {"path": TEACHER}}
    there = _under({**told, "top": 20, "asking": asking})
    assert all(
        torch.equal(torch.from_numpy(x.trajectory.trainable), torch.from_numpy(y.trainable))
        for x, y in zip(there.lessons, here.trajectories, strict=True)
    )
    assert_same(there.gradient(method), here.gradient(method), within=1e-4)


def test_more_than_the_server_tells_is_refused(completions: str) -> None:
    told = {"kind": "logprobs", "server": completions, "source": {"path": TEACHER}, "top": 64}
    with pytest.raises(ServerError, match="/v1/completions: status 400"):
        _under(told)


def test_a_server_that_is_killed_ends_the_waiting(here: Scene) -> None:
    """The last test: its server is its own."""
    with serving(*POOLING) as url:
        teacher = Teacher.model_validate(
            {"kind": "served", "server": {"url": url, "patience": 1.0}, "source": {"path": TEACHER}}
        )
        teacher.prepare(here.student)
    began = time.monotonic()
    with pytest.raises(ServerError, match="nothing listens there"):
        taught_by(teacher, here.student, here.trajectories)
    assert time.monotonic() - began < PATIENCE
