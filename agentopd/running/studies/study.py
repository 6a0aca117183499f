"""Studies: the same run under several arms and seeds, compared on the same held-out tasks."""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agentopd.base.files import held_alone, read_json, write_whole
from agentopd.base.statistics import wilson
from agentopd.base.stopping import Interrupted, interruptible
from agentopd.base.written import STORED
from agentopd.running.config import ConfigError, RunConfig, thread_count
from agentopd.running.evaluate import depends_on, teacher_success, untrained_success
from agentopd.running.folder import (
    METRICS,
    SUMMARY,
    changed_settings,
    check_environments,
    check_folder,
    ended,
    lacking,
    open_folder,
    past_lines,
)
from agentopd.running.preparation.habits import habits_of
from agentopd.running.reading import arm_config, load_stored, parse_config
from agentopd.running.studies.engine import Crew, Engine, LocalEngine
from agentopd.running.studies.workers import Job
from agentopd.running.train import train

Key = tuple[str, int]
"""An arm and a seed."""
Watch = Callable[[str, int, dict[str, Any]], None]
_PACKAGES = ("agentopd", "torch", "transformers", "gymnasium", "numpy")


def compare(
    config: RunConfig,
    out: Path,
    resume: bool = False,
    workers: int = 2,
    watch: Watch | None = None,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Run every arm with every seed and leave a study folder with `summary.json`, of which
    `agentopd.looking.report.write_report` makes the page.

    Args:
        resume: finish what an earlier, interrupted comparison left in the folder.
        workers: runs at a time, each in a process of its own.
        watch: called with arm, seed and each new line of a run's metrics.
        engine: where they are carried out; without one, here, each with its share of the cores.

    Returns:
        What is written to `summary.json`.

    Raises:
        ConfigError: the configuration has no study, an arm cannot be used, or the folder holds
            something else.
        WorkerLost: a run's process was killed; the other runs' steps were finished and saved.
        Interrupted: Ctrl-C or SIGTERM came; every running step was finished and saved.
    """
    if config.study is None:
        raise ConfigError(
            "this configuration has no study: add one with arms, or train it with `agentopd train`"
        )
    runs = {
        (arm, seed): arm_config(config, arm, seed)
        for seed in config.study.seeds
        for arm in config.study.arms
    }
    engine = engine or LocalEngine()
    runs = {
        key: run.model_copy(update={"threads": engine.threads(run.threads, workers)})
        for key, run in runs.items()
    }
    check_folder(config, out, resume, "study", free=("threads",))
    _check_begun(runs, out)
    _check_environments(runs)
    open_folder(config, out, "study")
    environment = _environment(engine.threads(config.threads, workers))
    crew = engine.crew(workers, out, environment)
    with held_alone(out):
        beside = _run_all(config, runs, out, crew, watch or (lambda *_: None))
        summary = _summary(config, out, beside)
        write_whole(out / SUMMARY, json.dumps(summary, indent=2) + "\n")
    return summary


def run_folder(out: Path, arm: str, seed: int) -> Path:
    """Where one run of a study lies."""
    return out / "arms" / arm / f"seed-{seed}"


def _check_begun(runs: Mapping[Key, RunConfig], out: Path) -> None:
    """Every run that has begun or ended was started with what the study's configuration asks for;
    that one alone cannot tell, as a key that it lacks has a default.

    Raises:
        ConfigError: one was started with other settings, or its configuration is damaged.
    """
    for key, config in runs.items():
        folder = run_folder(out, *key)
        if not _begun(folder):
            continue
        # One that was resumed for more steps than the study's has all that the study asks for.
        longer = load_stored(folder).steps > config.steps
        free = ("threads", "sampler", *(("steps",) if longer else ()))
        if changed := changed_settings(config, folder, free):
            raise ConfigError(
                f"{out / STORED} and {folder / STORED} have different {', '.join(changed)}: another"
                " version of agentopd wrote one of them, or a hand has changed it; put a copy of "
                "the file back, or start again in another folder"
            )


def _check_environments(runs: Mapping[Key, RunConfig]) -> None:
    """Build each arm's environments once, before any model is loaded.

    Raises:
        ConfigError: one refuses its options; the message names the arm.
    """
    built: list[Any] = []
    for (arm, _), config in runs.items():
        if (place := (config.env, config.evaluate.options)) in built:
            continue
        built.append(place)
        try:
            check_environments(config)
        except ValueError as error:
            raise ConfigError(f"arm {arm}: {error}") from error


def _run_all(
    config: RunConfig,
    runs: Mapping[Key, RunConfig],
    out: Path,
    engaged: AbstractContextManager[Crew],
    watch: Watch,
) -> dict[str, Any]:
    """Run what is not finished yet, and pass on metrics as they are written; returns what the
    teacher achieves, and habits that read nothing.

    What runs have in common is measured first, and once: the untrained students, and those two.
    """
    left = [(key, run) for key, run in runs.items() if not _finished(run_folder(out, *key), run)]
    fresh = [run for key, run in left if not _begun(run_folder(out, *key))]
    students = {_untrained_of(run): run for run in fresh}
    seen = dict.fromkeys(runs, 0)

    def pass_on() -> None:
        for key in runs:
            seen[key] = _pass_on(run_folder(out, *key), seen[key], *key, watch)

    with interruptible() as asked, engaged as crew:
        try:
            shared = [_job("the untrained student", _untrained, run) for run in students.values()]
            shared.append(_job("the teacher", _teacher, config))
            shared.append(_job("habits", _habits, config))
            *measured, teacher, habits = crew.do(shared, asked, pass_on)
            known = dict(zip(students, measured, strict=True))
            jobs = [
                _job(
                    f"arm {arm}, seed {seed}",
                    _run,
                    run,
                    run_folder(out, arm, seed),
                    known.get(_untrained_of(run)),
                )
                for (arm, seed), run in left
            ]
            crew.do(jobs, asked, pass_on)
        except Interrupted:
            raise Interrupted(sum(seen.values())) from None
    return {"teacher": teacher, "habits": habits}


def _job(name: str, work: Callable[..., Any], config: RunConfig, *more: Any) -> Job:
    """A worker's job about one configuration, which travels as text."""
    return Job(name, work, (config.model_dump(mode="json"), *more))


def _run(
    described: dict[str, Any], folder: Path, untrained: dict[str, Any] | None, stop: threading.Event
) -> None:
    """One run, in a worker."""
    try:
        config = parse_config(described)
    except ConfigError as error:
        raise ConfigError(f"arm {folder.parent.name}: {error}") from error
    train(config, folder, _begun(folder), untrained=untrained, stop=stop)


def _untrained(described: dict[str, Any], stop: threading.Event) -> dict[str, Any]:
    """The untrained student's evaluation, in a worker."""
    return untrained_success(_alone(described))


def _teacher(described: dict[str, Any], stop: threading.Event) -> dict[str, Any] | None:
    """The teacher's success, in a worker."""
    return teacher_success(_alone(described))


def _habits(described: dict[str, Any], stop: threading.Event) -> list[dict[str, Any]]:
    """What habits score, in a worker."""
    config = _alone(described)
    assert config.study is not None
    return [habit.described() for habit in habits_of(config)] if config.study.habits else []


def _alone(described: dict[str, Any]) -> RunConfig:
    """A worker's configuration, with torch at its number of threads."""
    config = RunConfig.model_validate(described)
    torch.set_num_threads(thread_count(config.threads))
    return config


def _untrained_of(config: RunConfig) -> str:
    """The student before its training, and all that its evaluation depends on."""
    return json.dumps([config.student.path, depends_on(config)], sort_keys=True)


def _environment(threads: int) -> dict[str, str]:
    """Variables of the workers: their threads, which sleep while they wait for each other."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
    }


def _begun(folder: Path) -> bool:
    return (folder / "config.yaml").is_file()


def _finished(folder: Path, config: RunConfig) -> bool:
    return ended(folder, config.all_steps) is not None


def _pass_on(folder: Path, seen: int, arm: str, seed: int, watch: Watch) -> int:
    metrics = folder / METRICS
    # The last piece has no newline yet while a line is being written.
    lines = metrics.read_text().split("\n")[:-1] if metrics.is_file() else []
    for line in filter(None, map(_whole, lines[seen:])):
        watch(arm, seed, line)
    return max(seen, len(lines))


def _whole(line: str) -> dict[str, Any] | None:
    """A line of metrics; None where it is damaged, which the run that it is of will say."""
    try:
        found = json.loads(line)
    except json.JSONDecodeError:
        return None
    known = isinstance(found, dict) and isinstance(found.get("step"), int)
    return found if known and not lacking(found) else None


def _summary(config: RunConfig, out: Path, beside: Mapping[str, Any]) -> dict[str, Any]:
    study = config.study
    assert study is not None
    return {
        "name": study.name,
        "env": config.env.id,
        "arms": {arm: _arm(config, out, arm) for arm in study.arms},
        **beside,
        "machine": {
            "system": platform.platform(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "versions": {name: version(name) for name in _PACKAGES},
        "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
        "config": config.model_dump(mode="json"),
    }


def _arm(config: RunConfig, out: Path, arm: str) -> dict[str, Any]:
    """One arm, all seeds together: counts and seconds are sums, success is pooled over every test
    episode.
    """
    study = config.study
    assert study is not None
    runs = [_read_run(out, arm, seed) for seed in study.seeds]
    method = arm_config(config, arm, study.seeds[0])
    summaries = [run["summary"] for run in runs]
    played = sum(s["evaluation"]["episodes"] for s in summaries)
    solved = sum(round(s["success_after"] * s["evaluation"]["episodes"]) for s in summaries)
    return {
        "success_before": float(np.mean([s["success_before"] for s in summaries])),
        "success_after": solved / played,
        "interval": list(wilson(solved, played)),
        "episodes": sum(s["episodes"] for s in summaries),
        "student_tokens": sum(s["student_tokens"] for s in summaries),
        "teacher_tokens": sum(s["teacher_tokens"] for s in summaries),
        "seconds": {k: sum(s["seconds"][k] for s in summaries) for k in summaries[0]["seconds"]},
        "skipped": dict(sum((Counter(s.get("skipped")) for s in summaries), Counter())),
        "errors": dict(sum((Counter(s.get("errors")) for s in summaries), Counter())),
        "dead_groups": _mean([share for run in runs for share in run["dead_groups"]]),
        "seeds": list(study.seeds),
        "overrides": study.arms[arm],
        "notices": method.notices(),
        "runs": [
            {
                "seed": seed,
                "folder": str(run_folder(out, arm, seed).relative_to(out)),
                "success_before": run["summary"]["success_before"],
                "success_after": run["summary"]["success_after"],
                "outcomes": run["summary"]["evaluation"].get("outcomes", ""),
                "curve": run["curve"],
            }
            for seed, run in zip(study.seeds, runs, strict=True)
        ],
    }


def _read_run(out: Path, arm: str, seed: int) -> dict[str, Any]:
    folder = run_folder(out, arm, seed)
    summary = read_json(folder / SUMMARY)
    lines = past_lines(folder / METRICS, summary["steps"], "and the run has ended after step {}")
    curve = [
        {
            "step": line["step"] + 1,
            "episodes": line["episodes"],
            "seconds": line["seconds"],
            "success": line["evaluation"]["success"],
            "interval": line["evaluation"]["interval"],
        }
        for line in lines
        if "evaluation" in line
    ]
    dead = [line["train"]["dead_groups"] for line in lines if "train" in line]
    return {
        "summary": summary,
        "curve": curve,
        "dead_groups": [share for share in dead if share is not None],
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
