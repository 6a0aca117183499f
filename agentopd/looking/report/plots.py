"""The figures of a report."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from agentopd.looking.report.data import stage_starts
from agentopd.looking.report.figure import (
    ARM_COLOURS,
    GRID,
    INK,
    MUTED,
    STAGE_COLOURS,
    colour,
    legend_below,
    marker,
    panel,
    styled,
)
from agentopd.looking.report.shape import Arm, Point, Results, Step

PROBES: Mapping[str, str] = {
    "divergence": "Divergence",
    "log_ratio": "|log-ratio|",
    "entropy": "Entropy",
    "overlap": "Overlap",
}
"""The panels by turn and their titles; `entropy` shows the student's and the teacher's."""
_NAMED_STAGES = 12
"""Beginnings of stages in one figure whose names can be read side by side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A figure; `name` is its file's and unique in a report, `label` says what it shows."""

    name: str
    label: str
    figure: Figure


def success_plots(results: Results) -> list[Plot]:
    """Success against episodes and against seconds, or, of more arms than there are colours, at the
    end; none where nothing was evaluated.
    """
    summary = results.summary
    if not any(run.curve for arm in summary.arms.values() for run in arm.runs):
        return []
    if len(summary.arms) > len(ARM_COLOURS):
        label = "Success on the test episodes before and after training, by arm"
        return [Plot(name="success-after", label=label, figure=_success_after(results))]
    axes: tuple[Literal["episodes", "seconds"], ...] = ("episodes", "seconds")
    return [
        Plot(
            name=f"success-by-{axis}",
            label=f"Success on the test episodes against training {axis}, by arm",
            figure=_success(results, axis),
        )
        for axis in axes
    ]


def stage_plot(results: Results) -> Plot | None:
    """Seconds by stage, a bar an arm; None where no times are known."""
    arms = {name: arm.seconds for name, arm in results.summary.arms.items() if arm.seconds}
    if not arms:
        return None
    with styled():
        figure, axes = panel("Seconds by stage", "seconds", (7.4, 1.25 + 0.36 * len(arms)))
        stages = [s for s in STAGE_COLOURS if any(stage_seconds(a).get(s) for a in arms.values())]
        left = [0.0] * len(arms)
        bars = []
        for stage in stages:
            widths = [stage_seconds(seconds).get(stage, 0.0) for seconds in arms.values()]
            paint = STAGE_COLOURS[stage]
            bars.append(axes.barh(range(len(arms)), widths, left=left, color=paint, height=0.62))
            left = [start + width for start, width in zip(left, widths, strict=True)]
        for row, total in enumerate(left):
            axes.annotate(
                f"{total:,.0f}", (total, row), (5, 0), textcoords="offset points", va="center"
            )
        axes.set_yticks(range(len(arms)), list(arms), color=INK)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, 1.1 * max(*left, 1e-9))
        legend_below(figure, bars, stages, len(stages))
    return Plot(name="stage-seconds", label="Seconds by stage, a bar for each arm", figure=figure)


def stage_seconds(seconds: dict[str, float]) -> dict[str, float]:
    """Seconds by stage without the total; what the stages do not account for is `other`."""
    known = {s: v for s, v in seconds.items() if s in STAGE_COLOURS and s != "other"}
    rest = seconds.get("total", 0.0) - sum(known.values())
    return known | ({"other": rest} if rest > 0.005 * sum(known.values()) else {})


def probe_plots(results: Results) -> dict[str, list[Plot]]:
    """By arm, the probes by turn at the first and the last step; one scale a probe for all arms."""
    numbers = {name: i for i, name in enumerate(results.summary.arms)}
    tops = {probe: _top(results, probe) for probe in PROBES}
    plots: dict[str, list[Plot]] = {}
    for name, steps in results.steps.items():
        ends = _ends(steps)
        slug = re.sub(r"[^\w.-]+", "-", name)
        drawn = [
            Plot(
                name=f"probe-{numbers[name]}-{slug}-{probe}",
                label=f"{title} by turn at the first and the last step, arm {name}",
                figure=_probe(ends, probe, tops[probe], numbers[name]),
            )
            for probe, title in PROBES.items()
            if any(_values(step, series) for step in ends for series in _series(probe))
        ]
        if drawn:
            plots[name] = drawn
    return plots


