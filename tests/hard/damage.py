"""Every file of a run's and a study's folder damaged, and then each command that reads it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from hard import small
from hard.forked import Ended, command
from hard.row import Row
from hard.trials import KEPT, crew, leave_out_pages, scratch, subjects
from safetensors.torch import load_file, save_file

SHARE = 5
"""Of a study's files and commands, one in so many."""
COMMANDS: dict[str, tuple[str, ...]] = {
    "resume": ("steps=3",),
    "report": (),
    "replay": ("--set", "unit=turn", "--json", "../replay.json"),
    "eval": ("--episodes", "2", "--json"),
}
"""What each command is told beside a run's folder."""
LOST = ("summary.json", "arms/turn/seed-0/summary.json")
"""What a study lacks that is to have something to resume."""


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _third(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def _nul(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _rotten(path: Path) -> None:
    """A third in the middle is NUL, as after a crash whose blocks were never written."""
    data = path.read_bytes()
    third = len(data) // 3
    path.write_bytes(data[:third] + bytes(third) + data[2 * third :])


def _older(path: Path) -> None:
    """As from a version that did not know one of the keys, columns or tensors."""
    _rewritten(path, lambda record: _without(record, path.name))


def _newer(path: Path) -> None:
    """As from a version that knows one more."""
    _rewritten(path, lambda record: {**record, "from_the_future": next(iter(record.values()), 1)})


DAMAGES = (_emptied, _torn, _third, _nul, _rotten, _older, _newer)


def _without(record: dict[str, Any], name: str) -> dict[str, Any]:
    keys = list(record)
    gone = keys[zlib.crc32(name.encode()) % len(keys)] if keys else None
    return {key: value for key, value in record.items() if key != gone}


def _rewritten(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The file with its record changed; a text that holds none has a line less or more."""
    if path.suffix == ".json":
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
    elif path.suffix == ".jsonl":
        lines = [change(json.loads(line)) for line in path.read_text().splitlines()]
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    elif path.suffix == ".yaml":
        path.write_text(yaml.safe_dump(change(yaml.safe_load(path.read_text())), sort_keys=False))
    elif path.suffix == ".safetensors":
        changed = {k: v.clone() for k, v in change(load_file(path)).items()}
        save_file(changed or {"from_the_past": torch.zeros(1)}, path)
    elif path.suffix == ".parquet":
        table = pq.read_table(path)
        columns = {name: table.column(name) for name in table.column_names}
        pq.write_table(pa.table(change(columns)), path)
    else:
        lines = change({str(n): x for n, x in enumerate(path.read_text().splitlines())})
        path.write_text("".join(f"{line}\n" for line in lines.values()))


@dataclass(frozen=True)
class Case:
    """One file, how it is damaged, and the command that is then given."""

    folder: Path
    file: str
    damage: Callable[[Path], None]
    command: str

    def __str__(self) -> str:
        return f"{self.file} {self.damage.__name__.strip('_')}, {self.command}"


@dataclass(frozen=True)
class Result:
    """What a command has made of a folder."""

    ended: Ended
    said: str
    files: dict[str, str]

    def differs(self, other: Result, but: str) -> list[str]:
        """The files that differ, but for one; and what was said, if that does."""
        names = [n for n in small.differences(self.files, other.files) if n != but]
        return names + ["what it says"] * (self.said != other.said)


def everything(every: int = 1) -> list[Row]:
    """All files, damages and commands, or one in so many."""
    with TemporaryDirectory() as name, crew() as pool:
        folder = Path(name)
        subjects(pool, folder)
        ended = folder / KEPT["compare"]
        stopped = small.copied(ended, folder / "stopped")
        for lost in LOST:
            (stopped / lost).unlink()
        run = list(_cases(folder / KEPT["train"], COMMANDS))
        study = [*_cases(stopped, ("resume",)), *_cases(ended, ("report",))]
        return [
            *_rows("a run", judged(pool, run[::every]), len(run)),
            *_rows("a study", judged(pool, study[:: SHARE * every]), len(study)),
        ]


def _cases(folder: Path, commands: Collection[str]) -> Iterator[Case]:
    for file in small.files(folder):
        if any(page in file for page in small.PAGES):
            continue
        for damage in DAMAGES:
            yield from (Case(folder, file, damage, each) for each in commands)


def judged(pool: ProcessPoolExecutor, cases: Sequence[Case]) -> list[tuple[Case, str]]:
    """What is wrong with each; nothing where the damage is told or does no harm."""
    sound: dict[str, Result] = {}
    for case in cases:
        if case.command not in sound:
            sound[case.command] = pool.submit(_result, case, False).result()
            assert sound[case.command].ended.code == 0, sound[case.command].ended.err
    waiting = [(case, pool.submit(_result, case, True)) for case in cases]
    return [(case, _wrong(case, each.result(), sound[case.command])) for case, each in waiting]


def _result(case: Case, damaged: bool) -> Result:
    out = small.copied(case.folder, scratch())
    if damaged:
        case.damage(out / case.file)
    more = COMMANDS[case.command] if (out / "metrics.jsonl").is_file() else ()
    words = [str(out.parent / "replay.json") if "replay.json" in word else word for word in more]
    (out.parent / "replay.json").unlink(missing_ok=True)
    before = leave_out_pages if case.command == "resume" else lambda: None
    ended = command(case.command, out, *words, folder=out.parent, before=before)
    said = _said(ended) if case.command == "eval" else ""
    if case.command == "replay" and ended.code == 0:
        found = json.loads((out.parent / "replay.json").read_text())
        said = json.dumps({k: v for k, v in found.items() if k != "run"})
    return Result(ended, said, small.digest(out, pages=case.command == "report"))


def _said(ended: Ended) -> str:
    """What `eval` prints, without the time it took and the place."""
    if ended.code != 0:
        return ""
    found = json.loads(ended.out)
    return json.dumps({k: v for k, v in found.items() if k not in ("seconds", "model")})


def _wrong(case: Case, found: Result, sound: Result) -> str:
    ended = found.ended
    if ended.traceback or ended.code not in (0, 2):
        return f"traceback: {(ended.errors or ['it never ended'])[-1]}"
    named = [line for line in ended.err.splitlines() if case.file in line]
    if ended.code == 2:
        if len(ended.errors) == 1 and named:
            return ""
        return f"not one line that names the file: {ended.errors[-1]}"
    differ = found.differs(sound, case.file)
    if case.command == "report" and Path(case.file).name == "config.yaml":
        return ""  # which has no sum: the page prints it as it stands
    return f"silent difference: {', '.join(differ[:3])}" if differ and not named else ""


def _rows(of: str, found: Sequence[tuple[Case, str]], possible: int) -> list[Row]:
    count = f"{len(found):,}" if len(found) == possible else f"{len(found):,} of {possible:,}"
    tried = f"each file of {of} damaged in {len(DAMAGES)} ways, each command after it: {count}"
    rows: list[Row] = []
    for what in ("silent difference", "traceback", "not one line that names the file"):
        bad = [(case, wrong) for case, wrong in found if wrong.startswith(what)]
        first = f" ({bad[0][0]}: {bad[0][1]})" if bad else ""
        rows.append(Row("damage", f"{tried}: {what}", f"{len(bad)}{first}", "none", not bad))
    return rows
