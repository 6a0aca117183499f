"""The engines by their names on a command line."""

from __future__ import annotations

import agentopd.running.studies.ray_engine
import agentopd.running.studies.slurm_engine  # noqa: F401  (every engine is known by its kind)
from agentopd.base.written import read_part
from agentopd.running.studies.engine import Engine

__all__ = ["read_engine"]


def read_engine(written: str) -> Engine:
    """An engine as a command line names it: its kind, or a mapping with its settings.

    Raises:
        ConfigError: there is none of that kind, or a setting is wrong.
    """
    return read_part(Engine, written, f"--engine {written}")
