"""Code of others that draws from Python's global random state and prints, kept to itself."""

from __future__ import annotations

import contextlib
import io
import random
import threading
from types import TracebackType
from typing import Any, ClassVar


class Isolation:
    """A global random state of its own, and nothing printed, within `with`.

    The same seed draws the same numbers, whatever the rest of the process draws; the state of the
    process is as before once the block is left. One block is open at a time, in whatever thread.
    NumPy's state stays as it is, because exchanging it takes longer than a step.
    """

    _alone: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, seed: int) -> None:
        self._inside: Any = random.Random(seed).getstate()
        self._outside: Any = None
        self._silence = contextlib.ExitStack()

    def __enter__(self) -> None:
        self._alone.acquire()
        self._outside = random.getstate()
        random.setstate(self._inside)
        self._silence.enter_context(contextlib.redirect_stdout(io.StringIO()))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._silence.close()
        self._inside = random.getstate()
        random.setstate(self._outside)
        self._alone.release()
