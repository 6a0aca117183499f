"""Hostile configurations and model folders: one line, bounded time and memory, no code run."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from command_line import SOKOBAN
from hard import hostile_files, small
from hard.forked import Ended, command
from hard.row import Row
from hard.trials import crew, scratch

SECONDS, MEGABYTES = 20.0, 500
"""Of processor time and beyond the interpreter; a command that wants more memory is refused it."""
ROOM = 4_000


@dataclass(frozen=True)
class Tried:
    """What was tried, how it ended, and whether code was run."""

    what: str
    ended: Ended
    ran: bool
    may_be_fine: bool = False

    @property
    def told(self) -> bool:
        """Whether a person reads one line; a value that is none of the bad ones may do."""
        if self.ended.traceback:
            return False
        if self.ended.code == 0:
            return self.may_be_fine
        return self.ended.code == 2 and len(self.ended.errors) == 1

    def __str__(self) -> str:
        said = (self.ended.errors or ["nothing said"])[-1]
        return f"{self.what}: code {self.ended.code}, {said[:150]}"


def attacks(every: int = 1) -> list[Row]:
    """Configurations, numbers (all, or one in so many), then models."""
    with TemporaryDirectory() as name, crew() as pool:
        folder = Path(name)
        model = small.make_model(folder / "model")
        return [
            *_rows("configurations", configurations(pool, folder)),
            *_rows("numbers out of range", numbers(pool, every)),
            *_rows("model folders", models(pool, model)),
        ]


def configurations(pool: ProcessPoolExecutor, folder: Path) -> list[Tried]:
    """Each file, given to `train`; then what is no file."""
    paths: dict[str, Path] = {"a folder": folder, "an endless file": Path("/dev/zero")}
    (folder / "loop.yaml").symlink_to("loop.yaml")
    paths["a loop of links"] = folder / "loop.yaml"
    for number, (what, data) in enumerate(hostile_files.configurations(folder / "marker").items()):
        paths[what] = folder / f"{number}.yaml"
        paths[what].write_bytes(data)
    waiting = [
        pool.submit(_configured, what, path, folder / "marker") for what, path in paths.items()
    ]
    return [each.result() for each in waiting]


def _configured(what: str, path: Path, marker: Path) -> Tried:
    out = scratch()
    words = ("train", path, "student.path=/no/model", "--out", out)
    ended = command(*words, folder=out.parent, megabytes=ROOM)
    return Tried(what, ended, marker.exists())


def numbers(pool: ProcessPoolExecutor, every: int = 1) -> list[Tried]:
    """Each number under each key; what can be read ends by the model that is missing."""
    pairs = [(key, value) for key in hostile_files.KEYS for value in hostile_files.NUMBERS]
    return list(pool.map(_numbered, pairs[::every]))


def _numbered(pair: tuple[str, str]) -> Tried:
    key, value = pair
    out = scratch()
    small.write_config(out.parent / "run.yaml", Path("/no/model"))
    words = ("train", out.parent / "run.yaml", f"{key}={value}", "--out", out)
    ended = command(*words, folder=out.parent, megabytes=ROOM)
    return Tried(f"{key}={value[:20]}", ended, out.exists())


def models(pool: ProcessPoolExecutor, sound: Path) -> list[Tried]:
    """Each folder, given to `eval`."""
    waiting = [pool.submit(_modelled, what, sound) for what in hostile_files.model_folders()]
    return [each.result() for each in waiting]


def _modelled(what: str, sound: Path) -> Tried:
    place = scratch().parent
    folder, marker = small.copied(sound, place / "model"), place / "marker"
    marker.unlink(missing_ok=True)
    hostile_files.model_folders()[what](folder, marker)
    words = ("eval", folder, "--env", SOKOBAN, "-o", "prompt=brief", "-o", "max_turns=2")
    more = ("--episodes", "1", "--max-turn-tokens", "4")
    ended = command(*words, *more, folder=place, megabytes=ROOM)
    return Tried(what, ended, marker.exists(), may_be_fine=True)


def _rows(of: str, found: Sequence[Tried]) -> list[Row]:
    tried = f"{len(found):,} hostile {of}"
    untold, ran = [t for t in found if not t.told], [t for t in found if t.ran]
    slowest = max(found, key=lambda t: t.ended.seconds)
    largest = max(found, key=lambda t: t.ended.megabytes)
    slow, large = slowest.ended.seconds, largest.ended.megabytes
    rows = (
        ("not told in one line", _first(untold), "none", not untold),
        ("code run or folders made", _first(ran), "none", not ran),
        ("longest", f"{slow:.1f} s ({slowest.what})", f"{SECONDS:g} s", slow <= SECONDS),
        ("largest", f"{large:.0f} MB ({largest.what})", f"{MEGABYTES} MB", large <= MEGABYTES),
    )
    return [
        Row("hostile", f"{tried}: {what}", said, bound, held) for what, said, bound, held in rows
    ]


def _first(bad: Sequence[Tried]) -> str:
    return f"{len(bad)} ({bad[0]})" if bad else "0"
