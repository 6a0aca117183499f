"""A fault during a command, and the command again: what became of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from hard import faults, small
from hard.faults import Fault
from hard.forked import Ended, command, warm

WORKERS = 2
KEPT = {"train": "finished", "compare": "compared"}
"""Under which names the folder of a run and that of a study are kept."""


@dataclass(frozen=True)
class Subject:
    """A command to disturb: `train`, `compare` or `report`.

    Attributes:
        config: of the run and the study.
        folder: where what the first two leave behind is kept.
    """

    name: str
    config: Path
    folder: Path

    def prepare(self, out: Path) -> None:
        """What is there before the command is given."""
        small.emptied(out)
        if self.name == "report":
            small.copied(self.folder / KEPT["train"], out)

    def words(self, out: Path) -> tuple[object, ...]:
        """The command, first or again: nothing was begun where no configuration lies."""
        if self.name == "report":
            return "report", out
        if (out / "config.yaml").is_file():
            return "resume", out
        return self.name, self.config, "--out", out

    def run(self, out: Path, fault: Fault | None) -> Ended:
        """Give the command in a fork."""

        def before() -> None:
            if self.name != "report":
                leave_out_pages()
            faults.arm(out, fault)

        return command(*self.words(out), folder=out.parent, before=before)

    def digest(self, out: Path) -> dict[str, str]:
        """What is to be the same in the end."""
        return small.digest(out, pages=self.name == "report")


@dataclass(frozen=True)
class Undisturbed:
    """A command as it is without any fault: its changes on the disk, and what they come to."""

    subject: Subject
    places: list[str]
    digest: dict[str, str]

    @property
    def telling(self) -> list[int]:
        """The numbers of the changes, and of a file's many writes in a row the outermost alone."""
        beside = zip([None, *self.places], self.places, [*self.places[1:], None], strict=False)
        return [n for n, (a, own, b) in enumerate(beside, 1) if not a == own == b]


@dataclass(frozen=True)
class Disturbed:
    """A fault, how the command ended by it, how it ended again, and which files then differ."""

    subject: Subject
    fault: Fault
    place: str
    first: Ended
    again: Ended
    differ: list[str]

    def __str__(self) -> str:
        last = (self.again.errors or self.first.errors or [""])[-1]
        files = ", ".join(self.differ[:3])
        return f"{self.subject.name}, {self.fault} ({self.place}): {files or last}"


@contextmanager
def crew() -> Iterator[ProcessPoolExecutor]:
    """Processes that have imported everything and can make faults."""
    with TemporaryDirectory() as name:
        variables = faults.build(Path(name))
        with (
            patch.dict(os.environ, variables),
            ProcessPoolExecutor(WORKERS, get_context("spawn"), initializer=warm) as pool,
        ):
            yield pool


def subjects(pool: ProcessPoolExecutor, folder: Path) -> dict[str, Undisturbed]:
    """The three commands, made and run once without a fault."""
    config = small.write_config(folder / "study.yaml", small.make_model(folder / "model"))
    made = [Subject(name, config, folder) for name in ("train", "compare", "report")]
    return {subject.name: pool.submit(_undisturbed, subject).result() for subject in made}


def disturb(pool: ProcessPoolExecutor, of: Undisturbed, chosen: Sequence[Fault]) -> list[Disturbed]:
    """Each of these faults, in a trial of its own."""
    waiting = [pool.submit(_disturbed, of, fault) for fault in chosen]
    return [each.result() for each in waiting]


def _undisturbed(subject: Subject) -> Undisturbed:
    out = scratch()
    subject.prepare(out)
    ended = subject.run(out, None)
    assert ended.code == 0, ended.err
    found = Undisturbed(subject, faults.places(), subject.digest(out))
    if subject.name != "report":
        small.copied(out, subject.folder / KEPT[subject.name])
    return found


def _disturbed(of: Undisturbed, fault: Fault) -> Disturbed:
    out = scratch()
    of.subject.prepare(out)
    first = of.subject.run(out, fault)
    places = faults.places()
    place = places[fault.at - 1] if fault.at <= len(places) else "not reached"
    again = of.subject.run(out, None)
    differ = small.differences(of.digest, of.subject.digest(out))
    return Disturbed(of.subject, fault, place, first, again, differ)


def scratch() -> Path:
    """This process's own place for the folder under trial."""
    folder = Path(os.environ["AGENTOPD_HARD_FAULTS"]).parent / str(os.getpid())
    folder.mkdir(exist_ok=True)
    return folder / "run"


def leave_out_pages() -> None:
    """A report takes most of a short run's time; it is tried by itself."""
    from agentopd.looking import report

    report.write_report = lambda folder: folder / "report.html"
