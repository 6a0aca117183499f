"""What a planned run will take of memory, from the shapes of its models: no weights are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, PretrainedConfig

from agentopd.learning.forecast import Forecast, forecast_of_shapes
from agentopd.learning.learner import Learner
from agentopd.models import adapters
from agentopd.models.model import LanguageModel, ModelSettings, StudentSettings
from agentopd.running.config import RunConfig

# V vocabulary, H hidden size


@dataclass(frozen=True)
class ShapedModel(LanguageModel):
    """A model as its configuration describes it: it has neither weights nor a tokenizer.

    Args:
        tokens: how many tokens its tokenizer is to know.
    """

    tokens: int = 0

    @property
    def vocabulary(self) -> int:  # type: ignore[override]  (there it is worked out once)
        """See `LanguageModel.vocabulary`."""
        return self.tokens

    def snapshot(self) -> LanguageModel:
        """See `LanguageModel.snapshot`; its adapters are new."""
        return self.without_adapters() if self.base else self.frozen_copy()


def planned_forecast(
    config: RunConfig, student: PretrainedConfig, teacher: PretrainedConfig | None = None
) -> Forecast:
    """What a run's steps will take where its models are of these shapes.

    Attention is counted as it is with a mask, which a pass that is only planned cannot know to be
    unneeded: where queries share keys that is more than a run takes, by up to a tenth of the
    activations. Neither the memory of libraries is counted nor what a sampler beside the learner
    has for itself.

    Args:
        student, teacher: what stands in their config.json; `teacher` where it has weights of its
            own, here or at a server.

    Raises:
        ValueError: the teacher has weights of its own, and its shape is not given.
    """
    config = config.fresh()
    with torch.device("meta"):
        model, passing = (_shaped(student, config.student) for _ in range(2))
        held = list(_held(config, model, teacher))
        learner = Learner(model, config.teacher, config)
    # On the meta device attention has no fused form, and keeps what no run keeps.
    with FakeTensorMode(allow_non_fake_inputs=True):
        passing.module.to_empty(device="cpu")
        passing.module.tie_weights()
        gpu = config.student.device.startswith("cuda")
        return forecast_of_shapes(learner, held, passing, gpu)


def _held(
    config: RunConfig, student: ShapedModel, shape: PretrainedConfig | None
) -> Iterator[torch.Tensor]:
    """What of the teacher is in the learner's memory."""
    teacher = config.teacher
    if not config.mix.distil_coefficient:
        return
    if teacher.copies_student or teacher.needs_adapters:
        teacher.prepare(student)
        yield from teacher.held()
        return
    source = getattr(teacher, "source", None)
    if shape is None or not isinstance(source, ModelSettings):
        raise ValueError(
            f"teacher: {teacher.kind} has weights of its own: give the shape of its model"
        )
    model = _shaped(shape, source)
    if teacher.local:
        yield from (*model.module.parameters(), *model.module.buffers())
    elif teacher.kind == "served":  # its output layer alone is here
        yield model.output.weight


def _shaped(shape: PretrainedConfig, settings: ModelSettings) -> ShapedModel:
    dtype = getattr(torch, settings.dtype)
    module = AutoModelForCausalLM.from_config(shape, dtype=dtype).eval()
    lora = settings.lora if isinstance(settings, StudentSettings) else None
    if lora is not None:
        module = adapters.adapted(module, lora)
    tokens = shape.get_text_config().vocab_size
    base = settings.path if lora is not None else ""
    return ShapedModel(module, cast(Any, None), settings.path, base=base, tokens=tokens)
