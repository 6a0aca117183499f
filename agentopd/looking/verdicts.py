"""What a run's unit judged in a step, and which tokens each verdict paid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agentopd.base.types import Trajectory
from agentopd.looking.replay.saved import SavedStep, last_step, read_step
from agentopd.signal.payments import Payment


@dataclass(frozen=True)
class Judged:
    """One criterion over a step.

    Attributes:
        turns: how many were judged by it.
        solved, failed: the mean verdict over the turns of solved and of failed episodes; None of
            none.
        paid: what a token of a judged turn got for it, on average over the turns.
    """

    criterion: str
    text: str
    weight: float
    turns: int
    solved: float | None
    failed: float | None
    paid: float


@dataclass(frozen=True)
class Verdicts:
    """One step's verdicts; `payments` by episode number."""

    saved: SavedStep
    payments: dict[int, list[Payment]]

    def criteria(self) -> list[Judged]:
        """Each criterion that was judged, in the order of the rubric."""
        solved = {t.episode: t.success for t in self.saved.trajectories}
        by_name: dict[str, list[tuple[bool, Payment]]] = {}
        for episode, own in self.payments.items():
            for payment in own:
                by_name.setdefault(payment.criterion, []).append((solved[episode], payment))
        return [
            Judged(
                criterion=name,
                text=found[0][1].text,
                weight=found[0][1].weight,
                turns=len(found),
                solved=_mean([p.verdict for success, p in found if success]),
                failed=_mean([p.verdict for success, p in found if not success]),
                paid=sum(p.paid for _, p in found) / len(found),
            )
            for name, found in by_name.items()
        ]

    def episode(self, number: int | None) -> Trajectory:
        """An episode with verdicts; the first that failed, or the first of all, if none is named.

        Raises:
            ValueError: there is no such episode, or nothing was judged of it.
        """
        judged = [t for t in self.saved.trajectories if self.payments.get(t.episode)]
        if number is None:
            return min(judged, key=lambda t: (t.success, t.episode))
        for trajectory in judged:
            if trajectory.episode == number:
                return trajectory
        first, last = judged[0].episode, judged[-1].episode
        raise ValueError(
            f"step {self.saved.number} has no verdicts on an episode {number}; its episodes are "
            f"numbered from {first} to {last}"
        )


def read_verdicts(run: Path, step: int | None) -> Verdicts:
    """The verdicts of a step.

    Args:
        step: counted from 0; None for the last one that was saved.

    Raises:
        ValueError: there is no run, it has saved no such step, or nothing was judged in it.
    """
    saved = read_step(run, last_step(run) if step is None else step, scored=False)
    payments = {episode: own for episode, own in saved.payments().items() if own}
    if not payments:
        kind = saved.config.unit.kind or type(saved.config.unit).__name__
        raise ValueError(
            f"step {saved.number} of {run} holds no verdicts: its unit, {kind}, judged nothing in "
            "it. Rubrics do: unit: rubric_span, with criteria that the environment's facts or a "
            "judge can answer"
        )
    return Verdicts(saved, payments)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
