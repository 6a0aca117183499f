"""A study or a run folder, read and checked for its report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from agentopd.base.files import read_text
from agentopd.base.written import read_stored
from agentopd.looking.report.shape import Arm, Episode, Mechanism, Record, Results, Step, Summary

R = TypeVar("R", bound=Record)


def stage_starts(steps: Sequence[Step]) -> list[tuple[str, int, float]]:
    """Each stage that trains, with the episodes and the seconds of those before it; none in a run
    without stages.
    """
    starts = [(steps[0].stage, 0, 0.0)] if steps and steps[0].stage else []
    for last, first in pairwise(steps):
        if first.stage != last.stage:
            starts.append((first.stage, last.episodes, last.seconds))
    return starts


def read_results(folder: Path) -> Results:
    """Read a study folder or a run folder.

    Raises:
        ValueError: the folder holds neither a study nor a run, or a file in it is damaged.
    """
    path = folder / "summary.json"
    written = read_json(path) if path.is_file() else {}
    if "arms" in written:
        summary = checked(Summary, written, path)
        if not summary.arms:
            raise ValueError(f"{path} names no arm: run the study until one arm has finished")
    elif written.get("run") or (folder / "metrics.jsonl").is_file():
        summary = _summary_of_run(folder, written)
    else:
        raise ValueError(
            f"{folder} holds neither a study's summary.json nor a run's metrics.jsonl, so there is "
            "nothing to report; name a folder that `agentopd compare` or `agentopd train` wrote "
            "(of a study that was interrupted, a single run such as arms/NAME/seed-0)"
        )
    steps: dict[str, list[Step]] = {}
    episodes: dict[str, Episode] = {}
    for name, arm in summary.arms.items():
        for run in arm.runs:
            at = folder / run.folder
            if name not in steps and (found := _steps_of_run(at)):
                steps[name] = found
            if name not in episodes and (at / "episode.json").is_file():
                shown = at / "episode.json"
                episodes[name] = checked(Episode, read_json(shown), shown)
    return Results(
        summary=summary,
        single="arms" not in written,
        steps=steps,
        episodes=episodes,
        mechanisms=_mechanisms(folder / "mechanisms.json"),
    )


def _mechanisms(path: Path) -> dict[str, Mechanism]:
    found = read_json(path) if path.is_file() else {}
    return {arm: checked(Mechanism, row, path) for arm, row in found.items()}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, with null for numbers that are not finite.

    Raises:
        ValueError: it is not JSON, or not an object.
    """
    value = _parse(read_text(path), str(path))
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not an object: was it edited?")
    return value


def read_steps(path: Path) -> list[Step]:
    """The steps of a run; none when there is no such file.

    A last line that was cut off while it was written is left out.

    Raises:
        ValueError: another line is damaged.
    """
    if not path.is_file():
        return []
    *lines, last = read_text(path).split("\n")
    if _is_complete(last):
        lines.append(last)
    where = [(f"{path}, line {i}", line) for i, line in enumerate(lines, 1) if line.strip()]
    return [checked(Step, _parse(line, place), place) for place, line in where]


def _steps_of_run(folder: Path) -> list[Step]:
    """The steps of a run, all of them where it has ended."""
    metrics, summary = folder / "metrics.jsonl", folder / "summary.json"
    steps = read_steps(metrics)
    ended = read_json(summary).get("steps") if summary.is_file() else None
    have = steps[-1].step + 1 if steps else 0
    if isinstance(ended, int) and metrics.is_file() and have < ended:
        raise ValueError(
            f"{metrics} ends at step {have}, and the run has ended after step {ended}: put a copy "
            "of the file back"
        )
    return steps


def _is_complete(line: str) -> bool:
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    return True


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON ({error}): was it cut off or edited?") from error


def checked(kind: type[R], value: Any, where: Path | str) -> R:
    """A record of what a file holds.

    Raises:
        ValueError: it is not what agentopd writes there; the message names the file.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"{where} is not what agentopd writes there ({place}: {first['msg']}): put a copy back"
        ) from error


def _summary_of_run(folder: Path, written: dict[str, Any]) -> Summary:
    """A run as a study of one arm; what `summary.json` does not say, `metrics.jsonl` does."""
    steps = _steps_of_run(folder)
    # An evaluation's own `episodes` counts test episodes; a point's counts those trained on
    evaluated = [
        s.evaluation | {"step": s.step, "episodes": s.episodes, "seconds": s.seconds}
        for s in steps
        if s.evaluation
    ]
    curve = written.get("curve") or evaluated
    last: dict[str, Any] = curve[-1] if curve else {}
    stages = {name for step in steps for name in step.stages}
    seconds = {name: sum(s.stages.get(name, 0.0) for s in steps) for name in sorted(stages)}
    seed = written.get("seed", 0)
    measured: dict[str, Any] = {
        "success_before": curve[0].get("success") if curve and curve[0].get("step") == 0 else None,
        "success_after": last.get("success"),
        "interval": last.get("interval"),
        "seeds": [seed],
        "errors": sum((Counter(s.failed) for s in steps), Counter()),
        "dead_groups": _mean([s.train.get("dead_groups") for s in steps]),
        "skipped": Counter(s.skipped for s in steps if s.skipped),
    }
    if steps:
        measured |= {
            "episodes": steps[-1].episodes,
            "student_tokens": sum(s.tokens.get("student", 0) for s in steps),
            "teacher_tokens": sum(s.tokens.get("teacher", 0) for s in steps),
            "seconds": seconds | {"total": steps[-1].seconds},
        }
    arm: dict[str, Any] = measured | {k: v for k, v in written.items() if k in Arm.model_fields}
    before, after = arm["success_before"], arm["success_after"]
    run = {"seed": seed, "success_before": before, "success_after": after, "curve": curve}
    name = str(written.get("arm") or written.get("name") or folder.resolve().name)
    config = written.get("config") or _config(folder / "config.yaml")
    study = {"name": name} | written | {"config": config, "arms": {name: arm | {"runs": [run]}}}
    return checked(Summary, study, folder / "summary.json")


def _config(path: Path) -> dict[str, Any]:
    return read_stored(path.parent) if path.is_file() else {}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
