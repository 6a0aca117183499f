"""vLLM itself, as `make test-vllm` installs it; where it is not, these tests are left out."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from live_vllm import SMALL

from agentopd.models.model import LanguageModel, ModelSettings, load_model

# What vLLM reads once: whole GiB for keys and values, and no compiler for a counter.
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """None of them needs vLLM to be found, and its own warnings are none of theirs."""
    found = importlib.util.find_spec("vllm")
    there = found is not None and found.origin is not None  # this folder has the same name
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore"))
            if not there:
                item.add_marker(pytest.mark.skip(reason="there is no vLLM: make test-vllm"))


@pytest.fixture(scope="session")
def small() -> LanguageModel:
    """An embedded student; it is not to be moved."""
    return load_model(ModelSettings(path=SMALL))


@pytest.fixture(scope="session")
def reshaped(
    small: LanguageModel, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[bool, int], str]:
    """The folder of the student with its embeddings tied or not, and with rows for no token."""

    def make(tied: bool, padding: int) -> str:
        folder = tmp_path_factory.mktemp("models") / f"{tied}-{padding}"
        model = load_model(ModelSettings(path=SMALL))
        if tied:
            model.module.config.tie_word_embeddings = True
            model.module.tie_weights()
        if padding:
            model.module.resize_token_embeddings(model.vocabulary + padding, mean_resizing=False)
        model.save(folder)
        return str(folder)

    return make
