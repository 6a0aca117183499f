"""Activations that are made again in the backward pass instead of being kept (1604.06174)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


def layers_of(module: torch.nn.Module) -> list[torch.nn.Module]:
    """The transformer's layers, in the order of the forward pass.

    Raises:
        ValueError: the architecture does not say which of its modules these are.
    """
    found: list[torch.nn.Module] = [
        x for x in module.modules() if isinstance(x, GradientCheckpointingLayer)
    ]
    if not found:
        raise ValueError(
            f"{type(module).__name__} does not mark its layers as ones that can be computed twice "
            "(transformers' GradientCheckpointingLayer): leave out learner.checkpoint_layers, and "
            "lower learner.tokens_per_batch to save memory"
        )
    return found


@contextmanager
def recomputed_layers(module: torch.nn.Module) -> Iterator[None]:
    """Of a forward pass inside, each layer keeps its input alone.

    Transformers' own switch works in training mode only, in which dropout acts. This one leaves the
    mode as it is, and nothing behind at the module: a copy of it is an ordinary copy.
    """
    layers = layers_of(module)
    for layer in layers:
        # Evaluation mode draws no random numbers, so none have to be drawn again.
        layer.forward = partial(
            checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False
        )
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
