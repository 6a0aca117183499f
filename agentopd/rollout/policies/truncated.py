"""The student acts alone, and is stopped early."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from agentopd.base.rows.costs import Cost
from agentopd.rollout.acting.roles import Direction
from agentopd.rollout.episode import Task
from agentopd.rollout.policies.directed import Directed


class TruncatedRollout(Directed, kind="truncated"):
    """The student plays the first turns or tokens of an episode, on a schedule more and more.

    Turns: TCOD's front to back (2604.24005). Tokens: Fast-OPD (2602.15260); where they run out
    within an answer, it is cut there and handed to the environment as it is. Evaluations play
    whole episodes.

    Args:
        turns: of an episode, before `schedule.turns` multiplies them; no limit if not given.
        tokens: that are sampled in an episode, before `schedule.tokens`; no limit if not given.
    """

    tunable: ClassVar[tuple[str, ...]] = (*Directed.tunable, "turns", "tokens")

    turns: int | None = Field(default=None, ge=1)
    tokens: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _truncates(self) -> TruncatedRollout:
        if self.turns is None and self.tokens is None:
            raise ValueError(
                "rollout: truncated stops episodes after turns or tokens, and neither is given: "
                "set rollout.turns or rollout.tokens, or use rollout: student"
            )
        return self

    @property
    def costs(self) -> tuple[Cost, ...]:
        """See `Part.costs`."""
        return (
            Cost(
                "student", "samples", "S'", where="S': what is said before the episode is stopped"
            ),
        )

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        limits = [(self.turns, "turns"), (self.tokens, "tokens")]
        said = " and ".join(f"{count} {name}" for count, name in limits if count is not None)
        return f"p, stopped after {said}"

    def direction(self, task: Task, seed: int, step: int) -> Direction:
        """See `Directed.direction`."""
        return Direction(turns=self.turns, tokens=self.tokens)
