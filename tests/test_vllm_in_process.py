"""vLLM in this process, with a package in its place that behaves as the real one was seen to."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fake_vllm import FakeEngine
from scripted import random_model, toy_tokenizer

from agentopd.base.parts import Part
from agentopd.models.model import LanguageModel
from agentopd.rollout.engine import InferenceEngine
from agentopd.rollout.sampler import Completion, Request, SamplerFailed, answers
from agentopd.rollout.vllm import engines
from agentopd.rollout.vllm.engines import VllmEngine
from agentopd.rollout.vllm.in_process import VllmSampler


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def _draw() -> tuple[float, float, float]:
    return torch.rand(1).item(), random.random(), np.random.random()


@dataclass
class FakeLLM:
    """Writes a token of every request a step; what is not called off stays, as in vLLM.

    `fails` is called before each step.
    """

    engine: FakeEngine
    options: dict[str, Any] = field(default_factory=dict)
    requests: dict[str, dict[str, Any]] = field(default_factory=dict)
    fails: Callable[[], object] = lambda: None
    forgets: bool = True

    @property
    def llm_engine(self) -> FakeLLM:
        return self

    @property
    def output_processor(self) -> Any:
        return SimpleNamespace(request_states={f"inner-{name}": None for name in self.requests})

    def add_request(self, name: str, prompt: dict[str, Any], told: dict[str, Any]) -> None:
        ids = prompt["prompt_token_ids"]
        if "prompt_logprobs" in told:
            said = Completion([0], [0.0], cut=True)
        else:
            said = self.engine.answer(ids, told)
        self.requests[name] = {"ids": ids, "told": told, "said": said, "left": len(said.ids)}

    def step(self) -> list[Any]:
        _draw()
        os.environ["VLLM_SAID"] = "something"
        self.fails()
        for state in self.requests.values():
            state["left"] -= 1
        ended = [name for name, state in self.requests.items() if state["left"] <= 0]
        return [self._output(name, self.requests.pop(name)) for name in ended]

    def abort_request(self, names: list[str], internal: bool = False) -> None:
        for name in names:
            self.requests.pop(name.removeprefix("inner-") if internal else name)

    def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> None:
        assert method == "reload_weights" and not self.requests
        self.engine.load(kwargs["weights_iterator"])

    def reset_prefix_cache(self) -> bool:
        return self.forgets

    def _output(self, name: str, state: dict[str, Any]) -> Any:
        ids, said = state["ids"], state["said"]
        pairs = zip(said.ids, said.logprobs, strict=True)
        output = SimpleNamespace(
            token_ids=tuple(said.ids),
            logprobs=[{i: SimpleNamespace(logprob=p)} for i, p in pairs],
            finish_reason="length" if said.cut else "stop",
        )
        scores = zip(ids[1:], self.engine.scores(ids), strict=True)
        asked = "prompt_logprobs" in state["told"]
        prompt = [None, *({i: SimpleNamespace(logprob=p)} for i, p in scores)] if asked else None
        return SimpleNamespace(
            request_id=name, finished=True, outputs=[output], prompt_logprobs=prompt
        )


@pytest.fixture
def student() -> LanguageModel:
    return random_model(toy_tokenizer())


@pytest.fixture
def llm(student: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> FakeLLM:
    """What the package in vLLM's place makes; it does to the process what vLLM does."""
    made = FakeLLM(FakeEngine(student))

    def start(model: str, **options: Any) -> FakeLLM:
        assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
        _seed(0)
        torch.set_num_threads = lambda threads: None
        made.options = options
        return made

    modules = {
        "vllm": {"LLM": start, "SamplingParams": dict},
        "vllm.platforms": {"current_platform": SimpleNamespace(is_cpu=lambda: True)},
        "vllm.distributed": {"cleanup_dist_env_and_memory": lambda: made.options.clear()},
    }
    for name, content in modules.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(engines, "model_folder", lambda path: path)
    monkeypatch.setattr(engines, "base_path", lambda path: path)
    return made


@contextmanager
def _opened(student: LanguageModel, **settings: Any) -> Iterator[VllmSampler]:
    with VllmEngine(**settings).open(student, 64) as sampler:
        assert isinstance(sampler, VllmSampler)
        yield sampler


def _requests(count: int = 6) -> list[Request]:
    return [Request(key, [20 + key, 40], (0, key), 2 + key) for key in range(count)]


def test_answers_are_handed_over_as_they_end_and_the_next_turn_joins(
    llm: FakeLLM, student: LanguageModel
) -> None:
    with _opened(student) as sampler:
        sampler.submit(_requests())
        first = sampler.ready()
        assert first and len(llm.requests) == 6 - len(first)
        said = first[0].completion
        ids = [20 + first[0].key, 40, *said.ids, 9]
        sampler.submit([Request(first[0].key, ids, (1, 0), 3)])
        assert len(llm.requests) == 7 - len(first)
        keys = [a.key for a in first]
        while len(keys) < 7:
            keys += [a.key for a in sampler.ready()]
        assert sorted(set(keys)) == [0, 1, 2, 3, 4, 5]
        assert sampler.ready() == []


