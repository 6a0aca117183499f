"""The metrics of a run in stages, told as those of one run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentopd.base.files import append_line, read_text, write_whole
from agentopd.running.folder import METRICS
from agentopd.running.stages.settings import Leg

_SUMMED = ("episodes", "seconds")
"""What a line counts from the start of its run."""


class Curve:
    """Writes the run's `metrics.jsonl`: the lines of all stages, with steps that count on.

    Each line names its stage. What a stage measures before its first step is told of the first
    stage alone: elsewhere it is what the stage before has ended with, or another student.

    Attributes:
        steps: of the stages that have ended.
    """

    def __init__(self, out: Path, watch: Callable[[dict[str, Any]], None]) -> None:
        self.out, self.watch = out, watch
        self.steps = 0
        self._before: list[dict[str, Any]] = []
        self._base: dict[str, float] = dict.fromkeys(_SUMMED, 0)
        self._leg: Leg | None = None
        self._metrics = Path()
        self._fresh = True

    def begin(self, leg: Leg, folder: Path) -> None:
        """The lines to come are those of a stage."""
        self._leg, self._metrics, self._fresh = leg, folder / METRICS, True

    def line(self, line: dict[str, Any]) -> None:
        """A stage has written a line."""
        told = self._told(line)
        if told is None:
            return
        if self._fresh:  # with those that stood there when the stage was resumed
            self._write(self._own())
            self._fresh = False
        else:
            kept = {key: value for key, value in told.items() if key != "memory"}
            append_line(self.out / METRICS, json.dumps(kept))
        self.watch(told)

    def end(self) -> None:
        """The stage has ended."""
        own = self._own()
        self._write(own)
        self._before += own
        self.steps = max([self.steps, *(line["step"] + 1 for line in own)])
        if own:
            self._base = {key: own[-1][key] for key in _SUMMED}

    def _own(self) -> list[dict[str, Any]]:
        """The stage's lines so far, as the run tells them."""
        read = read_text(self._metrics).split("\n")[:-1] if self._metrics.is_file() else []
        told = (self._told(json.loads(line)) for line in read)
        return [line for line in told if line is not None]

    def _told(self, line: dict[str, Any]) -> dict[str, Any] | None:
        assert self._leg is not None
        if line["step"] < 0:
            return None if self._before else {**line, "stage": self._leg.folder}
        summed = {key: line[key] + self._base[key] for key in _SUMMED}
        return {**line, **summed, "step": line["step"] + self.steps, "stage": self._leg.folder}

    def _write(self, own: list[dict[str, Any]]) -> None:
        lines = [f"{json.dumps(line)}\n" for line in [*self._before, *own]]
        write_whole(self.out / METRICS, "".join(lines))
