"""TextArena's games by name: found, built, and run where their code does no harm."""

from __future__ import annotations

import contextlib
import difflib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from agentopd.base.objects import load_object
from agentopd.environment.checks.subject import Caught
from agentopd.envs.adapters import library
from agentopd.envs.adapters.isolation import Isolation

_ONLINE = ("GuessWho", "TwentyQuestions")
"""Games that ask a language model over the network."""
_VERSIONS = ("-raw", "-train")
_STATES = {1: "SinglePlayerState", 2: "TwoPlayerState"}
"""What a game for so many makes in its reset."""


def game_names() -> list[str]:
    """What TextArena registers, without its own wrappings.

    Raises:
        ValueError: TextArena is not installed.
    """
    games = library("textarena.envs.registration", "textarena").ENV_REGISTRY
    return [name for name in games if not name.endswith(_VERSIONS)]


def find_game(
    name: str, options: Mapping[str, Any], players: Literal[1, 2] = 1
) -> tuple[type[Any], dict[str, Any]]:
    """The class of a game for so many players, and the options it is built with.

    Raises:
        ValueError: there is no such game or option, or it cannot be played here; with the reason.
    """
    games = library("textarena.envs.registration", "textarena").ENV_REGISTRY
    for ending in _VERSIONS:
        if name.endswith(ending) and (plain := name.removesuffix(ending)) in games:
            raise ValueError(f"{name} is TextArena's own wrapping: write textarena:{plain}")
    if name not in games:
        close = difflib.get_close_matches(name, game_names(), n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}?" if close else "docs/textarena.md lists those that run"
        raise ValueError(f"TextArena has no game {name!r}; {hint}")
    if name.partition("-v")[0] in _ONLINE:
        raise ValueError(f"{name} cannot be played here: it asks a language model over the network")
    with foreign(Isolation(0)) as caught:
        found = load_object(games[name].entry_point)
    if caught.error:
        raise ValueError(f"{name} cannot be played here: {reason(caught.error)}")
    _check_players(name, found, players)
    known = [key for key in inspect.signature(found).parameters if key != "max_turns"]
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"{name} has no option {unknown[0]!r}; it takes: {', '.join(known)}")
    return found, {**games[name].kwargs, **options}


def _check_players(name: str, found: type[Any], players: int) -> None:
    """Every game for one player, and nearly every one for two, makes its state in reset()."""
    made = {n for n, state in _STATES.items() if state in found.reset.__code__.co_names}
    if players in made:
        return
    if made == {1}:
        raise ValueError(f"{name} is a game for one player: leave opponent and seat out")
    if made == {2}:
        raise ValueError(
            f"{name} is no game for one player, but for two: name who plays against the student, "
            f"as in textarena:{name}?opponent=random"
        )
    raise ValueError(f"{name} is no game for one player, nor for two")


@contextlib.contextmanager
def foreign(isolation: Isolation) -> Iterator[Caught]:
    """Where code of TextArena runs: isolated, without downloads; what it raises is kept."""
    corpora, caught = library("nltk", "textarena"), Caught()
    download = corpora.download
    with isolation:
        # Some games fetch word lists when they are imported.
        corpora.download = lambda *_, **__: False
        try:
            with caught:
                yield caught
        finally:
            corpora.download = download


def reason(error: BaseException | None) -> str:
    """What was raised, in a line, without this machine's folders."""
    if isinstance(error, OSError) and error.filename:
        return f"{type(error).__name__}: {error.strerror}: {Path(str(error.filename)).name}"
    lines = [line.strip(" *") for line in str(error).splitlines()]
    said = next(filter(None, lines), "")
    return f"{type(error).__name__}: {said}"
