"""A leash that reaches other machines: a folder which giver and workers both see.

The giver writes a number there that grows as long as it lives; who works watches it. Where it asks
to stop, or the number stands still, or the folder is gone, the work is ended as Ctrl-C would end
it: the step that is under way is finished and saved.
"""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STOP = "stop"
_HELD = "held"
_PULL = 5.0
"""Seconds between two signs of life."""
_LOOK = 1.0
"""Seconds between two looks at them."""
_SLACK = 120.0
"""Seconds without a sign after which the giver is gone; file systems of many machines are late."""


class Leash:
    """The giver's end.

    Args:
        folder: where a folder of its own is made, which workers see under the same path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve() / f".leash-{uuid.uuid4().hex[:12]}"
        self.folder.mkdir(parents=True)
        self._signs, self._last = 0, 0.0
        self._stopped = False
        self.pull()

    def pull(self) -> None:
        """Give a sign of life, when one is due."""
        if self._stopped or time.monotonic() - self._last < _PULL:
            return
        self._signs, self._last = self._signs + 1, time.monotonic()
        (self.folder / _HELD).write_text(str(self._signs))

    def ask_to_stop(self) -> None:
        """Have all who work come to an end; to ask again changes nothing."""
        if not self._stopped:
            self._stopped = True
            (self.folder / _HELD).write_text(_STOP)

    def begun(self, name: str) -> bool:
        """Whether somebody works on the job of that name, or has."""
        return (self.folder / name).exists()

    def loosen(self) -> None:
        """Let go: whoever still works comes to an end."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def on_leash(folder: Path, name: str, slack: float = _SLACK) -> Iterator[threading.Event]:
    """The worker's end, while it does the job of that name: an event that is set once it should
    stop.
    """
    stop, done = threading.Event(), threading.Event()
    if _state(folder) in ("", _STOP):
        stop.set()
    else:
        (folder / name).touch()
    watch = threading.Thread(target=_watch, args=(folder, slack, stop, done), daemon=True)
    watch.start()
    try:
        yield stop
    finally:
        done.set()


def _watch(folder: Path, slack: float, stop: threading.Event, done: threading.Event) -> None:
    sign, since = "", time.monotonic()
    while not done.wait(_LOOK):
        now = _state(folder)
        if now not in ("", _STOP) and now != sign:
            sign, since = now, time.monotonic()
        elif now == _STOP or not folder.is_dir() or time.monotonic() - since > slack:
            stop.set()
            return


def _state(folder: Path) -> str:
    """What the giver says; nothing where it cannot be read just now."""
    try:
        return (folder / _HELD).read_text()
    except OSError:
        return ""
