"""Criteria: what a rubric asks for, of which turns and of which part of the answer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PrivateAttr, SerializeAsAny, model_validator

from agentopd.base.parts import Settings
from agentopd.base.types import Trajectory, Turn
from agentopd.units.facts import AnswerPart, Fact, fact_of
from agentopd.units.rubric.judges import FactVerifier, Verifier

Which = Literal["every", "first", "last"]


class Criterion(Settings):
    """One named criterion.

    Args:
        text: what is asked for, in words, for a model that judges; the name if not given.
        fact: the key of `facts` it is judged by; short for `verifier: {kind: fact, ...}`.
        want: the value of the fact that satisfies it.
        verifier: who judges; the rubric's judge where neither this nor `fact` is given.
        weight: how much it counts.
        when: facts that a turn must have for the criterion to speak of it.
        turns: of those turns, every one, or the first or the last only.
        part: the tokens it speaks of.
    """

    name: str
    text: str = ""
    fact: str | None = None
    want: Fact = True
    verifier: SerializeAsAny[Verifier] | None = None
    weight: float = Field(default=1.0, ge=0)
    when: dict[str, Fact] = Field(default_factory=dict)
    turns: Which = "every"
    part: AnswerPart = "turn"
    _by_fact: FactVerifier | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _has_one_verifier(self) -> Criterion:
        if self.fact is not None and self.verifier is not None:
            raise ValueError(
                f"criterion {self.name!r} names both a fact and a verifier: keep the one that is "
                "to judge"
            )
        if self.fact is not None:
            self._by_fact = FactVerifier(fact=self.fact, want=self.want)
        return self

    def unread(self) -> dict[str, str]:
        """See `Settings.unread`."""
        return {"want": "fact"} if self.fact is None else {}

    @property
    def own_verifier(self) -> Verifier | None:
        """Who judges it, whatever the rubric's judge is."""
        return self.verifier or self._by_fact

    def turns_of(self, trajectory: Trajectory) -> list[Turn]:
        """The turns it speaks of."""
        found = [
            turn
            for turn in trajectory.turns
            if all(fact_of(turn, name) == value for name, value in self.when.items())
        ]
        if self.turns == "first":
            return found[:1]
        return found[-1:] if self.turns == "last" else found
