"""A run in stages: each an ordinary run, or a collection, in a folder of its own under the run's.

What has ended is never done again; what was interrupted goes on inside its stage, bit for bit. The
run's own folder tells all of it as one: one line of metrics a step, one summary.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentopd.base.files import make_folder, write_whole
from agentopd.base.stopping import Interrupted, interruptible
from agentopd.running.collecting.collect import collect
from agentopd.running.config import RunConfig
from agentopd.running.evaluate import depends_on
from agentopd.running.folder import SUMMARY, check_folder, ended, open_folder
from agentopd.running.reading import stage_configs
from agentopd.running.stages.curve import Curve
from agentopd.running.stages.merging import merge
from agentopd.running.stages.references import Left, check_references, collecting, resolved
from agentopd.running.stages.settings import STAGE, Leg

Train = Callable[..., dict[str, Any]]
"""`agentopd.running.train.train`, which calls what is here."""
_FOLDER, _MERGED = "stages", "merged"


def train_stages(
    config: RunConfig,
    out: Path,
    resume: bool,
    watch: Callable[[dict[str, Any]], None],
    untrained: dict[str, Any] | None,
    stop: threading.Event | None,
    train: Train,
) -> dict[str, Any]:
    """Go through all stages and leave a run folder; see `agentopd.running.train.train`.

    Args:
        train: trains one stage.

    Raises:
        ConfigError: a stage cannot be used, or refers to nothing; or see `train`.
        Interrupted: Ctrl-C or SIGTERM came, or `stop` was set; the current step was saved.
    """
    staged = stage_configs(config)
    check_references(staged)
    check_folder(config, out, resume, "run", free=("threads",))
    open_folder(config, out)
    with interruptible(stop) as asked:
        through = _Through(config, out, watch, asked, train, untrained)
        for leg, own in staged:
            through.go(leg, own)
    summary = through.summary(out.name)
    write_whole(out / SUMMARY, json.dumps(summary, indent=2) + "\n")
    return summary


@dataclass(frozen=True)
class _Measured:
    """What the last evaluation of a stage has found, of which student, on which tasks."""

    student: str
    tasks: dict[str, Any]
    evaluation: dict[str, Any] | None

    def of(self, config: RunConfig) -> dict[str, Any] | None:
        """The evaluation of the student that a stage begins with, if this is one."""
        same = self.student == config.student.path and self.tasks == depends_on(config)
        return self.evaluation if same else None


class _Through:
    """On the way through the stages of one run."""

    def __init__(
        self,
        config: RunConfig,
        out: Path,
        watch: Callable[[dict[str, Any]], None],
        asked: threading.Event,
        train: Train,
        untrained: dict[str, Any] | None,
    ) -> None:
        self.out, self.asked, self.train = out, asked, train
        self.left = Left(config.student.path)
        self.curve = Curve(out, watch)
        self.told: list[dict[str, Any]] = []
        self.measured = _Measured(config.student.path, depends_on(config), untrained)

    def go(self, leg: Leg, config: RunConfig) -> None:
        """Go through one stage, or past one that has ended."""
        if self.asked.is_set():
            raise Interrupted(self.curve.steps)
        folder = self.out / _FOLDER / leg.folder
        own = resolved(config, leg, self.left, self._merged(leg))
        make_folder(folder.parent)
        found = self._train(leg, own, folder) if leg.trains else self._collect(leg, own, folder)
        self.told.append({"name": leg.name, "folder": f"{_FOLDER}/{leg.folder}", **found})
        self.left = self.left.after(leg, folder)
        if leg.trains:
            student = self.left.students[f"{STAGE}{leg.name}"]
            self.measured = _Measured(student, depends_on(own), found["evaluation"])

    def _merged(self, leg: Leg) -> str:
        """The path of what a stage merges; empty where it merges nothing."""
        students = [Path(student) for student in self.left.to_merge(leg)]
        if not students:
            return ""
        folder = self.out / _MERGED / leg.folder
        merge(students, folder)
        return str(folder)

    def _collect(self, leg: Leg, config: RunConfig, folder: Path) -> dict[str, Any]:
        try:
            found = collect(config, collecting(leg, self.left), folder, stop=self.asked)
        except Interrupted:
            raise Interrupted(self.curve.steps) from None
        kept = ("earlier", "played", "kept", "solved", "tokens", "student_tokens", "teacher_tokens")
        return {**{key: found[key] for key in kept}, "seconds": {"rollout": found["seconds"]}}

    def _train(self, leg: Leg, config: RunConfig, folder: Path) -> dict[str, Any]:
        begun = (folder / "config.yaml").is_file()
        summary = ended(folder, config.steps)
        self.curve.begin(leg, folder)
        if summary is None:
            if begun:  # of a run that was moved, paths are others than they were
                open_folder(config, folder)
            try:
                summary = self.train(
                    config, folder, begun, self.curve.line, self.measured.of(config), self.asked
                )
            except Interrupted as stopped:
                raise Interrupted(self.curve.steps + stopped.step) from None
        self.curve.end()
        return summary

    def summary(self, name: str) -> dict[str, Any]:
        """What all stages came to, in the form of a run's summary."""
        runs = [told for told in self.told if "steps" in told]
        seconds = _added(told["seconds"] for told in self.told)
        seconds["total"] = sum(spent for key, spent in seconds.items() if key != "total")
        return {
            "run": True,
            "name": name,
            "success_before": runs[0]["success_before"],
            "success_after": runs[-1]["success_after"],
            "evaluation": runs[-1]["evaluation"],
            "episodes": sum(run["episodes"] for run in runs),
            "steps": sum(run["steps"] for run in runs),
            "skipped": _added(run["skipped"] for run in runs),
            "errors": _added(run["errors"] for run in runs),
            "student_tokens": sum(told["student_tokens"] for told in self.told),
            "teacher_tokens": sum(told["teacher_tokens"] for told in self.told),
            "seconds": seconds,
            "notices": [f"stage {run['name']}: {n}" for run in runs for n in run["notices"]],
            "stages": self.told,
        }


def _added(counts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Numbers by name, summed."""
    found: dict[str, Any] = {}
    for count in counts:
        for key, number in count.items():
            found[key] = found.get(key, 0) + number
    return found
