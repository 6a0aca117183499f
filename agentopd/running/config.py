"""The configuration of a run: a YAML file, under a method's row, under `key=value` overrides.

Importing this module makes every built-in part known by its kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

import agentopd.running.kinds  # noqa: F401  (every built-in part is known by its kind)
from agentopd.base.parts import Settings, closest
from agentopd.divergences.base import Divergence
from agentopd.divergences.kl import ReverseKL
from agentopd.environment.wrappers import EnvSettings
from agentopd.mixes.base import Mix
from agentopd.mixes.schedules import History, Schedule
from agentopd.mixes.shared import DistilOnly
from agentopd.models.model import ModelSettings
from agentopd.privilege.sources import SkillSummary, Source
from agentopd.privilege.view import SystemView, ViewBuilder
from agentopd.probes.settings import ProbeSettings
from agentopd.rollout.policies import Rollout, StudentRollout
from agentopd.running.controls import ControlName, controlled_sources, controlled_teacher
from agentopd.running.notices import notices_of
from agentopd.teacher import Teacher
from agentopd.teachers.copies import FrozenTeacher
from agentopd.units.base import Unit
from agentopd.units.stretches import TokenUnit
from agentopd.weights.base import Weight

FOLDER = Path(__file__).parents[1] / "configs"
AXES = (
    "rollout",
    "privilege",
    "view",
    "teacher",
    "unit",
    "divergence",
    "weight",
    "mix",
    "schedule",
)


_DEFAULT_KINDS = {
    "rollout": "student",
    "view": "system",
    "teacher": "frozen",
    "unit": "token",
    "divergence": "reverse_kl",
    "mix": "distil",
    "rl": "grpo",
}


Channel = Literal["distil", "rl", "strength", "target", "learning_rate"]
"""What a schedule can be attached to: a channel's term, a mix's `strength`, the number in the
divergence's target (veto's `beta`, extrapolate's `scale`), the learning rate."""


class ConfigError(ValueError):
    """A configuration cannot be used; the message is for the person who wrote it."""


class LearnerSettings(Settings):
    """The optimizer, and how much is learnt at once.

    Args:
        clip: the gradient's norm is clipped to this.
        epochs: passes over a step's episodes, each with an optimizer step of its own. From the
            second on the student is no longer the one that acted: importance ratios make up for it,
            and PPO's clip has something to clip. The teacher is asked once.
        warmup: steps over which the learning rate grows from nothing.
        tokens_per_batch: padded tokens of one micro-batch; it bounds memory, not the result.
    """

    learning_rate: float = Field(default=3e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup: int = Field(default=0, ge=0)
    clip: float = Field(default=1.0, gt=0)
    epochs: int = Field(default=1, ge=1)
    tokens_per_batch: int = Field(default=4_096, ge=64)


class EvaluationSettings(Settings):
    """How success is measured: one episode on each of `episodes` held-out tasks.

    Args:
        every: steps between evaluations; 0 evaluates before the first step and after the last one
            only.
        options: for the environment, beside the run's own; the held-out split, say.
        temperature: of sampling; the rollout's if not given.
    """

    episodes: int = Field(default=256, ge=1)
    every: int = Field(default=0, ge=0)
    options: dict[str, Any] = Field(default_factory=dict)
    temperature: float | None = Field(default=None, ge=0)


class SaveSettings(Settings):
    """What is kept: a checkpoint, and a step's trajectories, every so many steps; 0 for none.

    Args:
        scores_top_k: with a step's trajectories, what the models said of each token is kept for
            `agentopd replay`: their log-probabilities at the student's and at the teacher's so many
            likeliest tokens, 32 bytes a token for each of them; 0 keeps nothing.
    """

    checkpoint_every: int = Field(default=10, ge=0)
    trajectories_every: int = Field(default=1, ge=0)
    scores_top_k: int = Field(default=0, ge=0)

    def unread(self) -> dict[str, str]:
        """See `Settings.unread`."""
        return {} if self.trajectories_every else {"scores_top_k": "trajectories_every above 0"}

    def keeps(self, step: int) -> bool:
        """Whether a step's trajectories are kept."""
        return bool(self.trajectories_every) and step % self.trajectories_every == 0


class StudySettings(Settings):
    """A comparison: each arm is the run with some keys overridden, repeated for every seed."""

    name: str = "comparison"
    arms: dict[str, dict[str, Any]]
    seeds: tuple[int, ...] = (0, 1)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str | Mapping) else value


