"""What a run's folder keeps of a step."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from agentopd.base.types import Lesson, Trajectory
from agentopd.running.config import RunConfig
from agentopd.running.folder import METRICS, past_lines
from agentopd.running.reading import load_stored
from agentopd.signal.evidence import Measured, Opinion
from agentopd.signal.payments import Payment
from agentopd.signal.schedules import looked_back_at
from agentopd.signal.scores import Scored
from agentopd.stored.scores import load_scores
from agentopd.stored.trajectories import load_payments, load_trajectories


@dataclass(frozen=True)
class SavedStep:
    """One step of a run.

    Attributes:
        number: counted from 0.
        earlier: the files of the trajectories of earlier steps, in order.
    """

    run: Path
    config: RunConfig
    number: int
    trajectories: list[Trajectory]
    earlier: list[Path]

    def scores(self) -> list[Scored]:
        """What the models said of the episodes that can be learnt from.

        Of one that the run did not learn from nothing was saved: what its own sampler said stands
        for the student.

        Raises:
            ValueError: it was not saved, or nothing was learnt from the step.
        """
        path = _file(self.run, "scores", self.number)
        if not path.is_file():
            raise ValueError(
                f"{self.run} holds no scores of step {self.number}: they are saved by a run with "
                "save.scores_top_k=16, say. Or score the trajectories now: --rescore"
            )
        found = load_scores(path, self.trajectories)
        if not found:
            raise ValueError(
                f"step {self.number} of {self.run} taught nothing: there was no teacher signal and "
                "no advantage. Choose another --step"
            )
        known = {one.lesson.trajectory.episode: one for one in found}
        return [
            known.get(t.episode) or _as_played(t, found[0].vocabulary)
            for t in self.trajectories
            if t.learnable
        ]

    def payments(self) -> dict[int, list[Payment]]:
        """The unit's verdicts, by episode number, and what they paid."""
        return load_payments(_file(self.run, "trajectories", self.number))

    def history(self) -> list[dict[str, Any]]:
        """What each earlier step was like, for schedules and baselines that look back.

        Raises:
            ConfigError: the metrics do not say it; the message names the file.
        """
        if not self.number:
            return []
        lines = past_lines(self.run / METRICS, self.number, "and steps up to {} come before this")
        return [looked_back_at(line) for line in lines if line["step"] >= 0]


def read_step(run: Path, number: int | None, scored: bool) -> SavedStep:
    """A step of a run.

    Args:
        number: None for the last one that can be replayed: with scores if `scored`, else the first.

    Raises:
        ValueError: there is no run, it has saved no trajectories, or none of this step.
    """
    if (run / "arms").is_dir():
        some = next((p.parent for p in sorted(run.glob("arms/*/*/config.yaml"))), run / "arms")
        raise ValueError(f"{run} is a study; name one of its runs, such as {some}")
    if not (run / "config.yaml").is_file():
        raise ValueError(f"{run} is no run's folder: it holds no config.yaml")
    config = load_stored(run)
    saved = _steps(run, "trajectories")
    if not saved:
        raise ValueError(
            f"{run} holds no trajectories: it has not finished a step, "
            "or saves none (save.trajectories_every=0)"
        )
    if number is None:
        number = max(_steps(run, "scores") or saved) if scored else min(saved)
    if number not in saved:
        raise ValueError(f"{run} has saved no step {number}; there are: {_listed(saved)}")
    return SavedStep(
        run=run,
        config=config,
        number=number,
        trajectories=load_trajectories(_file(run, "trajectories", number)),
        earlier=[_file(run, "trajectories", step) for step in saved if step < number],
    )


def last_step(run: Path) -> int | None:
    """The last step whose trajectories were saved; None where none were."""
    return max(_steps(run, "trajectories"), default=None)


def _as_played(trajectory: Trajectory, vocabulary: int) -> Scored:
    logprob_N = torch.from_numpy(trajectory.logprob[trajectory.trainable])
    said = Opinion(logprob_N=logprob_N, entropy_N=torch.zeros_like(logprob_N), top_N=logprob_N)
    return Scored(
        lesson=Lesson(trajectory=trajectory), measured=Measured(said), vocabulary=vocabulary
    )


def _file(run: Path, kind: str, step: int) -> Path:
    return run / kind / f"step-{step:05d}.parquet"


def _steps(run: Path, kind: str) -> list[int]:
    names = [re.fullmatch(r"step-(\d+)\.parquet", p.name) for p in (run / kind).glob("*")]
    return sorted(int(name[1]) for name in names if name)


def _listed(steps: list[int]) -> str:
    """`0 to 14` where none is missing, else each."""
    if steps == list(range(steps[0], steps[-1] + 1)) and len(steps) > 2:
        return f"{steps[0]} to {steps[-1]}"
    return ", ".join(map(str, steps))
