"""The kinds of `sampler` that vLLM runs, and their settings."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from agentopd.models.folders import base_path, model_folder
from agentopd.models.model import LanguageModel, ModelSettings
from agentopd.rollout.engine import InferenceEngine
from agentopd.rollout.sampler import Sampler
from agentopd.rollout.vllm.agreement import Agreement
from agentopd.rollout.vllm.in_process import VllmSampler
from agentopd.rollout.vllm.parameters import Bounds
from agentopd.rollout.vllm.process import EmbeddedEngine, check_installed
from agentopd.rollout.vllm.served import ServedSampler
from agentopd.serving.http import HttpClient, ServerSettings
from agentopd.serving.models import served_models
from agentopd.serving.options import cut_to
from agentopd.serving.transports import FileTransport, IpcTransport, NcclTransport, Transport


class VllmEngine(InferenceEngine, kind="vllm"):
    """vLLM in this process, with weights of its own beside the student's.

    Its log-probabilities are those of the distribution that is sampled from, and each answer has
    its own seed. It reads the student's configuration and takes its weights from memory, so that
    nothing is written.

    Args:
        dtype: of its weights and passes; `auto` is the student's. In another than the learner's,
            sampler and learner differ by more than rounding: see `weight: truncated_ratio`.
        max_num_seqs: answers that are written at once.
        kv_cache_bytes: memory for keys and values. It should hold all conversations that are in
            play, or each of their turns reads everything again. By default 1 GiB on processors, and
            on a GPU what `gpu_memory_utilization` leaves.
        block_size: tokens of a block of that memory; contexts share whole blocks alone. By default
            32 on processors, which take multiples of 32, and vLLM's own on a GPU.
        gpu_memory_utilization: the share of a GPU that is its, beside the learner's.
        sleep: leave the GPU between rollouts; the weights wait in the machine's memory meanwhile.
        options: further ones of `vllm.LLM`, by their names.
    """

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    max_num_seqs: int = Field(default=64, ge=1)
    kv_cache_bytes: int | None = Field(default=None, ge=2**20)
    block_size: int | None = Field(default=None, ge=1)
    gpu_memory_utilization: float = Field(default=0.45, gt=0, le=1)
    sleep: bool = False
    options: dict[str, Any] = Field(default_factory=dict)

    def check(self, student: ModelSettings) -> None:
        """See `InferenceEngine.check`.

        Raises:
            ValueError: vLLM is not installed; there is no GPU to leave; several processes learn.
        """
        if self._processes.size > 1:
            raise ValueError(
                "sampler: vllm makes process groups of its own, and "
                f"{self._processes.size} processes learn here: start a server that all of them "
                "ask, and set sampler={kind: vllm_server, url: ...}"
            )
        check_installed()
        if self.sleep and not torch.cuda.is_available():
            raise ValueError("sampler.sleep leaves a GPU to the learner, and there is none here")

    @contextmanager
    def open(self, student: LanguageModel, context: int) -> Iterator[Sampler]:
        """See `InferenceEngine.open`."""
        bounds = Bounds.of(student, context)
        dtype = dtype_of(student) if self.dtype == "auto" else self.dtype
        folder = model_folder(base_path(student.base or student.name))
        engine = EmbeddedEngine(folder, self._options(student, bounds, dtype))
        try:
            exact = dtype == dtype_of(student) == "float32"
            agreement = Agreement(student, exact, bounds.context)
            sampler = VllmSampler(engine, bounds, agreement, self.sleep)
            sampler.sync(student)
            yield sampler
        finally:
            engine.close()

    def _options(self, student: LanguageModel, bounds: Bounds, dtype: str) -> dict[str, Any]:
        """Of `vllm.LLM`; what is None is left to vLLM."""
        own = {
            "dtype": dtype,
            "max_model_len": bounds.context,
            "max_num_seqs": self.max_num_seqs,
            "kv_cache_memory_bytes": self.kv_cache_bytes,
            "block_size": self.block_size,
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "enable_sleep_mode": self.sleep or None,
        }
        cut = cut_to(bounds.vocabulary, rows=len(student.output.weight))
        return {**{k: v for k, v in own.items() if v is not None}, **cut, **self.options}


class VllmServer(InferenceEngine, ServerSettings, kind="vllm_server"):
    """A vLLM server, as `python -m agentopd.serving.server MODEL` starts it, on this machine or
    another, on as many GPUs as vLLM takes.

    The learner brings it new weights before each rollout, and compares. One learner uses one
    server; of a learner that is several processes the first brings them, and all ask.

    Args:
        dtype: what the server was started with; `auto` is the student's.
        parallel: answers that are asked for at once; `rollout.slots` are there to be asked for.
        transport: how weights travel: by a `file` in a folder that both sides see; by `ipc`, GPU
            memory that both share; by `nccl` from GPU to GPUs. The last two were not tried.
        folder: of the file; this machine's memory if empty. For a server elsewhere it is a shared
            one.
        address: for `nccl`: HOST:PORT under which the server's workers reach the learner.
        workers: for `nccl`: GPUs of the server.
    """

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    parallel: int = Field(default=64, ge=1, le=1024)
    transport: Literal["file", "ipc", "nccl"] = "file"
    folder: str = ""
    address: str = Field(default="", pattern=r"^(.+:\d+)?$")
    workers: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _can_be_reached(self) -> VllmServer:
        if self.transport == "nccl" and not self.address:
            raise ValueError(
                "sampler.transport: nccl needs sampler.address, HOST:PORT under which the server's "
                "workers reach the learner"
            )
        return self

    def unread(self) -> dict[str, str]:
        """See `Settings.unread`."""
        nccl, file = self.transport == "nccl", self.transport == "file"
        found = {} if nccl else {"address": "transport: nccl", "workers": "transport: nccl"}
        return found if file else {**found, "folder": "transport: file"}

    def check(self, student: ModelSettings) -> None:
        """See `InferenceEngine.check`.

        Raises:
            ValueError: the server is not there.
        """
        with HttpClient(self) as client:
            client.get("/health")

    @contextmanager
    def open(self, student: LanguageModel, context: int) -> Iterator[Sampler]:
        """See `InferenceEngine.open`."""
        bounds = Bounds.of(student, context)
        dtype = dtype_of(student) if self.dtype == "auto" else self.dtype
        agreement = Agreement(student, dtype == dtype_of(student) == "float32", bounds.context)
        with HttpClient(self) as client:
            _check_context(client, bounds.context)
            transport = self._transport(client)
            sampler = ServedSampler(client, bounds, agreement, transport, self._processes)
            sampler.sync(student)
            yield sampler

    def _transport(self, client: HttpClient) -> Transport:
        if self.transport == "file":
            return FileTransport(client, self.folder)
        if self.transport == "ipc":
            return IpcTransport(client)
        return NcclTransport(client, self.address, self.workers)


def _check_context(client: HttpClient, context: int) -> None:
    """That the server reads conversations as long as they may become.

    Raises:
        ServerError: it does not.
    """
    longest = min((model.positions for model in served_models(client)), default=math.inf)
    if longest < context:
        raise client.error(
            "",
            f"it reads {longest} tokens, and a conversation may have {context}",
            f"start it with --context {context}, or lower rollout.max_context",
        )


def dtype_of(student: LanguageModel) -> str:
    """The student's dtype, as vLLM calls it."""
    return str(student.module.dtype).removeprefix("torch.")
