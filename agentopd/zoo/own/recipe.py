"""What a file says of a student that is to be made for an environment of one's own.

    # student.yaml
    env: {id: maze:Maze}

is enough; every other key has a default that two minutes on two cores are meant for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from agentopd.base.objects import load_object
from agentopd.base.parts import Settings
from agentopd.base.written import ConfigError, read_mapping
from agentopd.environment.contract import Info
from agentopd.environment.settings import EnvSettings
from agentopd.zoo.demonstrations.episode import Form
from agentopd.zoo.demonstrations.own import FORMS, Key
from agentopd.zoo.demonstrations.told import Player

_HEADS = 32
"""Dimensions of a head."""
_PLAYED: frozenset[Form] = frozenset({"none", "filler", "other_skill", "other_solution"})
_HEEDED = 0.5
"""The share of episodes in which what is told is heeded, and how much of it is what is told first.
"""
_FIRST = 2 / 3
_ORDER: tuple[Key, ...] = ("guide", "oracle", "reference")
"""What is told where the recipe does not say: advice for all tasks puts the skill into the weights,
and a solution of the whole task is the hardest to read.
"""


class OwnRecipe(Settings):
    """How a student for one environment is made, and what it has to show.

    Args:
        env: as in a run's configuration; or its id alone.
        held_out: options of the environment for the measurement, as a run's `evaluate.options`.
        told: what a teacher will be told: the `guide`, the `reference` or the next action of the
            `oracle`; by default the first of these that the environment's `info` has.
        shares: how often demonstrations are played with each form of text, in place of what `told`
            comes to: `skill`, `solution`, `next`, of which each needs its key of `info`, and the
            negative forms `none`, `filler`, `other_skill`, `other_solution`.
        random_share: the share of random turns where nothing is told that is heeded: the more, the
            poorer the student alone.
        player: "module:Class", an `agentopd.zoo.demonstrations.told.Player` of your own that says
            what is thought before an action; without one the oracle plays, and nothing is thought.
        max_turns: where an episode is left that has not ended by then.
        steps, tokens: how many steps, of about so many tokens each.
        decay: the share of the steps, at the end, over which the learning rates fall to nothing.
        learning_rate, muon_rate: of everything else, and of the layers' matrices.
        vocabulary, hidden, layers: how large the model is; heads have 32 dimensions.
        pieces: regular expressions of what the tokenizer never merges with its neighbours.
        length: tokens of a row of training, and of the longest episode in it; found if not given.
        episodes: held-out tasks on which each of the measurements is made.
        unheeded: what happens to a student who does as well, or half as well, under words that say
            nothing or another task's: `refuse` it, or `allow` it with the figures said.
        seed: of the weights, the tasks and all choices.
    """

    env: EnvSettings
    held_out: dict[str, Any] = Field(default_factory=dict)
    told: Key | None = None
    shares: dict[Form, float] | None = None
    random_share: float = Field(default=0.9, ge=0, le=1)
    player: str | None = None
    max_turns: int = Field(default=32, ge=1)
    steps: int = Field(default=400, ge=1)
    tokens: int = Field(default=3_072, ge=64)
    decay: float = Field(default=0.5, ge=0, le=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    muon_rate: float = Field(default=0.02, gt=0)
    vocabulary: int = Field(default=512, ge=300, le=8_192)
    hidden: int = Field(default=96, ge=_HEADS, le=512, multiple_of=_HEADS)
    layers: int = Field(default=3, ge=1, le=12)
    pieces: list[str] = Field(default_factory=list)
    length: int | None = Field(default=None, ge=32, le=2_048)
    episodes: int = Field(default=256, ge=16)
    unheeded: Literal["refuse", "allow"] = "refuse"
    seed: int = Field(default=0, ge=0)

    @field_validator("env", mode="before")
    @classmethod
    def _by_its_id(cls, value: Any) -> Any:
        return {"id": value} if isinstance(value, str) else value

    @field_validator("pieces")
    @classmethod
    def _expressions(cls, value: list[str]) -> list[str]:
        for piece in value:
            try:
                re.compile(re.sub(r"\\p\{\w+\}", "x", piece))
            except re.error as error:
                raise ValueError(f"{piece!r} is no regular expression: {error}") from error
        return value

    @model_validator(mode="after")
    def _shares_of_forms(self) -> Self:
        if self.shares is None:
            return self
        known = {*_PLAYED, *FORMS.values()}
        if strange := [form for form in self.shares if form not in known]:
            raise ValueError(
                f"shares: {strange[0]} is played in the embedded models' own environments alone; "
                f"there are {', '.join(sorted(known))}"
            )
        if min(self.shares.values(), default=0) < 0 or not sum(self.shares.values()):
            raise ValueError("shares: give each form a number of at least 0, and some more than 0")
        if not {*self.shares} & {*FORMS.values()}:
            raise ValueError(
                f"shares: a student who heeds nothing cannot be told anything: add one of "
                f"{', '.join(FORMS.values())}"
            )
        return self

    def plays(self) -> Player | None:
        """Who plays the demonstrations; None where the oracle does.

        Raises:
            ValueError: `player` names no such class.
        """
        if self.player is None:
            return None
        found = load_object(self.player)
        if not (isinstance(found, type) and issubclass(found, Player)):
            raise ValueError(
                f"player: {self.player} is no agentopd.zoo.demonstrations.told.Player: derive it "
                "from that class"
            )
        return found()

    def tells(self, info: Info) -> Key:
        """What the student is told first, of an environment that says `info` on reset.

        Raises:
            ValueError: it does not say what the recipe wants to tell.
        """
        there: list[Key] = [key for key in _ORDER if info.get(key)]
        if self.told is not None and self.told not in there:
            raise ValueError(
                f"told: {self.env.id} says no info[{self.told!r}] on reset; it says "
                f"{', '.join(there) or 'nothing that a teacher could be told'}"
            )
        if not there:
            raise ValueError(
                f"{self.env.id} says nothing in info that a teacher could be told: let reset say a "
                "guide (advice for all tasks), a reference (the task's solution) or an oracle (the "
                "best next actions)"
            )
        return self.told or there[0]

    def forms(self, told: Key, info: Info) -> dict[Form, float]:
        """How often each form is played.

        Raises:
            ValueError: a form has a share and the environment does not say what it needs.
        """
        if self.shares is not None:
            for key, form in FORMS.items():
                if self.shares.get(form) and not info.get(key):
                    raise ValueError(
                        f"shares: {form} needs info[{key!r}], which {self.env.id} does not say on "
                        "reset: leave it out"
                    )
            return dict(self.shares)
        heeded: dict[Form, float] = {FORMS[told]: _HEEDED}
        if told == "guide" and info.get("reference"):
            heeded = {"skill": _HEEDED * _FIRST, "solution": _HEEDED * (1 - _FIRST)}
        idle: dict[Form, float] = {"none": 0.3, "filler": 0.2}
        if info.get("guide"):
            idle = {"none": 0.25, "filler": 0.15, "other_skill": 0.1}
        return heeded | idle


def read_recipe(path: Path) -> OwnRecipe:
    """The recipe in a file.

    Raises:
        ConfigError: it cannot be read, or something in it cannot be used; one line a problem.
    """
    data: Mapping[str, Any] = read_mapping(path)
    try:
        return OwnRecipe.model_validate(data)
    except ValidationError as error:
        lines = [f"{path}: {_explained(e)}" for e in error.errors()]
        raise ConfigError("\n".join(lines)) from error


def _explained(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"] if part != "[key]")
    said = error["msg"].removeprefix("Value error, ")
    return f"{where}: {said}" if where else said
