"""Skills distilled from the agent's episodes: a summary of a tag, a bank that is searched."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from pydantic import Field, PrivateAttr

from agentopd.base.types import Privilege, Trajectory
from agentopd.privilege import writer
from agentopd.privilege.base import Source, skill_tag
from agentopd.privilege.writing.model_writer import Ask, Reply
from agentopd.privilege.writing.replies import as_object, line_of
from agentopd.privilege.writing.slots import slots_of
from agentopd.privilege.writing.written import WrittenSource
from agentopd.signal.groups import groups


class SkillSummary(Source, kind="skill_summary"):
    """A skill distilled from the agent's recent episodes (Skill-SD 2604.10674), one a skill tag.

    It holds the environment's general advice, how often the task was solved of late, and the
    mistakes made most.

    Args:
        memory: how many of the latest episodes are remembered for each tag.
        mistakes: how many kinds of mistakes are named.
    """

    memory: int = Field(default=256, ge=1)
    mistakes: int = Field(default=3, ge=0)
    _bank: dict[str, deque[tuple[bool, list[str]]]] = PrivateAttr(default_factory=dict)

    def learn(self, trajectories: Sequence[Trajectory]) -> None:
        """See `Source.learn`."""
        for trajectory in trajectories:
            made = sorted(
                {str(t.info["mistake"]) for t in trajectory.turns if t.info.get("mistake")}
            )
            episodes = self._bank.setdefault(skill_tag(trajectory), deque(maxlen=self.memory))
            episodes.append((trajectory.success, made))

    def whisper(
        self, trajectory: Trajectory, batch: Sequence[Trajectory]
    ) -> tuple[Privilege, ...] | None:
        """See `Source.whisper`."""
        episodes = self._bank.get(skill_tag(trajectory), deque())
        counts = Counter(name for _, made in episodes for name in made)
        solved = sum(success for success, _ in episodes)
        guide = str(trajectory.prompt.get("guide", ""))
        if not guide and not episodes:
            return None
        text = writer.skill(guide, solved, len(episodes), counts, self.mistakes)
        return (Privilege(source=self.kind, text=text),)

    def state(self) -> dict[str, Any]:
        """See `Source.state`."""
        return {tag: list(episodes) for tag, episodes in self._bank.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """See `Source.restore`."""
        self._bank = {
            tag: deque(
                ((bool(success), list(made)) for success, made in episodes), maxlen=self.memory
            )
            for tag, episodes in state.items()
        }


@dataclass
class Skill:
    """A skill in the bank: how often it was told, and the mean reward of what it was told of."""

    text: str
    told: int = 0
    reward: float = 0.0

    def bound(self, total: int, exploration: float) -> float:
        """The upper confidence bound of its reward: mean + c sqrt(ln N / n), infinite unseen.

        Args:
            total: N, how often all skills of the tag were told.
        """
        if not self.told:
            return math.inf
        return self.reward + exploration * math.sqrt(math.log(max(total, 1)) / self.told)

    def note(self, reward: float) -> None:
        """It was told of episodes of that mean reward."""
        self.told += 1
        self.reward += (reward - self.reward) / self.told


class SkillBank(WrittenSource, kind="skill_bank"):
    """Skills that a model finds in the agent's own episodes, in JSON of the form `{"skill":
    "..."}`, kept by tag; each task is told one, chosen by its upper confidence bound (Skill-SD
    2604.10674).

    A task is told what was found in earlier steps: no episode is told a skill of its own.

    Args:
        size: skills that are kept of each tag; the one of the lowest mean reward leaves, of those
            that were told.
        exploration: c, how much being told seldom counts.
    """

    asks_with: ClassVar[str] = "skill"

    size: int = Field(default=32, ge=1)
    exploration: float = Field(default=1.0, ge=0)
    _bank: dict[str, list[Skill]] = PrivateAttr(default_factory=dict)

    def asks(self, trajectory: Trajectory, batch: Sequence[Trajectory]) -> list[Ask]:
        """See `WrittenSource.asks`."""
        return [Ask(slots_of(trajectory, batch))]

    def read(self, trajectory: Trajectory, replies: Sequence[Reply]) -> tuple[Privilege, ...]:
        """See `WrittenSource.read`."""
        text = line_of(as_object(replies[0].text) or {}, "skill")
        return (self.tell(writer.written_skill(text)),) if text else ()

    def write(self, trajectories: Sequence[Trajectory], batch: Sequence[Trajectory]) -> None:
        """See `Source.write`: each task is told a skill of the bank, then new ones are found."""
        chosen = self._chosen(trajectories)
        super().write(trajectories, batch)
        for trajectory in trajectories:
            for privilege in self._texts.get(trajectory.episode, ()):
                self._add(skill_tag(trajectory), privilege.text)
        self._texts = chosen

    def state(self) -> dict[str, Any]:
        """See `Source.state`."""
        bank = {tag: [asdict(skill) for skill in skills] for tag, skills in self._bank.items()}
        return super().state() | {"bank": bank}

    def restore(self, state: dict[str, Any]) -> None:
        """See `Source.restore`."""
        super().restore(state)
        self._bank = {
            tag: [Skill(**skill) for skill in skills] for tag, skills in state["bank"].items()
        }

    def _chosen(self, trajectories: Sequence[Trajectory]) -> dict[int, tuple[Privilege, ...]]:
        """What each episode is told: one skill a task."""
        found: dict[int, tuple[Privilege, ...]] = {}
        for group in groups(trajectories):
            skills = self._bank.get(skill_tag(group[0]), [])
            if not skills:
                continue
            total = sum(skill.told for skill in skills)
            best = max(skills, key=lambda skill: skill.bound(total, self.exploration))
            best.note(sum(t.reward for t in group) / len(group))
            told = Privilege(source=self.kind, text=best.text)
            found |= {t.episode: (told,) for t in group}
        return found

    def _add(self, tag: str, text: str) -> None:
        skills = self._bank.setdefault(tag, [])
        if any(skill.text == text for skill in skills):
            return
        skills.append(Skill(text))
        if len(skills) > self.size:
            old = [skill for skill in skills if skill.told] or skills
            skills.remove(min(old, key=lambda skill: skill.reward))
