"""Stores of demonstrations made: played in pieces that are whole or not there, and resumed."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from agentopd.base.files import (
    UNFINISHED,
    held_alone,
    make_folder,
    naming,
    read_json,
    write_whole,
)
from agentopd.base.stopping import Interrupted, interruptible
from agentopd.base.types import Owner, Trajectory
from agentopd.models.model import load_model
from agentopd.rollout.failures import refuse_failures
from agentopd.rollout.kept import Shelf
from agentopd.running.collecting.playing import Players
from agentopd.running.collecting.settings import CollectSettings
from agentopd.running.collecting.text import read_traces
from agentopd.running.config import ConfigError, RunConfig, thread_count
from agentopd.running.folder import check_environments
from agentopd.stored.trajectories import save_trajectories, trajectory_files

RECORD = "collection.json"
"""The file that tells how a store was made and how far it is."""
_PIECE = "episodes-{:05d}.parquet"
_EARLIER = "earlier-"
"""How the files begin that are another store's; by their names too they are the first."""
_DESCRIBING = {"seed", "student", "env", "rollout", "privilege", "view", "teacher"}
"""What of a run's configuration decides what is collected."""
_LINES = 256
"""Episodes of a file of text that are written at once."""
Watch = Callable[[dict[str, Any]], None]


@dataclass
class Collection:
    """How far a store is: counts over all that was played or read, and over what is kept.

    Of the store that it began with, `earlier` counts the records, and `before` the pieces in which
    they were played, or would have been: what is played begins behind them.
    """

    earlier: int = 0
    before: int = 0
    pieces: int = 0
    played: int = 0
    kept: int = 0
    solved: int = 0
    tokens: int = 0
    student_tokens: int = 0
    teacher_tokens: int = 0
    seconds: float = 0.0
    done: bool = False
    settings: dict[str, Any] = field(default_factory=dict)

    def add(self, piece: Piece, seconds: float) -> None:
        """Count one more piece; `tokens` are those that are kept to learn from."""
        self.pieces += 1
        self.played += len(piece.played)
        self.kept += len(piece.kept)
        self.solved += sum(t.success for t in piece.played)
        self.tokens += sum(int(t.trainable.sum()) for t in piece.kept)
        self.student_tokens += sum(t.student_tokens for t in piece.played)
        self.teacher_tokens += sum(t.acted_tokens for t in piece.played) + piece.asked
        self.seconds += seconds


@dataclass(frozen=True)
class Piece:
    """What is written at once.

    Attributes:
        kept: what is learnt from: of the episodes played, those that are kept, or their labels.
        asked: tokens that the teacher has written as labels alone.
    """

    played: Sequence[Trajectory]
    kept: Sequence[Trajectory]
    asked: int = 0


