"""Studies: the same run under several arms and seeds, compared on the same held-out tasks."""

from __future__ import annotations

import json
import os
import platform
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from importlib.metadata import version
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from agentopd.base.files import read_json, write_whole
from agentopd.base.statistics import wilson
from agentopd.running.config import ConfigError, RunConfig
from agentopd.running.evaluate import teacher_success
from agentopd.running.folder import check_environments, check_folder, open_folder
from agentopd.running.reading import arm_config, parse_config
from agentopd.running.train import Interrupted, train

Watch = Callable[[str, int, dict[str, Any]], None]
_PACKAGES = ("agentopd", "torch", "transformers", "gymnasium", "numpy")


def compare(
    config: RunConfig, out: Path, resume: bool = False, workers: int = 2, watch: Watch | None = None
) -> dict[str, Any]:
    """Run every arm with every seed and leave a study folder with `summary.json`, of which
    `agentopd.looking.report.write_report` makes the page.

    Args:
        resume: finish what an earlier, interrupted comparison left in the folder.
        workers: runs at a time, each in a process of its own with its share of the cores.
        watch: called with arm, seed and each new line of a run's metrics.

    Returns:
        What is written to `summary.json`.

    Raises:
        ConfigError: the configuration has no study, an arm cannot be used, or the folder holds
            something else.
        Interrupted: Ctrl-C came; every running step was finished and saved.
    """
    if config.study is None:
        raise ConfigError(
            "this configuration has no study: add one with arms, or train it with `agentopd train`"
        )
    threads = max(1, (os.cpu_count() or 1) // workers)
    runs = {
        (arm, seed): arm_config(config, arm, seed).model_copy(update={"threads": threads})
        for seed in config.study.seeds
        for arm in config.study.arms
    }
    check_folder(config, out, resume, "study")
    _check_environments(runs)
    open_folder(config, out)
    (out / "arms").mkdir(exist_ok=True)
    _run_all(runs, out, workers, watch or (lambda *_: None))
    summary = _summary(config, out)
    write_whole(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    return summary


def run_folder(out: Path, arm: str, seed: int) -> Path:
    """Where one run of a study lies."""
    return out / "arms" / arm / f"seed-{seed}"


def _check_environments(runs: dict[tuple[str, int], RunConfig]) -> None:
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


def _run_all(runs: dict[tuple[str, int], RunConfig], out: Path, workers: int, watch: Watch) -> None:
    """Run what is not finished yet, and pass on metrics as they are written."""
    seen = dict.fromkeys(runs, 0)
    spawn = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_outlive_nobody) as pool:
        pending: dict[Future[None], tuple[str, int]] = {
            pool.submit(_run, config.model_dump(mode="json"), run_folder(out, *key)): key
            for key, config in runs.items()
            if not (run_folder(out, *key) / "summary.json").is_file()
        }
        try:
            while pending:
                done, _ = wait(pending, timeout=0.5)
                for key in runs:
                    seen[key] = _pass_on(run_folder(out, *key), seen[key], *key, watch)
                for future in done:
                    del pending[future]
                    future.result()
        except KeyboardInterrupt:
            pool.shutdown(wait=True, cancel_futures=True)
            raise Interrupted(sum(seen.values())) from None
        finally:
            # After a failure nothing new is started; what is running ends its own run.
            pool.shutdown(wait=False, cancel_futures=True)


def _run(described: dict[str, Any], folder: Path) -> None:
    """One run, in a worker process."""
    try:
        config = parse_config(described)
    except ConfigError as error:
        raise ConfigError(f"arm {folder.parent.name}: {error}") from error
    try:
        train(config, folder, (folder / "config.yaml").is_file())
    except Interrupted:
        if not _study().is_alive():
            os._exit(1)  # nobody is left to hand the exception to
        raise


def _outlive_nobody() -> None:
    """Interrupt this worker when the study's process ends, however it does: killed, it tells no
    worker.
    """

    def watch() -> None:
        _study().join()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


def _study() -> BaseProcess:
    """The process of the study, seen from a worker."""
    parent = parent_process()
    assert parent is not None
    return parent


def _pass_on(folder: Path, seen: int, arm: str, seed: int, watch: Watch) -> int:
    metrics = folder / "metrics.jsonl"
    # The last piece has no newline yet while a line is being written.
    lines = metrics.read_text().split("\n")[:-1] if metrics.is_file() else []
    for line in lines[seen:]:
        watch(arm, seed, json.loads(line))
    return max(seen, len(lines))


def _summary(config: RunConfig, out: Path) -> dict[str, Any]:
    study = config.study
    assert study is not None
    return {
        "name": study.name,
        "env": config.env.id,
        "arms": {arm: _arm(config, out, arm) for arm in study.arms},
        "teacher": teacher_success(config),
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
                "curve": run["curve"],
            }
            for seed, run in zip(study.seeds, runs, strict=True)
        ],
    }


def _read_run(out: Path, arm: str, seed: int) -> dict[str, Any]:
    folder = run_folder(out, arm, seed)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
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
        "summary": read_json(folder / "summary.json"),
        "curve": curve,
        "dead_groups": [share for share in dead if share is not None],
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
