"""Stores of demonstrations made: played in pieces that are whole or not there, and resumed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from agentopd.base.files import UNFINISHED, make_folder, read_json, write_whole
from agentopd.base.stopping import Interrupted, interruptible
from agentopd.base.types import Trajectory
from agentopd.models.model import load_model
from agentopd.rollout.failures import refuse_failures
from agentopd.rollout.kept import Shelf
from agentopd.running.collecting.playing import Players
from agentopd.running.collecting.settings import CollectSettings
from agentopd.running.collecting.text import read_traces
from agentopd.running.config import ConfigError, RunConfig, thread_count
from agentopd.running.folder import check_environments
from agentopd.stored.trajectories import save_trajectories

RECORD = "collection.json"
"""The file that tells how a store was made and how far it is."""
_PIECE = "episodes-{:05d}.parquet"
_LINES = 256
"""Episodes of a file of text that are written at once."""
Watch = Callable[[dict[str, Any]], None]


@dataclass
class Collection:
    """How far a store is: counts over all that was played or read, and over what is kept."""

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

    def add(self, played: Sequence[Trajectory], kept: Sequence[Trajectory], seconds: float) -> None:
        """Count one more piece; `tokens` are those that are kept to learn from."""
        self.pieces += 1
        self.played += len(played)
        self.kept += len(kept)
        self.solved += sum(t.success for t in played)
        self.tokens += sum(int(t.trainable.sum()) for t in kept)
        self.student_tokens += sum(t.student_tokens for t in played)
        self.teacher_tokens += sum(t.acted_tokens for t in played)
        self.seconds += seconds


def collect(
    config: RunConfig,
    settings: CollectSettings,
    out: Path,
    watch: Watch | None = None,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Make a store of demonstrations, or go on with one that was interrupted.

    Args:
        out: the folder: `episodes-00000.parquet`, ... as trajectories are saved, and
            `collection.json`.
        watch: called with the counts after each piece.
        stop: asks to stop after the piece under way, as Ctrl-C does.

    Returns:
        What is written to `collection.json`.

    Raises:
        ConfigError: the folder holds something else, or was begun with other settings.
        ValueError: nobody can play as asked, a line of text is none, or nothing is kept.
        EveryEpisodeFailed: no episode of a piece could be played.
        Interrupted: Ctrl-C or SIGTERM came, or `stop` was set; what was played is saved.
    """
    torch.set_num_threads(thread_count(config.threads))
    state = _begun(config, settings, out)
    if state.done:
        return asdict(state)
    check_environments(config)
    make_folder(out)
    pieces = _pieces(config, settings, state)
    with interruptible(stop) as asked, closing(pieces):
        while True:
            if asked.is_set():
                raise Interrupted(state.pieces)
            began = time.perf_counter()
            if (played := next(pieces, None)) is None:
                break
            kept = [t for t in played if not t.error and settings.keep.keeps(t)]
            save_trajectories(kept, out / _PIECE.format(state.pieces))
            state.add(played, kept, time.perf_counter() - began)
            _write(state, out)
            if watch:
                watch(asdict(state))
    if not state.kept:
        raise ValueError(
            f"of {state.played} episodes {settings.by} played none is kept ({state.solved} were "
            "solved): keep others, or let somebody else play"
        )
    state.done = True
    _write(state, out)
    return asdict(state)


def _pieces(
    config: RunConfig, settings: CollectSettings, state: Collection
) -> Generator[list[Trajectory], None, None]:
    """What is left to be played or read, piece by piece."""
    if settings.text is not None:
        traces = read_traces(settings.text, load_model(config.student), config.env.id)
        whole = [*traces]  # a line that is no episode is told before anything is written
        for first in range(state.pieces * _LINES, len(whole), _LINES):
            yield whole[first : first + _LINES]
        return
    players, most = Players.of(config, settings), config.rollout.episodes
    with closing(Shelf()) as shelf:
        players.config.rollout.reuse(shelf)
        for first in range(state.pieces * most, settings.episodes, most):
            played = players.play(first, min(most, settings.episodes - first))
            refuse_failures(played, "collected")
            yield played


def _begun(config: RunConfig, settings: CollectSettings, out: Path) -> Collection:
    """How far the store in a folder is; at its very beginning where the folder is empty."""
    described = {
        "collect": settings.model_dump(mode="json"),
        **config.model_dump(
            mode="json",
            include={"seed", "student", "env", "rollout", "privilege", "view", "teacher"},
        ),
    }
    path = out / RECORD
    if path.is_file():
        state = Collection(**read_json(path))
        if state.settings != described:
            changed = [key for key in described if state.settings.get(key) != described[key]]
            raise ConfigError(
                f"the store in {out} was begun with other settings of {', '.join(changed)}: go on "
                "with its own, or choose another --out"
            )
        return state
    if out.exists() and not _left_over(out):
        raise ConfigError(f"{out} holds something already; choose another --out")
    return Collection(settings=described)


def _left_over(out: Path) -> bool:
    """Whether a folder holds no more than a first piece whose record was not written."""
    names = {p.name.removesuffix(UNFINISHED) for p in out.iterdir()} if out.is_dir() else {""}
    return names <= {_PIECE.format(0), RECORD}


def _write(state: Collection, out: Path) -> None:
    write_whole(out / RECORD, json.dumps(asdict(state), indent=2) + "\n")
