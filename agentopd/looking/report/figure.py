"""How a figure looks, and how it becomes a PNG file or an SVG in the page's colours."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agentopd.base.files import writing

INK, MUTED, GRID = "#1f2430", "#68707d", "#e2e4e8"
ARM_COLOURS = (
    *("#0072b2", "#d55e00", "#00865f", "#a63d97"),
    *("#a87700", "#3a9bd0", "#7a5230", "#5f6672"),
)
ARM_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "d")
STAGE_COLOURS: Mapping[str, str] = {
    "rollout": "#4477aa",
    "privilege": "#ccbb44",
    "teacher": "#ee6677",
    "learner": "#228833",
    "evaluate": "#66ccee",
    "other": "#a9adb5",
}

_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlepad": 8,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "legend.columnspacing": 1.4,
    "figure.constrained_layout.use": True,
}


def colour(index: int) -> str:
    """The colour of arm number `index`; they repeat after eight, and the markers tell on."""
    return ARM_COLOURS[index % len(ARM_COLOURS)]


def marker(index: int) -> str:
    """The marker of arm number `index`; arms of one colour have different markers."""
    return ARM_MARKERS[(index + index // len(ARM_COLOURS)) % len(ARM_MARKERS)]


def styled() -> Any:
    """A context in which figures are made and saved in the house style."""
    return mpl.rc_context(_STYLE)


def panel(title: str, x: str, size: tuple[float, float]) -> tuple[Figure, Axes]:
    """A figure of one panel; `size` in inches."""
    figure = Figure(figsize=size)
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.set_xlabel(x)
    return figure, axes


def legend_below(
    figure: Figure, handles: Sequence[Any], names: Sequence[str], columns: int
) -> None:
    """A legend under the panel. A name may begin with `_`, which matplotlib would leave out."""
    shown = [f"\u200b{name}" if name.startswith("_") else name for name in names]
    figure.legend(handles, shown, loc="outside lower left", ncols=columns, fontsize=9)


def save_png(figure: Figure, path: Path) -> None:
    """Write the figure on white, at a size for slides and papers.

    Raises:
        ValueError: it cannot be written; the message names the file.
    """
    with styled(), writing(path) as beside:
        figure.savefig(beside, format="png", dpi=160, facecolor="white")


def inline_svg(figure: Figure, name: str, label: str) -> Markup:
    """The figure as an SVG element without outside references, painted with the page's variables.

    Args:
        name: unique on the page; it keeps apart the ids of different figures.
        label: what the figure shows, for readers who do not see it.
    """
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    buffer = io.StringIO()
    with styled(), mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace("xlink:href", "href")
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    opening, inner = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]+"', opening)
    assert box, "matplotlib writes a view box"
    used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', inner))
    inner = re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in used else "", inner)
    for hexadecimal, variable in _variables().items():
        inner = inner.replace(hexadecimal, f"var(--{variable})")
    inner = re.sub(r"\n\s*", "\n", inner)
    return Markup(f'<svg class="plot" role="img" aria-label="{escape(label)}" {box[0]}>{inner}')


def _variables() -> dict[str, str]:
    arms = {hexadecimal: f"arm-{i}" for i, hexadecimal in enumerate(ARM_COLOURS)}
    return {INK: "ink", MUTED: "muted", GRID: "grid"} | arms
