"""Files that are whole or not there: what a killed process or a full disk leaves behind."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

UNFINISHED = ".writing"
"""How the name of a file ends that nobody has finished writing; it may be deleted."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn a system's refusal to write into one line that names the file.

    Raises:
        ValueError: the disk is full or the folder refuses.
    """
    try:
        yield
    except OSError as error:
        raise unwritable(path, error.strerror or error) from error


def unwritable(path: Path, why: object) -> ValueError:
    """What a person is told of a file that cannot be written."""
    return ValueError(
        f"{path} cannot be written ({why}): make room or choose another folder; what was there "
        "before is as it was"
    )


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, unless it is there.

    Raises:
        ValueError: it cannot be; the message names it.
    """
    with naming(path):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes its place once everything is on the disk.

    Whatever ends the process, `path` holds the old content or the new one.

    Raises:
        ValueError: the disk is full or the folder refuses; the message names the file.
    """
    make_folder(path.parent)
    beside = path.with_name(path.name + UNFINISHED)
    with naming(path):
        try:
            yield beside
            sync(beside)
            beside.replace(path)
            sync(path.parent)
        finally:
            beside.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Replace a text file; see `writing`."""
    with writing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def append_line(path: Path, line: str) -> None:
    """Add a line to a text file and see it onto the disk.

    Raises:
        ValueError: it cannot be; the message names the file.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written ({error.strerror or error}): make room, then resume"
        ) from error


def read_text(path: Path, most: int = -1) -> str:
    """The text of a UTF-8 file; a byte-order mark is left out.

    Args:
        most: characters that are read; all if negative.

    Raises:
        ValueError: it is of another encoding; the message names the file.
        OSError: it cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            return file.read(most)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 (byte {error.start}): save it in that encoding"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: it is damaged; the message names the file.
    """
    try:
        found = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is damaged ({error}): put a copy of it back, or delete it and resume"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}, not an object: was it edited?")
    return found


def sync(path: Path) -> None:
    """See a file's content, or a folder's names, onto the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def held_alone(folder: Path) -> Iterator[None]:
    """No other process works in this folder meanwhile; however this one ends, it lets go.

    Where there is no folder yet, or the file system or the platform keeps no such word, nothing is
    held.

    Raises:
        ValueError: another process works there.
    """
    if os.name != "posix" or not folder.is_dir():
        yield
        return
    fcntl = importlib.import_module("fcntl")
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another process is at work in {folder}: wait for it, or end it, and try again"
            ) from None
        except OSError:  # file systems of other machines may not lock folders
            pass
        yield
    finally:
        os.close(handle)
