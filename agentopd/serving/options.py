"""What vLLM is started with wherever it runs a student: in this process, or as a server."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

ALWAYS: dict[str, Any] = {
    "load_format": "dummy",  # weights come with the first sync
    "skip_tokenizer_init": True,
    "generation_config": "vllm",  # or a folder's own ends of answers were added
    "logprobs_mode": "processed_logprobs",
    "seed": 0,
}


def on_cpu(context: int) -> dict[str, Any]:
    """What runs on processors alone.

    There a request's own seed and a prompt that is read in pieces end the engine, so that every
    prompt must fit into one step; blocks are large; and keys and values get 1 GiB, where vLLM would
    want nearly all of the machine's memory to be free.

    Args:
        context: tokens of the longest conversation, answers included.
    """
    return {
        "enforce_eager": True,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(4_096, context),
        "block_size": 32,
        "kv_cache_memory_bytes": 2**30,
    }


def cut_to(vocabulary: int, rows: int) -> dict[str, Any]:
    """Rows of the embeddings that stand for no token would be sampled: the engine does not have
    them.
    """
    return {} if rows == vocabulary else {"hf_overrides": {"vocab_size": vocabulary}}


def flags(options: Mapping[str, Any]) -> Iterator[str]:
    """The same on a server's command line."""
    for name, value in options.items():
        written = name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{written}" if value else f"--no-{written}"
        else:
            yield from (f"--{written}", value if isinstance(value, str) else json.dumps(value))
