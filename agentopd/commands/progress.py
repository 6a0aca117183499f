"""How far training is: bars on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from agentopd.base.console import warn
from agentopd.rollout.failures import outgrown, some_failed, unheard, unusable

Key = tuple[str, int]
"""An arm of a study and a seed."""
_PLAIN_LINES = 10
_WORTH_TELLING = 2**30
"""Bytes at the peak of a step; what is below, every machine has."""


@dataclass
class Status:
    """The last numbers of one run, read from its lines of metrics.

    Tokens a second are the student's own of the last step, by all that the step took. Success in
    training is told of steps in which the student wrote something: where others alone did, as in
    demonstrations, it is theirs.

    Args:
        steps: of the whole run.
        episodes: of one step.
    """

    steps: int
    episodes: int
    done: int = 0
    train: float | None = None
    loss: float | None = None
    test: float | None = None
    seconds: float = 0.0
    tokens_a_second: float | None = None
    told: set[str] = field(default_factory=set)

    def take(self, line: Mapping[str, Any]) -> None:
        """Take in one line of `metrics.jsonl`; the first may hold an evaluation alone."""
        self.done = line["episodes"] // self.episodes
        self.seconds = line["seconds"]
        if "tokens" in line:
            spent = sum(took for stage, took in line["stages"].items() if stage != "evaluate")
            self.tokens_a_second = line["tokens"]["student"] / spent if spent else None
        if "train" in line:
            wrote = line.get("tokens", {}).get("student") != 0
            self.train, self.loss = line["train"]["success"] if wrote else None, line["loss"]
        if line.get("evaluation"):
            self.test = line["evaluation"]["success"]

    def warnings(self, line: Mapping[str, Any]) -> list[str]:
        """What went wrong in the episodes and answers that a line is about."""
        evaluated = line.get("evaluation") or {}
        played = evaluated.get("episodes", 0)
        told = (
            some_failed(
                line.get("failed", {}),
                self.episodes,
                f"of step {line['step'] + 1}",
                line.get("unopened", 0),
            ),
            *line.get("warnings", ()),
            some_failed(
                evaluated.get("reasons", {}),
                played,
                "of the evaluation",
                evaluated.get("unopened", 0),
            ),
            outgrown(evaluated.get("ends", {}), played, "of the evaluation"),
            unheard(line.get("unheard", 0), self.episodes, f"of step {line['step'] + 1}"),
        )
        return [warning for warning in told if warning] + self._first_time(line)

    def _first_time(self, line: Mapping[str, Any]) -> list[str]:
        """What is wrong with the run rather than with some episodes: told once."""
        found = dict[str, str]()
        where = f"of step {line['step'] + 1}"
        for shares, whose in (
            (line.get("train"), where), (line.get("evaluation"), "of the evaluation")
        ):  # fmt: skip
            found = {**unusable(shares or {}, whose), **found}
        new = [warning for what, warning in found.items() if what not in self.told]
        self.told.update(found)
        return new

    def __str__(self) -> str:
        parts = [
            "" if self.train is None else f"train {100 * self.train:3.0f} %",
            "" if self.loss is None else f"loss {self.loss:8.4f}",
            "" if self.test is None else f"test {100 * self.test:3.0f} %",
            "" if self.tokens_a_second is None else f"{self.tokens_a_second:,.0f} tokens/s",
            f"{self.seconds / self.done:.1f} s/step" if self.done else "",
            self.left,
        ]
        return "  ".join(part for part in parts if part)

    @property
    def left(self) -> str:
        """The time that the steps to come will take if they take what the others did, without
        evaluations; empty where nothing is known or left.
        """
        if not 0 < self.done < self.steps:
            return ""
        minutes, seconds = divmod(round(self.seconds / self.done * (self.steps - self.done)), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02} left"

    def worth_a_line(self, line: Mapping[str, Any]) -> bool:
        """Whether a reader without bars should be told: at evaluations and some ten times a run."""
        every = max(1, self.steps // _PLAIN_LINES)
        return bool(line.get("evaluation")) or self.done % every == 0


@contextmanager
def run_progress(
    steps: int, episodes: int, console: Console
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Show one run; gives what `agentopd.running.train.train` calls with each line of metrics."""
    status = Status(steps, episodes)
    if not console.is_terminal:

        def tell(line: dict[str, Any]) -> None:
            status.take(line)
            _warn(status, line)
            _tell_memory(line, console)
            if status.worth_a_line(line):
                typer.echo(f"step {status.done}/{steps}  {status}")

        yield tell
        return
    with _bars(console) as bars:
        bar = bars.add_task("train", total=steps, numbers="Ctrl-C saves and stops")

        def draw(line: dict[str, Any]) -> None:
            status.take(line)
            _warn(status, line)
            _tell_memory(line, console)
            bars.update(bar, completed=status.done, numbers=str(status))

        yield draw


