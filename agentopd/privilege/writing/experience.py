"""What the agent has learnt from its episodes, in words: a memory that grows step by step."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, PrivateAttr

from agentopd.base.types import Privilege, Trajectory
from agentopd.privilege import writer
from agentopd.privilege.base import skill_tag
from agentopd.privilege.writing.model_writer import Ask, Reply
from agentopd.privilege.writing.replies import as_text
from agentopd.privilege.writing.slots import slots_of
from agentopd.privilege.writing.written import WrittenSource
from agentopd.stored.demonstrations import read_demonstrations

Memory = dict[str, list[str]]
"""Lessons by tag, the oldest first."""


class Experience(WrittenSource, kind="experience"):
    """Lessons that a model draws from the agent's episodes, one list a tag, which the teacher is
    told (OPCD 2602.12275, OEL 2603.16856; the playbook of RESD 2605.12741).

    In each step it reads some of the episodes and what was written before, and writes what is to be
    added, a lesson a line. An episode is told what was written before its step, so never a lesson
    of its own. The oldest lessons leave where there are too many.

    With a store, that is read in place of the steps' episodes, all of it before anything is told,
    some episodes after the others; an episode is told the memory as it was after one of these
    readings, any of them.

    Args:
        lessons: how many are kept of each tag.
        episodes: of each step and tag that are read, the failed ones first; of a store, at once.
        every: steps between two readings.
        added: the most lessons that one episode adds.
        path: a store that `agentopd collect` wrote, or a run's folder; `previous` in a stage.
    """

    asks_with: ClassVar[str] = "experience"
    asked_for: ClassVar[str] = "for some episodes of a step"

    lessons: int = Field(default=20, ge=1)
    episodes: int = Field(default=1, ge=1)
    every: int = Field(default=1, ge=1)
    added: int = Field(default=3, ge=1)
    path: str | None = None
    _memory: Memory = PrivateAttr(default_factory=dict)
    _snapshots: list[Memory] = PrivateAttr(default_factory=list)
    _steps: int = PrivateAttr(default=0)

    def unread(self) -> dict[str, str]:
        """See `Settings.unread`."""
        return {"every": "path: null"} if self.path else {}

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
        self._texts, self._attempts = {}, {}
        if self.path is not None:
            if not self._steps:
                self._read_store(Path(self.path))
            told = {t.episode: self._told(t, self._snapshot(t)) for t in trajectories}
        else:
            told = {t.episode: self._told(t, self._memory) for t in trajectories}
            if self._steps % self.every == 0:
                self._learn(self._read_of(trajectories), batch)
        self._steps += 1
        self._texts = told

    def state(self) -> dict[str, Any]:
        """See `Source.state`."""
        known = {"memory": self._memory, "steps": self._steps, "snapshots": self._snapshots}
        return super().state() | known

    def restore(self, state: dict[str, Any]) -> None:
        """See `Source.restore`."""
        super().restore(state)
        self._memory = {tag: list(lines) for tag, lines in state["memory"].items()}
        self._snapshots = [dict(memory) for memory in state.get("snapshots", ())]
        self._steps = int(state["steps"])

    def _read_store(self, folder: Path) -> None:
        """Draw the lessons of all of a store."""
        store = read_demonstrations(folder)
        for begun in range(0, len(store), self.episodes):
            self._learn(store[begun : begun + self.episodes], store)
            self._snapshots.append(dict(self._memory))

    def _snapshot(self, trajectory: Trajectory) -> Memory:
        """The memory that an episode is told."""
        if not self._snapshots:
            return {}
        return random.Random(f"experience/{trajectory.episode}").choice(self._snapshots)

    def _learn(self, trajectories: Sequence[Trajectory], batch: Sequence[Trajectory]) -> None:
        """Add what the model writes of some episodes."""
        self.ask(trajectories, batch)
        for trajectory in trajectories:
            for lesson in self._texts.get(trajectory.episode, ()):
                self._add(skill_tag(trajectory), lesson.text)

    def _told(self, trajectory: Trajectory, memory: Memory) -> tuple[Privilege, ...]:
        lines = memory.get(skill_tag(trajectory), ())
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
