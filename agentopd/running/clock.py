"""What a run costs: seconds and tokens by what they were spent on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter


@dataclass
class Clock:
    """Seconds and tokens by stage, over the whole run."""

    stages: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(
            ("rollout", "privilege", "teacher", "learner", "evaluate"), 0.0
        )
    )
    student_tokens: int = 0
    teacher_tokens: int = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the seconds spent inside."""
        began = perf_counter()
        yield
        self.stages[name] += perf_counter() - began
