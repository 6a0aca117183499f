"""A study's arms as a table: success over all seeds, tokens of student and teacher, seconds.

    python tests/benchmarks/study_table.py runs/methods [runs/methods_cliff ...]

Success is that of the held-out tasks after training, the seeds together, with Wilson's 95 %
interval, which takes tasks that two seeds share for different ones; then each seed by itself.
Tokens are those of one run in thousands, whatever was collected or played again beside its
episodes included; seconds are a run's own, on a machine that may have done other work.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentopd.base.statistics import wilson


@dataclass(frozen=True)
class Arm:
    """One arm's runs that were finished, a summary each."""

    name: str
    runs: tuple[dict[str, Any], ...]

    @property
    def solved(self) -> int:
        """Tasks solved after training, of all seeds."""
        return sum(
            round(r["evaluation"]["success"] * r["evaluation"]["episodes"]) for r in self.runs
        )

    @property
    def tasks(self) -> int:
        """Tasks played after training, of all seeds."""
        return sum(r["evaluation"]["episodes"] for r in self.runs)

    def mean(self, *keys: str) -> float:
        """The mean over the seeds of one number of the summary."""
        values = list[float]()
        for run in self.runs:
            value: Any = run
            for key in keys:
                value = value[key]
            values.append(float(value))
        return sum(values) / len(values)

    @property
    def line(self) -> str:
        """A row of the table."""
        low, high = wilson(self.solved, self.tasks)
        seeds = ", ".join(f"{100 * run['evaluation']['success']:.0f}" for run in self.runs)
        tokens = [f"{self.mean(key) / 1000:.0f}" for key in ("student_tokens", "teacher_tokens")]
        success = f"{100 * self.solved / self.tasks:.0f} % ({100 * low:.0f}-{100 * high:.0f})"
        cells = (self.name, success, seeds, *tokens, f"{self.mean('seconds', 'total'):.0f}")
        return f"| {' | '.join(cells)} |"


def arms(study: Path) -> Iterator[Arm]:
    """The arms of a study of which some run is finished."""
    for folder in sorted((study / "arms").iterdir()):
        files = sorted(folder.glob("seed-*/summary.json"))
        runs = tuple(json.loads(file.read_text()) for file in files)
        if runs := tuple(run for run in runs if run.get("evaluation")):
            yield Arm(folder.name, runs)


def main() -> None:
    """Print a table for each study."""
    for study in map(Path, sys.argv[1:]):
        found = sorted(arms(study), key=lambda arm: -arm.solved / arm.tasks)
        print(f"{study.name}: {len(found)} arms\n")
        print("| arm | after | seeds | student, k tokens | teacher, k tokens | seconds |")
        print("|---|---|---|---|---|---|")
        print("\n".join(arm.line for arm in found), end="\n\n")


if __name__ == "__main__":
    main()
