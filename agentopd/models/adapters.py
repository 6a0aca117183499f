"""Low-rank adapters: thin matrices beside frozen weights, which alone learn (LoRA 2106.09685).

A linear layer's weights W act as W + s B A, where A has `rank` rows and B as many columns. B is
zero at the start, so that the model is its base until the first step. peft keeps them; they are
float32 whatever the base's dtype. Only layers below the output layer can have them: divergences are
made of the output layer's own weights.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.lora import LoraLayer
from pydantic import Field, field_validator
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from agentopd.base.files import read_json
from agentopd.base.parts import Settings
from agentopd.models.folders import ADAPTER_CONFIG

ADAPTER_WEIGHTS = "adapter_model.safetensors"
"""The weights in an adapter's folder, as peft names them."""
_NAME = ".default."
"""What peft puts into a weight's name in memory, and leaves out in files."""
_HISTORY = {"base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping"}
"""What an adapter's file says that does not change what the adapter does."""


class LoraSettings(Settings):
    """Adapters that learn in the student's place, whose own weights stay as they are.

    Args:
        rank: how many directions each layer can learn.
        alpha: what adapters say is multiplied by `alpha / rank`.
        rslora: it is multiplied by `alpha / sqrt(rank)` instead, which keeps its size at high ranks
            (2312.03732).
        targets: names of linear layers, such as [q_proj, v_proj]; all-linear means all of them
            below the output layer.
        dropout: 0, and nothing else.

    Raises:
        ValueError: there is dropout.
    """

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    rslora: bool = False
    targets: Literal["all-linear"] | tuple[str, ...] = Field(default="all-linear", min_length=1)
    dropout: float = 0.0

    @field_validator("dropout")
    @classmethod
    def _exact(cls, value: float) -> float:
        if value:
            raise ValueError(
                f"{value} would blur every log-probability, and those that are learnt from must be "
                "those that tokens were sampled with: leave it out. Regularise with a lower rank "
                "or learning rate"
            )
        return value


def adapted(module: PreTrainedModel, settings: LoraSettings) -> PreTrainedModel:
    """The model with new adapters, which alone require gradients.

    Returns:
        peft's wrapper, which answers for the model in it.

    Raises:
        ValueError: a target is no linear layer below the output layer; those that are are named.
    """
    with _without_warnings():
        return cast(PreTrainedModel, get_peft_model(module, _described(module, settings)))


def with_adapter(
    module: PreTrainedModel, folder: Path, settings: LoraSettings | None
) -> PreTrainedModel:
    """The model with the adapter in a folder, which goes on learning where there are settings.

    Raises:
        ValueError: it is no low-rank adapter in safetensors, does not fit the model, lacks weights,
            or is another one than the settings say.
    """
    told = read_json(folder / ADAPTER_CONFIG)
    if told.get("peft_type") != "LORA" or not (folder / ADAPTER_WEIGHTS).is_file():
        raise ValueError(
            f"{folder} holds no low-rank adapter in {ADAPTER_WEIGHTS}: other kinds, and weights "
            "that must be unpickled, are not read. Merge it into its base first"
        )
    wanted = None if settings is None else _described(module, settings)
    try:
        with _without_warnings():
            found = PeftModel.from_pretrained(module, folder, is_trainable=settings is not None)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"the adapter in {folder} does not fit its base: {reason}") from error
    _check_complete(folder, found)
    if wanted is not None:
        _check_same(folder, wanted, found.peft_config["default"])
    return cast(PreTrainedModel, found)


def is_adapter(name: str) -> bool:
    """Whether the weight of that name belongs to an adapter, not to the base."""
    return ".lora_" in name


def says_nothing(weights: Mapping[str, torch.Tensor]) -> bool:
    """Whether adapters of these weights change nothing, as new ones do."""
    if not all(".lora_A" in name or ".lora_B" in name for name in weights):
        return False  # another's adapter may hold more than the two factors
    return not any(weight.any() for name, weight in weights.items() if ".lora_B" in name)


def without_adapters(module: PreTrainedModel) -> PreTrainedModel:
    """The base alone, on the same memory; the adapted model stays as it is."""
    twin = sharing(module, module.parameters())
    return cast(PreTrainedModel, cast(PeftModel, twin).unload())


def merged(module: PreTrainedModel) -> PreTrainedModel:
    """The base with the adapters' products added to its weights, in place of the adapted model."""
    return cast(PreTrainedModel, cast(PeftModel, module).merge_and_unload())