def _skill() -> list[Source]:
    return [SkillSummary()]


class RunConfig(Settings):
    """Everything a run depends on.

    `control` is one of `agentopd.running.controls`. `privilege` and `teacher` are as it makes them;
    what it takes the place of is kept for the file, which says what was written.

    `threads` are torch's. Two processes of two threads on two cores wait for each other in busy
    loops and become many times slower: give each one thread, or set OMP_WAIT_POLICY=PASSIVE.
    """

    method: str | None = None
    seed: int = Field(default=0, ge=0)
    steps: int = Field(default=25, ge=0)
    threads: int = Field(default=2, ge=1)
    student: ModelSettings = ModelSettings()
    env: EnvSettings
    rollout: SerializeAsAny[Rollout] = StudentRollout()
    control: ControlName | None = None
    privilege: Annotated[list[SerializeAsAny[Source]], BeforeValidator(_listed)] = Field(
        default_factory=_skill, validate_default=True
    )
    view: SerializeAsAny[ViewBuilder] = SystemView()
    teacher: SerializeAsAny[Teacher] = Field(default_factory=FrozenTeacher)
    unit: SerializeAsAny[Unit] = TokenUnit()
    divergence: SerializeAsAny[Divergence] = ReverseKL()
    weight: Annotated[list[SerializeAsAny[Weight]], BeforeValidator(_listed)] = Field(
        default_factory=list
    )
    mix: SerializeAsAny[Mix] = DistilOnly()
    schedule: dict[Channel, SerializeAsAny[Schedule]] = Field(default_factory=dict)
    learner: LearnerSettings = LearnerSettings()
    evaluate: EvaluationSettings = EvaluationSettings()
    save: SaveSettings = SaveSettings()
    probe: ProbeSettings = ProbeSettings()
    study: StudySettings | None = None
    _written: dict[str, Any] = PrivateAttr(default_factory=dict)

    def fresh(self) -> RunConfig:
        """The same settings, of parts that have not lived: no weights, no memory."""
        return RunConfig.model_validate(self.model_dump(mode="json"))

    def notices(self) -> list[str]:
        """What changes nothing where it stands, a sentence each; see `agentopd.running.notices`."""
        return notices_of(self)

    def factor(self, name: Channel, step: int, history: History = ()) -> float:
        """What the schedule multiplies `name` by at a step, after the steps of the history."""
        if name in ("distil", "strength") and self.control == "zero_signal":
            return 0.0
        return self.schedule[name].factor(step, history) if name in self.schedule else 1.0

    def divergence_at(self, step: int, history: History = ()) -> Divergence:
        """The divergence with its target as the schedule has it at a step, after the steps of the
        history.
        """
        if "target" not in self.schedule:
            return self.divergence
        return self.divergence.aimed(self.factor("target", step, history))

    @model_validator(mode="after")
    def _makes_sense(self) -> RunConfig:
        self._take_control()
        if "target" in self.schedule:
            self.divergence.aimed(1.0)
        self.mix.check(self)
        self.unit.check(self)
        if self.learner.epochs > 1 and self.teacher.is_student and self.mix.distil_coefficient:
            raise ValueError(
                f"learner.epochs: {self.learner.epochs} moves the student several times a step, "
                f"and teacher: {self.teacher.kind} is that student, which is asked once a step: "
                "use teacher: frozen, ema, {kind: lagged, every: 1}, or epochs: 1"
            )
        return self

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return handler(self.model_copy(update=self._written))

    def _take_control(self) -> None:
        """Let the control's parts take the place of others, once."""
        if self.control is None or self._written:
            return
        if not self.mix.distil_coefficient:
            raise ValueError(
                f"control: {self.control} is about what a teacher says, and mix: {self.mix.kind} "
                "asks none: under this control the run would be the same. Leave it out"
            )
        controlled = {
            "privilege": controlled_sources(self.control, self.privilege),
            "teacher": controlled_teacher(self.control, self.teacher),
        }
        self._written = {name: getattr(self, name) for name in controlled}
        # The fields are frozen for everyone else.
        vars(self).update(controlled)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration file and apply `key=value` overrides.

    Raises:
        ConfigError: the file cannot be read, or something in it cannot be used; one line a problem.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        data = yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path} holds {type(data).__name__}, "
            "not a mapping of settings such as `env: {id: ...}`"
        )
    return parse_config(data, overrides)


