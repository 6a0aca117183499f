"""The folder a run or a study writes to: what may be started there, and what may go on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from agentopd.running.config import ConfigError, RunConfig

_STORED = "config.yaml"


def check_folder(
    config: RunConfig,
    out: Path,
    resume: bool,
    kind: Literal["run", "study"],
    free: Collection[str] = (),
) -> None:
    """Refuse a folder that holds something else; nothing is ever overwritten.

    Args:
        free: the settings that may differ from those the folder was started with.

    Raises:
        ConfigError: the folder is taken; or there is nothing of this kind to resume in it, or
            something that was started with other settings.
    """
    if not resume:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConfigError(
                f"{out} holds something already; choose another --out, or --resume what is there"
            )
        return
    other = out / ("arms" if kind == "run" else "metrics.jsonl")
    if not (out / _STORED).is_file() or other.exists():
        raise ConfigError(
            f"there is no {kind} to resume in {out}; leave out --resume to start one in another"
            " folder"
        )
    described = config.model_dump(mode="json")
    stored = yaml.safe_load((out / _STORED).read_text())
    changed = [k for k in described if k not in free and stored.get(k) != described[k]]
    if changed:
        raise ConfigError(
            f"the {kind} in {out} was started with other settings of {', '.join(changed)}; "
            "resume with the same, or choose another --out"
        )


def open_folder(config: RunConfig, out: Path) -> None:
    """Make the folder if need be, and note the complete configuration in it."""
    out.mkdir(parents=True, exist_ok=True)
    described = config.model_dump(mode="json")
    (out / _STORED).write_text(yaml.safe_dump(described, sort_keys=False))


def is_whole(summary: Mapping[str, Any], steps: int | None = None) -> bool:
    """Whether a run's summary tells its end, after `steps` steps where that is known; one of a run
    that was resumed later, or was cut off, may not.
    """
    return bool(summary.get("evaluation")) and steps in (None, summary["steps"])
