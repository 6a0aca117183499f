"""What is collected: who plays, how many episodes, and which of them are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, field_validator, model_validator

from agentopd.base.parts import Settings, closest
from agentopd.stored.demonstrations import Kept

Player = Literal["oracle", "teacher", "student", "told", "rollout"]
Labeller = Literal["oracle", "teacher"]
TEXT = ".jsonl"
"""How the names of files of text end."""


class CollectSettings(Settings):
    """A store of demonstrations to be made.

    Args:
        by: who plays: `oracle`, the environment's own next best action (`info["oracle"]`);
            `teacher`, told what the sources of privilege say; `student`, told nothing; `told`, the
            student told what they say. What is kept is the plain history in any case. `rollout`:
            whoever acts in the run's own rollout, step after step, in groups and with the history
            that it keeps. Or a file of text, one episode a line, see
            `agentopd.running.collecting.text`.
        episodes: that are played, one a task, on the run's own training tasks from the first on;
            a file is read to its end.
        keep: which of them are kept.
        label: who answers in every state that the kept ones have visited, in place of what was said
            there (DAgger 1011.0686): `oracle`, or `teacher`, with its likeliest tokens, told what
            the sources of privilege say. A record is then one state and its answer, which nobody
            plays. Where the teacher itself has acted, it is what it said.
        onto: a store that this one begins with: its records come first, and the tasks that are
            played and the steps of the rollout's schedules are those behind it. In a stage,
            `previous` is the last store before, and none where there is none yet; `stage:NAME` is
            that of the stage NAME.
    """

    by: str = "oracle"
    episodes: int = Field(default=256, ge=1)
    keep: Kept = Kept()
    label: Labeller | None = None
    onto: str | None = None

    @field_validator("by")
    @classmethod
    def _known(cls, by: str) -> str:
        if by in get_args(Player) or by.endswith(TEXT):
            return by
        raise ValueError(
            f"nobody is called {by!r} who could play; {closest(by, get_args(Player))}. "
            f"A file of text ends in {TEXT}"
        )

    @model_validator(mode="after")
    def _can_be_labelled(self) -> CollectSettings:
        if self.label and self.text:
            raise ValueError(
                f"label: {self.label} answers in states that were played here, and {self.by} is "
                "read as it is: leave label out, or let somebody play"
            )
        return self

    @property
    def player(self) -> str:
        """Who plays, in words."""
        words: dict[str, str] = {
            "oracle": "the environment's own best action",
            "teacher": "the teacher, told what the sources of privilege say",
            "student": "the student, told nothing",
            "told": "the student, told what the sources of privilege say",
        }
        return words.get(self.by, self.by)

    @property
    def text(self) -> Path | None:
        """The file of text that is read, if one is."""
        return Path(self.by) if self.by.endswith(TEXT) else None