def _success(results: Results, axis: Literal["episodes", "seconds"]) -> Figure:
    summary = results.summary
    points = [p for arm in summary.arms.values() for run in arm.runs for p in run.curve]
    last = max(point.seconds for point in points)
    unit, scale = ("minutes", 1 / 60) if axis == "seconds" and last > 600 else (axis, 1.0)
    with styled():
        figure, axes = panel(f"Success by training {axis}", unit, (4.8, 3.5))
        handles: list[Line2D] = []
        for i, arm in enumerate(summary.arms.values()):
            paint = colour(i)
            for run in arm.runs:
                x = [scale * getattr(point, axis) for point in run.curve]
                axes.plot(x, [p.success for p in run.curve], color=paint, lw=0.9, alpha=0.45)
            mean = _mean_curve(arm)
            x = [scale * getattr(point, axis) for point in mean]
            low = [(p.interval or (p.success, p.success))[0] for p in mean]
            high = [(p.interval or (p.success, p.success))[1] for p in mean]
            axes.fill_between(x, low, high, color=paint, alpha=0.13, lw=0)
            y = [point.success for point in mean]
            handles += axes.plot(x, y, color=paint, lw=2.2, marker=marker(i), ms=4.5)
        _mark_stages(axes, results, axis, scale)
        names = list(summary.arms)
        if summary.teacher:
            line = axes.axhline(summary.teacher.success, color=INK, lw=1.2, ls=(0, (5, 3)))
            handles, names = [*handles, line], [*names, "teacher itself"]
        if summary.habit:
            line = axes.axhline(summary.habit.success, color=MUTED, lw=1.2, ls=":")
            handles, names = [*handles, line], [*names, "best habit"]
        axes.set_ylim(0, 1)
        axes.set_xlim(left=0)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        widest = max(map(len, names))
        legend_below(figure, handles, names, max(1, min(len(names), 60 // (widest + 6))))
    return figure


def _mark_stages(
    axes: Axes, results: Results, axis: Literal["episodes", "seconds"], scale: float
) -> None:
    """A thin line in the arm's colour where a stage begins, with its name where there are few."""
    numbers = {name: i for i, name in enumerate(results.summary.arms)}
    starts = [
        (stage, scale * (episodes if axis == "episodes" else seconds), colour(numbers[name]))
        for name, steps in results.steps.items()
        for stage, episodes, seconds in stage_starts(steps)
    ]
    for stage, x, paint in starts:
        axes.axvline(x, color=paint, lw=0.8, ls=":")
        if len(starts) <= _NAMED_STAGES:
            axes.annotate(
                stage,
                (x, 1),
                (2, -2),
                xycoords=axes.get_xaxis_transform(),
                textcoords="offset points",
                color=paint,
                fontsize=7,
                rotation=90,
                va="top",
            )


def _success_after(results: Results) -> Figure:
    """A row an arm: a dot with its interval after training, a ring before."""
    summary = results.summary
    arms, teacher = summary.arms, summary.teacher
    with styled():
        figure, axes = panel("Success after training", "", (7.4, 1.1 + 0.24 * len(arms)))
        after = axes.plot([], [], "o", color=colour(0), ms=5.5)
        before = axes.plot([], [], "o", color=MUTED, mfc="none", ms=5)
        for row, arm in enumerate(arms.values()):
            if arm.success_before is not None:
                axes.plot(arm.success_before, row, "o", color=MUTED, mfc="none", ms=5)
            if arm.success_after is not None:
                axes.plot(arm.success_after, row, "o", color=colour(0), ms=5.5)
            if arm.interval is not None:
                axes.hlines(row, *arm.interval, color=colour(0), lw=1.6)
        handles, names = [*after, *before], ["after, 95 % interval", "before"]
        if teacher:
            line = axes.axvline(teacher.success, color=INK, lw=1.2, ls=(0, (5, 3)))
            handles, names = [*handles, line], [*names, "teacher itself"]
        if summary.habit:
            line = axes.axvline(summary.habit.success, color=MUTED, lw=1.2, ls=":")
            handles, names = [*handles, line], [*names, "best habit"]
        axes.set_yticks(range(len(arms)), list(arms), color=INK)
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        legend_below(figure, handles, names, len(names))
    return figure


def _mean_curve(arm: Arm) -> list[Point]:
    """The mean of the seeds, and of their intervals, at the steps that all of them evaluated."""
    runs = [{point.step: point for point in run.curve} for run in arm.runs if run.curve]
    common = set.intersection(*map(set, runs)) if runs else set[int]()
    means: list[Point] = []
    for step in sorted(common):
        points = [run[step] for run in runs]
        ends = [point.interval for point in points if point.interval]
        means.append(
            Point(
                step=step,
                episodes=round(_mean([point.episodes for point in points])),
                seconds=_mean([point.seconds for point in points]),
                success=_mean([point.success for point in points]),
                interval=(_mean([lo for lo, _ in ends]), _mean([hi for _, hi in ends]))
                if len(ends) == len(points)
                else None,
            )
        )
    return means


def _probe(ends: Sequence[Step], probe: str, top: float, arm: int) -> Figure:
    """One probe by turn: the first step grey, the last in colour; a dot's area is its count."""
    paints = [MUTED, colour(arm)][-len(ends) :]
    with styled():
        figure, axes = panel(PROBES[probe], "turn", (2.7, 2.15))
        for step, paint in zip(ends, paints, strict=True):
            counts = step.probes.by_turn.get("count", [])
            most = max([count or 0.0 for count in counts], default=0.0) or 1.0
            for series in _series(probe):
                values = _values(step, series)
                x = [turn + 1 for turn in values]
                dashed = (0, (4, 2)) if series == "teacher_entropy" else "-"
                y = list(values.values())
                axes.plot(x, y, color=paint, lw=1.5, ls=dashed)
                share = [(counts[t] or 0.0) / most if t < len(counts) else 0.0 for t in values]
                axes.scatter(x, y, [3 + 22 * s for s in share], color=paint, lw=0)
        axes.set_ylim(min(0.0, axes.get_ylim()[0]), top)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.grid(visible=True, color=GRID)
    return figure


def _ends(steps: Sequence[Step]) -> list[Step]:
    """The first and the last step with probes; one step, or none, where there are no more."""
    found = [step for step in steps if step.probes.by_turn]
    return [found[0], found[-1]] if len(found) > 1 else found


def _series(probe: str) -> tuple[str, ...]:
    return ("student_entropy", "teacher_entropy") if probe == "entropy" else (probe,)


def _values(step: Step, series: str) -> dict[int, float]:
    """The known values by turn, counted from 0."""
    values = step.probes.by_turn.get(series, [])
    return {turn: value for turn, value in enumerate(values) if value is not None}


def _top(results: Results, probe: str) -> float:
    """The upper end of the probe's scale, over all arms; 1 where it is a share."""
    if probe == "overlap":
        return 1.02
    ends = [step for steps in results.steps.values() for step in _ends(steps)]
    found = [_values(step, series).values() for step in ends for series in _series(probe)]
    return 1.08 * max((value for values in found for value in values), default=1.0) or 1.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
