"""Asked to stop: what is under way is finished and saved, and then it ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """The run was asked to stop and has saved a checkpoint; `step` steps are done."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step

    def __str__(self) -> str:
        return f"stopped after {self.step} steps"


@contextmanager
def interruptible(asked: threading.Event | None = None) -> Iterator[threading.Event]:
    """Turns the first Ctrl-C, and a scheduler's SIGTERM, into an event for whoever can stop well.

    A second Ctrl-C stops at once. A second SIGTERM does not: `timeout` and schedulers send one to
    the process and one to its group. A signal that is ignored stays so; outside the main thread,
    which alone may hear signals, none is heard.

    Args:
        asked: the event to set, where others may set it too.
    """
    asked = asked or threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    pressed = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed and number == signal.SIGINT:
            raise KeyboardInterrupt
        pressed = pressed or number == signal.SIGINT
        asked.set()

    heard = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, ask) for number in heard}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