def merged_weights(module: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """The base's weights and lasting buffers, by its own names, with the adapters' products added.

    The model stays as it is, to the bit: layers are merged in copies, one at a time. What several
    layers share comes under each of its names.
    """
    base = cast(PeftModel, module).get_base_model()
    layers = {name: x for name, x in base.named_modules() if isinstance(x, LoraLayer)}
    copied, twin = "", dict[str, torch.Tensor]()
    for name, tensor in base.state_dict().items():
        layer, inside, weight = name.partition(".base_layer.")
        if not inside:
            if not is_adapter(name):
                yield name, tensor
            continue
        if layer != copied:
            copied, twin = layer, _merged_layer(layers[layer])
        yield f"{layer}.{weight}", twin[weight]


def sharing(module: PreTrainedModel, shared: Iterable[torch.Tensor]) -> PreTrainedModel:
    """A copy of a model that has some tensors in common with it."""
    return copy.deepcopy(module, {id(tensor): tensor for tensor in shared})


def save_adapter(
    folder: Path, module: PreTrainedModel, weights: Mapping[str, torch.Tensor], base: str
) -> None:
    """Write an adapter as peft reads it.

    Args:
        base: the model that it stands on, as its file is to name it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    named = {name.replace(_NAME, "."): weight for name, weight in weights.items()}
    save_file(
        {n: w.detach().clone().contiguous() for n, w in named.items()}, folder / ADAPTER_WEIGHTS
    )
    told = copy.copy(cast(LoraConfig, cast(PeftModel, module).peft_config["default"]))
    told.base_model_name_or_path, told.inference_mode = base, True
    told.target_modules = sorted(told.target_modules or ())  # a set, of no order of its own
    told.save_pretrained(str(folder))


def as_in_memory(names: Iterable[str], tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """The tensors of an adapter's file, by the names of the weights in memory; others stay."""
    inside = {name.replace(_NAME, "."): name for name in names}
    return {inside.get(name, name): tensor for name, tensor in tensors.items()}


@contextmanager
def _without_warnings() -> Iterator[None]:
    """peft asks transformers something by a name that is on its way out, and warns of what is
    refused here.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Found missing adapter keys", UserWarning)
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield


@torch.no_grad()
def _merged_layer(layer: LoraLayer) -> dict[str, torch.Tensor]:
    twin = copy.deepcopy(layer)
    twin.merge(adapter_names=["default"])  # type: ignore[operator]  (each kind of layer has one)
    return twin.get_base_layer().state_dict()


def _described(module: PreTrainedModel, settings: LoraSettings) -> LoraConfig:
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=settings.rank,
        lora_alpha=settings.alpha,
        use_rslora=settings.rslora,
        lora_dropout=0.0,
        target_modules=_targets(module, settings),
    )


def _targets(module: PreTrainedModel, settings: LoraSettings) -> list[str]:
    """The last names of the layers that get adapters, or what was written, if it names some."""
    body = cast(torch.nn.Module, module.get_decoder())
    layers = [name for name, x in body.named_modules() if isinstance(x, torch.nn.Linear | Conv1D)]
    known = sorted({name.rpartition(".")[2] for name in layers})
    if settings.targets == "all-linear":
        return known
    for target in settings.targets:
        if not any(f".{name}".endswith(f".{target}") for name in layers):
            raise ValueError(
                f"student.lora.targets: {target!r} is no linear layer below the output layer; "
                f"there are: {', '.join(known)}"
            )
    return list(settings.targets)


def _check_complete(folder: Path, found: PeftModel) -> None:
    """That nothing of an adapter is left as it was drawn: peft only warns of it.

    Raises:
        ValueError: a factor stands in the model or in the file alone.
    """
    with safe_open(folder / ADAPTER_WEIGHTS, "pt") as file:
        there = {name for name in file.keys() if ".lora_" in name}  # noqa: SIM118 (no mapping)
    names = {name.replace(_NAME, ".") for name, _ in found.named_parameters() if is_adapter(name)}
    if lost := sorted(name for name in there ^ names if name.endswith(".weight")):
        raise ValueError(
            f"the adapter in {folder} does not fit its base: {lost[0]!r} and {len(lost) - 1} more "
            "are in one of them alone"
        )


def _check_same(folder: Path, wanted: LoraConfig, found: Any) -> None:
    """That an adapter is as the settings say.

    Raises:
        ValueError: it is not; the message says in what.
    """
    one, other = _plain(wanted), _plain(found)
    pairs = {n: (one[n], other.get(n)) for n in one if n not in _HISTORY and one[n] != other.get(n)}
    if pairs:
        said = "; ".join(f"{name} is {have}, not {want}" for name, (want, have) in pairs.items())
        raise ValueError(
            f"student.lora: the adapter in {folder} has other settings ({said}): give its own, or "
            "merge it, agentopd export RUN --to FOLDER --merge, and put new ones on that"
        )


def _plain(config: Any) -> dict[str, Any]:
    """An adapter's settings as JSON has them, with sets in order."""
    told = {k: sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()}
    return json.loads(json.dumps(told, default=str, sort_keys=True))


def refuse_unmoved(name: str, module: torch.nn.Module) -> None:
    """Refuse to train a model of which nothing would learn.

    Raises:
        ValueError: it is an adapter as it was saved, whose weights are fixed.
    """
    if not any(weight.requires_grad for weight in module.parameters()):
        raise ValueError(
            f"{name} is an adapter, and nothing of it would learn: go on with it, "
            "student.lora={} with its own rank, alpha and targets, or merge it into its base first"
        )