def parse_config(data: Mapping[str, Any], overrides: Sequence[str] = ()) -> RunConfig:
    """A configuration from a mapping; see `load_config`."""
    given = [parse_override(override) for override in overrides]
    merged = dict(data)
    name = next((value for key, value in given if key == "method"), data.get("method"))
    if name is not None:
        merged |= load_method(str(name)) | {"method": name}
    for key, value in given:
        merged = _with(merged, key.split("."), value)
    try:
        return RunConfig.model_validate(_with_kinds(merged))
    except ValidationError as error:
        raise ConfigError("\n".join(_explained(e) for e in error.errors())) from error


def load_method(name: str) -> dict[str, Any]:
    """The row of a published method: its values on the axes."""
    path = FOLDER / "methods" / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"method: no method is called {name!r}; {closest(name, method_names())}")
    row = yaml.safe_load(path.read_text(encoding="utf-8"))
    stray = [key for key in row if key not in AXES]
    assert not stray, f"{path} sets {stray}, which are not axes of a method"
    return row


def method_names() -> list[str]:
    """All methods that have a row."""
    return sorted(p.stem for p in (FOLDER / "methods").glob("*.yaml"))


def arm_config(config: RunConfig, arm: str, seed: int) -> RunConfig:
    """The run of one arm of a study with one seed.

    Raises:
        ConfigError: there is no such arm, or an override of it cannot be used; the message names
            the arm.
    """
    assert config.study is not None
    if arm not in config.study.arms:
        raise ConfigError(
            f"study.arms: no arm is called {arm!r}; {closest(arm, config.study.arms)}"
        )
    data = config.model_dump(mode="json", exclude={"study"}) | {"seed": seed}
    changes = config.study.arms[arm]
    try:
        merged = data
        if changes.get("method") is not None:
            merged = {**merged, **load_method(str(changes["method"]))}
        for key, value in changes.items():
            merged = _with(merged, key.split("."), value)
        return RunConfig.model_validate(_with_kinds(merged))
    except ValidationError as error:
        raise ConfigError(
            "\n".join(f"arm {arm}: {_explained(e)}" for e in error.errors())
        ) from error
    except ConfigError as error:
        raise ConfigError(f"arm {arm}: {error}") from error


def parse_override(override: str) -> tuple[str, Any]:
    """The dotted key and the value of `key=value`, whose value is YAML.

    Raises:
        ConfigError: it is not of that form.
    """
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(
            f"{override!r} is not an override; "
            "write key=value, for example teacher=ema or learner.clip=0.5"
        )
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"the value of {key} is not YAML: {value!r}") from error


def _with_kinds(data: Mapping[str, Any]) -> dict[str, Any]:
    """`data` with the default kind of each axis whose settings name none."""
    unnamed = {axis: data[axis] for axis in _DEFAULT_KINDS if isinstance(data.get(axis), Mapping)}
    return {
        **data,
        **{axis: {"kind": _DEFAULT_KINDS[axis], **own} for axis, own in unnamed.items()},
    }


def _with(data: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """`data` with `value` at a dotted path; a part given by its kind alone can be refined."""
    head, *rest = path
    if not rest:
        return {**data, head: value}
    inner = data.get(head, _DEFAULT_KINDS.get(head, {}))
    inner = {"kind": inner} if isinstance(inner, str) else inner or {}
    if not isinstance(inner, Mapping):
        raise ConfigError(f"{'.'.join(path)}: {head} is {inner!r} and has no keys of its own")
    return {**data, head: _with(inner, rest, value)}


def _explained(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"] if part != "[key]")
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] not in ("value_error", "missing") and not isinstance(
        error["input"], dict | list
    ):
        message += f", not {error['input']!r}"
    return f"{place}: {message}" if place else message