def collect(
    config: RunConfig,
    settings: CollectSettings,
    out: Path,
    watch: Watch | None = None,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Make a store of demonstrations, or go on with one that was interrupted.

    Args:
        out: the folder: `episodes-00000.parquet`, ... as trajectories are saved, those of an
            earlier store as `earlier-00000.parquet`, ..., and `collection.json`.
        watch: called with the counts after each piece.
        stop: asks to stop after the piece under way, as Ctrl-C does.

    Returns:
        What is written to `collection.json`.

    Raises:
        ConfigError: the folder holds something else, or was begun with other settings.
        ValueError: nobody can play as asked, a line of text is none, nothing is kept, or another
            process is at work in the folder.
        EveryEpisodeFailed: no episode of a piece could be played.
        Interrupted: Ctrl-C or SIGTERM came, or `stop` was set; what was played is saved.
    """
    torch.set_num_threads(thread_count(config.threads))
    if (ended := _begun(config, settings, out)).done:
        return asdict(ended)
    check_environments(config)
    make_folder(out)
    with held_alone(out), interruptible(stop) as asked, closing(Shelf()) as shelf:
        state = _begun(config, settings, out)  # as it is now that nobody else writes there
        if settings.onto is not None and not (out / RECORD).is_file():
            _begin_with(Path(settings.onto), state, out)
        pieces = _pieces(config, settings, state, shelf)
        while True:
            if asked.is_set():
                raise Interrupted(state.pieces)
            began = time.perf_counter()
            if (piece := next(pieces, None)) is None:
                break
            save_trajectories(piece.kept, out / _PIECE.format(state.pieces))
            state.add(piece, time.perf_counter() - began)
            _write(state, out)
            if watch:
                watch(asdict(state))
        if not state.kept:
            raise ValueError(
                f"of {state.played} episodes {settings.by} played none is kept ({state.solved} "
                "were solved): keep others, or let somebody else play"
            )
        state.done = True
        _write(state, out)
    return asdict(state)


def _pieces(
    config: RunConfig, settings: CollectSettings, state: Collection, shelf: Shelf
) -> Iterator[Piece]:
    """What is left to be played or read, piece by piece."""

    def kept(played: Sequence[Trajectory]) -> list[Trajectory]:
        return [t for t in played if not t.error and settings.keep.keeps(t)]

    if settings.text is not None:
        traces = read_traces(settings.text, load_model(config.student), config.env.id)
        whole = [*traces]  # a line that is no episode is told before anything is written
        for first in range(state.pieces * _LINES, len(whole), _LINES):
            read = whole[first : first + _LINES]
            yield Piece(read, kept(read))
        return
    players, most = Players.of(config, settings), config.rollout.episodes
    players.config.rollout.reuse(shelf)
    for first in range(state.pieces * most, settings.episodes, most):
        count = min(most, settings.episodes - first)
        played = players.play(state.before * most + first, count)
        refuse_failures(played, "collected")
        yield _labelled(players, played, kept(played))


def _labelled(players: Players, played: list[Trajectory], kept: list[Trajectory]) -> Piece:
    """What is kept of what was played: itself, or its labels."""
    if players.expert is None:
        return Piece(played, kept)
    labels = players.expert.label(kept)
    asked = _teachers(labels) - _teachers(kept) if players.expert.owner is Owner.TEACHER else 0
    return Piece(played, labels, asked)


def _teachers(trajectories: Sequence[Trajectory]) -> int:
    """How many tokens the teacher has written alone."""
    return sum(int((t.owner == Owner.TEACHER).sum()) for t in trajectories)


def _begin_with(store: Path, state: Collection, out: Path) -> None:
    """Copy what another store holds, and go on behind it.

    Raises:
        ValueError: there is no such store, or it is not finished.
    """
    record = store / RECORD
    if not record.is_file() or not (known := Collection(**read_json(record))).done:
        raise ValueError(
            f"{store} is no finished store to go on from: name a folder that agentopd collect has "
            "written to its end"
        )
    for number, path in enumerate(trajectory_files(store)):
        with naming(out):
            shutil.copyfile(path, out / f"{_EARLIER}{number:05d}.parquet")
    state.earlier, state.before = known.earlier + known.kept, known.before + known.pieces
    _write(state, out)


def _begun(config: RunConfig, settings: CollectSettings, out: Path) -> Collection:
    """How far the store in a folder is; at its very beginning where the folder is empty."""
    described = {
        "collect": settings.model_dump(mode="json"),
        **config.model_dump(mode="json", include=_DESCRIBING),
    }
    path = out / RECORD
    if path.is_file():
        state = Collection(**read_json(path))
        known = _as_now(state.settings, config)
        if known != described:
            changed = [key for key in described if known.get(key) != described[key]]
            raise ConfigError(
                f"the store in {out} was begun with other settings of {', '.join(changed)}: go on "
                "with its own, or choose another --out"
            )
        return state
    if out.exists() and not _left_over(out):
        raise ConfigError(f"{out} holds something already; choose another --out")
    return Collection(settings=described)


def _as_now(known: dict[str, Any], config: RunConfig) -> dict[str, Any]:
    """Settings that a store was begun with, with what has been added to settings since."""
    own = {key: value for key, value in known.items() if key in _DESCRIBING}
    read = RunConfig.model_validate({**config.model_dump(mode="json"), **own})
    return {
        "collect": CollectSettings.model_validate(known["collect"]).model_dump(mode="json"),
        **read.model_dump(mode="json", include=_DESCRIBING),
    }


def _left_over(out: Path) -> bool:
    """Whether a folder holds no more than a first piece whose record was not written."""
    names = {p.name.removesuffix(UNFINISHED) for p in out.iterdir()} if out.is_dir() else {""}
    own = {name for name in names if not name.startswith(_EARLIER)}
    return own <= {_PIECE.format(0), RECORD}


def _write(state: Collection, out: Path) -> None:
    write_whole(out / RECORD, json.dumps(asdict(state), indent=2) + "\n")
