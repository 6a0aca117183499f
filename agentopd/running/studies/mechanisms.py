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
        `Mechanism.described()` by the first arm that has this student, teacher and privilege; read
        from the folder where it has been measured.

    Raises:
        EveryEpisodeFailed: of one, no task could be played.
    """
    path = out / RECORD
    if path.is_file():
        return read_json(path)
    assert config.study is not None
    arms = {arm: arm_config(config, arm, config.study.seeds[0]) for arm in config.study.arms}
    first: dict[str, str] = {}
    for arm, run in arms.items():
        if run.mix.distil_coefficient:
            first.setdefault(_cause(run), arm)
    found = {
        arm: measure_mechanism(arms[arm], arms[arm].evaluate.episodes).described()
        for arm in first.values()
    }
    write_whole(path, json.dumps(found, indent=2) + "\n")
    return found


def _cause(run: RunConfig) -> str:
    """All that a mechanism depends on: equal in two arms, so is that."""
    return json.dumps(run.model_dump(mode="json", include=_CAUSES), sort_keys=True)
