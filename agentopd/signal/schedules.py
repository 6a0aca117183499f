"""Schedules: a factor that changes over the run."""

from __future__ import annotations

import math
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from agentopd.base.parts import Part
from agentopd.signal.beside import Beside

History = Sequence[Mapping[str, Any]]
"""What each finished step of the run was like, oldest first; see `looked_back_at`."""


_TRIED = 1_000
"""Steps at which the bounds of a schedule are looked for."""


def looked_back_at(line: Mapping[str, Any]) -> dict[str, Any]:
    """What of a step's line of metrics schedules and baselines look back at: `train`, and `depth`
    where it is kept.
    """
    return {**line["train"], **({"depth": line["depth"]} if "depth" in line else {})}


class Schedule(Part, family="schedule"):
    """Multiplies what it is attached to.

    A factor follows from the step and the history alone, so that a resumed run goes on where it was
    without anything to remember.
    """

    reads_depth: ClassVar[bool] = False
    """Whether it looks at the history's `depth`, which is kept where a schedule does."""

    @abstractmethod
    def factor(self, step: int, history: History = ()) -> float:
        """The factor at a step, counted from 0, after the steps of the history."""

    def check(self, name: str, beside: Beside) -> None:
        """Look at the rest of the method when the configuration is read.

        Args:
            name: what it is attached to.

        Raises:
            ValueError: it makes no sense there.
        """

    def bounds(self, steps: int) -> tuple[float, float]:
        """The least and the largest factor of a run of so many steps, as far as they are known
        before it.
        """
        last = max(steps - 1, 0)
        tried = {last * n // _TRIED for n in range(_TRIED + 1)} if last else {0}
        found = [self.factor(step) for step in tried]
        return min(found), max(found)


class Constant(Schedule, kind="constant"):
    """Always the same."""

    value: float = 1.0

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"{self.value:g}"

    def factor(self, step: int, history: History = ()) -> float:
        """See `Schedule.factor`."""
        return self.value


class Linear(Schedule, kind="linear"):
    """From `start` to `stop` over `steps`, then `stop`."""

    start: float = 1.0
    stop: float = 0.0
    steps: int = Field(ge=1)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"{self.start:g} -> {self.stop:g} over {self.steps} steps"

    def factor(self, step: int, history: History = ()) -> float:
        """See `Schedule.factor`."""
        return self.start + (self.stop - self.start) * min(step / self.steps, 1.0)


class Cosine(Linear, kind="cosine"):
    """As `linear`, along half a cosine."""

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"{super().formula}, along half a cosine"

    def factor(self, step: int, history: History = ()) -> float:
        """See `Schedule.factor`."""
        done = min(step / self.steps, 1.0)
        return self.stop + (self.start - self.stop) * 0.5 * (1 + math.cos(math.pi * done))


class Staircase(Schedule, kind="staircase"):
    """`start`, and `by` more every `every` steps (TCOD 2604.24005: one more turn of the student's).

    Args:
        stop: the last stair; none if not given.
    """

    start: float = 1.0
    by: float = 1.0
    every: int = Field(default=1, ge=1)
    stop: float | None = None

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        stop = "" if self.stop is None else f", up to {self.stop:g}"
        return f"{self.start:g}, and {self.by:g} more every {self.every} steps{stop}"

    def factor(self, step: int, history: History = ()) -> float:
        """See `Schedule.factor`."""
        reached = self.start + self.by * (step // self.every)
        if self.stop is None:
            return reached
        return min(reached, self.stop) if self.by > 0 else max(reached, self.stop)


class Step(Schedule, kind="step"):
    """Jumps: `values[0]` before the step `boundaries[0]`, `values[1]` from it on, and so forth.

    Args:
        boundaries: the steps at which the next value begins, in order.
        values: one more than boundaries.
    """

    boundaries: tuple[int, ...] = Field(min_length=1)
    values: tuple[float, ...]

    @model_validator(mode="after")
    def _fit_each_other(self) -> Step:
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError(
                f"{len(self.boundaries)} boundaries part the run into "
                f"{len(self.boundaries) + 1} stretches, and there are {len(self.values)} values: "
                "give one value for each stretch"
            )
        if any(later <= earlier for earlier, later in pairwise((0, *self.boundaries))):
            raise ValueError(
                f"boundaries {list(self.boundaries)} are not steps after the first in rising "
                "order, so some value would never be used: sort them, each once, all above 0"
            )
        return self

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        jumps = zip(self.values[1:], self.boundaries, strict=True)
        return ", ".join([f"{self.values[0]:g}", *(f"{v:g} from step {b}" for v, b in jumps)])

    def factor(self, step: int, history: History = ()) -> float:
        """See `Schedule.factor`."""
        return self.values[bisect_right(self.boundaries, step)]

    def bounds(self, steps: int) -> tuple[float, float]:
        """See `Schedule.bounds`."""
        reached = self.values[: bisect_right(self.boundaries, max(steps - 1, 0)) + 1]
        return min(reached), max(reached)


Metric = Literal[
    "success", "reward", "turns", "invalid", "cut", "truncated", "errors", "dead_groups"
]


class Phase(Schedule, kind="phase"):
    """`before` until the training says otherwise, then `after` (the switch of RESD 2605.12741 from
    distillation to reinforcement learning once success is high).

    The metric is averaged over the last `window` finished steps. When that mean has been on the far
    side of the threshold for `patience` steps in a row, the next step is the first of the new
    phase. Steps without the metric (no group to be dead, say) are left out, as if they had not
    been.

    Args:
        metric: of a step's training episodes.
        threshold: reaching it counts as having crossed it.
        when: the side of the threshold on which the new phase is.
        returns: whether the old phase comes back when the metric does; otherwise the first switch
            is for good.
    """

    metric: Metric = "success"
    threshold: float = 0.5
    when: Literal["above", "below"] = "above"
    window: int = Field(default=1, ge=1)
    patience: int = Field(default=1, ge=1)
    before: float = 1.0
    after: float = 0.0
    returns: bool = False

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        mean = f"{self.metric} is {self.when} {self.threshold:g}"
        return f"{self.before:g} until {mean}, then {self.after:g}"

    def factor(self, step: int, history: History = ()) -> float:
        """See `Schedule.factor`."""
        known = (line.get(self.metric) for line in history)
        values = [value for value in known if value is not None]
        crossed, switched = 0, False
        for end in range(self.window, len(values) + 1):
            mean = math.fsum(values[end - self.window : end]) / self.window
            beyond = mean >= self.threshold if self.when == "above" else mean <= self.threshold
            crossed = crossed + 1 if beyond else 0
            reached = crossed >= self.patience
            switched = reached if self.returns else switched or reached
        return self.after if switched else self.before

    def bounds(self, steps: int) -> tuple[float, float]:
        """See `Schedule.bounds`."""
        return min(self.before, self.after), max(self.before, self.after)


class DepthController(Schedule, kind="depth_controller"):
    """Turns, as deep as the teacher still differs and tasks are solved (TurnOPD 2607.05804); for
    `rollout: {kind: truncated, turns: 1}`.

    The first `warmup` steps, and every `every`-th, are played to `most` turns. They alone say how
    deep the others go, and only where at least `solved` of their episodes were solved. A step's
    depth is the mean turn, counted from 0, weighed by the mean divergence at its tokens and the
    share of episodes that got there; or, where that is deeper, the turn by which a share of
    `coverage` of the solved episodes was over. The steps between are played one turn further than
    the moving average of these depths.

    Args:
        least, most: turns of a step; the paper's.
        smoothing: how much the newest depth counts in the moving average.
    """

    reads_depth = True

    every: int = Field(default=8, ge=1)
    warmup: int = Field(default=3, ge=1)
    least: int = Field(default=2, ge=1)
    most: int = Field(default=50, ge=1)
    solved: int = Field(default=8, ge=1)
    coverage: float = Field(default=0.8, gt=0, le=1)
    smoothing: float = Field(default=0.3, gt=0, le=1)

    @model_validator(mode="after")
    def _fits(self) -> DepthController:
        if self.least > self.most:
            raise ValueError(
                f"least: {self.least} turns are more than most: {self.most}, which whole episodes "
                "have: raise most, or lower least"
            )
        return self

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        whole = f"{self.most} in the first {self.warmup} steps and every {self.every} steps"
        return f"{whole}, else one more than the depth that these have shown"

    def check(self, name: str, beside: Beside) -> None:
        """See `Schedule.check`."""
        if name != "turns":
            raise ValueError(
                f"schedule.{name}: depth_controller counts turns: attach it to schedule.turns, "
                "with rollout={kind: truncated, turns: 1}"
            )
        if not beside.watched or beside.sampled or not beside.asks_teacher:
            raise ValueError(
                "schedule.turns: depth_controller follows the divergence of whole distributions, "
                "turn by turn, as the probes see it: it needs a mix that asks a teacher, "
                "divergence.support other than sampled, and probe.enabled"
            )

    def factor(self, step: int, history: History = ()) -> float:
        """See `Schedule.factor`."""
        if self._whole(step):
            return self.most
        depth: float | None = None
        for past, line in enumerate(history[:step]):
            found = self._depth(line.get("depth") or {}) if self._whole(past) else None
            if found is not None:
                new = self.smoothing
                depth = found if depth is None else (1 - new) * depth + new * found
        return self.most if depth is None else min(max(round(depth) + 1, self.least), self.most)

    def bounds(self, steps: int) -> tuple[float, float]:
        """See `Schedule.bounds`."""
        return self.least, self.most

    def _whole(self, step: int) -> bool:
        """Whether a step's episodes are played to their end."""
        return step < self.warmup or step % self.every == 0

    def _depth(self, seen: Mapping[str, Sequence[float | None]]) -> int | None:
        """How deep a step of whole episodes says to go, counted from 0; None where it says nothing.

        Args:
            seen: of each turn, the mean `divergence` at its tokens, how many `episodes` got there,
                and how many were `solved` in it.
        """
        solved = [count or 0 for count in seen.get("solved", ())]
        if sum(solved) < self.solved or not seen.get("divergence"):
            return None
        enough = self.coverage * sum(solved)
        covered = next(turn for turn, over in enumerate(accumulate(solved)) if over >= enough)
        means, reached = seen["divergence"], seen["episodes"]
        mass = [
            max(mean or 0.0, 0.0) * (count or 0)
            for mean, count in zip(means, reached, strict=False)
        ]
        total = math.fsum(mass)
        centre = math.fsum(turn * own for turn, own in enumerate(mass)) / total if total else 0.0
        return max(round(centre), covered)
