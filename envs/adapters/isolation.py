"""Code of others that draws from the global random states and prints, kept to itself."""

from __future__ import annotations

import contextlib
import io
import random
import threading
from types import TracebackType
from typing import Any, ClassVar

import numpy as np


class Isolation:
    """Global random states of its own, and nothing printed, within `with`.

    The same seed draws the same numbers, whatever the rest of the process draws; the states of the
    process are as before once the block is left. One block is open at a time, in whatever thread.
    """

    _alone: ClassVar[threading.RLock] = threading.RLock()

    def __init__(self, seed: int) -> None:
        self._python: Any = random.Random(seed).getstate()
        self._numpy: Any = np.random.RandomState(seed % 2**32).get_state()
        self._outside: list[tuple[Any, Any]] = []
        self._silence = contextlib.ExitStack()

    def __enter__(self) -> None:
        self._alone.acquire()
        self._outside.append((random.getstate(), np.random.get_state()))
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        self._silence.enter_context(contextlib.redirect_stdout(io.StringIO()))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._silence.close()
        self._python, self._numpy = random.getstate(), np.random.get_state()
        python, numpy = self._outside.pop()
        random.setstate(python)
        np.random.set_state(numpy)
        self._alone.release()
