"""Configurations read: which of the file, a method's row, an arm and `key=value` wins.

A layer is a file, an arm of a study, or a command line: a method's row, if it names one, and its
own keys over that. A later layer lies over an earlier one: the arm over the run, the command line
over the file. So beside `method:` the keys of the same layer win, and a method that is named later
takes the place of what was said before, key by key, and says what that was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from agentopd.base.layers import beyond, changes, over
from agentopd.base.parts import closest
from agentopd.base.written import FOLDER, STORED, find_config, read_mapping, read_stored
from agentopd.learning.method import AXES, Method
from agentopd.rollout.policies import Rollout
from agentopd.running.config import ConfigError, RunConfig
from agentopd.running.defaults import for_student
from agentopd.running.stages.settings import INITIAL, PREVIOUS, Leg

ROW = (*AXES, "gold", "inferred_reward", "stages")
"""What the row of a method may set."""
_APART = 10_007
"""What lies between the seeds of two stages, so that no two play the same tasks."""
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

    Args:
        path: a file, or the name of a configuration that comes with agentopd, such as `quickstart`.

    Raises:
        ConfigError: the file cannot be read, or something in it cannot be used; one line a problem.
    """
    found = find_config(path)
    return parse_config(read_mapping(found), overrides, found.parent)


def load_stored(folder: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration that a run or a study left in its folder.

    Raises:
        ConfigError: it is not there, is damaged, or cannot be used; the message names the file.
    """
    try:
        read = read_stored(folder)
        config = parse_config(read, overrides)
        return config.telling([*config._told, *_unsaid(folder / STORED, read, config)])
    except ConfigError as error:
        path = str(folder / STORED)
        lines = [ln if path in ln else f"{path}: {ln}" for ln in str(error).splitlines()]
        raise ConfigError("\n".join(lines)) from error


def parse_config(
    data: Mapping[str, Any], overrides: Sequence[str] = (), beside: Path | None = None
) -> RunConfig:
    """A configuration from a mapping; see `load_config`.

    Args:
        beside: the folder in which rows that are named by a path are looked for, after the current
            one.
    """
    given = [parse_override(override) for override in overrides]
    method = next((value for key, value in reversed(given) if key == "method"), None)
    if method is None:
        merged, told = _over_its_row(data, beside), []
    else:
        own = _own(_validated(data)) if _is_complete(data) else data
        merged, told = _under_row(own, str(method), given, beside)
    return _changed(merged, given, told)


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
    return _layered(config, {**config.study.arms[arm], "seed": seed}, f"arm {arm}")


def stage_configs(config: RunConfig) -> list[tuple[Leg, RunConfig]]:
    """The stages of a run in their order, each with the configuration of a run of its own, in which
    what refers to other stages is left as it is written.

    Each that trains has tasks of its own, the first those of the run's seed; what is collected in
    front of it is played on the same tasks.

    Raises:
        ConfigError: a setting cannot be used; the message names the stage.
    """
    found: list[tuple[Leg, RunConfig]] = []
    for leg in config.legs:
        own, where = dict(leg.stage.settings), f"stage {leg.folder}"
        if "stages" in own or "study" in own:
            raise ConfigError(f"{where}: a stage is one run; put stages beside each other instead")
        if own.get("teacher") in (PREVIOUS, INITIAL):
            own["teacher"] = {"kind": "external", "source": {"path": own["teacher"]}}
        if isinstance(rollout := own.get("rollout"), Mapping):
            shared = config.rollout.model_dump(mode="json", include={*Rollout.model_fields})
            own["rollout"] = {**{k: v for k, v in shared.items() if k != "kind"}, **rollout}
        trained = sum(before.trains for before, _ in found)
        own["seed"] = (config.seed + _APART * trained) % 2**32
        whole = config.model_copy(update={"stages": {}, "study": None})
        read = _layered(whole, own, where)
        if read.stages:
            raise ConfigError(
                f"{where}: method: {read.method} has stages of its own: write them out in its place"
            )
        found.append((leg, read))
    return found


def _layered(config: RunConfig, own: Mapping[str, Any], where: str) -> RunConfig:
    """A configuration with dotted settings over it, a row by name among them perhaps.

    Raises:
        ConfigError: one cannot be used; every line says where.
    """
    data = config.model_dump(mode="json", exclude={"study"})
    told: list[str] = []
    try:
        if own.get("method") is not None:
            data, told = _under_row(_own(config), str(own["method"]), [*own.items()])
        return _changed(data, [*own.items()], told)
    except ConfigError as error:
        lines = (f"{where}: {line}" for line in str(error).splitlines())
        raise ConfigError("\n".join(lines)) from error


def load_method(name: str, beside: Path | None = None) -> dict[str, Any]:
    """The row of a method: its values on the axes.

    Args:
        name: of a published method, or the path of a YAML file that holds a row of one's own.
        beside: a folder in which that path is looked for, after the current one.

    Raises:
        ConfigError: there is none, or it sets something that is no axis.
    """
    if not name.endswith((".yaml", ".yml")):
        path = FOLDER / "methods" / f"{name}.yaml"
        if name not in method_names():
            raise ConfigError(
                f"method: no method is called {name!r}; {closest(name, method_names())} "
                "(a row of your own is named by its file, such as my_method.yaml)"
            )
    else:
        path = next((p for p in (Path(name), (beside or Path()) / name) if p.exists()), Path(name))
    row = read_mapping(path)
    stray = [key for key in row if key not in ROW]
    if stray:
        raise ConfigError(
            f"method: {path} sets {', '.join(map(str, stray))}, and a row sets axes alone: "
            f"{', '.join(ROW)}. A configuration of a run is given first: agentopd train {path}"
        )
    return row


def method_names() -> list[str]:
    """All methods that have a row."""
    return sorted(p.stem for p in (FOLDER / "methods").glob("*.yaml"))


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
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"the value of {key} is not YAML: {value!r}") from error


def _unsaid(path: Path, read: Mapping[str, Any], config: RunConfig) -> list[str]:
    """What a complete configuration would say and this one does not."""
    missing = list(_lacking(read, config.model_dump(mode="json")))
    if not missing:
        return []
    return [
        f"{path} lacks {', '.join(missing)}: another version of agentopd wrote it, or a hand has "
        "changed it; the defaults are taken"
    ]


def _lacking(read: Mapping[str, Any], whole: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key, value in whole.items():
        if key not in read:
            yield f"{above}{key}"
        elif isinstance(value, Mapping) and isinstance(read[key], Mapping):
            yield from _lacking(read[key], value, f"{above}{key}.")


def _over_its_row(data: Mapping[str, Any], beside: Path | None) -> dict[str, Any]:
    """A layer's keys over the row that it names itself; what a run has written is complete."""
    if data.get("method") is None or _is_complete(data):
        return dict(data)
    row = _parts(load_method(str(data["method"]), beside))
    laid = {axis: over(row[axis], data[axis]) for axis in row if axis in data}
    return {**data, **row, **laid}


def _under_row(
    data: Mapping[str, Any],
    method: str,
    given: Sequence[tuple[str, Any]],
    beside: Path | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """An earlier layer's keys under the row of a later one, and what that changes of them, where
    the later layer says nothing itself.
    """
    row = _parts(load_method(method, beside))
    said = {axis: value for axis, value in _parts(data).items() if axis in row}
    merged = {axis: over(said.get(axis), value) for axis, value in row.items()}
    if "stages" in row:  # those of another method are no part of this one
        merged["stages"] = row["stages"]
    before, after = said.get("rollout"), merged.get("rollout")
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        # How many episodes, and how long, is no rollout's own affair.
        shared = {key: value for key, value in before.items() if key in Rollout.model_fields}
        merged["rollout"] = {**shared, **after}
    itself = tuple(f"{key}." for key, _ in given)
    changed = [c for c in changes(said, merged) if not f"{c.key}.".startswith(itself)]
    listed = "; ".join(map(str, changed))
    told = [f"method: {method} changes what was set before it: {listed}"] if changed else []
    return {**data, **merged, "method": method}, told


def _parts(data: Mapping[str, Any]) -> dict[str, Any]:
    """The axes with their kinds written out, one source or weight as a list of one."""
    found: dict[str, Any] = {}
    for axis in (axis for axis in ROW if axis in data):
        value = data[axis]
        if axis in _DEFAULT_KINDS and isinstance(value, str):
            value = {"kind": value}
        elif axis in _DEFAULT_KINDS and isinstance(value, Mapping):
            value = {"kind": _DEFAULT_KINDS[axis], **value}
        elif axis in ("privilege", "weight") and isinstance(value, str | Mapping):
            value = [value]
        if axis in ("privilege", "weight") and isinstance(value, list):
            value = [{"kind": each} if isinstance(each, str) else each for each in value]
        found[axis] = value
    return found


def _is_complete(data: Mapping[str, Any]) -> bool:
    """Whether a run or a study has written this: nothing is left to defaults or to a row."""
    return data.keys() >= Method.model_fields.keys()


def _own(config: RunConfig) -> dict[str, Any]:
    """What a configuration says beyond its own method's row and the defaults, of the axes; of
    everything else, all.
    """
    data = config.model_dump(mode="json", exclude={"study"})
    row = {} if config.method is None else _parts(_row_if_there(config.method))
    own: dict[str, Any] = {key: value for key, value in data.items() if key not in ROW}
    for axis in ROW:
        value, base = data[axis], _completed(axis, row.get(axis))
        if axis in _DEFAULT_KINDS and value["kind"] != base["kind"]:
            base = _completed(axis, {"kind": value["kind"]})
            own[axis] = {"kind": value["kind"], **(beyond(value, base) or {})}
        elif value != base:
            own[axis] = beyond(value, base)
    return own


def _row_if_there(method: str) -> dict[str, Any]:
    """A method's row; nothing where its file is gone: all it said then counts as said."""
    try:
        return load_method(method)
    except ConfigError:
        return {}


def _completed(axis: str, given: Any) -> Any:
    """An axis as a run would write it, of what a row says of it; None for the default."""
    field = RunConfig.model_fields[axis]
    kind = TypeAdapter(field.rebuild_annotation())
    try:
        read = field.get_default(call_default_factory=True) if given is None else given
        return kind.dump_python(kind.validate_python(read), mode="json")
    except ValidationError:  # a row may leave to the file what its part cannot do without
        return given


def _changed(
    data: Mapping[str, Any], given: Sequence[tuple[str, Any]], told: Sequence[str]
) -> RunConfig:
    """The configuration of `data` with dotted keys set, which also tells what was done to it."""
    merged, left_out = _in_another_env(data, given)
    for key, value in given:
        merged = _with(merged, key.split("."), value)
    merged, filled = for_student(_with_kinds(merged))
    return _validated(merged).telling([*told, *left_out, *filled])


def _in_another_env(
    data: Mapping[str, Any], given: Sequence[tuple[str, Any]]
) -> tuple[dict[str, Any], list[str]]:
    """Without the options that belong to another environment than the one that is now named."""
    env = data.get("env")
    before = env.get("id") if isinstance(env, Mapping) else env
    named = [
        v.get("id") if isinstance(v, Mapping) else v for k, v in given if k in ("env", "env.id")
    ]
    if not before or not named or named[-1] == before:
        return dict(data), []
    found: dict[str, Any] = {**data}
    left_out: list[str] = []
    for group in ("env", "evaluate"):
        own = data.get(group)
        if isinstance(own, Mapping) and own.get("options"):
            found[group] = {key: value for key, value in own.items() if key != "options"}
            left_out.append(f"{group}.options ({', '.join(map(str, own['options']))})")
    if not left_out:
        return found, []
    return found, [
        f"env.id: {named[-1]} is another environment than {before}, whose {' and '.join(left_out)} "
        "are left out; say again what is meant for both, such as evaluate.options.split=test"
    ]


def _validated(data: Mapping[str, Any]) -> RunConfig:
    try:
        return RunConfig.model_validate(_with_kinds(data))
    except ValidationError as error:
        raise ConfigError("\n".join(_explained(e) for e in error.errors())) from error


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
