"""What a stage takes from those before it: a student to start with, a teacher, episodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agentopd.running.checkpoint import latest, student_folder
from agentopd.running.collecting.settings import CollectSettings
from agentopd.running.config import ConfigError, RunConfig
from agentopd.running.stages.settings import INITIAL, PREVIOUS, STAGE, Leg, StageSettings


@dataclass(frozen=True)
class Left:
    """What the stages before have left, as paths; None where no stage has left any.

    Attributes:
        initial: the student that the run began with.
        student: of the last stage that has trained outside of all branches.
        episodes: the folder of the last stage, whichever it was.
        students: of each stage that has trained, by `stage:NAME`; of a repeated one, its last.
        branches: the student of each branch that has not been merged, by its name.
        store: the folder of the last stage that has collected.
        folders: of each stage, by `stage:NAME`; of a repeated one, its last.
    """

    initial: str
    student: str | None = None
    episodes: str | None = None
    students: Mapping[str, str] = field(default_factory=dict)
    branches: Mapping[str, str] = field(default_factory=dict)
    store: str | None = None
    folders: Mapping[str, str] = field(default_factory=dict)

    def after(self, leg: Leg, folder: Path) -> Left:
        """The same after one more stage, which has ended."""
        if not leg.trains:
            return self.collected(leg, str(folder))
        checkpoint = latest(folder / "checkpoints")
        if checkpoint is None:
            raise ConfigError(f"{folder} has ended and holds no checkpoint: put a copy of it back")
        return self.trained(leg, str(student_folder(checkpoint)), str(folder))

    def collected(self, leg: Leg, folder: str) -> Left:
        """The same after one more stage, which has left a store."""
        folders = {**self.folders, f"{STAGE}{leg.name}": folder}
        return replace(self, episodes=folder, store=folder, folders=folders)

    def trained(self, leg: Leg, student: str, folder: str) -> Left:
        """The same after one more stage, which has left a student."""
        name = f"{STAGE}{leg.name}"
        students, folders = {**self.students, name: student}, {**self.folders, name: folder}
        branches = {n: x for n, x in self.branches.items() if n not in leg.stage.merge}
        found = replace(
            self, episodes=folder, students=students, folders=folders, branches=branches
        )
        if leg.stage.branch:
            return replace(found, branches={**branches, leg.stage.branch: student})
        return replace(found, student=student)

    def student_of(self, stage: StageSettings) -> str | None:
        """The path of the student that a stage starts with, which merges nothing; None of a stage
        that has left none.
        """
        if stage.start == PREVIOUS:
            return self.last(stage) or self.initial
        if stage.start.startswith(STAGE):
            return self.students.get(stage.start)
        return self.initial if stage.start == INITIAL else stage.start

    def last(self, stage: StageSettings) -> str | None:
        """The student of the stages before, as `previous` names it in a stage."""
        return self.branches.get(stage.branch, self.student)

    def to_merge(self, leg: Leg) -> list[str]:
        """The students that a stage merges, in its order.

        Raises:
            ConfigError: there is none of a branch; the message names the stage.
        """
        for name in leg.stage.merge:
            if name not in self.branches:
                known = ", ".join(self.branches) or "none"
                raise ConfigError(
                    f"stage {leg.folder}: merge names {name!r}, and no stage of that branch stands "
                    f"before it; there are: {known}"
                )
        return [self.branches[name] for name in leg.stage.merge]


def resolved(config: RunConfig, leg: Leg, left: Left, merged: str = "") -> RunConfig:
    """A stage's configuration with paths in the place of its references.

    Args:
        merged: the path of what the stage has merged, where it merges something.

    Raises:
        ConfigError: one refers to nothing; the message names the stage.
    """
    data = config.model_dump(mode="json")
    student = merged or left.student_of(leg.stage)
    if student is None:
        raise _refers_to_nothing(leg, leg.stage.start, " of that name", "trains")
    data["student"]["path"] = student
    teachers = {PREVIOUS: left.last(leg.stage), INITIAL: left.initial, **left.students}
    episodes = {PREVIOUS: left.episodes, **left.folders}
    for source in _sources(data["teacher"]):
        _refer(source, teachers, leg, "trains")
    unit, told = data["unit"], _told(data["privilege"])
    for group in (data["rollout"], data["gold"] or {}, unit, unit.get("induce") or {}, *told):
        _refer(group, episodes, leg, "has episodes")
    return RunConfig.model_validate(data)


def collecting(leg: Leg, left: Left) -> CollectSettings:
    """What a stage collects, with a path in the place of the store that it begins with: none, where
    the first of several stages names the store before.

    Raises:
        ConfigError: it refers to nothing; the message names the stage.
    """
    assert leg.stage.collect is not None
    data = leg.stage.collect.model_dump(mode="json")
    if data["onto"] == PREVIOUS:
        data["onto"] = left.store
    elif data["onto"] is not None:
        named = {"path": data["onto"]}
        _refer(named, left.folders, leg, "has episodes")
        data["onto"] = named["path"]
    return CollectSettings.model_validate(data)


def _sources(teacher: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Where a teacher, and each of those that stand behind it, says which model it is."""
    if teacher.get("source"):
        yield teacher["source"]
    others = [*(teacher.get("teachers") or {}).values(), teacher.get("default")]
    for other in filter(None, others):
        yield from _sources(other)


def _told(sources: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """The sources of privilege, and those that stand in or behind them."""
    for source in sources:
        if isinstance(source, dict):
            yield source
            inner = source.get("of")
            yield from _told(inner if isinstance(inner, list) else [inner])


def _refer(group: dict[str, Any], paths: Mapping[str, str | None], leg: Leg, what: str) -> None:
    """Put a path in the place of a reference, where `path` is one."""
    named = str(group.get("path"))
    if named not in paths and not named.startswith(STAGE):
        return
    found = paths.get(named)
    if found is None:
        which = "" if named in paths else " of that name"
        raise _refers_to_nothing(leg, named, which, what)
    group["path"] = found


def _refers_to_nothing(leg: Leg, named: str, which: str, what: str) -> ConfigError:
    return ConfigError(
        f"stage {leg.folder}: {named} refers to nothing: no stage{which} before it {what}"
    )


def check_references(configs: Sequence[tuple[Leg, RunConfig]]) -> None:
    """That every reference has something to refer to, before anything runs.

    Raises:
        ConfigError: see `resolved`.
    """
    left = Left("the initial student")
    for leg, config in configs:
        if left.to_merge(leg) and config.student.lora is not None:
            raise ConfigError(
                f"stage {leg.folder} merges branches, and student.lora leaves adapters, whose "
                "factors have no mean that is that of what they say: train whole models"
            )
        resolved(config, leg, left)
        if leg.trains:
            left = left.trained(leg, f"the student of {leg.folder}", leg.folder)
        else:
            collecting(leg, left)
            left = left.collected(leg, leg.folder)
