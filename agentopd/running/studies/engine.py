"""Where the runs of a study are carried out: what an engine is, and this machine as one.

The folders, what `resume` does and the page are the same. Other machines must see the study's
folder, the models and the current folder under the same paths, and have the same agentopd.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field

from agentopd.base.parts import Part
from agentopd.running.config import thread_count
from agentopd.running.studies.workers import Job, hired


class Crew(Protocol):
    """Who does jobs; see `agentopd.running.studies.workers.Workers`."""

    def do(
        self, jobs: Sequence[Job], asked: threading.Event, beat: Callable[[], None]
    ) -> list[Any]:
        """The answers, in the jobs' order."""
        ...


class Engine(Part, family="engine"):
    """What a study's runs are given to."""

    @abstractmethod
    def crew(
        self, count: int, folder: Path, environment: Mapping[str, str]
    ) -> AbstractContextManager[Crew]:
        """Who carries runs out, `count` at a time, until the block is left.

        Args:
            folder: the study's.
            environment: variables of those who carry them out.

        Raises:
            ConfigError: the engine is not installed, or cannot be reached.
        """

    @abstractmethod
    def threads(self, written: int | None, count: int) -> int:
        """Torch's threads in each run, where `written` may stand in its configuration."""


class LocalEngine(Engine, kind="local"):
    """Processes of our own on this machine."""

    def crew(
        self, count: int, folder: Path, environment: Mapping[str, str]
    ) -> AbstractContextManager[Crew]:
        """See `Engine.crew`."""
        return hired(count, environment)

    def threads(self, written: int | None, count: int) -> int:
        """See `agentopd.running.config.thread_count`."""
        return thread_count(written, count)


class PlacedEngine(Engine):
    """An engine that finds places by what a run takes.

    Args:
        cpus, gpus: that each run takes.
    """

    cpus: int = Field(default=1, ge=1)
    gpus: float = Field(default=0, ge=0)

    def threads(self, written: int | None, count: int) -> int:
        """As many as processors, where none are written."""
        return written or self.cpus
