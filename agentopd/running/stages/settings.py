"""What a method in stages says: rows one after another, and what each takes from those before.

stages:
  collect: {collect: {by: oracle, episodes: 512}}
  sft: {rollout: {kind: demonstrations, path: previous}, mix: nll, steps: 20}
  opd: {method: opd}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from agentopd.base.parts import Settings
from agentopd.running.collecting.settings import CollectSettings

PREVIOUS, INITIAL, STAGE = "previous", "initial", "stage:"
"""How a stage names what those before it have left; the last is followed by a stage's name."""
_MOST = 1_000
"""Stages that a run may have, repetitions counted."""
_NAME = re.compile(r"\w[\w-]*")


def _by_name(value: Any) -> Any:
    """A list of stages as a mapping: by their names, their methods, or their places."""
    if not isinstance(value, list | tuple):
        return value
    found: dict[str, Any] = {}
    for place, stage in enumerate(value, 1):
        if not isinstance(stage, Mapping):
            raise ValueError(f"stage {place} is {stage!r}, not a mapping of settings")
        own = {key: each for key, each in stage.items() if key != "name"}
        name = str(stage.get("name") or own.get("method") or f"stage{place}")
        if name in found:
            raise ValueError(f"two stages are called {name!r}: give one of them another name")
        found[name] = own
    return found


class StageSettings(Settings):
    """One stage: a row and settings that lie over the run's own, as an arm's do.

    Whatever else stands in a stage is such a setting: `method: opd`, `steps: 20`,
    `learner.learning_rate: 1.0e-4`. Where a setting names a path, `previous` is what the stages
    before have left: `teacher: previous` and `teacher: initial` are the students of the stage
    before and of the run's beginning, and where a teacher, or one of several, names a model,
    `stage:NAME` is the student of the stage of that name. `previous` as `rollout.path`,
    `gold.path`, `unit.path`, `unit.induce.path` or a source's `path` are the episodes of the last
    stage that has some, and `stage:NAME` those of the stage of that name; `collect.onto: previous`
    is the store of the last stage that collected.

    Stages of one `branch` go on from one another, past those of other branches: there `previous`
    is the student of the branch's last stage, and its first stage begins where the stages outside
    of all branches have come to. `merge` brings branches together again.

    Args:
        start: which student it begins with: `previous`, that of the stage before; `initial`, the
            run's own; `stage:NAME`, that of the stage of that name; or the folder of a model.
        branch: the one that it belongs to; none if not given.
        merge: branches that end here: it begins with the mean of their students' weights, and takes
            no step unless `steps` says so.
        repeat: how many times it is gone through.
        collect: demonstrations to collect in place of training.
        stages: stages that are gone through together, in place of training; `repeat` makes them
            rounds.
        settings: over the run's own.
    """

    start: str = PREVIOUS
    branch: str = ""
    merge: tuple[str, ...] = ()
    repeat: int = Field(default=1, ge=1, le=_MOST)
    collect: CollectSettings | None = None
    stages: Annotated[dict[str, StageSettings], BeforeValidator(_by_name)] = Field(
        default_factory=dict
    )
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _others_are_settings(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError(f"a stage is a mapping of settings, not {value!r}")
        own = {key: each for key, each in value.items() if key in cls.model_fields}
        others = {str(key): each for key, each in value.items() if key not in cls.model_fields}
        settings = {**(own.get("settings") or {}), **others}
        if own.get("merge"):
            settings.setdefault("steps", 0)
        return {**own, "settings": settings}

    @model_validator(mode="after")
    def _is_one_thing(self) -> StageSettings:
        placed = self.start != PREVIOUS or self.branch or self.merge
        if self.stages and (self.collect or self.settings or placed):
            raise ValueError(
                "a stage that holds stages is gone through, and has no settings of its own beside "
                "repeat: move the others into the stages in it"
            )
        if self.merge and (self.collect or self.branch or self.start != PREVIOUS):
            raise ValueError(
                "a stage that merges branches begins with their mean, outside of all branches: "
                "leave start, branch and collect out of it"
            )
        return self


Stages = Annotated[dict[str, StageSettings], BeforeValidator(_by_name)]


@dataclass(frozen=True)
class Leg:
    """One stage in its place, counted from 1; of a repeated one, one time."""

    number: int
    name: str
    stage: StageSettings

    @property
    def folder(self) -> str:
        """What its folder is called."""
        return f"{self.number}-{self.name}"

    @property
    def trains(self) -> bool:
        """Whether it is a run, and not a collection."""
        return self.stage.collect is None


def legs(stages: Mapping[str, StageSettings]) -> list[Leg]:
    """All stages in their order, with repeated ones as often as they are repeated.

    Raises:
        ValueError: there are too many, a name cannot be a folder's, or none of them trains.
    """
    found = _in_order(stages)
    if not any(leg.trains for leg in found):
        raise ValueError(
            "stages: none of them trains, so that there would be no student at the end: use "
            "agentopd collect to collect alone"
        )
    return found


def _in_order(stages: Mapping[str, StageSettings]) -> list[Leg]:
    found: list[tuple[str, StageSettings]] = []

    def walk(some: Mapping[str, StageSettings]) -> None:
        for name, stage in some.items():
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"stages: {name!r} cannot be the name of a folder: use letters, digits, _ and -"
                )
            for _ in range(stage.repeat):
                if stage.stages:
                    walk(stage.stages)
                else:
                    found.append((name, stage))
                if len(found) > _MOST:
                    raise ValueError(
                        f"stages: with their repetitions they are more than {_MOST}: lower repeat"
                    )

    walk(stages)
    return [Leg(number, name, stage) for number, (name, stage) in enumerate(found, 1)]
