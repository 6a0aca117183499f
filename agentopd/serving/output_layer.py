"""The output layer of a model whose other layers are elsewhere."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import BaseModelOutputWithPast

from agentopd.base.files import read_json
from agentopd.models.folders import base_path, check_index, model_folder
from agentopd.models.head import Head
from agentopd.models.model import (
    LanguageModel,
    ModelSettings,
    check_vocabulary,
    conversing,
    load_tokenizer,
    unloadable,
)

# B sequences, T tokens, N trainable tokens, H hidden size, V vocabulary

_PROBED = 4
"""Random hidden states on which the way from them to the logits is tried."""
_LARGEST = 100.0
"""Their largest logit: where models cap or scale theirs, it shows."""


@dataclass(frozen=True)
class OutputLayer:
    """What makes logits of a model's last hidden states, and what its answers look like.

    Attributes:
        stop_ids: tokens that end an answer.
        positions: how many tokens a context may have; infinite where the model names no limit.
        weight_VH, bias_V: the layer, without rows that stand for no token.
    """

    name: str
    tokenizer: PreTrainedTokenizerFast
    stop_ids: frozenset[int]
    positions: float
    weight_VH: torch.Tensor
    bias_V: torch.Tensor | None

    @property
    def vocabulary(self) -> int:
        """How many tokens the tokenizer knows."""
        return len(self.weight_VH)

    @property
    def size(self) -> int:
        """H, numbers in a hidden state."""
        return self.weight_VH.shape[1]

    def head(self, hidden_NH: torch.Tensor) -> Head:
        """Hidden states with the layer that makes logits of them."""
        return Head(hidden_NH, self.weight_VH, self.bias_V)


def load_output_layer(settings: ModelSettings) -> OutputLayer:
    """Load the output layer of a model in Hugging Face format, and read nothing else of its
    weights.

    Raises:
        ValueError: there is no such folder, or it is an adapter's or no model's; its tokenizer, its
            chat template or its output rows are such that `load_model` would refuse them; or its
            logits are not the output layer of its last hidden states.
    """
    if base_path(settings.path) != settings.path:
        raise ValueError(
            f"{settings.path} is an adapter, whose output layer may not be its base's: name the "
            "folder of the merged model, as the server has it"
        )
    folder = model_folder(settings.path)
    check_index(folder)
    model = load_without_weights(settings)
    weight_VH, bias_V = _layer(folder, model, settings)
    _check_way_to_logits(model, weight_VH, bias_V)
    return OutputLayer(
        name=settings.path,
        tokenizer=model.tokenizer,
        stop_ids=model.stop_ids,
        positions=model.positions,
        weight_VH=weight_VH.to(settings.device),
        bias_V=None if bias_V is None else bias_V.to(settings.device),
    )


def load_without_weights(settings: ModelSettings) -> LanguageModel:
    """A model as its configuration and its tokenizer describe it; it can compute nothing.

    Raises:
        ValueError: there is no such folder, or its tokenizer, its chat template or its output rows
            are such that `load_model` would refuse them.
    """
    module = _without_weights(model_folder(settings.path), settings)
    model = conversing(module, load_tokenizer(settings), settings)
    check_vocabulary(model)
    return model


def _without_weights(folder: Path, settings: ModelSettings) -> PreTrainedModel:
    """The model's layers as its configuration has them, in no memory."""
    options: dict[str, Any] = {"trust_remote_code": settings.trust_remote_code}
    try:
        with warnings.catch_warnings(action="ignore"), torch.device("meta"):
            config = AutoConfig.from_pretrained(folder, local_files_only=True, **options)
            module = AutoModelForCausalLM.from_config(config, **options)
        if (folder / "generation_config.json").is_file():
            module.generation_config = GenerationConfig.from_pretrained(folder)
    except Exception as error:  # as in `load_model`
        raise unloadable(settings, error) from error
    return module.eval()


def _layer(
    folder: Path, model: LanguageModel, settings: ModelSettings
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weights (V, H) and bias (V,) of the output layer, as they are in the folder's files."""
    files = _files(folder)
    weight, bias = model.output.weight, model.output.bias
    same = [weight]
    if model.module.config.get_text_config().tie_word_embeddings:
        same.append(cast(torch.nn.Embedding, model.module.get_input_embeddings()).weight)

    def read(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        everything = model.module.named_parameters(remove_duplicate=False)
        names = [name for name, p in everything if any(p is x for x in tensors)]
        found = _read(folder, files, names, model.vocabulary, tensors[0].shape)
        return found.to(getattr(torch, settings.dtype))

    return read(same), None if bias is None else read([bias])


def _files(folder: Path) -> Mapping[str, Path]:
    """The file of each tensor."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return {name: folder / file for name, file in read_json(index)["weight_map"].items()}
    single = folder / "model.safetensors"
    if not single.is_file():
        raise ValueError(f"{folder} holds no weights in safetensors: its output layer is needed")
    with safe_open(single, "pt") as tensors:
        return dict.fromkeys(tensors.keys(), single)


def _read(
    folder: Path, files: Mapping[str, Path], names: Sequence[str], rows: int, shape: torch.Size
) -> torch.Tensor:
    """The first rows of the first of these tensors that is there."""
    # Files of a bare body leave the model's own prefix out.
    known = [n for name in names for n in (name, name.partition(".")[2]) if n in files]
    if not known:
        raise ValueError(
            f"{folder}: the output layer is to be called {' or '.join(names)}, and no file has it: "
            "save the model anew with transformers' save_pretrained"
        )
    with safe_open(files[known[0]], "pt") as tensors:
        part = tensors.get_slice(known[0])
        if list(part.get_shape()) != list(shape):
            raise ValueError(
                f"{folder}: {known[0]} is of shape {part.get_shape()}, and config.json says "
                f"{list(shape)}: the two belong to different models"
            )
        found = part[:rows]
    if not found.isfinite().all():
        raise ValueError(f"{folder}: {known[0]} holds NaN or infinite numbers: take another copy")
    return found


@torch.no_grad()
def _check_way_to_logits(
    model: LanguageModel, weight_VH: torch.Tensor, bias_V: torch.Tensor | None
) -> None:
    """Hidden states go through the model's own code for what comes after its last layer."""
    size = weight_VH.shape[1]
    hidden_1TH = torch.randn(1, _PROBED, size, generator=torch.Generator().manual_seed(0))
    hidden_1TH = hidden_1TH.to(weight_VH.dtype)
    hidden_1TH *= _LARGEST / torch.nn.functional.linear(hidden_1TH, weight_VH).abs().max()
    expected = torch.nn.functional.linear(hidden_1TH, weight_VH, bias_V).float()
    layer = torch.nn.Linear(size, len(weight_VH), bias_V is not None, device="meta")
    layer.weight = torch.nn.Parameter(weight_VH)
    layer.bias = layer.bias if bias_V is None else torch.nn.Parameter(bias_V)
    model.module.set_output_embeddings(layer)
    model.body.forward = lambda *_, **__: BaseModelOutputWithPast(last_hidden_state=hidden_1TH)
    try:
        found = model.module(input_ids=torch.zeros(1, _PROBED, dtype=torch.long)).logits
        same = torch.allclose(found.float(), expected, atol=1e-3, rtol=1e-2)
    except Exception:  # a model's code may do anything with what stands in for its body
        same = False
    if not same:
        raise ValueError(
            f"{model.name}: the logits are not the output layer applied to the last hidden states "
            "(a cap or a scale follows it), so a server's hidden states do not tell them; take "
            "teacher: external, or teacher: logprobs"
        )
