"""Sources that tell what the environment says: its solution, feedback, best actions, documents."""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium
from pydantic import Field, PrivateAttr

from agentopd.base.types import Privilege, Trajectory
from agentopd.environment.contract import declared
from agentopd.privilege import writer
from agentopd.privilege.base import Source, before_turns


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
            for turn, info in before_turns(trajectory)
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
            for turn, info in before_turns(trajectory)
            if info.get("document")
        )
        return told or None
