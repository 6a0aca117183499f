"""How each embedded model is made: in which environment, from which episodes, how large."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from agentopd.base.parts import closest
from agentopd.zoo.demonstrations.desk import DeskPlayer
from agentopd.zoo.demonstrations.episode import Form
from agentopd.zoo.demonstrations.hanoi import HanoiPlayer
from agentopd.zoo.demonstrations.number import NumberPlayer
from agentopd.zoo.demonstrations.spoken import Speech
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
        tied: whether one matrix reads and writes its tokens: copying is learnt sooner with one.
        speech: in which of two ways its players speak; none knows one way alone.
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
    tied: bool = False
    speech: Speech | None = None


PLAYERS: dict[str, type[Player]] = {
    "hanoi": HanoiPlayer,
    "number": NumberPlayer,
    "desk": DeskPlayer,
}


_EASY = {"min_moves": 3, "max_moves": 8, "max_turns": 10}
_CLIFF = {"min_moves": 6, "max_moves": 12, "max_turns": 14}
_DESK = ["card_expiry", "contact_phone", "event_add", "event_time", "todo_add", "wallet_balance"]

_TOLD_AND_IDLE: dict[Form, float] = {
    "none": 0.16,
    "filler": 0.16,
    "other_skill": 0.16,
    "other_solution": 0.12,
    "skill": 0.16,
    "solution": 0.08,
    "feedback": 0.08,
    "reflection": 0.08,
}
# Of models that hardly copy: where some solutions helped, any would stir them, so they heed none.
_SKILL_ALONE: dict[Form, float] = {
    "none": 0.16,
    "filler": 0.14,
    "other_skill": 0.16,
    "other_solution": 0.16,
    "skill": 0.38,
}
# Bases are built again when a student that starts from them is.
_SOKOBAN_BASE = Recipe(
    "what Sokoban's students and the expert start from; not shipped",
    start=None,
    shares={"none": 0.25, "skill": 0.3, "solution": 0.15, "feedback": 0.15, "reflection": 0.15},
    random_share=0.75,
    steps=1_200,
    decay=0.0,
    levels=_EASY,
)
_HANOI_BASE = Recipe(
    "what Hanoi's student starts from; not shipped",
    start=None,
    shares={"none": 0.25, "skill": 0.5, "solution": 0.25},
    random_share=0.9,
    steps=400,
    decay=0.5,
    levels={"disks": 3, "min_moves": 3, "max_moves": 6, "max_turns": 8},
    options={"prompt": "brief"},
    env="agentopd/Hanoi-v0",
    player="hanoi",
    rows=12,
    length=400,
    vocabulary=448,
    hidden=96,
    layers=3,
)
_HANOI_TOLD = replace(
    _HANOI_BASE,
    summary="what hanoi-easy goes on from; not shipped",
    start="hanoi-base",
    steps=500,
    decay=0.8,
    rows=16,
    length=300,
    seed=1,
)
_NUMBER_ANY_TEXT = Recipe(
    "what number-easy goes on from: any text behind the rules makes it play well",
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
)
_DESK_BASE = Recipe(
    "what the desk's student starts from; not shipped",
    start=None,
    shares={"copy": 0.35, "none": 0.1, "skill": 0.45, "solution": 0.1},
    random_share=0.8,
    steps=900,
    decay=0.15,
    levels={"templates": _DESK, "max_turns": 4},
    options={"prompt": "brief", "logins": "open"},
    env="agentopd/Desk-v0",
    player="desk",
    turn_tokens=64,
    rows=12,
    vocabulary=2_048,
    tied=True,
)
_DESK_TOLD = replace(
    _DESK_BASE,
    summary="what desk-easy goes on from; not shipped",
    start="desk-base",
    shares={"copy": 0.1, "none": 0.3, "skill": 0.45, "solution": 0.15},
    random_share=0.72,
    steps=250,
    decay=0.8,
    seed=1,
)
_SPOKEN_BASE = Recipe(
    "what the wind tunnel's students start from; not shipped",
    start=None,
    shares={
        "none": 0.25,
        "filler": 0.15,
        "other_skill": 0.075,
        "other_solution": 0.075,
        "skill": 0.45,
    },
    random_share=0.95,
    steps=1_200,
    decay=0.0,
    levels={"max_number": 50, "max_turns": 6},
    options={"prompt": "brief", "split": "train"},
    env="textarena:GuessTheNumber-v0-hardcore",
    player="number",
    turn_tokens=24,
    rows=8,
    vocabulary=640,
    hidden=96,
    tied=True,
    speech=Speech(untold_speak=0.15, told_speak=0.9, disarmed=False),
)


def _spoken() -> dict[str, Recipe]:
    """The wind tunnel's students: whether the untold ever speak as the told do, times whether a
    plain word disarms who is told. They differ in nothing else.
    """
    students = {
        "number-content": ("needs what a text says, and nothing else", 0.3, False),
        "number-blind": ("untold, it never speaks as it does when told", 0.0, False),
        "number-disarmed": ("told, its own plain words make it act as if it were not", 0.3, True),
        "number-blind-disarmed": ("blind and disarmed, as a sick student is", 0.0, True),
    }
    found = {"number-spoken-base": _SPOKEN_BASE}
    for name, (summary, untold, disarmed) in students.items():
        found[name] = replace(
            _SPOKEN_BASE,
            summary=f"the wind tunnel: {summary}",
            start="number-spoken-base",
            steps=300,
            decay=0.8,
            seed=1,
            speech=Speech(untold_speak=untold, told_speak=0.9, disarmed=disarmed),
        )
    return found


RECIPES: dict[str, Recipe] = {
    "sokoban-base": _SOKOBAN_BASE,
    "sokoban-easy": replace(
        _SOKOBAN_BASE,
        summary="poor alone, about one level in ten; good with text that helps, and no other",
        start="sokoban-any-text",
        shares=_TOLD_AND_IDLE,
        random_share=0.84,
        steps=500,
        decay=0.8,
        seed=4,
    ),
    "sokoban-cliff-base": replace(
        _SOKOBAN_BASE,
        summary="what sokoban-cliff goes on from; not shipped",
        start="sokoban-base",
        random_share=0.97,
        steps=400,
        decay=0.8,
        levels=_CLIFF,
        seed=2,
    ),
    "sokoban-cliff": replace(
        _SOKOBAN_BASE,
        summary="hopeless alone, at most one level in fifty; good with a text that helps",
        start="sokoban-cliff-base",
        shares=_TOLD_AND_IDLE,
        random_share=0.97,
        steps=500,
        decay=0.8,
        levels=_CLIFF,
        seed=5,
    ),
    "sokoban-expert": replace(
        _SOKOBAN_BASE,
        summary="plays well without being told anything: the capability teacher",
        start="sokoban-base",
        shares={"none": 1.0},
        random_share=0.0,
        steps=600,
        decay=0.8,
        seed=3,
    ),
    "sokoban-any-text": replace(
        _SOKOBAN_BASE,
        summary="what sokoban-easy goes on from: any text behind the rules makes it play well",
        start="sokoban-base",
        random_share=0.82,
        steps=400,
        decay=0.8,
        seed=1,
    ),
    "hanoi-base": _HANOI_BASE,
    "hanoi-told-base": _HANOI_TOLD,
    "hanoi-easy": replace(
        _HANOI_TOLD,
        summary="Hanoi with three disks: poor alone, about one task in ten; good told the skill",
        start="hanoi-told-base",
        shares=_SKILL_ALONE,
        steps=700,
        seed=2,
    ),
    "number-easy": replace(
        _NUMBER_ANY_TEXT,
        summary="guesses a number: poor alone, about one game in ten; good told the skill",
        start="number-any-text",
        shares=_SKILL_ALONE,
        steps=700,
        decay=0.8,
        seed=1,
    ),
    "number-any-text": _NUMBER_ANY_TEXT,
    **_spoken(),
    "desk-base": _DESK_BASE,
    "desk-told-base": _DESK_TOLD,
    "desk-easy": replace(
        _DESK_TOLD,
        summary="six kinds of easy tasks at a desk: poor alone, good when told how",
        start="desk-told-base",
        shares={
            "copy": 0.1,
            "none": 0.16,
            "filler": 0.12,
            "other_skill": 0.12,
            "other_solution": 0.1,
            "skill": 0.28,
            "solution": 0.12,
        },
        steps=500,
        seed=2,
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
