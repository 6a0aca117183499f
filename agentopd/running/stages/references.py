"""What a stage takes from those before it: a student to start with, a teacher, episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agentopd.running.checkpoint import latest, student_folder
from agentopd.running.config import ConfigError, RunConfig
from agentopd.running.stages.settings import INITIAL, PREVIOUS, Leg


@dataclass(frozen=True)
class Left:
    """What the stages before have left, as paths; None where no stage has left any.

    Attributes:
        initial: the student that the run began with.
        student: of the last stage that has trained.
        episodes: the folder of the last stage, whichever it was.
    """

    initial: str
    student: str | None = None
    episodes: str | None = None

    def after(self, leg: Leg, folder: Path) -> Left:
        """The same after one more stage, which has ended."""
        if not leg.trains:
            return Left(self.initial, self.student, str(folder))
        checkpoint = latest(folder / "checkpoints")
        if checkpoint is None:
            raise ConfigError(f"{folder} has ended and holds no checkpoint: put a copy of it back")
        return Left(self.initial, str(student_folder(checkpoint)), str(folder))

    def student_of(self, start: str) -> str:
        """The path of the student that a stage starts with."""
        if start == PREVIOUS:
            return self.student or self.initial
        return self.initial if start == INITIAL else start


def resolved(config: RunConfig, leg: Leg, left: Left) -> RunConfig:
    """A stage's configuration with paths in the place of its references.

    Raises:
        ConfigError: one refers to nothing; the message names the stage.
    """
    data = config.model_dump(mode="json")
    data["student"]["path"] = left.student_of(leg.stage.start)
    teachers = {PREVIOUS: left.student, INITIAL: left.initial}
    for group, key, paths in (
        (data["teacher"].get("source") or {}, "path", teachers),
        (data["rollout"], "path", {PREVIOUS: left.episodes}),
        (data["gold"] or {}, "path", {PREVIOUS: left.episodes}),
    ):
        named = str(group.get(key))
        if named in paths:
            found = paths[named]
            if found is None:
                what = "trains" if paths is teachers else "has episodes"
                raise ConfigError(
                    f"stage {leg.folder}: {named} refers to nothing: no stage before it {what}"
                )
            group[key] = found
    return RunConfig.model_validate(data)


def check_references(configs: Sequence[tuple[Leg, RunConfig]]) -> None:
    """That every reference has something to refer to, before anything runs.

    Raises:
        ConfigError: see `resolved`.
    """
    left = Left("the initial student")
    for leg, config in configs:
        resolved(config, leg, left)
        trained = f"the student of {leg.folder}" if leg.trains else left.student
        left = Left(left.initial, trained, leg.folder)
