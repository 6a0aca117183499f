"""The figure of a replay: where in the episode each arm teaches, a panel an arm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from agentopd.looking.report.figure import INK, colour, save_png, styled

_WIDTH, _HEIGHT = 2.6, 2.2


def draw_replay(summary: Mapping[str, Any], path: Path) -> None:
    """Write small multiples of `Replay.summary`, each turn's share of the signal, as a PNG."""
    arms: Mapping[str, Mapping[str, Any]] = summary["arms"]
    with styled():
        figure = Figure((_WIDTH * len(arms), _HEIGHT))
        panels = figure.subplots(1, len(arms), sharex=True, sharey=True, squeeze=False)[0]
        for number, (axes, (name, arm)) in enumerate(zip(panels, arms.items(), strict=True)):
            shares = arm["share_by_turn"]
            axes.bar(range(1, len(shares) + 1), shares, color=colour(number), width=0.8)
            axes.set_title(name, color=INK)
            axes.set_xlabel("turn")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        panels[0].set_ylabel("share of |push|")
    save_png(figure, path)
