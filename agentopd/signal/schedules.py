"""Schedules: a factor that changes over the run."""

from __future__ import annotations

import math
from abc import abstractmethod

from pydantic import Field

from agentopd.parts import Part


class Schedule(Part, family="schedule"):
    """Multiplies what it is attached to."""

    @abstractmethod
    def factor(self, step: int) -> float:
        """The factor at a step, counted from 0."""


class Constant(Schedule, kind="constant"):
    """Always the same."""

    value: float = 1.0

    def factor(self, step: int) -> float:
        """See `Schedule.factor`."""
        return self.value


class Linear(Schedule, kind="linear"):
    """From `start` to `stop` over `steps`, then `stop`."""

    start: float = 1.0
    stop: float = 0.0
    steps: int = Field(ge=1)

    def factor(self, step: int) -> float:
        """See `Schedule.factor`."""
        return self.start + (self.stop - self.start) * min(step / self.steps, 1.0)


class Cosine(Linear, kind="cosine"):
    """As `linear`, along half a cosine."""

    def factor(self, step: int) -> float:
        """See `Schedule.factor`."""
        done = min(step / self.steps, 1.0)
        return self.stop + (self.start - self.stop) * 0.5 * (1 + math.cos(math.pi * done))
