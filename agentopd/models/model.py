"""A causal language model as this toolkit uses it: hidden states first, logits where needed."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from agentopd.base.parts import Settings
from agentopd.models import adapters
from agentopd.models.adapters import LoraSettings
from agentopd.models.folders import base_path, check_index, model_folder
from agentopd.models.head import Head
from agentopd.models.template import RESERVED, ChatTemplate

# B sequences, T tokens, N trainable tokens, H hidden size, V vocabulary; `...` any leading shape


class ModelSettings(Settings):
    """Which model, and how it is held.

    `path` is a folder in Hugging Face format, or `zoo:NAME` for an embedded model; the folder of an
    adapter in peft's format stands for the base that it names, with the adapter on it.
    `template_options` are keyword arguments of its chat template, wherever that is rendered: what
    JSON can say, and nothing that a conversation gives itself.
    """

    path: str = "zoo:sokoban-easy"
    dtype: str = Field(default="float32", pattern="^(float32|bfloat16)$")
    device: str = "cpu"
    trust_remote_code: bool = False
    template_options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("template_options")
    @classmethod
    def _may_be_said(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(RESERVED & value.keys()):
            raise ValueError(
                f"{', '.join(taken)}: the conversation itself says that to the chat template, and "
                "no option can; leave it out"
            )
        for name, option in value.items():
            try:
                json.dumps(option, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"{name}: {option!r} is no value of JSON: give text, numbers, true, false, "
                    "null, or lists and mappings of them; a date is a text in quotes"
                ) from error
        return value


class StudentSettings(ModelSettings):
    """A model that learns: all its weights, or with `lora` adapters alone."""

    lora: LoraSettings | None = None


@dataclass(frozen=True)
class LanguageModel:
    """A model and its tokenizer."""

    module: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    name: str
    stop_ids: frozenset[int] = field(default_factory=frozenset)
    """Tokens that end an answer."""
    base: str = ""
    """Of a model with adapters, what they stand on: its weights are shared with every copy."""
    template_options: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """What every rendering of the chat template is given."""

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.module.device

    @cached_property
    def vocabulary(self) -> int:
        """How many tokens the tokenizer knows.

        An output layer may have more rows, to reach a round number: such padding stands for no
        token, and is neither sampled nor scored.
        """
        return max(self.tokenizer.get_vocab().values()) + 1

    @cached_property
    def template(self) -> ChatTemplate:
        """The tokenizer's chat template."""
        return ChatTemplate(self.tokenizer, self.template_options)

    @property
    def positions(self) -> float:
        """How many tokens a context may have; infinite where the model names no limit."""
        return getattr(self.module.config, "max_position_embeddings", None) or math.inf

    @property
    def output(self) -> torch.nn.Linear:
        """The layer that makes logits of hidden states."""
        return cast(torch.nn.Linear, self.module.get_output_embeddings())

    @property
    def body(self) -> torch.nn.Module:
        """Everything below the output layer."""
        return cast(torch.nn.Module, self.module.get_decoder())

    def hidden(self, ids_BT: torch.Tensor) -> torch.Tensor:
        """Last hidden states (B, T, H) of right-padded sequences.

        Attention is causal, so what stands to the right of a token, padding included, never
        reaches it: no mask is needed, and none can hide an observation.
        """
        return self.body(input_ids=ids_BT, use_cache=False).last_hidden_state

    def head(self, hidden_NH: torch.Tensor) -> Head:
        """Hidden states with the output layer that makes logits of them."""
        return Head(hidden_NH, *self._scored())

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Next-token logits (..., V) in float32 of hidden states (..., H)."""
        return F.linear(hidden, *self._scored()).float()

    def weights(self) -> dict[str, torch.Tensor]:
        """The model's own weights, alive, each once under one name: of a model with adapters these,
        for they alone ever differ from its copies'.
        """
        tensors = self._tensors()
        return {n: x for n, x in tensors.items() if not self.base or adapters.is_adapter(n)}

    @torch.no_grad()
    def load_weights(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over weights by their names; names that are not the model's are left out.

        Raises:
            ValueError: one is missing or of another shape.
        """
        for name, weight in self.weights().items():
            if name not in tensors or tensors[name].shape != weight.shape:
                raise ValueError(f"weights {name!r} of shape {tuple(weight.shape)} are not there")
            weight.copy_(tensors[name])

    def load_file(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over the weights that `save` has written.

        Raises:
            ValueError, RuntimeError: one is missing or of another shape.
        """
        if self.base:
            self.load_weights(adapters.as_in_memory(self.weights(), tensors))
        else:
            strict = not self.module.config.tie_word_embeddings
            self.module.load_state_dict(tensors, strict=strict)

    def frozen_copy(self) -> LanguageModel:
        """The same weights, without gradients, in memory of their own; a base beneath adapters is
        not copied, since nothing moves it. Whoever moves a copy moves its `weights` alone.
        """
        own = self.weights()
        shared = [x for n, x in self._tensors().items() if n not in own]
        twin = adapters.sharing(self.module, shared).requires_grad_(False)
        return replace(self, module=twin.eval())

    def snapshot(self) -> LanguageModel:
        """What the model says now, for good; it is not to be moved.

        Adapters that say nothing yet are left away, so that this costs neither memory nor time.
        """
        new = self.base and adapters.says_nothing(self.weights())
        return self.without_adapters() if new else self.frozen_copy()

    def without_adapters(self) -> LanguageModel:
        """The base alone, in the same memory.

        Raises:
            ValueError: there are no adapters.
        """
        if not self.base:
            raise ValueError(
                f"{self.name} has no adapters that could be off: set student.lora={{}}, or ask a "
                "copy of the student, teacher=frozen"
            )
        plain = adapters.without_adapters(self.module)
        return replace(self, module=plain.eval(), name=self.base, base="")

    def digest(self) -> str:
        """The same for two models that say the same, another where a weight is another: SHA-256
        over all weights, adapters that say nothing left out.
        """
        found, own = hashlib.sha256(), self.weights()
        new = self.base and adapters.says_nothing(own)
        for name, tensor in sorted(self._tensors().items()):
            if not (new and name in own):
                found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                flat = tensor.detach().cpu().contiguous().reshape(-1)
                found.update(flat.view(torch.uint8).numpy().data)
        return found.hexdigest()

    def save(self, folder: Path) -> None:
        """Write the model and its tokenizer as `load_model` reads them; of a model with adapters
        these alone, which name their base.
        """
        if self.base:
            named = self.base if self.base.startswith("zoo:") else str(Path(self.base).resolve())
            adapters.save_adapter(folder, self.module, self.weights(), named)
        else:
            self.module.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def _tensors(self) -> dict[str, torch.Tensor]:
        """All weights and lasting buffers, alive; what several layers share has one name."""
        named = {id(x): (n, x) for n, x in reversed(self.module.state_dict(keep_vars=True).items())}
        return dict(reversed(named.values()))

    def _scored(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The output layer's weights (V, H) and bias (V,), padding left out."""
        weight, bias, vocabulary = self.output.weight, self.output.bias, self.vocabulary
        if len(weight) == vocabulary:
            return weight, bias
        return weight[:vocabulary], None if bias is None else bias[:vocabulary]


def load_model(settings: ModelSettings) -> LanguageModel:
    """Load a model and its tokenizer; nothing is fetched and nothing unpickled.

    Every token of the embeddings learns, padding too: it is often the token that ends answers.

    Raises:
        ValueError: there is no such folder, it is not a model, its weights are not safetensors or
            not finite, its tokenizer's ids are not the first of its output rows, its chat template
            closes answers with no token, cannot be encoded exactly or never reads one of its
            options, or its logits are not the output layer of its last hidden states (then
            divergences made of hidden states would be wrong); an adapter does not fit its base, or
            is another than `lora` says.
    """
    folder = model_folder(settings.path)
    base = base_path(settings.path)
    device = _device(settings.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device {settings.device!r} was asked for, but torch sees no GPU here; use device=cpu"
        )
    tokenizer = load_tokenizer(settings)
    check_index(model_folder(base))
    try:
        with warnings.catch_warnings(action="ignore"):  # what is wrong is said in one line
            module = AutoModelForCausalLM.from_pretrained(
                model_folder(base),
                dtype=getattr(torch, settings.dtype),
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=settings.trust_remote_code,
            )
    except Exception as error:  # transformers raises anything where a folder is not as it expects
        raise unloadable(settings, error) from error
    torch.nn.Module.to(module, device)
    _let_padding_learn(module)
    lora = settings.lora if isinstance(settings, StudentSettings) else None
    if base != settings.path:
        module = adapters.with_adapter(module, folder, lora)
    elif lora is not None:
        module = adapters.adapted(module, lora)
    model = conversing(module.eval(), tokenizer, settings)
    if lora is not None or base != settings.path:
        model = replace(model, base=base)
    check_vocabulary(model)
    _check_finite(model)
    _check_head(model)
    return model


def load_tokenizer(settings: ModelSettings) -> PreTrainedTokenizerFast:
    """Load a model's tokenizer alone.

    Raises:
        ValueError: there is no such folder, or it holds no fast tokenizer with a chat template.
    """
    folder = model_folder(settings.path)
    if not (folder / "tokenizer_config.json").is_file():  # an adapter's folder need not have one
        folder = model_folder(base_path(settings.path))
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=settings.trust_remote_code
        )
    except Exception as error:  # as in `load_model`
        raise unloadable(settings, error) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast) or not tokenizer.chat_template:
        raise ValueError(
            f"{settings.path} has no fast tokenizer with a chat template; agents need one"
        )
    return tokenizer


