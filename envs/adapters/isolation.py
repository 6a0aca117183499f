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
    """A global random state of its own, and nothing printed, within `with`.

    The same seed draws the same numbers, whatever the rest of the process draws; the state of the
    process is as before once the block is left. One block is open at a time, in whatever thread.

    Args:
        seed: of the state.
        numpy: exchange NumPy's state too, which takes longer than a step of most games.
    """

    _alone: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, seed: int, numpy: bool = False) -> None:
        self._inside: Any = random.Random(seed).getstate()
        self._outside: Any = None
        self._numpy: Any = np.random.RandomState(seed % 2**32).get_state() if numpy else None
        self._silence = contextlib.ExitStack()

    def __enter__(self) -> None:
        self._alone.acquire()
        self._outside = random.getstate()
        random.setstate(self._inside)
        self._exchange_numpy()
        self._silence.enter_context(contextlib.redirect_stdout(io.StringIO()))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._silence.close()
        self._inside = random.getstate()
        random.setstate(self._outside)
        self._exchange_numpy()
        self._alone.release()

    def _exchange_numpy(self) -> None:
        if self._numpy is not None:
            kept = np.random.get_state()
            np.random.set_state(self._numpy)
            self._numpy = kept
