"""A study's effects: each arm's first gradient beside the exact one, what each run made of its
student.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from agentopd.base.console import table
from agentopd.base.files import read_json, write_whole
from agentopd.running.config import RunConfig
from agentopd.running.effects.change import Start, measure_change
from agentopd.running.effects.gradients import looks_at_less, measure_gradients
from agentopd.running.reading import arm_config
from agentopd.running.studies.study import run_folder

RECORD = "effects.json"
BATCHES = 16
"""Steps' episodes from which a gradient's bias and noise are read."""
TASKS = 64
"""Held-out tasks that each student plays, and at most as many of its training's."""
_CAUSES = {"student", "env", "privilege", "view", "teacher", "evaluate", "rollout", "seed", "steps"}
_UNKNOWN = "–"


def study_effects(config: RunConfig, out: Path) -> dict[str, Any]:
    """Measure a study's arms once, and leave that in its folder.

    Returns:
        `gradients`: `Estimate.described()` by arm with the study's first seed, of those whose
        divergence looks at less than the whole vocabulary, and of the first that looks at all of
        it; empty without the former. `changes`: `Change.described()` by arm, of
        each seed in turn. Read from the folder where it has been measured.

    Raises:
        EveryEpisodeFailed: of one, no task could be played.
    """
    path = out / RECORD
    if path.is_file():
        return read_json(path)
    assert config.study is not None
    starts = dict[str, Start]()
    found = {
        "gradients": _gradients(config),
        "changes": {arm: list(_changes(config, out, arm, starts)) for arm in config.study.arms},
    }
    write_whole(path, json.dumps(found, indent=2) + "\n")
    return found


def _gradients(config: RunConfig) -> dict[str, Any]:
    """Each arm's first gradient, where that is an estimate."""
    assert config.study is not None
    runs = {arm: arm_config(config, arm, config.study.seeds[0]) for arm in config.study.arms}
    estimated = [arm for arm, run in runs.items() if looks_at_less(run)]
    whole = [a for a, run in runs.items() if run.mix.distil_coefficient and a not in estimated]
    found = dict[str, Any]()
    for arm in [*whole[:1], *estimated] if estimated else []:
        estimate = measure_gradients(runs[arm], BATCHES)
        assert estimate is not None
        found[arm] = estimate.described()
    return found


def _changes(
    config: RunConfig, out: Path, arm: str, starts: dict[str, Start]
) -> Iterator[dict[str, Any]]:
    """What became of one arm's students; those that runs begin with are kept in `starts`."""
    assert config.study is not None
    for seed in config.study.seeds:
        run = arm_config(config, arm, seed)
        cause = json.dumps(run.model_dump(mode="json", include=_CAUSES), sort_keys=True)
        if cause not in starts:
            starts[cause] = Start.of(run, TASKS)
        change = measure_change(run, run_folder(out, arm, seed), TASKS, starts[cause])
        if change is not None:
            yield change.described()


def effects_tables(found: Mapping[str, Any]) -> Iterator[Any]:
    """What `study_effects` has found, to be printed; means over seeds."""
    if found["gradients"]:
        headings = ("first gradient", "bias", "±", "noise", "cosine", "batches", "of episodes")
        rows = [
            (
                arm,
                *(
                    _UNKNOWN if row[name] is None else f"{row[name]:.2f}"
                    for name in ("bias", "bias_error", "noise", "cosine")
                ),
                str(row["batches"]),
                str(row["episodes"]),
            )
            for arm, row in found["gradients"].items()
        ]
        yield table(headings, rows, numbers=len(headings) - 1)
    headings = (
        "after the last step", "held out", "trained tasks", "claims before", "after",
        "thought before", "after", "KL, thoughts", "KL, the rest",
    )  # fmt: skip
    rows = [(arm, *_row(seeds)) for arm, seeds in found["changes"].items() if seeds]
    yield table(headings, rows, numbers=len(headings) - 1)


def _row(seeds: list[Mapping[str, Any]]) -> tuple[str, ...]:
    def mean(form: str, *path: str) -> str:
        values = list[float]()
        for seed in seeds:
            value: Any = seed
            for name in path:
                value = value[name]
            values += [] if value is None else [float(value)]
        return format(fmean(values), form) if values else _UNKNOWN

    return (
        mean(".0%", "after", "held_out", "success"),
        mean(".0%", "after", "trained", "success"),
        mean(".0%", "before", "claims"),
        mean(".0%", "after", "claims"),
        mean(".1f", "before", "thought"),
        mean(".1f", "after", "thought"),
        mean(".3f", "kl_thought"),
        mean(".3f", "kl_action"),
    )
