"""A student's weights as inference engines load them: one generator for every way they travel."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.distributed.tensor import DTensor

from agentopd.models.adapters import merged_weights
from agentopd.models.model import LanguageModel


def engine_weights(student: LanguageModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight under the name that Hugging Face's checkpoints give it, detached.

    A weight that layers share comes under each of its names: an engine may keep a packed copy for
    each, and one that is not named stays as it was. Rows of the embeddings that stand for no token
    are cut off. Adapters are merged in copies, a layer at a time, and the student is not touched.
    Of weights that are sharded over processes each is gathered when its turn comes, so that all
    processes must take all of them.
    """
    module = student.module
    named = merged_weights(module) if student.base else module.state_dict().items()
    cut = _embeddings(student)
    for name, tensor in named:
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        yield name, whole[: student.vocabulary] if name.rpartition(".")[0] in cut else whole


def _embeddings(student: LanguageModel) -> set[str]:
    """The layers whose rows stand for tokens, by their names in the base."""
    module = student.module.get_base_model() if student.base else student.module  # type: ignore
    rows = module.get_input_embeddings(), module.get_output_embeddings()
    return {name for name, layer in module.named_modules() if layer in rows}
