"""Each base class is a page: what must be defined first, and an example that runs as it stands."""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import Field
from scenes import Scene, scene_of

from agentopd.base.parts import Part
from agentopd.base.types import Privilege, Trajectory
from agentopd.divergences.base import Divergence, Row
from agentopd.divergences.logprobs import kl
from agentopd.learning.experiment import Laboratory
from agentopd.learning.idle.notices import notices_of
from agentopd.learning.method import Method
from agentopd.mixes.advantages import Advantage, Grpo
from agentopd.mixes.base import Mix
from agentopd.mixes.channels import Channels
from agentopd.models.model import LanguageModel
from agentopd.privilege.base import Source
from agentopd.rollout.policies import Rollout, StudentRollout
from agentopd.running.reading import parse_config
from agentopd.signal.evidence import Evidence
from agentopd.teacher import Teacher
from agentopd.units.base import Unit
from agentopd.units.spans import Span
from agentopd.weights.base import Weight

PAGES: dict[type[Part], str] = {
    Unit: "spans",
    Weight: "raw",
    Mix: "terms",
    Divergence: "value",
    Source: "whisper",
    Teacher: "prepare",
    Rollout: "collect",
}
"""What a class of one's own defines."""
NAMES: dict[str, Any] = {
    x.__name__: x
    for x in (
        *(Advantage, Channels, Evidence, Grpo, LanguageModel, Privilege, Row, Span),
        *(StudentRollout, Trajectory),
    )
} | {"Field": Field, "torch": torch, "kl": kl}
MOST_MEMBERS = 15
"""Fields and methods that a newcomer reads, of any base class."""


def _members(page: type[Part]) -> list[str]:
    """What the class says about itself, in the order of its text."""
    own = [*page.__annotations__, *vars(page)]
    return [x for x in dict.fromkeys(own) if not x.startswith("_") and x not in SKIPPED]


SKIPPED = ("family", "kind", "model_config", "model_fields", "model_computed_fields")


def _example(page: type[Part]) -> type[Any]:
    """The class that the page's docstring defines."""
    lines = inspect.cleandoc(page.__doc__ or "").splitlines()
    first = next(n for n, line in enumerate(lines) if re.match(r"    class \w+\(", line))
    block = [line for line in lines[first:] if not line or line.startswith("    ")]
    stop = next(
        (n for n, line in enumerate(lines[first:]) if line and not line.startswith("    ")),
        len(block),
    )
    names = NAMES | {x.__name__: x for x in PAGES}
    # Annotations stay text, as in a module that begins with the import of them.
    exec(textwrap.dedent("\n".join(lines[first : first + stop])), names)
    (found,) = [
        x for x in names.values() if isinstance(x, type) and x.__module__ == "builtins"
        and issubclass(x, page)
    ]  # fmt: skip
    return found


@pytest.fixture(scope="module")
def examples() -> dict[type[Part], type[Any]]:
    """Each page's example, defined once: a kind has one class."""
    return {page: _example(page) for page in PAGES}


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


def _method(**parts: Any) -> Method:
    config = parse_config({"env": {"id": "agentopd/Sokoban-v0"}}, ["rollout.group=4"])
    fields = {name: getattr(config, name) for name in Method.model_fields}
    return Method.model_validate(fields | parts)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.__name__)
def test_a_page_begins_with_what_must_be_defined(page: type[Part]) -> None:
    methods = [x for x in vars(page) if inspect.isfunction(vars(page)[x]) and x[0] != "_"]
    assert methods[0] == PAGES[page]
    beside = [x for x in _members(page) if x not in page.model_fields]  # which the docstring lists
    assert len(beside) <= MOST_MEMBERS, beside


@pytest.mark.parametrize(
    ("page", "axis", "listed"),
    [(Unit, "unit", False), (Weight, "weight", True), (Divergence, "divergence", False),
     (Mix, "mix", False)],
)  # fmt: skip
def test_an_example_of_the_signal_is_a_method_of_its_own(
    examples: dict[type[Part], type[Any]], page: type[Part], axis: str, listed: bool
) -> None:
    own = examples[page]()
    method, plain = _method(**{axis: [own] if listed else own}), _method()
    laboratory = Laboratory.of(method)
    sums = {"unit": {"reduce": "sum"}}.get(axis, {})
    if sums:
        method = _method(unit=examples[page](**sums))
    assert laboratory.trial(method).differs(laboratory.trial(plain)) is True
    assert notices_of(method) == []


def test_an_example_of_a_source_tells_something(
    examples: dict[type[Part], type[Any]], scene: Scene
) -> None:
    episodes = scene.trajectories
    told = [examples[Source]().whisper(t, episodes) for t in episodes]
    assert any(told)
    assert all(isinstance(x, Privilege) for some in told if some for x in some)


def test_an_example_of_a_teacher_scores(
    examples: dict[type[Part], type[Any]], scene: Scene
) -> None:
    teacher = examples[Teacher]()
    teacher.prepare(scene.student)
    views = [x.view for x in scene.lessons if x.view is not None]
    lessons = teacher.score(views)
    assert [x.trajectory for x in lessons] == scene.trajectories
    assert all(x.hidden_NH is not None for x in lessons)


def test_an_example_of_a_rollout_can_be_configured(
    examples: dict[type[Part], type[Any]],
) -> None:
    config = parse_config(
        {"env": {"id": "agentopd/Sokoban-v0"}}, [f"rollout={examples[Rollout].kind}"]
    )
    assert isinstance(config.rollout, examples[Rollout])
