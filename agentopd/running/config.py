"""The configuration of a run: a method, and where, how long and on what it runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from pydantic import Field, PrivateAttr, SerializeAsAny, field_validator, model_validator

import agentopd.running.kinds  # noqa: F401  (every built-in part is known by its kind)
from agentopd.base.parts import Settings, closest
from agentopd.base.written import ConfigError
from agentopd.environment.settings import EnvSettings
from agentopd.learning.idle.notices import notices_of, truncation_notice
from agentopd.learning.method import Method
from agentopd.mixes.gold import Gold
from agentopd.mixes.terms.inferred import InferredReward
from agentopd.models.model import StudentSettings
from agentopd.rollout.engine import InferenceEngine, TransformersEngine
from agentopd.running.stages.settings import Leg, Stages, legs

__all__ = ["ConfigError", "EvaluationSettings", "RunConfig", "StudySettings"]


class EvaluationSettings(Settings):
    """How success is measured: one episode on each of `episodes` held-out tasks.

    Args:
        every: steps between evaluations; 0 evaluates before the first step and after the last one
            only.
        options: for the environment, beside the run's own; the held-out split, say.
        temperature, top_p, top_k: of sampling; the rollout's where not given.
    """

    episodes: int = Field(default=256, ge=1)
    every: int = Field(default=0, ge=0)
    options: dict[str, Any] = Field(default_factory=dict)
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0)

    @property
    def sampling(self) -> dict[str, float]:
        """What is not as in the rollout."""
        own = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        return {name: value for name, value in own.items() if value is not None}


class StudySettings(Settings):
    """A comparison: each arm is the run with some keys overridden, repeated for every seed.

    With `habits`, what acting without reading scores is measured beside, once.

    Args:
        sick: in the study of a pathology, the arm that has it; the page of several studies shows
            what every other arm changes against it.
        healthy: arms to which the pathology never came.
        control: arms whose student was made without its cause.

    Raises:
        ValueError: one of these three names no arm, or an arm twice.
    """

    name: str = "comparison"
    arms: dict[str, dict[str, Any]]
    seeds: tuple[int, ...] = (0, 1)
    habits: bool = True
    sick: str | None = None
    healthy: tuple[str, ...] = ()
    control: tuple[str, ...] = ()

    @field_validator("healthy", "control", mode="before")
    @classmethod
    def _of_one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _names_its_arms(self) -> StudySettings:
        said: dict[str, str] = {}
        for role, names in self.roles.items():
            for name in names:
                if name not in self.arms:
                    raise ValueError(
                        f"{role}: no arm is called {name!r}, so nothing can be told of it; "
                        f"{closest(name, self.arms)} (without such an arm, say {role}: "
                        f"{'null' if role == 'sick' else '[]'})"
                    )
                if name in said:
                    raise ValueError(
                        f"{role}: the arm {name!r} is {said[name]} already, and an arm is compared "
                        "in one of them; name it once"
                    )
                said[name] = role
        return self

    @property
    def roles(self) -> dict[str, tuple[str, ...]]:
        """The arms by what they are in the study of a pathology."""
        return {
            "sick": () if self.sick is None else (self.sick,),
            "healthy": self.healthy,
            "control": self.control,
        }


class RunConfig(Method):
    """Everything a run depends on.

    `threads` are torch's; see `thread_count` for how many there are where it is not given. `track`
    names trackers that the metrics' numbers go to as well: tensorboard, wandb, trackio. `sampler`
    is what runs the student while it acts: the student itself, or vLLM. `gold` are demonstrations
    to follow beside the method, `inferred_reward` is a reward to infer beside it; `stages` are run
    one after another, each with its settings over these.

    Raises:
        ValueError: the teacher is the student without adapters, which the student does not have.
    """

    seed: int = Field(default=0, ge=0, lt=2**32)
    steps: int = Field(default=25, ge=0, lt=2**31)
    threads: int | None = Field(default=None, ge=1, le=1_024)
    student: StudentSettings = StudentSettings()
    env: EnvSettings
    evaluate: EvaluationSettings = EvaluationSettings()
    sampler: SerializeAsAny[InferenceEngine] = TransformersEngine()
    track: tuple[str, ...] = ()
    gold: Gold | None = None
    inferred_reward: InferredReward | None = None
    stages: Stages = Field(default_factory=dict)
    study: StudySettings | None = None

    _told: tuple[str, ...] = PrivateAttr(default=())

    @property
    def legs(self) -> list[Leg]:
        """The stages in their order, as often as each is gone through; none of an ordinary run."""
        return legs(self.stages) if self.stages else []

    @property
    def all_steps(self) -> int:
        """The steps of the whole run, those of all stages together."""
        if not self.stages:
            return self.steps
        trained = [leg.stage for leg in self.legs if leg.trains]
        return sum(int(stage.settings.get("steps", self.steps)) for stage in trained)

    @model_validator(mode="after")
    def _has_an_end(self) -> RunConfig:
        if self.stages:
            legs(self.stages)
        return self

    @model_validator(mode="after")
    def _has_adapters(self) -> RunConfig:
        if self.teacher.needs_adapters and self.student.lora is None:
            raise ValueError(
                f"teacher: {self.teacher.kind} is the student without its adapters, and it has "
                "none: set student.lora={}, or ask a copy of the student, teacher=frozen"
            )
        return self

    @model_validator(mode="after")
    def _plays_to_its_end(self) -> RunConfig:
        self.check_schedules(self.steps)
        return self

    def fresh(self) -> RunConfig:
        """The same settings, of parts that have not lived: no weights, no memory."""
        return RunConfig.model_validate(self.model_dump(mode="json")).telling(self._told)

    def telling(self, told: Sequence[str]) -> RunConfig:
        """The same, with what its notices begin with: what was made of it when it was read."""
        found = self.model_copy()
        found._told = tuple(told)
        return found

    def notices(self) -> list[str]:
        """What was put in the place of what was written; what changes nothing where it stands, see
        `agentopd.learning.idle.notices`; and what is learnt with a bias.
        """
        if self.stages:  # each stage has its own
            return [*self._told]
        return [*self._told, *notices_of(self), *truncation_notice(self)]


def thread_count(written: int | None, processes: int = 1) -> int:
    """Torch's threads in each of `processes` that run side by side.

    What is written in the configuration counts, then OMP_NUM_THREADS. Without either, several
    processes share the cores, and one alone takes two of them: of more, small models have no use,
    and threads that wait for each other on a busy machine cost many times what they gain.
    """
    if written is not None:
        return written
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if asked.isdigit():
        return max(1, int(asked))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // processes if processes > 1 else min(2, cores or 1))
