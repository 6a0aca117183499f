"""What the students and teachers of a study's arms are to each other before any step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agentopd.base.files import read_json, write_whole
from agentopd.running.config import RunConfig
from agentopd.running.preparation.mechanism import measure_mechanism
from agentopd.running.reading import arm_config

RECORD = "mechanisms.json"
_CAUSES = {"student", "env", "privilege", "view", "teacher", "evaluate"}


def study_mechanisms(config: RunConfig, out: Path) -> dict[str, Any]:
    """Measure each student and teacher of a study once, on as many tasks as its evaluations, and
    leave that in the study's folder.

    Returns:
        `Mechanism.described()` by the first arm that has this student, teacher and privilege, with
        the `arms` that have them; read from the folder where it has been measured.

    Raises:
        EveryEpisodeFailed: of one, no task could be played.
    """
    path = out / RECORD
    assert config.study is not None
    runs = {arm: arm_config(config, arm, config.study.seeds[0]) for arm in config.study.arms}
    alike: dict[str, list[str]] = {}
    for arm, run in runs.items():
        if run.mix.distil_coefficient:
            alike.setdefault(_cause(run), []).append(arm)
    known = read_json(path) if path.is_file() else None
    found = {
        arms[0]: {**_measured(runs[arms[0]], arms[0], known), "arms": arms}
        for arms in alike.values()
    }
    if found != known:
        write_whole(path, json.dumps(found, indent=2) + "\n")
    return found


def _measured(run: RunConfig, arm: str, known: dict[str, Any] | None) -> dict[str, Any]:
    """What an arm's student and teacher are to each other, as it is known or measured."""
    if known and arm in known:
        return known[arm]
    return measure_mechanism(run, run.evaluate.episodes).described()


def _cause(run: RunConfig) -> str:
    """All that a mechanism depends on: equal in two arms, so is that."""
    return json.dumps(run.model_dump(mode="json", include=_CAUSES), sort_keys=True)
