"""Sources that look back on the episode itself: reflections, diagnoses, analyses by turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from agentopd.base.types import Privilege, Trajectory
from agentopd.models.model import ModelSettings
from agentopd.privilege import writer
from agentopd.privilege.base import chosen
from agentopd.privilege.writing.model_writer import Ask, ModelWriter, Reply
from agentopd.privilege.writing.replies import (
    as_object,
    as_text,
    by_turn,
    gives_away,
    is_nothing,
    line_of,
)
from agentopd.privilege.writing.slots import slots_of
from agentopd.privilege.writing.written import WrittenSource

Level = Literal[0, 1, 2, 3, 4]
_DISCLOSED = ("outcome", "truth", "reference", "peer")
"""What each level above 0 adds to the attempt itself."""
_KNOWN_AT: dict[str, int] = {name: level for level, name in enumerate(_DISCLOSED, 1)}
_KNOWN_AT["feedback"] = 1


def disclosed(slots: dict[str, str], level: int) -> dict[str, str]:
    """What may be known at a level of disclosure; see `Reflection`."""
    return {name: text for name, text in slots.items() if _KNOWN_AT.get(name, 0) <= level}


class Reflection(WrittenSource, kind="reflection"):
    """A look back on this very attempt: how it ended and which turns were mistakes.

    Written from a template, from what the environment said; or, with a `writer`, by a model that
    reads the attempt, as in RESD 2605.12741 and ERL 2602.13949: the student, or the teacher.

    Args:
        writer: the model that writes; none for the template.
        mistakes: of the template: how many of the last ones are named.
        level: of the writer: what it is told beside the attempt. 0: nothing; 1: how it ended and
            what the environment said of each turn; 2: the best action of each turn; 3: the
            solution; 4: a peer's that solved it. Each level knows all of those below.

    Raises:
        ValueError: a level that no writer is told.
    """

    asks_with: ClassVar[str] = "reflection"

    writer: ModelWriter | None = None
    mistakes: int = Field(default=3, ge=0)
    level: Level = 1

    @model_validator(mode="after")
    def _has_a_writer(self) -> Reflection:
        if self.writer is None and self.level != 1:
            raise ValueError(
                "privilege: reflection: level says what a writer is told, and there is none: add "
                "writer: {model: student}"
            )
        return self

    def whisper(
        self, trajectory: Trajectory, batch: Sequence[Trajectory]
    ) -> tuple[Privilege, ...] | None:
        """See `Source.whisper`."""
        if self.writer is not None:
            return super().whisper(trajectory, batch)
        if not trajectory.turns or not chosen(trajectory, self.when):
            return None
        told = [
            (t.index + 1, str(t.info.get("feedback", "")))
            for t in trajectory.turns
            if t.info.get("mistake")
        ]
        text = writer.reflection(trajectory.success, len(trajectory.turns), told, self.mistakes)
        return (Privilege(source=self.kind, text=text),)

    def asks(self, trajectory: Trajectory, batch: Sequence[Trajectory]) -> list[Ask]:
        """See `WrittenSource.asks`."""
        return [Ask(disclosed(slots_of(trajectory, batch), self.level))]

    def read(self, trajectory: Trajectory, replies: Sequence[Reply]) -> tuple[Privilege, ...]:
        """See `WrittenSource.read`."""
        text = as_text(replies[0].text)
        return (self.tell(writer.reflected(text)),) if text else ()


class Message(WrittenSource, kind="message"):
    """What a teacher who knows the solution says of an attempt to the student, who tries again
    (RL2F 2602.16066): for rollout: {kind: retry, recalls: [..., privilege]}.

    The writer is the method's teacher, such as the first student itself; another is named in
    `writer`. A message that gives the whole solution away is none, and is not told.

    Args:
        level: what the writer is told beside the attempt; see `Reflection`.
    """

    asks_with: ClassVar[str] = "message"

    writer: ModelWriter | None = Field(
        default_factory=lambda: ModelWriter(model=ModelSettings(path="teacher"), reply_tokens=96)
    )
    level: Level = 3

    def asks(self, trajectory: Trajectory, batch: Sequence[Trajectory]) -> list[Ask]:
        """See `WrittenSource.asks`."""
        return [Ask(disclosed(slots_of(trajectory, batch), self.level))]

    def read(self, trajectory: Trajectory, replies: Sequence[Reply]) -> tuple[Privilege, ...]:
        """See `WrittenSource.read`."""
        text = as_text(replies[0].text)
        if not text or gives_away(text, trajectory):
            return ()
        return (self.tell(writer.message(text)),)


class Diagnosis(WrittenSource, kind="diagnosis"):
    """What a model that has read the whole episode says of single turns, told before each of them
    (HERO 2606.11559): whether it was needed, whether it was valid, what went wrong.

    Turns of which it has nothing to say are told nothing: weight: told leaves them out.
    """

    asks_with: ClassVar[str] = "diagnosis"

    def asks(self, trajectory: Trajectory, batch: Sequence[Trajectory]) -> list[Ask]:
        """See `WrittenSource.asks`."""
        return [Ask(disclosed(slots_of(trajectory, batch), 1))]

    def read(self, trajectory: Trajectory, replies: Sequence[Reply]) -> tuple[Privilege, ...]:
        """See `WrittenSource.read`."""
        said = by_turn(replies[0].text, len(trajectory.turns))
        return tuple(self.tell(writer.diagnosis(said[turn]), turn) for turn in sorted(said))


class Analysis(WrittenSource, kind="analysis"):
    """A skill of the episode, and of its most telling turns, as a model finds them in JSON: of the
    form `{"episode": "...", "steps": {"3": "..."}}` (OPID 2606.26790).

    A turn with a skill of its own is told that one, the others the episode's: for view: every_turn.
    In a conversation, what was said before an earlier turn still stands there.

    Args:
        steps: the most turns that have a skill of their own.
        both: tell such turns the episode's skill too.
    """

    asks_with: ClassVar[str] = "analysis"

    steps: int = Field(default=5, ge=0)
    both: bool = False

    def asks(self, trajectory: Trajectory, batch: Sequence[Trajectory]) -> list[Ask]:
        """See `WrittenSource.asks`."""
        known = disclosed(slots_of(trajectory, batch), 1)
        return [Ask(known | {"most": str(self.steps)})]

    def read(self, trajectory: Trajectory, replies: Sequence[Reply]) -> tuple[Privilege, ...]:
        """See `WrittenSource.read`."""
        found = as_object(replies[0].text)
        if found is None:
            return ()
        whole, steps = line_of(found, "episode"), self._steps(found.get("steps"), trajectory)
        if not steps:
            return (self.tell(writer.written_skill(whole)),) if whole else ()
        told = []
        for turn in trajectory.turns:
            own = steps.get(turn.index)
            texts = [own or whole, *([whole] if own and self.both else [])]
            told += [self.tell(writer.written_skill(text), turn.index) for text in texts if text]
        return tuple(told)

    def _steps(self, found: object, trajectory: Trajectory) -> dict[int, str]:
        if not isinstance(found, dict):
            return {}
        numbered = {
            int(key) - 1: line_of(found, key)
            for key in found
            if isinstance(key, str) and key.isdecimal() and not is_nothing(line_of(found, key))
        }
        valid = [turn for turn in sorted(numbered) if 0 <= turn < len(trajectory.turns)]
        return {turn: numbered[turn] for turn in valid[: self.steps]}
