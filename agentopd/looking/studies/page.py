"""The page over several studies: one HTML file with everything in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agentopd.base.files import write_whole
from agentopd.looking.report.episode import ShownEpisode, show_episode
from agentopd.looking.report.page import templates
from agentopd.looking.studies.changes import Cell, Row, overall, row_of, shared_arms
from agentopd.looking.studies.drawn import FULL, Curves, curves, painted, scattered
from agentopd.looking.studies.folders import read_studies
from agentopd.looking.studies.predictors import predicted
from agentopd.looking.studies.words import cause, caveats, extent, points, searched, verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """An arm by itself, as a click on its cell shows it."""

    anchor: str
    row: Row
    cell: Cell
    curves: Curves | None
    episode: ShownEpisode | None
    search: list[str]


def write_overview(folder: Path) -> Path:
    """Write `report.html` into a folder of studies.

    The page holds its images and styles and refers to nothing outside itself.

    Returns:
        The path of the page.

    Raises:
        ValueError: no study in the folder has finished, a file of one is damaged, or the page
            cannot be written.
    """
    studies = read_studies(folder)
    rows = [
        row_of(name, results, studies.effects[name]) for name, results in studies.finished.items()
    ]
    shared = shared_arms(rows)
    anchors = {
        (row.name, name): f"study-{i}-arm-{j}"
        for i, row in enumerate(rows)
        for j, name in enumerate(row.cells)
    }
    environment = templates(Path(__file__).parent)
    environment.filters |= {
        "points": points,
        "extent": extent,
        "painted": painted,
        "cause": cause,
        "verdict": verdict,
        "scattered": scattered,
    }
    page = environment.get_template("overview.html.j2").render(
        rows=rows,
        shared=shared,
        overall={name: overall(rows, name) for name in shared},
        anchors=anchors,
        caveats=caveats(rows, studies.pending),
        predicted=predicted(rows),
        shown=[_shown(row, cell, anchors[row.name, name]) for row in rows
               for name, cell in row.cells.items()],
        full=round(100 * FULL),
    )  # fmt: skip
    path = folder / "report.html"
    write_whole(path, page)
    return path


def _shown(row: Row, cell: Cell, anchor: str) -> Shown:
    found = row.results.episodes.get(cell.name)
    sick = row.sick.arm if row.sick and cell is not row.sick else None
    return Shown(
        anchor=anchor,
        row=row,
        cell=cell,
        curves=curves(cell.arm, sick),
        episode=show_episode(found) if found and found.turns else None,
        search=searched(cell, row.results.steps.get(cell.name, [])),
    )
