"""Seconds and tokens by stage, over a whole run and since its last line of metrics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

_STAGES = ("rollout", "privilege", "teacher", "learner", "evaluate")


@dataclass
class Clock:
    """Seconds and tokens by stage, over the whole run."""

    stages: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_STAGES, 0.0))
    student_tokens: int = 0
    teacher_tokens: int = 0
    _seconds_told: dict[str, float] = field(default_factory=dict)
    _tokens_told: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the seconds spent inside."""
        began = perf_counter()
        yield
        self.stages[name] += perf_counter() - began

    @property
    def seconds(self) -> float:
        """Of all stages together."""
        return sum(self.stages.values())

    def since_last_line(self) -> tuple[dict[str, float], dict[str, int]]:
        """Seconds by stage and tokens spent since this was asked before."""
        stages = dict(self.stages)
        tokens = {"student": self.student_tokens, "teacher": self.teacher_tokens}
        spent = {k: v - self._seconds_told.get(k, 0.0) for k, v in stages.items()}
        used = {k: v - self._tokens_told.get(k, 0) for k, v in tokens.items()}
        self._seconds_told, self._tokens_told = stages, tokens
        return spent, used
