"""A folder of studies, read for the page over all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agentopd.looking.report.data import read_results
from agentopd.looking.report.shape import Results
from agentopd.looking.studies.effects import Effects, read_effects


@dataclass(frozen=True)
class Studies:
    """The studies of a folder.

    Attributes:
        finished: what each has come to, by its folder's name.
        effects: what the arms of each did to their students.
        pending: those that have begun and have no summary yet.
    """

    finished: Mapping[str, Results]
    effects: Mapping[str, Effects]
    pending: tuple[str, ...]


def holds_studies(folder: Path) -> bool:
    """Whether a folder is no study's and no run's own, and one in it is a study's."""
    own = any((folder / name).exists() for name in ("summary.json", "metrics.jsonl", "arms"))
    return not own and folder.is_dir() and any(map(_is_study, folder.iterdir()))


def read_studies(folder: Path) -> Studies:
    """Read the studies of a folder.

    Raises:
        ValueError: none has finished, or a file of one is damaged.
    """
    found = sorted(path for path in folder.iterdir() if _is_study(path))
    finished = {p.name: read_results(p) for p in found if (p / "summary.json").is_file()}
    pending = tuple(path.name for path in found if path.name not in finished)
    if not finished:
        raise ValueError(
            f"no study in {folder} has a summary.json yet, so there is nothing to show; go on with "
            f"one: agentopd resume {found[0] if found else folder}"
        )
    return Studies(finished, {name: read_effects(folder / name) for name in finished}, pending)


def _is_study(path: Path) -> bool:
    """A study's folder is known by its arms."""
    return (path / "arms").is_dir()
