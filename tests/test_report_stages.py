"""A report of a run in stages: where each begins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_report import write_study

from agentopd.looking.report import write_report
from agentopd.looking.report.data import read_results, stage_starts
from agentopd.looking.report.plots import success_plots
from agentopd.looking.report.shape import Results, Step


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose second stage begins behind step 10, which 640 episodes and 73 seconds end."""
    folder = write_study(tmp_path, {"staged": 0.6}, seeds=1) / "arms/staged/seed-0"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    told = [line | {"stage": "2-sft" if line["step"] <= 10 else "3-opd"} for line in lines]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in told))
    return folder


def _marks(results: Results) -> list[list[tuple[str, float]]]:
    """By figure, the names at dotted lines, which stand where their names do."""
    found = []
    for plot in success_plots(results):
        (axes,) = plot.figure.axes
        names: list[Any] = [*axes.texts]
        upright = [line for line in axes.lines if len({*line.get_xdata()}) == 1]  # type: ignore[misc]
        dotted = [line for line in upright if line.get_linestyle() == ":"]
        assert [text.xy[0] for text in names] == [line.get_xdata()[0] for line in dotted]  # type: ignore[index]
        found.append([(text.get_text(), text.xy[0]) for text in names])
    return found


def test_the_beginnings_of_stages_are_marked(run: Path) -> None:
    assert _marks(read_results(run)) == [
        [("2-sft", 0), ("3-opd", 640)],
        [("2-sft", 0), ("3-opd", pytest.approx(73))],
    ]
    assert "where a stage begins" in write_report(run).read_text(encoding="utf-8")


def test_a_run_without_stages_has_no_marks(tmp_path: Path) -> None:
    study = write_study(tmp_path, {"token": 0.4}, seeds=1)
    assert _marks(read_results(study)) == [[], []]
    assert "where a stage begins" not in write_report(study).read_text(encoding="utf-8")


def test_a_stage_begins_where_the_one_before_ends() -> None:
    steps = [
        Step(step=n, episodes=4 * n + 4, seconds=float(n), stage=stage)
        for n, stage in enumerate(("1-a", "1-a", "2-b", "3-a"))
    ]
    assert stage_starts(steps) == [("1-a", 0, 0.0), ("2-b", 8, 1.0), ("3-a", 12, 2.0)]
    assert stage_starts([]) == []
