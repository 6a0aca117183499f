"""The folder a run or a study writes to: what may be started there, and what may go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from agentopd.base.files import UNFINISHED, make_folder, naming, read_json, read_text, write_whole
from agentopd.base.trackers import check_trackers
from agentopd.base.written import STORED, read_mapping
from agentopd.environment.contract import Summarise, declared
from agentopd.environment.opponents import Opponent
from agentopd.learning.method import Method
from agentopd.running.checkpoint import latest
from agentopd.running.config import ConfigError, RunConfig
from agentopd.running.reading import load_stored

METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
_SAID = ("success_before", "success_after", "episodes", "steps", "student_tokens", "teacher_tokens",
         "seconds")  # fmt: skip
"""What a run's summary always says."""
_SAID_OF_A_STEP = ("episodes", "seconds", "loss", "train", "probes", "stages", "tokens")
Kind = Literal["run", "study"]


def check_folder(
    config: RunConfig, out: Path, resume: bool, kind: Kind, free: Collection[str] = ()
) -> None:
    """Refuse a folder that holds something else; nothing is ever overwritten.

    What was refused or ended before its first line is nothing: it may be started again.

    Args:
        free: the settings that may differ from those the folder was started with.

    Raises:
        ConfigError: the folder is taken; or there is nothing of this kind to resume in it, or
            something that was started with other settings.
    """
    if not resume:
        if out.exists() and (not out.is_dir() or _holds_something(out)):
            raise ConfigError(
                f"{out} holds something already; choose another --out, or go on with what is "
                f"there: agentopd resume {out}"
            )
        return
    other = out / ("arms" if kind == "run" else METRICS)
    if not (out / STORED).is_file() or other.exists():
        raise ConfigError(
            f"there is no {kind} to resume in {out}; leave out --resume to start one in another"
            " folder"
        )
    if changed := changed_settings(config, out, free):
        raise ConfigError(
            f"the {kind} in {out} was started with other settings of {', '.join(changed)}; "
            f"go on with its own, agentopd resume {out}, or choose another --out"
        )


def changed_settings(config: RunConfig, out: Path, free: Collection[str] = ()) -> list[str]:
    """The settings that differ from those a folder was started with, but for the `free` ones, and
    for what a study's arms are to each other, which changes no run.

    Raises:
        ConfigError: the folder's configuration is damaged; the message names the file.
    """
    roles = {"study": {"sick", "healthy", "control"}}
    described = config.model_dump(mode="json", exclude=roles)
    stored = load_stored(out).model_dump(mode="json", exclude=roles)
    return [k for k in described if k not in free and stored[k] != described[k]]


def open_folder(config: RunConfig, out: Path, kind: Kind = "run") -> None:
    """Make the folder if need be, and note the complete configuration in it.

    A study's folder is known by its `arms`: they are there before the configuration is.
    """
    make_folder(out)
    arms = out / "arms"
    if arms.is_dir() != (kind == "study") and not _holds_something(out):
        with naming(out):  # of a start of the other kind that came to nothing
            for path in [*_files(out)]:
                path.unlink()
            shutil.rmtree(arms, ignore_errors=True)
    if kind == "study":
        make_folder(arms)
    described = config.model_dump(mode="json")
    write_whole(out / STORED, yaml.safe_dump(described, sort_keys=False))


def ended(out: Path, steps: int) -> dict[str, Any] | None:
    """The summary of a run that has ended after so many steps; None where it has not: one that was
    resumed later, or was cut off, may have another.

    Raises:
        ConfigError: it is damaged, or lacks something; the message names the file.
    """
    path = out / SUMMARY
    if not path.is_file():
        return None
    summary = read_json(path)
    if not summary.get("evaluation"):
        return None
    if missing := [key for key in _SAID if key not in summary]:
        raise ConfigError(
            f"{path} lacks {', '.join(missing)}: another version of agentopd wrote it, or a hand "
            "has changed it. Delete it and resume: it is made again"
        )
    return summary if summary["steps"] == steps else None


def forget_lines(out: Path) -> None:
    """Delete the metrics of a run that starts over.

    Raises:
        ValueError: the folder refuses.
    """
    with naming(out / METRICS):
        (out / METRICS).unlink(missing_ok=True)


