"""How each embedded model is made: in which environment, from which episodes, how large."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from agentopd.parts import closest
from agentopd.zoo.demonstrations.desk import DeskPlayer
from agentopd.zoo.demonstrations.episode import Form
from agentopd.zoo.demonstrations.hanoi import HanoiPlayer
from agentopd.zoo.demonstrations.number import NumberPlayer
from agentopd.zoo.demonstrations.told import Player


@dataclass(frozen=True)
class Recipe:
    """How one model is made.

    Args:
        start: the model whose weights and tokenizer it continues from; none starts anew.
        shares: the forms of privileged text its episodes are played with.
        random_share: the share of random turns where nothing is whispered.
        steps: of `rows` x `length` tokens.
        decay: the share of the steps, at the end, over which the learning rates fall to nothing.
        levels: the environment's options that say how hard its tasks are.
        options: the environment's other options.
        player: who plays the episodes.
        turn_tokens: the longest answer in a measurement.
        muon_rate: learning rate of the layers' matrices; `learning_rate` is that of everything
            else.
        vocabulary, hidden, layers: of a model that starts anew; heads have 32 dimensions.
    """

    summary: str
    start: str | None
    shares: dict[Form, float]
    random_share: float
    steps: int
    decay: float
    levels: dict[str, Any]
    options: dict[str, Any] = field(
        default_factory=lambda: {"prompt": "brief", "stop_when_stuck": True}
    )
    env: str = "agentopd/Sokoban-v0"
    player: Literal["sokoban", "hanoi", "number", "desk"] = "sokoban"
    turn_tokens: int = 16
    learning_rate: float = 2e-3
    muon_rate: float = 0.02
    rows: int = 24
    length: int = 512
    seed: int = 0
    vocabulary: int = 768
    hidden: int = 128
    layers: int = 4


PLAYERS: dict[str, type[Player]] = {
    "hanoi": HanoiPlayer,
    "number": NumberPlayer,
    "desk": DeskPlayer,
}


_EASY = {"min_moves": 3, "max_moves": 8, "max_turns": 10}
_CLIFF = {"min_moves": 6, "max_moves": 12, "max_turns": 14}
_ALL: dict[Form, float] = {
    "none": 0.25,
    "skill": 0.3,
    "solution": 0.15,
    "feedback": 0.15,
    "reflection": 0.15,
}
_THREE = {"disks": 3, "min_moves": 3, "max_moves": 6, "max_turns": 8}
_READ: dict[Form, float] = {"none": 0.25, "skill": 0.5, "solution": 0.25}
_DESK: dict[Form, float] = {"none": 0.25, "skill": 0.65, "solution": 0.1}

RECIPES: dict[str, Recipe] = {
    "sokoban-base": Recipe(
        "what the others start from; not shipped, built again when one of them is",
        start=None,
        shares=_ALL,
        random_share=0.75,
        steps=1_200,
        decay=0.0,
        levels=_EASY,
    ),
    "sokoban-easy": Recipe(
        "poor alone, about one level in ten; good with privileged text",
        start="sokoban-base",
        shares=_ALL,
        random_share=0.82,
        steps=400,
        decay=0.8,
        levels=_EASY,
        seed=1,
    ),
    "sokoban-cliff": Recipe(
        "hopeless alone, at most one level in fifty; good with privileged text",
        start="sokoban-base",
        shares=_ALL,
        random_share=0.97,
        steps=400,
        decay=0.8,
        levels=_CLIFF,
        seed=2,
    ),
    "sokoban-expert": Recipe(
        "plays well without being told anything: the capability teacher",
        start="sokoban-base",
        shares={"none": 1.0},
        random_share=0.0,
        steps=600,
        decay=0.8,
        levels=_EASY,
        seed=3,
    ),
    "hanoi-base": Recipe(
        "what Hanoi's student starts from; not shipped, built again when it is",
        start=None,
        shares=_READ,
        random_share=0.9,
        steps=400,
        decay=0.5,
        levels=_THREE,
        options={"prompt": "brief"},
        env="agentopd/Hanoi-v0",
        player="hanoi",
        rows=12,
        length=400,
        vocabulary=448,
        hidden=96,
        layers=3,
    ),
    "hanoi-easy": Recipe(
        "Hanoi with three disks: poor alone, about one task in ten; good with privileged text",
        start="hanoi-base",
        shares=_READ,
        random_share=0.9,
        steps=500,
        decay=0.8,
        levels=_THREE,
        options={"prompt": "brief"},
        env="agentopd/Hanoi-v0",
        player="hanoi",
        rows=16,
        length=300,
        seed=1,
    ),
    "number-easy": Recipe(
        "guesses a number: poor alone, about one game in ten; good with privileged text",
        start=None,
        shares={"none": 0.3, "skill": 0.45, "solution": 0.25},
        random_share=0.95,
        steps=600,
        decay=0.5,
        levels={"max_number": 50, "max_turns": 6},
        options={"prompt": "brief", "split": "train"},
        env="textarena:GuessTheNumber-v0-hardcore",
        player="number",
        rows=12,
        length=256,
        vocabulary=512,
        hidden=96,
        layers=3,
    ),
    "desk-base": Recipe(
        "what the desk's student starts from; not shipped, built again when it is",
        start=None,
        shares=_DESK,
        random_share=0.8,
        steps=300,
        decay=0.0,
        levels={"difficulty": 1, "max_turns": 6},
        options={"prompt": "brief", "logins": "open"},
        env="agentopd/Desk-v0",
        player="desk",
        turn_tokens=64,
        rows=12,
        vocabulary=1_280,
    ),
    "desk-easy": Recipe(
        "easy tasks at a desk, one call a turn; not shipped, and not measured yet",
        start="desk-base",
        shares=_DESK,
        random_share=0.8,
        steps=250,
        decay=0.8,
        levels={"difficulty": 1, "max_turns": 6},
        options={"prompt": "brief", "logins": "open"},
        env="agentopd/Desk-v0",
        player="desk",
        turn_tokens=64,
        rows=12,
        seed=1,
    ),
}


def find_recipe(name: str) -> Recipe:
    """The recipe of the model called `name`.

    Raises:
        ValueError: no recipe has that name.
    """
    if name not in RECIPES:
        raise ValueError(f"no embedded model is called {name!r}; {closest(name, RECIPES)}")
    return RECIPES[name]