@contextmanager
def study_progress(
    runs: Mapping[Key, Status], console: Console
) -> Iterator[Callable[[str, int, dict[str, Any]], None]]:
    """Show a study's runs; gives what `agentopd.running.studies.study.compare` calls with each line
    of metrics.
    """
    if not console.is_terminal:

        def tell(arm: str, seed: int, line: dict[str, Any]) -> None:
            status = runs[arm, seed]
            status.take(line)
            _warn(status, line, f"{arm} seed {seed}: ")
            if status.worth_a_line(line):
                typer.echo(f"{arm} seed {seed}  step {status.done}/{status.steps}  {status}")

        yield tell
        return
    with _bars(console) as bars:
        whole = bars.add_task("all runs", total=sum(s.steps for s in runs.values()), numbers="")
        shown: dict[Key, TaskID] = {}

        def draw(arm: str, seed: int, line: dict[str, Any]) -> None:
            status = runs[arm, seed]
            status.take(line)
            _warn(status, line, f"{arm} seed {seed}: ")
            if (arm, seed) not in shown:
                shown[arm, seed] = bars.add_task(
                    f"{arm} seed {seed}", total=status.steps, numbers=""
                )
            bars.update(
                shown[arm, seed],
                completed=status.done,
                numbers=str(status),
                visible=status.done < status.steps,
            )
            finished = sum(s.done >= s.steps for s in runs.values())
            bars.update(
                whole,
                completed=sum(s.done for s in runs.values()),
                numbers=f"{finished} of {len(runs)} runs are done",
            )

        yield draw


@contextmanager
def build_progress(console: Console) -> Iterator[Callable[[str, int, int, float], None]]:
    """Show models being trained; gives what `agentopd.zoo.build.build` calls with each step."""
    if not console.is_terminal:

        def tell(name: str, step: int, steps: int, loss: float) -> None:
            if step % max(1, steps // _PLAIN_LINES) == 0 or step == steps:
                typer.echo(f"{name}  step {step}/{steps}  loss {loss:.4f}")

        yield tell
        return
    with _bars(console) as bars:
        shown: dict[str, TaskID] = {}

        def draw(name: str, step: int, steps: int, loss: float) -> None:
            if name not in shown:
                shown[name] = bars.add_task(name, total=steps, numbers="")
            bars.update(shown[name], completed=step, numbers=f"loss {loss:.4f}")

        yield draw


def _warn(status: Status, line: Mapping[str, Any], whose: str = "") -> None:
    for warning in status.warnings(line):
        warn(f"{whose}{warning}")


def _tell_memory(line: Mapping[str, Any], console: Console) -> None:
    """What a step will take, as a run's first line says, where it is worth a thought."""
    memory = line.get("memory")
    if memory and memory["peak"] > _WORTH_TELLING:
        console.print(f"memory: about {memory['said']}", soft_wrap=True, highlight=False)


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}", markup=False),
        TimeElapsedColumn(),
        console=console,
    )
