"""Checkpoints: everything a run needs to go on as if it had never stopped.

Random numbers are drawn from generators seeded by the run's seed, the step and the episode, so
there is no random state to keep. Tensors are safetensors, the rest is JSON; nothing is pickled. A
checkpoint is written beside the old one, which goes when the new one stands in its place, so that
at every moment there is a whole one to be found. It holds the SHA-256 of each of its files: what a
disk has lost later is known before anything is made of it. What the run started from is not saved
but known again by its digest: a frozen teacher, a reference, the base beneath adapters.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from agentopd.base.files import make_folder, naming, read_json, read_text, sync, unwritable
from agentopd.learning.optimizer import held_for
from agentopd.models.model import LanguageModel

_LATEST = "latest"
_PROGRESS = "progress.json"
_SUMS = "sums.json"
_STUDENT = "student"
_MASTER = "master"


@dataclass(frozen=True)
class Progress:
    """How far a run is, beside the weights: the next step, what it cost, what sources and the unit
    remember; `room` is what contexts leave to the teacher's text, in tokens; `start` is the digest
    of the model that the run started from, where that is needed to go on and not saved.
    """

    step: int
    seconds: float
    student_tokens: int
    teacher_tokens: int
    stages: dict[str, float]
    sources: list[dict[str, Any]]
    success_before: float | None
    unit: dict[str, Any] = field(default_factory=dict)
    room: int = 0
    start: str = ""


def save_checkpoint(
    folder: Path,
    student: LanguageModel,
    optimizer: torch.optim.Optimizer,
    teacher: dict[str, torch.Tensor],
    progress: Progress,
    beside: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
) -> None:
    """Replace the checkpoint in `folder`.

    Args:
        beside: what else learns beside the student, by whose it is: of the unit, say.

    Raises:
        ValueError: it cannot be written; the one before is as it was.
    """
    fresh = folder / "writing"
    with naming(folder):
        shutil.rmtree(fresh, ignore_errors=True)
        make_folder(fresh)
        _save_student(student, fresh / _STUDENT)
        _save_tensors(_optimizer_tensors(student, optimizer), fresh / "optimizer.safetensors")
        copied = {k: v.detach().clone().contiguous() for k, v in teacher.items()}
        _save_tensors(copied, fresh / "teacher.safetensors")
        for name, tensors in (beside or {}).items():
            if tensors:
                _save_tensors(dict(tensors), fresh / f"{name}.safetensors")
        (fresh / _PROGRESS).write_text(json.dumps(asdict(progress), indent=2))
        (fresh / _SUMS).write_text(json.dumps(_sums(fresh), indent=2))
        for path in (fresh, *fresh.rglob("*")):
            sync(path)  # a power cut must not leave the new name and old, empty content
        _exchange(fresh, folder)


def _save_student(student: LanguageModel, folder: Path) -> None:
    try:
        student.save(folder)
    except OSError:
        raise
    except Exception as error:  # a full disk is a bare Exception where Rust meets it
        raise unwritable(folder, error) from error


def _save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        raise unwritable(path, error) from error


def _exchange(fresh: Path, folder: Path) -> None:
    """Put the new checkpoint in the old one's place."""
    old = folder / "old"
    # After a crash between the two moves below, the old one is all there is: it stays until then.
    if (folder / _LATEST).exists():
        shutil.rmtree(old, ignore_errors=True)
        (folder / _LATEST).rename(old)
    fresh.rename(folder / _LATEST)
    sync(folder)
    shutil.rmtree(old, ignore_errors=True)


def _sums(checkpoint: Path) -> dict[str, str]:
    """The SHA-256 of each file, by its name in the checkpoint."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    return {str(path.relative_to(checkpoint)): _sum(path) for path in files}


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_files(checkpoint: Path, within: str = "") -> None:
    """See that a checkpoint's files are those that were saved; of one by a version that kept no
    sums, nothing is known.

    Args:
        within: how the names of the files that matter begin.

    Raises:
        ValueError: one is missing or holds something else; the message names it.
    """
    path = checkpoint / _SUMS
    for name, known in (read_json(path) if path.is_file() else {}).items():
        file = checkpoint / name
        if not name.startswith(within):
            continue
        if not file.is_file():
            raise _damaged(file, f"it is not there, and {path} names it")
        if _sum(file) != known:
            raise _damaged(file, "it is not what was saved")


def student_folder(checkpoint: Path) -> Path:
    """Where a checkpoint's student lies, as a model to be loaded.

    Raises:
        ValueError: one of its files is damaged or missing; the message names it.
    """
    check_files(checkpoint, _STUDENT)
    return checkpoint / _STUDENT


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`, or None."""
    return next(
        (folder / name for name in (_LATEST, "old") if (folder / name / _PROGRESS).is_file()),
        None,
    )


