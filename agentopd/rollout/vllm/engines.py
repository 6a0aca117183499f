"""The kinds of `sampler` that vLLM runs, and their settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from pydantic import Field

from agentopd.models.folders import base_path, model_folder
from agentopd.models.model import LanguageModel, ModelSettings
from agentopd.rollout.engine import Engine
from agentopd.rollout.sampler import Sampler
from agentopd.rollout.vllm.agreement import Agreement
from agentopd.rollout.vllm.in_process import VllmSampler
from agentopd.rollout.vllm.parameters import Bounds
from agentopd.rollout.vllm.process import EmbeddedEngine, check_installed


class VllmEngine(Engine, kind="vllm"):
    """vLLM in this process, with weights of its own beside the student's.

    Its log-probabilities are those of the distribution that is sampled from, and each answer has
    its own seed. It reads the student's configuration and takes its weights from memory, so that
    nothing is written.

    Args:
        dtype: of its weights and passes; `auto` is the student's. In another than the learner's,
            sampler and learner differ by more than rounding: see `weight: importance_ratio`.
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
        """See `Engine.check`.

        Raises:
            ValueError: vLLM is not installed; there is no GPU to leave; several processes learn.
        """
        check_installed()
        if self.sleep and not torch.cuda.is_available():
            raise ValueError("sampler.sleep leaves a GPU to the learner, and there is none here")
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            raise ValueError(
                "sampler: vllm makes process groups of its own, and several processes learn here: "
                "start a server, and set sampler={kind: vllm_server, url: ...}"
            )

    @contextmanager
    def open(self, student: LanguageModel, context: int) -> Iterator[Sampler]:
        """See `Engine.open`."""
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
        padded = len(student.output.weight) != bounds.vocabulary
        own = {
            "dtype": dtype,
            "max_model_len": bounds.context,
            "max_num_seqs": self.max_num_seqs,
            "kv_cache_memory_bytes": self.kv_cache_bytes,
            "block_size": self.block_size,
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "enable_sleep_mode": self.sleep or None,
            # Rows that stand for no token would be sampled: the engine does not have them.
            "hf_overrides": {"vocab_size": bounds.vocabulary} if padded else None,
        }
        return {**{k: v for k, v in own.items() if v is not None}, **self.options}


def dtype_of(student: LanguageModel) -> str:
    """The student's dtype, as vLLM calls it."""
    return str(student.module.dtype).removeprefix("torch.")
