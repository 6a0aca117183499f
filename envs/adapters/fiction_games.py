"""Games of TextWorld, made from a seed: what can be set, how they are compiled and kept.

To make one takes seconds (Inform compiles it, for some kinds twice), to load a compiled one
milliseconds. So the last ones stay in the process's memory, and in a folder where one is given.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from agentopd.environment.checks.subject import Caught
from agentopd.envs.adapters import library
from agentopd.envs.adapters.isolation import Isolation
from agentopd.envs.puzzle import SPLITS, Split, check_choice, check_number

KINDS: Mapping[str, Mapping[str, Any]] = {
    "simple": {"rewards": "dense", "test": False},
    "coin_collector": {"level": 5},
    "treasure_hunter": {"level": 5},
    "cooking": {
        "recipe": 1, "take": 1, "go": 1, "open": True, "cook": True, "cut": True, "drop": False,
    },
    "custom": {"rooms": 5, "objects": 10, "quest_length": 5},
}  # fmt: skip
"""Kind -> its settings with their defaults; TextWorld's own names but for `custom`'s."""

_NUMBERS = {
    "recipe": (1, 5), "take": (0, 5), "rooms": (1, 100), "objects": (1, 100),
    "quest_length": (1, 100),
}  # fmt: skip
_LEVELS = {"coin_collector": 300, "treasure_hunter": 30}
_KEPT = 64
"""Compiled games in memory, of half a megabyte each."""
_FOODS = dict(zip(SPLITS, ("train", "valid", "test"), strict=True))
"""The foods and recipes of cooking's own splits."""


@dataclass(frozen=True)
class Story:
    """A compiled game: the program that is played and the world that is followed beside it."""

    program: bytes
    world: bytes

    def write(self, folder: Path, name: str) -> Path:
        """Write both files, each in one go, so that nobody who reads meanwhile finds a half."""
        for ending, content in (("json", self.world), ("z8", self.program)):
            handle, rough = tempfile.mkstemp(dir=folder)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(rough, folder / f"{name}.{ending}")
        return folder / f"{name}.z8"


def check_settings(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a kind of game, with its defaults.

    Raises:
        ValueError: there is no such kind, setting or value.
    """
    check_choice("the game", kind, tuple(KINDS))
    known = KINDS[kind]
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"{kind} has no setting {unknown[0]!r}; it takes: {', '.join(known)}")
    settings = {**known, **given}
    for name, value in settings.items():
        if name == "level":
            check_number(name, value, 1, _LEVELS[kind])
        elif name in _NUMBERS:
            check_number(name, value, *_NUMBERS[name])
        elif name == "go":
            check_choice(name, value, (1, 6, 9, 12))
        elif name == "rewards":
            check_choice(name, value, ("dense", "balanced", "sparse"))
        else:
            check_choice(name, value, (True, False))
    if settings.get("take", 0) > settings.get("recipe", 0):
        raise ValueError(
            f"{settings['take']} ingredients cannot be fetched for a recipe of "
            f"{settings['recipe']}: lower take or raise recipe"
        )
    return settings


def load() -> Any:
    """TextWorld, which draws from NumPy's global state as it is imported.

    Raises:
        ValueError: TextWorld is not installed.
    """
    with alone(0):
        library("textworld.challenges", "fiction")
        return library("textworld", "fiction")


@contextlib.contextmanager
def alone(seed: int) -> Iterator[None]:
    """Where code of TextWorld runs: isolated, without the warnings of what it imports."""
    with Isolation(seed, numpy=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@lru_cache(maxsize=_KEPT)
def story(
    kind: str, settings: tuple[tuple[str, Any], ...], seed: int, cache: str | None
) -> Story | None:
    """The game of a seed; None where TextWorld finds no quest for it.

    Args:
        kind: of `KINDS`.
        settings: TextWorld's, as pairs.
        seed: of the game.
        cache: a folder where compiled games are looked for and left, in one of TextWorld's version.

    Raises:
        ValueError: TextWorld is not installed, or cannot make a game of these settings.
    """
    textworld = load()
    if cache is None:
        return _made(textworld, kind, dict(settings), seed)
    folder = Path(cache) / f"textworld-{textworld.__version__}"
    folder.mkdir(parents=True, exist_ok=True)
    name = "-".join([kind, *(f"{key}={value}" for key, value in settings), str(seed)])
    program, world = folder / f"{name}.z8", folder / f"{name}.json"
    # The program is written last: where it is, the world is.
    if program.exists():
        return Story(program.read_bytes(), world.read_bytes())
    made = _made(textworld, kind, dict(settings), seed)
    if made is not None:
        made.write(folder, name)
    return made


def _made(textworld: Any, kind: str, settings: dict[str, Any], seed: int) -> Story | None:
    options = textworld.GameOptions()
    options.seeds = seed
    generate = _generator(textworld, kind, settings)
    own, caught, game = textworld.g_rng, Caught(), None
    with alone(seed):
        # Some texts are drawn from a generator of TextWorld's that the process shares.
        before = own.seed
        own.set_seed(seed)
        with caught:
            game = generate(options)
        own.set_seed(before)
    if caught.error is None:
        with tempfile.TemporaryDirectory() as folder, caught:
            options.path = os.path.join(folder, "game.z8")
            program = Path(textworld.generator.compile_game(game, options))
            return Story(program.read_bytes(), program.with_suffix(".json").read_bytes())
    if isinstance(caught.error, textworld.generator.QuestGenerationError):
        return None
    said = next(filter(None, str(caught.error).splitlines()), "")
    raise ValueError(
        f"TextWorld makes no {kind} of {settings}: {type(caught.error).__name__}: {said}"
    )


def _generator(textworld: Any, kind: str, settings: dict[str, Any]) -> Callable[[Any], Any]:
    """What makes a game of TextWorld's options."""
    if kind == "custom":
        return partial(_custom, textworld, settings)
    _, make, _ = textworld.challenges.CHALLENGES[f"tw-{kind}"]
    return partial(make, settings)


def _custom(textworld: Any, settings: dict[str, Any], options: Any) -> Any:
    options.nb_rooms, options.nb_objects = settings["rooms"], settings["objects"]
    options.quest_length = settings["quest_length"]
    return textworld.generator.make_game(options)


def own_settings(kind: str, settings: Mapping[str, Any], split: Split, goal: str) -> dict[str, Any]:
    """What TextWorld is told: the settings, and what follows from the split and the goal."""
    told = dict(settings)
    if kind == "simple":
        told["goal"] = goal
    if kind == "cooking":
        told |= {"split": _FOODS[split], "recipe_seed": 0}
    return told
