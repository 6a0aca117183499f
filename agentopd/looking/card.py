"""The model card of an exported student: by which method it learnt, on what, and how well."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from agentopd.base.files import read_text
from agentopd.learning.method import AXES
from agentopd.looking.report.finding import percent, span
from agentopd.running.checkpoint import Progress
from agentopd.running.config import RunConfig
from agentopd.running.folder import METRICS


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What a card tells of.

    Attributes:
        name: of the folder it lies in.
        base: the model that the run started from, as it is to be named.
        published: whether that is the name under which others find it.
        form: what the folder holds: a model, an adapter, a model with the adapter merged into it.
        evaluations: those of the run's metrics, by how many steps came before.
    """

    name: str
    base: str
    published: bool
    form: str
    config: RunConfig
    progress: Progress
    evaluations: Mapping[int, Mapping[str, Any]]


def evaluations_of(run: Path) -> dict[int, dict[str, Any]]:
    """A run's evaluations, by how many steps came before them."""
    lines = read_text(run / METRICS).split("\n")[:-1] if (run / METRICS).is_file() else []
    found = (json.loads(line) for line in lines)
    return {line["step"] + 1: line["evaluation"] for line in found if line.get("evaluation")}


def card(exported: Exported) -> str:
    """The text of a README.md as model hubs read it."""
    config, progress = exported.config, exported.progress
    return "\n".join(
        (
            *_front(exported),
            f"# {exported.name}",
            "",
            f"{exported.form}, taught by on-policy distillation with agentopd {version('agentopd')}"
            f" from {exported.base}. **The licence of {exported.base} applies to it.**",
            "",
            "## Method",
            "",
            *_method(config),
            "## Data",
            "",
            f"The student's own episodes in `{config.env.id}`"
            f"{_written(' with ', config.env.options)}: {progress.step} steps of "
            f"{config.rollout.episodes} episodes, {progress.student_tokens:,} tokens of its own, "
            f"{progress.teacher_tokens:,} read by the teacher. Seed {config.seed}.",
            "",
            "## Figures",
            "",
            *_figures(exported),
            "One seed tells nothing of another: the interval is over tasks alone.",
            "",
        )
    )


def _front(exported: Exported) -> list[str]:
    """What hubs index a model by."""
    library = "peft" if exported.form == "An adapter" else "transformers"
    named: dict[str, Any] = {"base_model": exported.base} if exported.published else {}
    tags = ["agentopd", "on-policy-distillation"]
    told = named | {"library_name": library, "pipeline_tag": "text-generation", "tags": tags}
    return ["---", yaml.safe_dump(told, sort_keys=False).rstrip(), "---", ""]


def _method(config: RunConfig) -> Iterator[str]:
    row = f"The row `{config.method}`" if config.method else "No published row"
    under = f", under the control `{config.control}`" if config.control else ""
    yield f"{row}{under}; its values on the axes, as far as they are no defaults:"
    yield ""
    yield "| axis | value |"
    yield "|---|---|"
    for axis in AXES:
        if value := _described(getattr(config, axis)):
            yield f"| {axis} | `{value}` |"
    yield f"| learner | `{_described(config.learner) or '{}'}` |"
    if config.student.lora is not None:
        yield f"| lora | `{_flow(config.student.lora.model_dump(mode='json'))}` |"
    yield ""


def _figures(exported: Exported) -> Iterator[str]:
    """Success before the first step and at the exported one, where they were measured."""
    settings, found = exported.config.evaluate, exported.evaluations
    yield (
        f"Success on {settings.episodes} held-out tasks{_written(' with ', settings.options)}, "
        "with Wilson's 95 % interval:"
    )
    yield ""
    yield "| steps | success | 95 % interval |"
    yield "|---|---|---|"
    for step in sorted({0, exported.progress.step}):
        told = found.get(step)
        if told is None:
            yield f"| {step} | not measured | |"
        else:
            yield f"| {step} | {percent(told['success'])} | {span(told.get('interval'))} |"
    yield ""


def _described(value: Any) -> str:
    """A part, or several, with what is no default of theirs."""
    if isinstance(value, Mapping):
        plain: Any = {name: _plain(each) for name, each in value.items()}
    elif isinstance(value, Sequence):
        plain = [_plain(each) for each in value]
    else:
        plain = _plain(value)
    return _flow(plain) if plain else ""


def _plain(value: BaseModel) -> Any:
    return value.model_dump(mode="json", exclude_defaults=True)


def _written(before: str, options: Mapping[str, Any]) -> str:
    return f"{before}`{_flow(dict(options))}`" if options else ""


def _flow(value: Any) -> str:
    """YAML in one line, without what would end a cell of a table."""
    dumped = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6)
    return dumped.strip().replace("|", "\\|")