def load_progress(checkpoint: Path) -> Progress:
    """What was saved beside the weights.

    Raises:
        ValueError: the file is damaged; the message names it.
    """
    path = checkpoint / _PROGRESS
    check_files(checkpoint, _PROGRESS)
    try:
        return Progress(**json.loads(read_text(path)))
    except TypeError as error:
        raise ValueError(
            f"{path} was written by another version of agentopd ({error}): go on with that one"
        ) from error
    except ValueError as error:
        raise _damaged(path, error) from error


def check_start(progress: Progress, start: str, path: str) -> None:
    """That the model a run goes on with is the one that it started from.

    Args:
        start: the digest of what lies at `path` now.

    Raises:
        ValueError: it is another.
    """
    if progress.start and start and progress.start != start:
        raise ValueError(
            f"the model at {path} is not the one that the run started from, and the run's frozen "
            "teacher, its reference or the base of its adapters is that one: put back what lay "
            "there, or start again in another folder"
        )


def restore_weights(
    checkpoint: Path, student: LanguageModel, optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    """Put the student's and the optimizer's tensors back; returns the teacher's.

    Raises:
        ValueError: a file is damaged or missing; the message names it.
    """
    check_files(checkpoint)
    weights: dict[str, torch.Tensor] = {}
    for shard in sorted((checkpoint / _STUDENT).glob("*.safetensors")):  # large models have many
        weights |= _read(shard, student)
    if not weights:
        raise _damaged(checkpoint / _STUDENT, "it holds no weights")
    try:
        student.load_file(weights)
    except (RuntimeError, ValueError) as error:
        raise _damaged(checkpoint / _STUDENT, error) from error
    _restore_optimizer(checkpoint, student, optimizer)
    return _read(checkpoint / "teacher.safetensors", student)


def tensors_beside(checkpoint: Path, name: str, student: LanguageModel) -> dict[str, torch.Tensor]:
    """What was saved beside the student under that name; nothing where nothing was.

    Raises:
        ValueError: the file is damaged; the message names it.
    """
    path = checkpoint / f"{name}.safetensors"
    return _read(path, student) if path.is_file() else {}


def _read(path: Path, student: LanguageModel) -> dict[str, torch.Tensor]:
    """The tensors in a file, where the student's are."""
    try:
        return load_file(path, device=str(student.device))
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, why: object) -> ValueError:
    said = str(why).partition("\n")[0]
    return ValueError(
        f"{path} is damaged ({said}): put a copy of the checkpoint back, or start again in another "
        "folder; what the metrics and trajectories say is still there"
    )


def _optimizer_tensors(
    student: LanguageModel, optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for name, parameter in student.module.named_parameters():
        held = held_for(optimizer, parameter)
        own = dict(optimizer.state.get(held, {}))
        if held is not parameter:
            own[_MASTER] = held
        found |= {f"{name}/{key}": x.detach().clone().contiguous() for key, x in own.items()}
    return found


@torch.no_grad()
def _restore_optimizer(
    checkpoint: Path, student: LanguageModel, optimizer: torch.optim.Optimizer
) -> None:
    """Put moments and master weights back.

    A checkpoint from before there were masters gives them the weights that it holds.
    """
    saved = _read(checkpoint / "optimizer.safetensors", student)
    own: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in saved.items():
        name, _, what = key.rpartition("/")
        own.setdefault(name, {})[what] = value
    for name, parameter in student.module.named_parameters():
        held, found = held_for(optimizer, parameter), own.get(name, {})
        master = found.pop(_MASTER, parameter)
        if held is not parameter:
            held.copy_(master)
        if found:
            moments = {
                key: value.to(held.dtype) if value.is_floating_point() else value  # codes
                for key, value in found.items()
                if key != "step"
            }
            optimizer.state[held] = {**moments, "step": found["step"].cpu()}