def kind_of(out: Path) -> Kind:
    """Whether a run or a study lies in a folder.

    Raises:
        ConfigError: neither does.
    """
    if not (out / STORED).is_file():
        raise ConfigError(f"there is nothing to resume in {out}: it holds no {STORED}")
    return "study" if (out / "arms").is_dir() else "run"


def starts_over(out: Path) -> bool:
    """Whether what a resumed run has done is lost, because it ended before its first checkpoint."""
    metrics = out / METRICS
    if (out / "stages").is_dir():  # each of which has its own
        return False
    return metrics.is_file() and bool(_lines(metrics)) and latest(out / "checkpoints") is None


@dataclass(frozen=True)
class Declared:
    """What an environment says of itself that a run needs to know.

    Attributes:
        opponent: who plays against the student in a game for two.
    """

    summarise: Summarise | None
    opponent: Opponent | None


def check_environments(config: RunConfig) -> Declared:
    """Build the environment once as it is trained in, once as it is evaluated in; the sources learn
    what it declares. What is to track the run must be installed.

    Returns:
        What the environment declares.

    Raises:
        ValueError: it refuses its options, or a tracker is not installed; the message says which.
    """
    check_trackers(config.track)
    env = config.env.build()
    found = Declared(declared(env, "summarise", None), declared(env, "opponent", None))
    for source in config.privilege:
        source.enter(env)
    env.close()
    try:
        config.env.build(**config.evaluate.options).close()
    except ValueError as error:
        raise ConfigError(f"evaluate.options: {error}") from error
    return found


def past_lines(
    metrics: Path, steps: int, what: str = "and the run goes on from a checkpoint after step {}"
) -> list[dict[str, Any]]:
    """The lines of a run's metrics up to the step at which its checkpoint goes on.

    What follows them, a line that was cut off while it was written too, is left out.

    Args:
        what: why there have to be lines of so many steps.

    Raises:
        ConfigError: a line of an earlier step is missing or damaged.
    """
    what = what.format(steps)
    advice = "put a copy of the file back, or start again in another folder"
    if not metrics.is_file():
        raise ConfigError(f"{metrics} is not there, {what}: {advice}")
    found = [line for line in _lines(metrics) if line["step"] < steps]
    have = [line["step"] for line in found if line["step"] >= 0]
    for step, at in enumerate(have):
        if step != at:
            raise ConfigError(f"{metrics} has step {at + 1} where {step + 1} follows: {advice}")
    if len(have) < steps:
        raise ConfigError(f"{metrics} ends at step {len(have)}, {what}: {advice}")
    for line in found:
        if missing := lacking(line):
            raise ConfigError(
                f"{metrics}, step {line['step'] + 1} lacks {', '.join(missing)}: another version "
                f"of agentopd wrote it, or a hand has changed it; {advice}"
            )
    return found


def lacking(line: dict[str, Any]) -> list[str]:
    """What a line of metrics does not say, and each one of a step does."""
    of_a_step = line.get("step", 0) >= 0  # or else of the student before its first
    said = ("step", *_SAID_OF_A_STEP) if of_a_step else ("episodes", "seconds")
    return [key for key in said if key not in line]


def _lines(metrics: Path) -> list[dict[str, Any]]:
    """All whole lines; what is behind the last line break is not one."""
    lines = read_text(metrics).split("\n")[:-1]
    return [_line(metrics, number, line) for number, line in enumerate(lines, 1)]


def _line(metrics: Path, number: int, text: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            return line
    except json.JSONDecodeError:
        pass
    raise ConfigError(
        f"{metrics}, line {number} is damaged: put a copy of the file back, or start again in "
        "another folder"
    )


def _holds_something(out: Path) -> bool:
    """Whether there is more than what a start that was refused has left."""
    return any(not _is_left_over(path) for path in _files(out))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if not path.is_dir())


def _is_left_over(path: Path) -> bool:
    if path.name.endswith(UNFINISHED):
        return True
    if path.name == METRICS:
        return "\n" not in read_text(path)
    if path.name != STORED:
        return False
    try:  # a person's own file of this name is not complete
        return not path.stat().st_size or read_mapping(path).keys() >= Method.model_fields.keys()
    except ConfigError:
        return False
