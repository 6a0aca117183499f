"""Sources that tell a demonstration: the environment's own, a store's, a later self's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from pydantic import Field, model_validator

from agentopd.base.types import Privilege, Trajectory, Turn
from agentopd.privilege import writer
from agentopd.privilege.peers import PeerSource, actions_of, confidence_line
from agentopd.stored.trajectories import load_trajectories, trajectory_files


class Demonstration(PeerSource, kind="demonstration"):
    """How the task was solved in another episode, as an example of an answer (SDFT 2601.19897).

    The environment's own solution (`reference`), or the first solved episode of the same task in a
    store. Of a task of which there is none, nothing is said.

    Args:
        path: a folder of saved episodes (a run's `trajectories/`, what `agentopd collect` left);
            the environment's solution where not given.
        form: its actions alone, or all that was seen and answered, which a store alone has.
        share: how much of it is told, from its beginning; at least one turn.
        confidence: whether it closes with the line that `rollout: calibrated` closes answers with
            (CaOPD 2604.16830).

    Raises:
        ValueError: the whole episode is asked for, and the environment's solution has no turns.
    """

    path: str | None = None
    share: float = Field(default=1.0, gt=0, le=1)
    confidence: bool = False

    @property
    def reads(self) -> str:
        """See `Source.reads`."""
        return "" if self.path else "reference"

    @model_validator(mode="after")
    def _has_turns(self) -> Demonstration:
        if self.path is None and self.form == "episode":
            raise ValueError(
                f"privilege: {self.kind} of form: episode tells what was seen and answered, and "
                "the environment's solution holds actions alone: name a folder of episodes as "
                "path, or leave form out"
            )
        return self

    def whisper(
        self, trajectory: Trajectory, batch: Sequence[Trajectory]
    ) -> tuple[Privilege, ...] | None:
        """See `Source.whisper`."""
        closing = confidence_line(trajectory, batch) if self.confidence else ""
        text = self._told_of(trajectory, f"\n{closing}" if closing else "")
        return (Privilege(source=self.kind, text=text),) if text else None

    def _told_of(self, trajectory: Trajectory, closing: str) -> str:
        if self.path and self.form == "episode":
            shown = self._stored.get(_task(trajectory))
            if shown is None:
                return ""
            *turns, last = shown.turns[: self._share_of(shown.turns)]
            return self.told(replace(shown, turns=(*turns, _with(last, closing))))
        plan = self._plan(trajectory)
        return self.worded(self._between.join(plan) + closing) if plan else ""

    def worded(self, plan: str) -> str:
        """The actions, as they are told."""
        return writer.example(plan)

    def _plan(self, trajectory: Trajectory) -> list[str]:
        if self.path is None:
            plan = str(trajectory.prompt.get("reference") or "")
            found = [part.strip() for part in plan.split(self._between) if part.strip()]
        else:
            shown = self._stored.get(_task(trajectory))
            found = [] if shown is None else actions_of(shown)
        return found[: self._share_of(found)]

    def _share_of(self, whole: Sequence[object]) -> int:
        """How many of an episode's turns or actions are told."""
        return math.ceil(self.share * len(whole))

    @cached_property
    def _stored(self) -> dict[str, Trajectory]:
        """The first solved episode of each task."""
        folder = Path(self.path or "")
        files = trajectory_files(folder)
        if not files:
            raise ValueError(
                f"privilege: {self.kind}: {folder} holds no episodes: name a folder of .parquet "
                "files, such as a run's"
            )
        found: dict[str, Trajectory] = {}
        for file in files:
            for episode in load_trajectories(file):
                if episode.success:
                    found.setdefault(_task(episode), episode)
        return found


class OraclePrefix(Demonstration, kind="oracle_prefix"):
    """The beginning of a solution, from which the teacher goes on by itself (POPE 2601.18779).

    Args:
        share: how much of it; the paper takes at most a quarter.
    """

    share: float = Field(default=0.25, gt=0, le=1)

    def worded(self, plan: str) -> str:
        """See `Demonstration.worded`."""
        return writer.beginning(plan)


class NearFuture(Demonstration, kind="near_future"):
    """What a later checkpoint of the student did on the task, where it solved it (NPO 2604.20733).

    The later episodes are played before: train on, then play the same tasks with what came of it
    (`agentopd collect`), and start again from the earlier student with this source.

    Raises:
        ValueError: no folder of episodes is named.
    """

    @model_validator(mode="after")
    def _has_episodes(self) -> NearFuture:
        if self.path is None:
            raise ValueError(
                "privilege: near_future tells what a later student did: name the folder of its "
                "episodes as path"
            )
        return self

    def worded(self, plan: str) -> str:
        """See `Demonstration.worded`."""
        return writer.solution(plan)


def _with(turn: Turn, closing: str) -> Turn:
    """A turn whose answer closes with a text."""
    return replace(turn, action=turn.action + closing)


def _task(trajectory: Trajectory) -> str:
    """What a task is known by in other runs."""
    name = trajectory.prompt.get("task_id") or f"seed {trajectory.seed}"
    return f"{trajectory.env}: {name}"