def test_the_process_stays_as_it_was(llm: FakeLLM, student: LanguageModel) -> None:
    _seed(5)
    threads, set_threads = torch.get_num_threads(), torch.set_num_threads
    environment = {**os.environ}
    expected = _draw()
    _seed(5)
    with _opened(student) as sampler:
        engine = sampler.engine
        for request in _requests():
            engine.add(request.ids, sampler.bounds.parameters(request))
        while not engine.step():
            pass
        found = _draw()
    assert found == expected
    assert {**os.environ} == environment
    assert torch.set_num_threads is set_threads and torch.get_num_threads() == threads


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_step_that_breaks_off_leaves_nothing_under_way(
    llm: FakeLLM, student: LanguageModel, error: type[BaseException]
) -> None:
    def fail() -> None:
        raise error("in the middle")

    with _opened(student) as sampler:
        expected = answers(sampler, _requests())
        llm.fails = fail
        sampler.submit(_requests())
        raised = KeyboardInterrupt if error is KeyboardInterrupt else SamplerFailed
        with pytest.raises(raised, match="in the middle"):
            sampler.ready()
        assert llm.requests == {}
        llm.fails = lambda: None
        assert sampler.ready() == []
        assert answers(sampler, _requests()) == expected


def test_forgotten_answers_are_called_off(llm: FakeLLM, student: LanguageModel) -> None:
    with _opened(student) as sampler:
        sampler.submit(_requests(3))
        with pytest.raises(ValueError, match="being answered"):
            sampler.submit(_requests(1))
        sampler.forget([0, 2, 17])
        assert len(llm.requests) == 1
        assert [a.key for a in sampler.ready()] == [1]
        wake = Event()
        wake.set()
        sampler.submit(_requests(1))
        assert sampler.ready(wake) == sampler.ready(seconds=0) == []


def test_a_sync_brings_all_weights_and_a_broken_one_is_seen(
    llm: FakeLLM, student: LanguageModel
) -> None:
    with _opened(student) as sampler:
        sampler.submit(_requests(2))
        with torch.no_grad():
            student.output.weight.mul_(1.3)
        numbers = sampler.sync(student)
        assert llm.requests == {} and sampler.ready() == []
        assert numbers["sync_gap_most"] < 1e-4 and numbers["sync_seconds"] > 0
        with torch.no_grad():
            student.output.weight.mul_(1.3)
        llm.engine.lost = {"lm_head.weight"}
        with pytest.raises(SamplerFailed, match="nats off the student"):
            sampler.sync(student)
        llm.engine.lost, llm.forgets = set(), False
        with pytest.raises(SamplerFailed, match="keys and values of the old weights"):
            sampler.sync(student)


def test_an_id_that_the_embeddings_do_not_have_never_reaches_the_engine(
    llm: FakeLLM, student: LanguageModel
) -> None:
    with _opened(student) as sampler:
        with pytest.raises(ValueError, match="another tokenizer"):
            sampler.submit([*_requests(1), Request(7, [student.vocabulary], (0,), 4)])
        assert llm.requests == {}


def test_the_engine_is_started_for_this_student(llm: FakeLLM, student: LanguageModel) -> None:
    with _opened(student):
        assert llm.options["max_model_len"] == 64
        assert llm.options["dtype"] == "float32"
        assert llm.options["logprobs_mode"] == "processed_logprobs"
        assert llm.options["load_format"] == "dummy"
        assert "hf_overrides" not in llm.options
    assert llm.options == {}, "it was closed"
    student.module.resize_token_embeddings(student.vocabulary + 7, mean_resizing=False)
    llm.engine = FakeEngine(random_model(toy_tokenizer()))
    with _opened(student, options={"seed": 3}):
        assert llm.options["hf_overrides"] == {"vocab_size": student.vocabulary}
        assert llm.options["seed"] == 3


WITHOUT = """
import sys
from agentopd.running.reading import parse_config
config = parse_config({"env": {"id": "agentopd/Sokoban-v0"}, "sampler": sys.argv[1]})
assert not any(name.partition(".")[0] == "vllm" for name in sys.modules), "it came too early"
config.sampler.check(config.student)
"""


def test_without_vllm_one_line_says_what_to_install() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, "vllm"], capture_output=True, text=True, check=False
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ValueError: sampler: vllm needs vLLM: pip install 'agentopd[vllm]'")


def test_settings_are_a_part_like_any_other() -> None:
    found = InferenceEngine.model_validate("vllm")
    assert isinstance(found, Part) and found.model_dump()["kind"] == "vllm"
    with pytest.raises(ValueError, match=r"sampler\.address"):
        InferenceEngine.model_validate(
            {"kind": "vllm_server", "url": "http://localhost:1", "transport": "nccl"}
        )
