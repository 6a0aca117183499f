"""The shapes of Qwen3's dense models (2505.09388), as their config.json files have them."""

from __future__ import annotations

from transformers import Qwen3Config

VOCABULARY = 151_936


def qwen3(
    hidden: int, layers: int, heads: int, inner: int, tied: bool, vocabulary: int = VOCABULARY
) -> Qwen3Config:
    """The configuration of a model of this shape; all have eight key-value heads of 128 numbers."""
    return Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=tied,
        max_position_embeddings=40_960,
    )


SHAPES = {
    "Qwen3-0.6B": qwen3(1_024, 28, 16, 3_072, tied=True),
    "Qwen3-1.7B": qwen3(2_048, 28, 16, 6_144, tied=True),
    "Qwen3-4B": qwen3(2_560, 36, 32, 9_728, tied=True),
    "Qwen3-8B": qwen3(4_096, 36, 32, 12_288, tied=False),
    "Qwen3-32B": qwen3(5_120, 64, 64, 25_600, tied=False),
}
PARAMETERS = {
    "Qwen3-0.6B": 0.6e9,
    "Qwen3-1.7B": 1.7e9,
    "Qwen3-4B": 4.0e9,
    "Qwen3-8B": 8.2e9,
    "Qwen3-32B": 32.8e9,
}
"""As the models' cards round them."""
