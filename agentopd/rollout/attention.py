"""What a token sees in a cache where its column is its position: masks, by kind of layer.

So a layer that sees a window of the last tokens needs no cache of its own: its mask ends sooner.
Layers that keep something else than every token's keys and values cannot be masked like that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from transformers import PreTrainedConfig

# R rows (conversations) of a call, Q columns fed at once, C columns of the cache

_FULL, _SLIDING = "full_attention", "sliding_attention"
_NARROW = 4

Reach = Mapping[str, int | None]
"""How many tokens back, its own included, each kind of layer sees; None for all."""


def reach_of(config: PreTrainedConfig, name: str) -> Reach:
    """The reach of a model's layers; older configs name no kinds, only a window's size.

    Raises:
        ValueError: some see by another rule, or remember in another way.
    """
    config = config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or [_kind_of_all(config)])
    if others := kinds - {_FULL, _SLIDING}:
        raise ValueError(
            f"{name} cannot act: it has layers of kind {', '.join(sorted(others))}, and answers "
            "are sampled from many conversations in one cache, where every token's keys and values "
            "stay in the column of its position; use a model of full or sliding-window attention"
        )
    return {kind: window if kind == _SLIDING else None for kind in sorted(kinds)}


def _kind_of_all(config: PreTrainedConfig) -> str:
    if getattr(config, "attention_chunk_size", None):
        return "chunked_attention"
    return _SLIDING if getattr(config, "sliding_window", None) else _FULL


def masks(
    reach: Reach, position_RQ: torch.Tensor, columns: int, dtype: torch.dtype
) -> torch.Tensor | dict[str, torch.Tensor]:
    """What is added to the attention's scores (R, 1, Q, C), for each kind of layer.

    Where all layers are of one kind it is that tensor, which every architecture takes; a mapping
    by kind is taken by those that mix them.
    """
    found = {kind: _mask(position_RQ, columns, dtype, most) for kind, most in reach.items()}
    return next(iter(found.values())) if len(found) == 1 else found


def _mask(
    position_RQ: torch.Tensor, columns: int, dtype: torch.dtype, most: int | None
) -> torch.Tensor:
    """Nothing up to one's own position, and in a window nothing before it.

    Numbers and not truth values: eager attention adds what it is given, the fused kinds take both.
    """
    column_C = torch.arange(columns, device=position_RQ.device)
    seen_RQC = column_C <= position_RQ[..., None]
    if most is not None and columns > most:
        seen_RQC &= column_C > position_RQ[..., None] - most
    hidden = torch.full(seen_RQC.shape, torch.finfo(dtype).min, dtype=dtype, device=seen_RQC.device)
    return hidden.masked_fill_(seen_RQC, 0.0)[:, None]


@contextmanager
def narrowed(config: PreTrainedConfig) -> Iterator[None]:
    """Windows of a few tokens while inside, so that a short text shows what they do."""
    config = config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if window:
        config.sliding_window = min(window, _NARROW)
    try:
        yield
    finally:
        if window:
            config.sliding_window = window
