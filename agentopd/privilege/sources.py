"""Sources of privileged information, each with a life of its own.

A source first takes note of the step's finished trajectories (`learn`), then says what the teacher
may know of each (`whisper`). What it keeps between steps goes into the checkpoint through `state`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
from pydantic import Field, PrivateAttr

from agentopd.base.parts import Part
from agentopd.base.types import Briefed, EndReason, Privilege, Trajectory, Turn
from agentopd.environment.contract import declared
from agentopd.models.chat import ChatTemplate
from agentopd.privilege import writer


class Source(Part, family="privilege source"):
    """One form of privileged information: `whisper`, and the rest is optional.

    A source of your own says what the teacher may know of an episode; here, how many of the task's
    episodes were solved:

        class Odds(Source, kind="odds"):
            def whisper(
                self, trajectory: Trajectory, batch: Sequence[Trajectory]
            ) -> tuple[Privilege, ...] | None:
                group = [t for t in batch if t.task == trajectory.task]
                solved = sum(t.success for t in group)
                text = f"{solved} of {len(group)} attempts solved this task."
                return (Privilege(source=self.kind, text=text),)
    """

    @abstractmethod
    def whisper(
        self, trajectory: Trajectory, batch: Sequence[Trajectory]
    ) -> tuple[Privilege, ...] | None:
        """What the teacher may know of `trajectory`, one of `batch`.

        None means that the source has nothing to say, and so the trajectory has no teacher; an
        empty tuple means that the teacher is to judge it knowing no more than the student.
        """

    @property
    def reads(self) -> str:
        """The key of the environment's `info` without which it has nothing to say, if any."""
        return ""

    def learn(self, trajectories: Sequence[Trajectory]) -> None:
        """Take note of a step's trajectories before anything is said of them."""

    def enter(self, env: gymnasium.Env[str, str]) -> None:
        """Learn, before the first step, what the environment declares."""

    def prepare(self, template: ChatTemplate) -> None:
        """Learn, before the first step, how texts become tokens."""

    def state(self) -> dict[str, Any]:
        """What must survive a restart, as JSON."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """The reverse of `state`."""


class NoPrivilege(Source, kind="none"):
    """The control: the teacher knows what the student knows."""

    def whisper(self, trajectory: Trajectory, batch: Sequence[Trajectory]) -> tuple[Privilege, ...]:
        """See `Source.whisper`."""
        return ()


class GroundTruth(Source, kind="ground_truth"):
    """The environment's own solution of the task (`reference`)."""

    @property
    def reads(self) -> str:
        """See `Source.reads`."""
        return "reference"

    def whisper(
        self, trajectory: Trajectory, batch: Sequence[Trajectory]
    ) -> tuple[Privilege, ...] | None:
        """See `Source.whisper`."""
        plan = trajectory.prompt.get("reference")
        return (Privilege(source=self.kind, text=writer.solution(plan)),) if plan else None


class EnvFeedback(Source, kind="env_feedback"):
    """What the environment said after each step, told before the answer it is about.

    Hindsight, as in SDPO 2601.20802.
    """

    @property
    def reads(self) -> str:
        """See `Source.reads`."""
        return "feedback"

    def whisper(
        self, trajectory: Trajectory, batch: Sequence[Trajectory]
    ) -> tuple[Privilege, ...] | None:
        """See `Source.whisper`."""
        told = tuple(
            Privilege(
                source=self.kind, text=writer.feedback(str(turn.info["feedback"])), turn=turn.index
            )
            for turn in trajectory.turns
            if turn.info.get("feedback")
        )
        return told or None


class OracleNext(Source, kind="oracle_next"):
    """The best next actions, as the environment finds them from where each turn begins (`oracle`).

    Its text is about single turns: view: every_turn puts it before each answer.

    Args:
        actions: how many of them are told; 0 tells all, the rest of the best plan.
    """

    actions: int = Field(default=1, ge=0)
    _between: str | None = PrivateAttr(default=" ")

    @property
    def reads(self) -> str:
        """See `Source.reads`."""
        return "oracle"

    def enter(self, env: gymnasium.Env[str, str]) -> None:
        """See `Source.enter`."""
        self._between = declared(env, "action_between", " ")

    def whisper(
        self, trajectory: Trajectory, batch: Sequence[Trajectory]
    ) -> tuple[Privilege, ...] | None:
        """See `Source.whisper`."""
        told = tuple(
            Privilege(source=self.kind, text=writer.next_actions(plan), turn=turn.index)
            for turn, info in _before(trajectory)
            if (plan := self._next(str(info.get("oracle") or "")))
        )
        return told or None

    def _next(self, plan: str) -> str:
        """The first actions of a plan."""
        parts = [plan] if self._between is None else plan.split(self._between)
        single = [part.strip() for part in parts if part.strip()]
        return (self._between or " ").join(single[: self.actions or len(single)])


