"""Rubrics that are not written by hand: criteria induced from solved and failed episodes.

In ROPD (2605.07396) a model reads a teacher's and the student's answers and writes 4 to 12
weighted criteria, shared by all answers to one prompt. A writer here does that for each task of a
step, or looks at the latest episodes of all tasks; then its criteria hold for all of them until it
writes the next.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, PrivateAttr, model_validator

from agentopd.base.parts import Part
from agentopd.base.types import EndReason, Trajectory, Turn
from agentopd.rollout.policies.demonstrations import demonstrations_for
from agentopd.signal.beside import Beside
from agentopd.stored.demonstrations import ByTask, Choice
from agentopd.units.rubric.criteria import Criterion
from agentopd.units.rubric.judges import Verifier

if TYPE_CHECKING:
    from agentopd.models.model import LanguageModel
    from agentopd.teacher import Teacher


@dataclass(frozen=True)
class Attempt:
    """What a writer is told of an episode.

    Attributes:
        turns: with the facts as their only info.
        task: its number, by which the episodes of a group are recognised.
        reward: the sum of the turns'.
    """

    turns: tuple[Turn, ...]
    task: int = 0
    reward: float = 0.0

    @classmethod
    def of(cls, trajectory: Trajectory) -> Attempt:
        """The account of a trajectory."""
        turns = tuple(
            replace(turn, info={"facts": dict(turn.info.get("facts", {}))})
            for turn in trajectory.turns
        )
        return cls(turns=turns, task=trajectory.task, reward=trajectory.reward)

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Attempt:
        """The reverse of `dataclasses.asdict`."""
        turns = tuple(Turn(**turn) for turn in state["turns"])
        return cls(turns=turns, task=state["task"], reward=state["reward"])

    def trajectory(self) -> Trajectory:
        """The episode as a verifier in words knows it: its turns, and none of its tokens."""
        return Trajectory(
            ids=np.zeros(0, dtype=np.int64),
            turn=np.zeros(0, dtype=np.int32),
            trainable=np.zeros(0, dtype=np.bool_),
            owner=np.zeros(0, dtype=np.uint8),
            logprob=np.zeros(0, dtype=np.float32),
            messages=(),
            turns=self.turns,
            segments=(),
            env="",
            episode=0,
            task=self.task,
            seed=0,
            end=EndReason.TERMINATED,
        )


Sides = tuple[Sequence[Attempt], Sequence[Attempt]]
"""Good and bad episodes."""


class RubricWriter(Part, family="rubric writer"):
    """Writes criteria from episodes that were solved and episodes that failed.

    Args:
        per: `run`: criteria are written from the latest episodes of all tasks, and hold for all.
            `task`: in every step for each of its tasks, from the episodes of that task alone, and
            for these (ROPD 2605.07396).
        path: of a store of good episodes, with `per: task`: those of the task in it are the good
            ones, and all of the step's the bad ones, solved or not; a task of which nothing is
            stored has no criteria. If not given, the step's solved episodes are the good ones.
        every: steps between two writings. The first is as soon as both kinds were seen.
        memory: how many of the latest solved episodes are looked at, and how many failed ones.
        least: with fewer criteria than this, what was written before stays.
        most: of more criteria than this, the first are kept.
    """

    in_words: ClassVar[bool] = False
    """Whether its criteria are questions, which only a judge that reads them can answer."""

    per: Literal["run", "task"] = "run"
    path: str | None = None
    every: int = Field(default=10, ge=1)
    memory: int = Field(default=64, ge=1)
    least: int = Field(default=1, ge=1)
    most: int = Field(default=12, ge=1)
    _good: list[Attempt] = PrivateAttr(default_factory=list)
    _bad: list[Attempt] = PrivateAttr(default_factory=list)
    _steps: int = PrivateAttr(default=0)
    _criteria: tuple[Criterion, ...] = PrivateAttr(default=())
    _store: ByTask | None = PrivateAttr(default=None)
    _by_task: dict[int, tuple[Criterion, ...]] = PrivateAttr(default_factory=dict)

    def unread(self) -> dict[str, str]:
        """See `Settings.unread`."""
        if self.per == "run":
            return {"path": "per: task"}
        return dict.fromkeys(("every", "memory"), "per: run")

    @model_validator(mode="after")
    def _least_before_most(self) -> RubricWriter:
        if self.least > self.most:
            raise ValueError(f"least ({self.least}) must not be above most ({self.most})")
        return self

    @abstractmethod
    def write(self, good: Sequence[Attempt], bad: Sequence[Attempt]) -> list[Criterion]:
        """Criteria that the good meet and the bad do not, the best first.

        Those that name neither a fact nor a verifier are put to the rubric's judge.
        """

    def write_each(self, sides: Sequence[Sides]) -> list[list[Criterion]]:
        """The same for several tasks, in their order."""
        return [self.write(good, bad) for good, bad in sides]

    def check(self, beside: Beside) -> None:
        """See `Unit.check`."""

    def prepare(self, student: LanguageModel, teacher: Teacher, judge: Verifier | None) -> None:
        """See `Unit.prepare`.

        Args:
            judge: the rubric's, which is ready.
        """
        if self.path is not None and self.per == "task":
            store = demonstrations_for(student, self.path, Choice())
            self._store = ByTask.of(store, self.path)

    @property
    def criteria(self) -> tuple[Criterion, ...]:
        """What was written last for all tasks."""
        return self._criteria

    def criteria_of(self, trajectory: Trajectory) -> tuple[Criterion, ...]:
        """What was written last for an episode's task."""
        if self.per == "run":
            return self.criteria
        return self._by_task.get(trajectory.task, ())

    def learn(self, trajectories: Sequence[Trajectory]) -> None:
        """Remember a step's episodes; when it is time, write.

        Raises:
            ValueError: the good episodes were played in another environment.
        """
        played = [t for t in trajectories if t.turns]
        if self.per == "task":
            self._write_by_task(played)
            return
        solved = [Attempt.of(t) for t in played if t.success]
        failed = [Attempt.of(t) for t in played if not t.success]
        self._good = [*self._good, *solved][-self.memory :]
        self._bad = [*self._bad, *failed][-self.memory :]
        due = self._steps % self.every == 0 or not self._criteria
        self._steps += 1
        if due and self._good and self._bad:
            found = self.write(self._good, self._bad)[: self.most]
            if len(found) >= self.least:
                self._criteria = tuple(found)

    def _write_by_task(self, played: Sequence[Trajectory]) -> None:
        tasks: dict[int, list[Trajectory]] = {}
        for trajectory in played:
            tasks.setdefault(trajectory.task, []).append(trajectory)
        sides = {task: self._sides(group) for task, group in tasks.items()}
        told = {task: side for task, side in sides.items() if all(side)}
        found = self.write_each(list(told.values())) if told else []
        self._steps += 1
        self._by_task = {
            task: tuple(own[: self.most]) if len(own) >= self.least else ()
            for task, own in zip(told, found, strict=True)
        }

    def _sides(self, group: Sequence[Trajectory]) -> Sides:
        """Good and bad episodes of one task; the stored ones count to the task as it is now."""
        if self._store is not None:
            good, bad = self._store.on(group[0]), group
        else:
            good, bad = [t for t in group if t.success], [t for t in group if not t.success]
        task = group[0].task
        return [replace(Attempt.of(t), task=task) for t in good], [Attempt.of(t) for t in bad]

    def scalars(self) -> dict[str, float]:
        """See `Unit.scalars`; of criteria that each task has its own of, their mean number."""
        if self.per == "run":
            return {"induced_criteria": len(self._criteria)}
        counts = [len(own) for own in self._by_task.values()]
        return {
            "induced_criteria": sum(counts) / max(len(counts), 1),
            "induced_tasks": float(sum(count > 0 for count in counts)),
        }

    def state(self) -> dict[str, Any]:
        """What must survive a restart, as JSON."""
        return {
            "good": [asdict(attempt) for attempt in self._good],
            "bad": [asdict(attempt) for attempt in self._bad],
            "steps": self._steps,
            "criteria": [criterion.model_dump(mode="json") for criterion in self._criteria],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """The reverse of `state`."""
        self._good = [Attempt.restored(attempt) for attempt in state["good"]]
        self._bad = [Attempt.restored(attempt) for attempt in state["bad"]]
        self._steps = state["steps"]
        self._criteria = tuple(Criterion.model_validate(c) for c in state["criteria"])


class FactWriter(RubricWriter, kind="facts"):
    """Finds the facts that tell solved from failed episodes: no model is needed.

    An episode's rate of a fact's value is the share of its turns, of those that state the fact, in
    which it has that value. A criterion is a value whose mean rate is higher among the solved
    episodes than among the failed; the difference is its weight.

    Args:
        support: in how many episodes, solved and failed together, the value must have occurred.
        difference: the least difference of rates that makes a criterion.
        ignore: facts that make none, because they only say how the episode ended.
    """

    support: int = Field(default=4, ge=1)
    difference: float = Field(default=0.1, gt=0, le=1)
    ignore: tuple[str, ...] = ()

    def write(self, good: Sequence[Attempt], bad: Sequence[Attempt]) -> list[Criterion]:
        """See `RubricWriter.write`."""
        among_good, among_bad = _rates(good), _rates(bad)
        found: list[tuple[float, str, str]] = []
        for name in sorted({*among_good} & {*among_bad} - {*self.ignore}):
            solved, failed = among_good[name], among_bad[name]
            for value in sorted({value for rates in solved for value in rates}):
                gap = _mean_rate(solved, value) - _mean_rate(failed, value)
                seen = sum(value in rates for rates in (*solved, *failed))
                if gap >= self.difference and seen >= self.support:
                    found.append((gap, name, value))
        found.sort(key=lambda item: (-item[0], item[1:]))
        return [
            Criterion(name=f"{name} is {value}", fact=name, want=json.loads(value), weight=gap)
            for gap, name, value in found
        ]


def _rates(attempts: Sequence[Attempt]) -> dict[str, list[dict[str, float]]]:
    """Of each fact, a table for each attempt that states it: its values, as JSON, and their rates.

    As JSON, because Python takes True for 1.
    """
    found: dict[str, list[dict[str, float]]] = {}
    for attempt in attempts:
        stated: dict[str, list[str]] = {}
        for turn in attempt.turns:
            for name, value in turn.info["facts"].items():
                if isinstance(value, bool | int | float | str):
                    stated.setdefault(name, []).append(json.dumps(value))
        for name, values in stated.items():
            rates = {value: values.count(value) / len(values) for value in values}
            found.setdefault(name, []).append(rates)
    return found


def _mean_rate(tables: Sequence[dict[str, float]], value: str) -> float:
    return sum(rates.get(value, 0.0) for rates in tables) / len(tables)
