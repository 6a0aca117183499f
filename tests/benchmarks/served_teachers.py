"""What a served teacher costs in bytes and seconds, by hidden states and by log-probabilities.

python tests/benchmarks/served_teachers.py zoo:sokoban-expert --pooling URL --completions URL
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from agentopd.models.model import ModelSettings
from agentopd.models.passes import Reading
from agentopd.serving.completions import CompletionServer
from agentopd.serving.http import HttpClient, ServerSettings
from agentopd.serving.models import served_model
from agentopd.serving.output_layer import load_output_layer
from agentopd.serving.pooling import PoolingServer, Wire

WIRES: tuple[Wire, ...] = ("float32", "float16", "bfloat16")


class Counting(HttpClient):
    """Counts the bytes of all answers."""

    received = 0

    def post_all(self, path: str, bodies: object) -> list[bytes]:
        """See `HttpClient.post_all`."""
        answers = super().post_all(path, bodies)  # pyright: ignore[reportArgumentType]
        self.received += sum(map(len, answers))
        return answers


def main() -> None:
    """Print a table."""
    reads = argparse.ArgumentParser()
    reads.add_argument("model")
    reads.add_argument("--pooling")
    reads.add_argument("--completions")
    reads.add_argument("--sequences", type=int, default=64)
    reads.add_argument("--length", type=int, default=256)
    told = reads.parse_args()
    layer = load_output_layer(ModelSettings(path=told.model))
    drawn = np.random.default_rng(0)
    sequences = [drawn.integers(2, layer.vocabulary, told.length) for _ in range(told.sequences)]
    readings = [Reading(ids_T, np.arange(told.length - 1)) for ids_T in sequences]
    print("| how | bytes a token | tokens a second |\n|---|---|---|")
    for wire in WIRES if told.pooling else ():
        client = Counting(ServerSettings(url=told.pooling))
        server = PoolingServer(client, served_model(client, ""), layer.size, wire, 4_096)
        _row(f"hidden states, {wire}", client, lambda s=server: s.states(sequences), sequences)
    for top in (0, 1, 20) if told.completions else ():
        client = Counting(ServerSettings(url=told.completions))
        model = served_model(client, "")
        asked = CompletionServer(client, model, "prompt_logprobs", top, 4_096)
        name = f"log-probabilities, {top} likeliest"
        _row(name, client, lambda s=asked: s.told(readings), sequences)


def _row(name: str, client: Counting, ask: Callable[[], object], sequences: list) -> None:
    tokens = sum(map(len, sequences))
    ask()
    client.received, began = 0, time.perf_counter()
    ask()
    took = time.perf_counter() - began
    print(f"| {name} | {client.received / tokens:,.0f} | {tokens / took:,.0f} |")


if __name__ == "__main__":
    main()
