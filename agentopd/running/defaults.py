"""Defaults that hang on the student: what suits an embedded model ruins a large one, and adapters
learn at higher rates than all weights do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentopd.models.folders import base_path, model_folder
from agentopd.models.model import ModelSettings

_EMBEDDED = 64 * 2**20
"""Bytes of weights up to which a model is like the embedded ones, which have 4 to 15 MB."""
LARGE: dict[str, dict[str, Any]] = {
    "rollout": {"max_turn_tokens": 256},
    "learner": {"learning_rate": 1e-5, "warmup": 5, "tokens_per_batch": 2_048},
}
"""What stands in place of the defaults where a student's weights are more than that."""
_ADAPTED = {False: 3e-3, True: 1e-4}
"""The learning rate where adapters alone learn, by whether the student is large: ten times that of
all weights.
"""


def is_large(path: str) -> bool:
    """Whether a model's weights are many times those of an embedded one."""
    try:
        folder = model_folder(base_path(path))
    except ValueError:  # told when it is loaded
        return False
    files = [file for end in ("safetensors", "bin") for file in Path(folder).glob(f"*.{end}")]
    return sum(file.stat().st_size for file in files) > _EMBEDDED


def for_student(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A configuration as it is written, with what it leaves to defaults that its student needs.

    Returns:
        It, and a line that tells what was filled in; none where nothing was.
    """
    student = data.get("student")
    student = student if isinstance(student, Mapping) else {}
    path, adapted = student.get("path"), student.get("lora") is not None
    large = is_large(path if isinstance(path, str) else ModelSettings().path)
    wanted = dict(LARGE) if large else {}
    if adapted:
        wanted["learner"] = {**wanted.get("learner", {}), "learning_rate": _ADAPTED[large]}
    found, filled = dict(data), []
    for group, defaults in wanted.items():
        own = found.get(group, {})
        own = {"kind": own} if isinstance(own, str) else own
        if isinstance(own, Mapping) and (missing := defaults.keys() - own.keys()):
            found[group] = {**{key: defaults[key] for key in defaults if key in missing}, **own}
            filled += [f"{group}.{key}={defaults[key]}" for key in defaults if key in missing]
    if not filled:
        return found, []
    why = [f"{path} is no embedded model"] * large + ["adapters alone learn"] * adapted
    return found, [f"student: {' and '.join(why)}: {', '.join(filled)} unless you say otherwise"]
