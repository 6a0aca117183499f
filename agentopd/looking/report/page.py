"""The page: one HTML file with everything in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from agentopd.base.files import write_whole
from agentopd.looking.report.data import read_results, stage_starts
from agentopd.looking.report.episode import show_episode, signed
from agentopd.looking.report.figure import STAGE_COLOURS, inline_svg, save_png
from agentopd.looking.report.finding import UNKNOWN, caveat, finding, percent, span, speed
from agentopd.looking.report.plots import (
    Plot,
    probe_plots,
    stage_plot,
    stage_seconds,
    success_plots,
)
from agentopd.looking.report.shape import Arm, Results, Step


def write_report(folder: Path) -> Path:
    """Write `report.html` and `plots/*.png` into a study folder or a single run's folder.

    The page holds its images and styles and refers to nothing outside itself. Parts for which the
    folder has no data are left out.

    Returns:
        The path of the page.

    Raises:
        ValueError: the folder holds neither a study nor a run, a file in it is damaged, or the
            page cannot be written.
    """
    results = read_results(folder)
    success, probes, stages = success_plots(results), probe_plots(results), stage_plot(results)
    everything = [*success, *(p for plots in probes.values() for p in plots)]
    everything += [stages] if stages else []
    for plot in everything:
        save_png(plot.figure, folder / "plots" / f"{plot.name}.png")
    page = (
        templates()
        .get_template("template.html.j2")
        .render(
            summary=results.summary,
            single=results.single,
            finding=finding(results.summary),
            caveat=caveat(results.summary),
            speed=speed(results.summary),
            stages=_used_stages(results.summary.arms),
            success=[_svg(plot) for plot in success],
            staged=any(stage_starts(steps) for steps in results.steps.values()),
            probes={name: [_svg(plot) for plot in plots] for name, plots in probes.items()},
            mechanisms=results.mechanisms,
            stage_plot=_svg(stages) if stages else None,
            measured=list(results.steps),
            other=_other_probes(results),
            episodes={name: show_episode(e) for name, e in results.episodes.items() if e.turns},
        )
    )
    path = folder / "report.html"
    write_whole(path, page)
    return path


def templates(*folders: Path) -> Environment:
    """Templates beside this file and in `folders`, and the filters of a report; every value is
    escaped, a missing one is an error.
    """
    environment = Environment(
        loader=FileSystemLoader([Path(__file__).parent, *folders]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "span": span,
        "signed": signed,
        "count": _count,
        "seconds": _seconds,
        "number": _number,
        "yaml": _yaml,
        "stages": _stages,
        "seeds": _seeds,
    }
    return environment


def _svg(plot: Plot) -> str:
    return inline_svg(plot.figure, plot.name, plot.label)


def _stages(arm: Arm) -> dict[str, float]:
    return stage_seconds(arm.seconds)


def _used_stages(arms: Mapping[str, Arm]) -> list[str]:
    return [stage for stage in STAGE_COLOURS if any(stage in _stages(a) for a in arms.values())]


def _seeds(arm: Arm) -> str:
    """The success of each seed in percent, as `58 · 61 · 66`."""
    known = [run.success_after for run in arm.runs if run.success_after is not None]
    return " · ".join(f"{100 * value:.0f}" for value in known)


def _count(value: int | None) -> str:
    """A count for a table: `960`, `12.4 k`, `1.23 M`; a dash where it is unknown."""
    if value is None:
        return UNKNOWN
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if unit == 'k' else size):.3g} {unit}"
    return f"{value:,}"


def _seconds(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.1f}" if value < 10 else f"{value:,.0f}"


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.3g}"


def _yaml(value: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True, width=88).rstrip()


def _other_probes(results: Results) -> dict[str, list[float | None]]:
    """The last step's single numbers by name, one value an arm that has steps."""
    columns = [_numbers(steps[-1]) for steps in results.steps.values()]
    names = dict.fromkeys(name for column in columns for name in column)
    return {name: [column.get(name) for column in columns] for name in names}


def _numbers(step: Step) -> dict[str, float | None]:
    split = {
        f"{name.replace('_', ' ')}, {outcome}": value
        for outcome, probes in step.probes.by_success.items()
        for name, value in probes.items()
    }
    train = {f"training {name.replace('_', ' ')}": value for name, value in step.train.items()}
    scalars = {name.replace("_", " "): value for name, value in step.probes.scalars.items()}
    return train | {"loss": step.loss} | split | scalars