class Document(Source, kind="document"):
    """The passage of a document that speaks of what is asked, as the environment found it
    (`document`): a page of a manual, a retrieved paragraph.

    A passage that comes with an observation is about the turn that answers it: view: every_turn
    puts it there. One rule that every passage repeats is then learnt by heart, as in on-policy
    context distillation (2602.12275).
    """

    @property
    def reads(self) -> str:
        """See `Source.reads`."""
        return "document"

    def whisper(
        self, trajectory: Trajectory, batch: Sequence[Trajectory]
    ) -> tuple[Privilege, ...] | None:
        """See `Source.whisper`."""
        told = tuple(
            Privilege(source=self.kind, text=str(info["document"]), turn=turn.index)
            for turn, info in _before(trajectory)
            if info.get("document")
        )
        return told or None


class Reflection(Source, kind="reflection"):
    """A look back on this very attempt: how it ended and which turns were mistakes.

    As in RESD 2605.12741 and ERL 2602.13949.
    """

    mistakes: int = Field(default=3, ge=0)

    def whisper(
        self, trajectory: Trajectory, batch: Sequence[Trajectory]
    ) -> tuple[Privilege, ...] | None:
        """See `Source.whisper`."""
        if not trajectory.turns:
            return None
        told = [
            (t.index + 1, str(t.info.get("feedback", "")))
            for t in trajectory.turns
            if t.info.get("mistake")
        ]
        text = writer.reflection(trajectory.success, len(trajectory.turns), told, self.mistakes)
        return (Privilege(source=self.kind, text=text),)


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
            episodes = self._bank.setdefault(_tag(trajectory), deque(maxlen=self.memory))
            episodes.append((trajectory.success, made))

    def whisper(
        self, trajectory: Trajectory, batch: Sequence[Trajectory]
    ) -> tuple[Privilege, ...] | None:
        """See `Source.whisper`."""
        episodes = self._bank.get(_tag(trajectory), deque())
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


def gather(sources: Sequence[Source], trajectories: Sequence[Trajectory]) -> list[Briefed]:
    """Brief the teacher on every trajectory; all sources with something to say are heard, in order.

    A trajectory of which no source has anything to say gets no lesson. Neither does one that ended
    in an error, and no source learns from it.
    """
    finished = [t for t in trajectories if t.end is not EndReason.ERROR]
    for source in sources:
        source.learn(finished)
    briefed = []
    for trajectory in trajectories:
        if trajectory.end is EndReason.ERROR:
            briefed.append(Briefed(trajectory=trajectory, privileges=(), available=False))
            continue
        told = [source.whisper(trajectory, finished) for source in sources]
        heard = [p for privileges in told if privileges is not None for p in privileges]
        available = any(privileges is not None for privileges in told)
        briefed.append(Briefed(trajectory=trajectory, privileges=tuple(heard), available=available))
    return briefed


def missing_keys(sources: Sequence[Source], trajectories: Sequence[Trajectory]) -> list[str]:
    """Which sources have nothing to say because the environment never tells what they read."""
    known = {key for t in trajectories for key, value in t.prompt.items() if value}
    known |= {
        k for t in trajectories for turn in t.turns for k, value in turn.info.items() if value
    }
    return [
        f"privilege: {source.kind} has nothing to say: this environment's info never holds "
        f"{source.reads!r}. Let it, or choose another source"
        for source in sources
        if source.reads and known and source.reads not in known
    ]


def _before(trajectory: Trajectory) -> list[tuple[Turn, Mapping[str, Any]]]:
    """Each turn, and the `info` that came with the observation that it answers."""
    infos = [trajectory.prompt, *(turn.info for turn in trajectory.turns[:-1])]
    return list(zip(trajectory.turns, infos, strict=False))


def _tag(trajectory: Trajectory) -> str:
    return str(trajectory.prompt.get("skill", trajectory.env))
