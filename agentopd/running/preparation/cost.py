"""What a step of the configured run will take: measured on a small one, and scaled to it."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from agentopd.base.types import Trajectory
from agentopd.learning.learner import Learner
from agentopd.models.model import LanguageModel
from agentopd.privilege.base import gather
from agentopd.running.config import RunConfig

_EPISODES = 4
"""Episodes of the small step."""


@dataclass(frozen=True)
class Cost:
    """Seconds of a whole step by stage, of an evaluation and of the run, scaled by tokens.

    Attributes:
        rollout, teacher, learner: seconds of a step; None where a stage was not measured.
        evaluation: seconds of one.
        run: seconds of all steps and evaluations.
        peak: bytes that this process has held at most, the small step included.
        measured: episodes of the small step; scaled from.
    """

    rollout: float
    teacher: float | None
    learner: float | None
    evaluation: float
    run: float | None
    peak: int
    measured: int

    @property
    def step(self) -> float | None:
        """Seconds of a step; None where its learning was not measured."""
        if self.learner is None:
            return None
        return self.rollout + (self.teacher or 0.0) + self.learner


def measure_cost(
    config: RunConfig, student: LanguageModel, played: Sequence[Trajectory], seconds: float
) -> Cost:
    """Learn from some of the episodes that the student has played, and scale that to a step.

    The student's weights move. Where the small step has nothing to learn from, as rewards that are
    all equal, its learning is not measured.

    Args:
        played: the student's own episodes, told nothing.
        seconds: what playing them took.
    """
    usable = [t for t in played if t.learnable]
    chosen = sorted(usable, key=lambda t: t.task)[:_EPISODES]
    mean = sum(len(t.ids) for t in usable) / max(len(usable), 1)
    small = sum(len(t.ids) for t in chosen)
    scale = config.rollout.episodes * mean / max(small, 1)
    teacher, learner = _small_step(config, student, chosen)
    rollout = seconds * config.rollout.episodes / max(len(played), 1)
    evaluation = seconds * config.evaluate.episodes / max(len(played), 1)
    spent = None if learner is None else rollout + scale * ((teacher or 0.0) + learner)
    every = config.evaluate.every
    measured = 2 + (max(config.steps - 1, 0) // every if every else 0)
    return Cost(
        rollout=rollout,
        teacher=None if teacher is None else scale * teacher,
        learner=None if learner is None else scale * learner,
        evaluation=evaluation,
        run=None if spent is None else config.steps * spent + measured * evaluation,
        peak=_peak(),
        measured=len(chosen),
    )


def _small_step(
    config: RunConfig, student: LanguageModel, chosen: Sequence[Trajectory]
) -> tuple[float | None, float | None]:
    """Seconds of the teacher and of the learner on these episodes; None where not measured."""
    config = config.fresh()
    lessons, asked = [], None
    if config.mix.distil_coefficient:
        for source in config.privilege:
            source.prepare(student.template)
        config.teacher.prepare(student)
        for source in config.privilege:
            source.meet(student, config.teacher)
        began = time.perf_counter()
        views = config.view.build(gather(config.privilege, chosen), student.template)
        lessons = config.teacher.score(views)
        asked = time.perf_counter() - began
    learner = Learner(student, config.teacher, config)
    began = time.perf_counter()
    update = learner.update(chosen, lessons, 0)
    took = time.perf_counter() - began
    return asked, None if update.skipped else took


def _peak() -> int:
    """The most memory that this process has held, in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
