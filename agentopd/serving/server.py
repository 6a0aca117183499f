"""A vLLM server for `sampler: vllm_server`, started with all that one needs.

    python -m agentopd.serving.server MODEL --port 8000 [more of vLLM's own options]

It runs where vLLM is installed, with agentopd beside it. Weights come from the learner: of the
model's folder its configuration and its tokenizer are read. Anyone who can reach the server can
give it other weights: keep it on the loopback interface, or in a network of your own.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import torch
from transformers import AutoConfig

from agentopd.models.folders import base_path, model_folder
from agentopd.models.model import ModelSettings, load_tokenizer
from agentopd.serving.extension import Receiver
from agentopd.serving.options import ALWAYS, cut_to, flags, on_cpu

_RECEIVER = f"{Receiver.__module__}.{Receiver.__name__}"
_ENVIRONMENT = {
    "VLLM_SERVER_DEV_MODE": "1",  # weights can be brought
}


def command(model: str, host: str, port: int, context: int, dtype: str, cpu: bool) -> list[str]:
    """The program and its options; others of vLLM's may follow.

    Args:
        context: tokens of the longest conversation, answers included: `rollout.max_context`.
        dtype: of the weights and passes; the learner's, so that rounding alone is between them.
        cpu: whether it is to run on processors.

    Raises:
        ValueError: there is no such model.
    """
    base = base_path(model)
    config = AutoConfig.from_pretrained(model_folder(base), local_files_only=True)
    vocabulary = max(load_tokenizer(ModelSettings(path=model)).get_vocab().values()) + 1
    options = {
        **ALWAYS,
        **cut_to(vocabulary, rows=config.get_text_config().vocab_size),
        **(on_cpu(context) if cpu else {}),
    }
    return [
        # `vllm serve` of the wheel for processors does not know its own version, and ends
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(model_folder(base)), "--served-model-name", "student"),
        *("--host", host, "--port", str(port), "--max-model-len", str(context)),
        *("--dtype", dtype, "--enable-scale-out", "--worker-extension-cls", _RECEIVER),
        *flags(options),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Become the server."""
    parser = argparse.ArgumentParser(prog="python -m agentopd.serving.server", description=__doc__)
    parser.add_argument("model", help="a model's folder, or zoo:NAME")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--context", type=int, default=2048, help="rollout.max_context")
    parser.add_argument("--dtype", default="float32", help="the learner's student.dtype")
    told, more = parser.parse_known_args(arguments)
    try:
        cpu = not torch.cuda.is_available()
        started = command(told.model, told.host, told.port, told.context, told.dtype, cpu)
    except ValueError as error:
        parser.error(str(error))
    os.execvpe(started[0], [*started, *more], {**os.environ, **_ENVIRONMENT})


if __name__ == "__main__":
    main()
