"""A full disk: one line says which file, and what was there before is as it was."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import call
from matplotlib.figure import Figure
from safetensors import SafetensorError
from test_folder import small

from agentopd.base import files
from agentopd.base.files import make_folder
from agentopd.looking.report.figure import save_png
from agentopd.models.model import LanguageModel, ModelSettings, load_model
from agentopd.running import checkpoint as checkpoints
from agentopd.running.checkpoint import Progress, latest, load_progress, save_checkpoint
from agentopd.running.folder import METRICS, forget_lines
from agentopd.running.train import train

FULL = "No space left on device"


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def no_space_as_rust_says_it(*_: object, **__: object) -> None:
    raise Exception(f"{FULL} (os error 28)")


def no_space_for_tensors(*_: object, **__: object) -> None:
    raise SafetensorError(f"Error while serializing: I/O error: {FULL} (os error 28)")


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run."""
    out = tmp_path_factory.mktemp("run") / "run"
    train(small(tiny_model, "save.scores_top_k=4", "privilege=skill_summary"), out)
    return out


@pytest.fixture
def student(tiny_model: Path) -> LanguageModel:
    return load_model(ModelSettings(path=str(tiny_model)))


def save(folder: Path, student: LanguageModel, step: int) -> None:
    progress = Progress(step, 0.0, 0, 0, {}, [], None)
    optimizer = torch.optim.AdamW(student.module.parameters())
    save_checkpoint(folder, student, optimizer, {}, progress)


BREAKS: dict[str, tuple[Callable[[LanguageModel], tuple[Any, str]], Callable[..., None]]] = {
    "weights": (lambda student: (student.module, "save_pretrained"), no_space_for_tensors),
    "config": (lambda student: (student.module, "save_pretrained"), no_space),
    "tokenizer": (lambda student: (student.tokenizer, "save_pretrained"), no_space_as_rust_says_it),
    "moments": (lambda _: (checkpoints, "save_file"), no_space_for_tensors),
    "progress": (lambda _: (Path, "write_text"), no_space),
    "seen onto the disk": (lambda _: (checkpoints, "sync"), no_space),
    "exchanged": (lambda _: (Path, "rename"), no_space),
}


@pytest.mark.parametrize("what", BREAKS)
def test_a_checkpoint_that_finds_no_room_leaves_the_one_before_it(
    what: str, student: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, student, 1)
    place, breaks = BREAKS[what]
    with monkeypatch.context() as broken:
        broken.setattr(*place(student), breaks)
        with pytest.raises(ValueError, match=f"{tmp_path}.* cannot be written .*{FULL}"):
            save(tmp_path, student, 2)
    found = latest(tmp_path)
    assert found is not None and load_progress(found).step == 1
    save(tmp_path, student, 3)
    found = latest(tmp_path)
    assert found is not None and load_progress(found).step == 3
    assert [path.name for path in tmp_path.iterdir()] == ["latest"]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("report",), "plots/"),
        (("replay", "--set", "unit=turn", "--plot"), "replay/step-00001.png"),
        (("replay", "--set", "unit=turn", "--json", "numbers.json"), "numbers.json"),
        (("resume", "steps=3"), "metrics.jsonl"),
    ],
)
def test_no_command_answers_a_full_disk_with_a_traceback(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    name: str,
) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    monkeypatch.setattr(files, "sync", no_space)
    monkeypatch.chdir(tmp_path)
    result = call(words[0], run, *words[1:])
    assert result.exit_code == 2, result.output
    line = result.stderr.splitlines()[-1]
    assert name in line and f"cannot be written ({FULL})" in line
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_figure_is_there_whole_or_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plots" / "a.png"
    save_png(Figure(), path)
    drawn = path.read_bytes()

    def half(_: Figure, beside: Path, **__: object) -> None:
        beside.write_bytes(b"half")
        no_space()

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(ValueError, match=r"a\.png cannot be written"):
        save_png(Figure(), path)
    assert path.read_bytes() == drawn
    assert [each.name for each in path.parent.iterdir()] == ["a.png"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file/inner cannot be written \(Not a directory\)"):
        make_folder(tmp_path / "file" / "inner")


def test_metrics_that_cannot_be_deleted_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "unlink", no_space)
    with pytest.raises(ValueError, match=f"{METRICS} cannot be written"):
        forget_lines(tmp_path)
