"""The engines by their names on a command line."""

from __future__ import annotations

import yaml

import agentopd.running.studies.ray_engine
import agentopd.running.studies.slurm_engine  # noqa: F401  (every engine is known by its kind)
from agentopd.base.written import ConfigError
from agentopd.running.studies.engine import Engine

__all__ = ["read_engine"]


def read_engine(written: str) -> Engine:
    """An engine as a command line names it: its kind, or a mapping with its settings.

    Raises:
        ConfigError: there is none of that kind, or a setting is wrong.
    """
    try:
        return Engine.model_validate(yaml.safe_load(written))
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"--engine {written}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if "Value error" in line or "Input should" in line), "")
    return told.partition("[type")[0].strip() or lines[0]
