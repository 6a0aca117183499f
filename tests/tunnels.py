"""Folders of small studies, as the wind tunnel leaves them, with outcomes that are drawn."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

TASKS = 64


@dataclass(frozen=True)
class Drawn:
    """An arm to draw: the chance with which it solves a task, and what its mechanism says."""

    chance: float
    opening: float | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)


def mechanism_of(arm: Drawn) -> dict[str, Any]:
    """The mechanism of a student and teacher that differ by how it speaks."""
    assert arm.opening is not None
    told = 0.5 + 0.2 * arm.opening
    return {
        "alone": {"success": 0.1, "interval": [0.05, 0.17]},
        "told": {"success": told, "interval": [told - 0.1, told + 0.1]},
        "opening": arm.opening,
        "own": -3.5 + 3 * arm.opening,
        "other": -1.0,
        "asked": 192,
        "teacher_search": {"states": 3.25},
    }


def write_tunnel(
    folder: Path, arms: Mapping[str, Drawn], study: Mapping[str, Any], outcomes: bool = True
) -> Path:
    """A study's folder with two seeds an arm.

    Args:
        study: the keys of its `study` that say what its arms are.
        outcomes: whether outcomes by task are kept.
    """
    noise = np.random.default_rng(len(arms))
    found, mechanisms = {}, {}
    for name, arm in arms.items():
        runs = [_run(folder, name, seed, arm, noise, outcomes) for seed in (0, 1)]
        after = float(np.mean([run["success_after"] for run in runs]))
        found[name] = {
            "success_before": 0.1,
            "success_after": after,
            "interval": [max(0.0, after - 0.08), min(1.0, after + 0.08)],
            "seeds": [0, 1],
            "overrides": dict(arm.overrides),
            "runs": runs,
        }
        if arm.opening is not None:
            same = [n for n, m in mechanisms.items() if m["opening"] == arm.opening]
            if same:
                mechanisms[same[0]]["arms"].append(name)
            else:
                mechanisms[name] = {**mechanism_of(arm), "arms": [name]}
    summary = {
        "name": folder.name.capitalize(),
        "env": "agentopd/Sokoban-v0",
        "arms": found,
        "config": {"study": {"name": folder.name, "arms": {n: {} for n in arms}, **study}},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "mechanisms.json").write_text(json.dumps(mechanisms))
    return folder


def _run(
    folder: Path, name: str, seed: int, arm: Drawn, noise: np.random.Generator, outcomes: bool
) -> dict[str, Any]:
    at = folder / "arms" / name / f"seed-{seed}"
    at.mkdir(parents=True)
    solved = "".join(str(int(draw < arm.chance)) for draw in noise.random(TASKS))
    after = solved.count("1") / TASKS
    by_turn = {
        "count": [30, 10, 0],
        "overlap": [0.8, 0.4, None],
        "log_ratio": [0.1, 0.3, None],
        "student_entropy": [1.0, 2.0, None],
    }
    before = {"success": 0.1, "turns": 5.5, "search/states": 4.5, "search/revisits": 0.25}
    after_it = before | {"search/states": 2.0}
    lines = [
        {"step": -1, "episodes": 0, "seconds": 0.0, "evaluation": before},
        {"step": 0, "episodes": 32, "seconds": 3.0, "probes": {"by_turn": by_turn}},
        {"step": 1, "episodes": 64, "seconds": 6.0, "evaluation": after_it},
    ]
    (at / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    episode = {
        "arm": name,
        "env": "agentopd/Sokoban-v0",
        "task": f"{name}/{seed}",
        "success": True,
        "privilege": "Skill: go right.",
        "turns": [{"observation": "Where?", "tokens": [{"text": "right", "signal": 0.7}]}],
    }
    if arm.opening is not None:
        (at / "episode.json").write_text(json.dumps(episode))
    curve = [
        {"step": 0, "episodes": 0, "seconds": 0.0, "success": 0.1},
        {"step": 12, "episodes": 384, "seconds": 40.0, "success": after},
    ]
    return {
        "seed": seed,
        "folder": f"arms/{name}/seed-{seed}",
        "success_before": 0.1,
        "success_after": after,
        "curve": curve,
        **({"outcomes": solved} if outcomes else {}),
    }
