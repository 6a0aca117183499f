"""vLLM in this process: the engine, and what it may not do to the process."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import random
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agentopd.rollout.sampler import SamplerFailed
from agentopd.serving.options import ALWAYS, on_cpu

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine is here, not in a process of its own
    "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),  # it logs to stdout
}


def check_installed() -> None:
    """That vLLM can be imported; it is not imported yet.

    Raises:
        ValueError: it cannot.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ValueError(
            "sampler: vllm needs vLLM: pip install 'agentopd[vllm]' in an environment of its own, "
            "as it pins torch and transformers to versions that are not agentopd's; or let a "
            "server run it there, sampler={kind: vllm_server, url: ...}"
        )


class EmbeddedEngine:
    """vLLM's engine in this process, stepped by hand.

    Random states, environment variables and threads of the process stay as they are. Whatever ends
    a step early, Ctrl-C too, calls off all requests: one that stayed would be answered among later
    ones, or keep the engine waiting for ever.

    Args:
        folder: of the model, of which the configuration alone is read.
        options: of `vllm.LLM`.

    Raises:
        SamplerFailed: the engine does not start.
    """

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        self._asked = 0
        self._shares = torch.distributed.is_initialized()
        with _unchanged(), warnings.catch_warnings(action="ignore"):
            os.environ.update(_ENVIRONMENT)
            vllm = _imported("vllm")
            self._parameters: Any = vllm.SamplingParams
            cpu = _imported("vllm.platforms").current_platform.is_cpu()
            own = {**ALWAYS, "disable_log_stats": True}
            own |= on_cpu(options["max_model_len"]) if cpu else {}
            try:
                self._llm: Any = vllm.LLM(str(folder), **{**own, **options})
            except Exception as error:  # whatever is not as it expects
                raise SamplerFailed(f"vLLM does not start with {folder}: {_line(error)}") from error

    def add(self, ids: Sequence[int], parameters: dict[str, Any]) -> str:
        """Ask to go on from `ids`; the name under which the answer comes.

        Raises:
            ValueError: vLLM refuses the parameters.
        """
        self._asked += 1
        name = str(self._asked)
        with _unchanged():
            chosen = self._parameters(**parameters)
            self._llm.llm_engine.add_request(name, {"prompt_token_ids": list(ids)}, chosen)
        return name

    def step(self) -> list[Any]:
        """Write another token of every answer; the outputs that have ended.

        Raises:
            SamplerFailed: the engine raised; nothing is under way any more.
        """
        try:
            with _unchanged():
                return [x for x in self._llm.llm_engine.step() if x.finished]
        except Exception as error:  # the engine's own code, whatever it raises
            self.abort()
            raise SamplerFailed(f"vLLM failed in the middle of a step: {_line(error)}") from error
        except BaseException:  # Ctrl-C
            self.abort()
            raise

    def abort(self, names: Sequence[str] | None = None) -> None:
        """Call off these requests, or all."""
        engine = self._llm.llm_engine
        with _unchanged():
            if names is None:
                states = engine.output_processor.request_states  # by vLLM's own names
                engine.abort_request(list(states), internal=True)
            else:
                engine.abort_request(list(names))

    def load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Take over weights, and forget what was computed with others. Nothing is under way.

        Raises:
            SamplerFailed: they do not fit, or something of the old ones is still in use.
        """
        try:
            with _unchanged():
                rpc = {"weights_iterator": iter(weights)}
                self._llm.collective_rpc("reload_weights", kwargs=rpc)
                forgot = self._llm.reset_prefix_cache()
        except Exception as error:  # as in `step`
            raise SamplerFailed(f"vLLM does not take the weights: {_line(error)}") from error
        if not forgot:
            raise SamplerFailed(
                "vLLM keeps keys and values of the old weights, as if answers were under way: "
                "start again with agentopd resume, and please report this"
            )

    def sleep(self) -> None:
        """Leave the GPU to others; the weights wait in the machine's memory."""
        with _unchanged():
            self._llm.sleep(level=1)

    def wake(self) -> None:
        """Take the GPU back."""
        with _unchanged():
            self._llm.wake_up()

    def close(self) -> None:
        """Give everything back; process groups that were there before stay to those who use them,
        such as an engine that was opened earlier.
        """
        with _unchanged():
            del self._llm
            gc.collect()
            if not self._shares:
                _imported("vllm.distributed").cleanup_dist_env_and_memory()


def _imported(name: str) -> Any:
    """A module of vLLM, which is imported when it is used alone."""
    return importlib.import_module(name)


@contextmanager
def _unchanged() -> Iterator[None]:
    """Random states, environment and threads are afterwards what they were before.

    vLLM seeds all generators when it starts, and draws from torch's for each token; it puts a
    function that does nothing in the place of `torch.set_num_threads`; and what it sets in the
    environment every process would inherit that is started later.
    """
    environment, set_threads = dict(os.environ), torch.set_num_threads
    threads, python, numpy = torch.get_num_threads(), random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_num_threads = set_threads
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if os.environ != environment:
            os.environ.clear()
            os.environ.update(environment)


def _line(error: Exception) -> str:
    said = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