def unloadable(settings: ModelSettings, error: Exception) -> ValueError:
    """What to raise where transformers cannot read a folder."""
    reason = str(error).split("\n")[0] or repr(error)
    return ValueError(f"{settings.path} cannot be loaded as a causal language model: {reason}")


def _device(name: str) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"{name!r} is not a device; use cpu, cuda or cuda:0") from error


def conversing(
    module: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, settings: ModelSettings
) -> LanguageModel:
    """The model with all tokens that end its answers; one forgotten, and answers run on.

    Raises:
        ValueError: the chat template is not one that conversations can follow.
    """
    template = ChatTemplate(tokenizer, settings.template_options)
    try:
        template.check_options()
        template.check()
        stops = {*_declared_ends(module, tokenizer), template.closing}
    except ValueError as error:
        raise ValueError(f"{settings.path}: {error}") from error
    told = {"stop_ids": frozenset(stops), "template_options": settings.template_options}
    model = LanguageModel(module, tokenizer, settings.path, **told)
    model.__dict__["template"] = template  # its tables take a second to build
    return model


def _declared_ends(module: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> set[int]:
    """All that the tokenizer or the generation settings call end."""
    declared = module.generation_config.eos_token_id if module.generation_config else None
    ends = [*(declared if isinstance(declared, list) else [declared]), tokenizer.eos_token_id]
    return {int(end) for end in ends if end is not None}


def _let_padding_learn(module: PreTrainedModel) -> None:
    """Torch gives an embedding's `padding_idx` no gradient; padding is never fed as such here."""
    for layer in module.modules():
        if isinstance(layer, torch.nn.Embedding):
            layer.padding_idx = None


def _check_finite(model: LanguageModel) -> None:
    for name, tensor in model.module.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(
                f"{model.name}: the weights {name!r} hold NaN or infinite numbers, so everything "
                "the model says would be made of them; take another checkpoint of it"
            )


def check_vocabulary(model: LanguageModel) -> None:
    """ValueError where a model's output rows are not its tokenizer's tokens, and padding."""
    known, rows = set(model.tokenizer.get_vocab().values()), len(model.output.weight)
    if model.vocabulary > rows:
        raise ValueError(
            f"{model.name}: the tokenizer's ids go up to {model.vocabulary - 1}, and the output "
            f"layer scores those below {rows}: the two belong to different models, or tokens were "
            "added to one of them alone. Resize the embeddings, or bring the model's own tokenizer"
        )
    if missing := sorted(set(range(model.vocabulary)) - known):
        raise ValueError(
            f"{model.name}: the tokenizer's ids go up to {model.vocabulary - 1}, and "
            f"{len(missing)} of them, {missing[0]} first, are no token's: their output rows could "
            "be sampled and would mean nothing. Name these ids among the tokenizer's added tokens"
        )


def _check_head(model: LanguageModel) -> None:
    ids_BT = torch.tensor([[min(model.stop_ids)] * 3], device=model.device)
    with torch.no_grad():
        direct = model.module(input_ids=ids_BT).logits[..., : model.vocabulary].float()
        ours = model.logits(model.hidden(ids_BT))
    if not direct.isfinite().all():
        raise ValueError(
            f"{model.name}: its weights are finite, but its logits are not: a forward pass in "
            f"{model.module.dtype} overflows; load it with another dtype"
        )
    if not torch.allclose(direct, ours, atol=1e-3, rtol=1e-3):
        raise ValueError(
            f"{model.name}: the logits are not the output layer applied to the last hidden states "
            "(a cap or a scale follows it); this architecture is not supported"
        )
