"""Configurations read: a YAML file, under a method's row, under `key=value` overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from agentopd.base.parts import closest
from agentopd.learning.method import AXES
from agentopd.running.config import ConfigError, RunConfig

FOLDER = Path(__file__).parents[1] / "configs"

_DEFAULT_KINDS = {
    "rollout": "student",
    "view": "system",
    "teacher": "frozen",
    "unit": "token",
    "divergence": "reverse_kl",
    "mix": "distil",
    "rl": "grpo",
}


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
