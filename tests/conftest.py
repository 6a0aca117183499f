"""What holds for every test: one thread, no network, no display, the same examples each time."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

# Before anything imports torch, transformers or matplotlib, which read these once. The tensors of
# the tests are tiny: more threads cost time, and change the order of sums.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
# Tables are as wide as in a pipe, whatever terminal the tests are started from.
os.environ.pop("COLUMNS", None)

# A shell's job in the background is started with Ctrl-C ignored, and so would be all it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from hypothesis import HealthCheck, settings

# Without a deadline, or a limit of time for making examples, which a busy machine misses;
# derandomized, so that the gates judge the change.
settings.register_profile(
    "agentopd",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("agentopd")


_FIRST = ("rows_run", "notices", "notices_own", "stopped_studies", "learning", "zoo", "launched")
"""Files that take longest: what begins last is short, and no worker idles while another ends."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files begin; all others keep their order (of --no-loadscope-reorder)."""
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in _FIRST)


@pytest.fixture(scope="module")
def warm_workers() -> Iterator[None]:
    """Studies have workers that are forked where everything is imported; see `warm`."""
    from warm import WARM

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agentopd.running.studies.workers.get_context", lambda _: WARM)
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small Qwen3 with random weights, its tokenizer and chat template."""
    import torch

    from agentopd.base.console import quiet_libraries
    from agentopd.zoo.build import blank_model
    from agentopd.zoo.tokenizer import train_tokenizer

    quiet_libraries()
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tokenizer = train_tokenizer(["up down left right", "Sokoban: push $ onto .", "#_.$@_#"], 300)
    torch.manual_seed(0)
    blank_model(tokenizer, hidden=16, intermediate=32, layers=1, heads=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
