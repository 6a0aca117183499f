"""Small drawings for the page over several studies: points and lines of inline SVG.

They carry classes and no colours: the page's style sheet paints them for light, dark and print.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentopd.base.statistics import Estimate, ranks
from agentopd.looking.report.shape import Arm

FULL = 0.5
"""The change at which a cell's colour is full: half of all tasks."""
_LEAST = 0.2
"""The strength of the faintest colour: what is told apart from no change can be seen."""


@dataclass(frozen=True)
class Paint:
    """A cell's colour: `side` is `more`, `less` or `none`; `strength` in [0, 1]."""

    side: str
    strength: float


def painted(change: Estimate | None) -> Paint:
    """Coloured where the interval leaves out zero, the more so the greater the change."""
    if change is None or not change.apart:
        return Paint("none", 0.0)
    strength = max(_LEAST, min(1.0, abs(change.value) / FULL))
    return Paint("more" if change.value > 0 else "less", round(strength, 2))


@dataclass(frozen=True)
class Curves:
    """Success against training episodes in a field of `width` by `height`.

    Attributes:
        seeds, mean: lines of the arm; `sick` of the sick arm's mean. Each is the points of an SVG
            `polyline`.
        last: the greatest number of episodes, at the right end.
    """

    width: int
    height: int
    last: int
    seeds: tuple[str, ...]
    mean: str
    sick: str


def curves(arm: Arm, sick: Arm | None, width: int = 400, height: int = 150) -> Curves | None:
    """An arm's success as it grew, beside the sick arm's; None where it was never evaluated."""
    lines = [[(p.episodes, p.success) for p in run.curve] for run in arm.runs if run.curve]
    beside = [[(p.episodes, p.success) for p in run.curve] for run in sick.runs] if sick else []
    last = max((x for line in [*lines, *beside] for x, _ in line), default=0)
    if not lines or not last:
        return None

    def drawn(line: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{width * x / last:.1f},{height * (1 - y):.1f}" for x, y in line)

    many = len(lines) > 1
    return Curves(
        width=width,
        height=height,
        last=last,
        seeds=tuple(drawn(line) for line in lines) if many else (),
        mean=drawn(_mean(lines)),
        sick=drawn(_mean([line for line in beside if line])) if any(beside) else "",
    )


def scattered(points: Sequence[tuple[float, float]], size: int = 90) -> list[tuple[float, float]]:
    """Where dots lie in a square of `size`: by the rank of the first number from left to right, by
    the rank of the second from the bottom up.
    """
    if not points:
        return []
    across, up = (ranks([p[axis] for p in points]) for axis in (0, 1))
    step = size / (len(points) + 1)
    return [
        (round(step * float(x), 1), round(size - step * float(y), 1))
        for x, y in zip(across, up, strict=True)
    ]


def _mean(lines: Sequence[Sequence[tuple[int, float]]]) -> list[tuple[float, float]]:
    """The mean of the seeds at the episodes at which all of them were evaluated."""
    known = [dict(line) for line in lines]
    common = sorted(set.intersection(*map(set, known))) if known else []
    return [(x, sum(line[x] for line in known) / len(known)) for x in common]
