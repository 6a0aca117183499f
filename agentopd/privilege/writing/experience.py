"""What the agent has learnt from its episodes, in words: a memory that grows step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field, PrivateAttr

from agentopd.base.types import Privilege, Trajectory
from agentopd.privilege import writer
from agentopd.privilege.base import skill_tag
from agentopd.privilege.writing.model_writer import Ask, Reply
from agentopd.privilege.writing.replies import as_text
from agentopd.privilege.writing.slots import slots_of
from agentopd.privilege.writing.written import WrittenSource


class Experience(WrittenSource, kind="experience"):
    """Lessons that a model draws from the agent's episodes, one list a tag, which the teacher is
    told (OPCD 2602.12275, OEL 2603.16856; the playbook of RESD 2605.12741).

    In each step it reads some of the episodes and what was written before, and writes what is to be
    added, a lesson a line. An episode is told what was written before its step, so never a lesson
    of its own. The oldest lessons leave where there are too many.

    Args:
        lessons: how many are kept of each tag.
        episodes: of each step and tag that are read, the failed ones first.
        every: steps between two readings.
        added: the most lessons that one episode adds.
    """

    asks_with: ClassVar[str] = "experience"
    asked_for: ClassVar[str] = "for some episodes of a step"

    lessons: int = Field(default=20, ge=1)
    episodes: int = Field(default=1, ge=1)
    every: int = Field(default=1, ge=1)
    added: int = Field(default=3, ge=1)
    _memory: dict[str, list[str]] = PrivateAttr(default_factory=dict)
    _steps: int = PrivateAttr(default=0)

    def asks(self, trajectory: Trajectory, batch: Sequence[Trajectory]) -> list[Ask]:
        """See `WrittenSource.asks`."""
        memory = "\n".join(f"> {line}" for line in self._memory.get(skill_tag(trajectory), ()))
        return [Ask(slots_of(trajectory, batch) | {"memory": memory, "most": str(self.added)})]

    def read(self, trajectory: Trajectory, replies: Sequence[Reply]) -> tuple[Privilege, ...]:
        """See `WrittenSource.read`: one text a lesson."""
        lines = [line.strip().lstrip("-*•>0123456789.) ") for line in replies[0].text.splitlines()]
        texts = [text for text in map(as_text, lines) if text]
        return tuple(self.tell(text) for text in texts[: self.added])

    def write(self, trajectories: Sequence[Trajectory], batch: Sequence[Trajectory]) -> None:
        """See `Source.write`."""
        told = {t.episode: self._told(t) for t in trajectories}
        due, self._steps = self._steps % self.every == 0, self._steps + 1
        super().write(self._read_of(trajectories) if due else [], batch)
        for trajectory in trajectories:
            for lesson in self._texts.get(trajectory.episode, ()):
                self._add(skill_tag(trajectory), lesson.text)
        self._texts = told

    def state(self) -> dict[str, Any]:
        """See `Source.state`."""
        return super().state() | {"memory": self._memory, "steps": self._steps}

    def restore(self, state: dict[str, Any]) -> None:
        """See `Source.restore`."""
        super().restore(state)
        self._memory = {tag: list(lines) for tag, lines in state["memory"].items()}
        self._steps = int(state["steps"])

    def _told(self, trajectory: Trajectory) -> tuple[Privilege, ...]:
        lines = self._memory.get(skill_tag(trajectory), ())
        if not lines:
            return ()
        return (Privilege(source=self.kind, text=writer.experience(lines)),)

    def _read_of(self, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        """The episodes that are read: so many a tag."""
        found: dict[str, list[Trajectory]] = {}
        for trajectory in sorted(trajectories, key=lambda t: t.success):
            found.setdefault(skill_tag(trajectory), []).append(trajectory)
        return [t for of_tag in found.values() for t in of_tag[: self.episodes]]

    def _add(self, tag: str, lesson: str) -> None:
        lines = self._memory.setdefault(tag, [])
        if lesson not in lines:
            self._memory[tag] = [*lines, lesson][-self.lessons :]
