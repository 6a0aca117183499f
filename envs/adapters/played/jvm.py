"""Games in a Java machine of their own: how one is started, bounded in memory and ended."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from agentopd.environment.checks.subject import Caught
from agentopd.environment.contract import TextEnv

METADATA: dict[str, Any] = {**TextEnv.metadata, "blocking": True, "reusable": True}
"""Of an environment with such a machine: it waits for it, and a reset makes it new."""
_EXACT = "-XX:+IgnoreUnrecognizedVMOptions -XX:+UnlockExperimentalVMOptions -XX:hashCode=2"
"""Objects without a hash of their own get one and the same, so that the order of sets does not
depend on what a machine has done before: otherwise ScienceWorld lists things in another order, and
finds another way, in a machine that has played."""


class Machine:
    """A game in a Java machine, started when it is first asked for and again once it is dropped.

    Args:
        make: starts the game, `ScienceWorldEnv` say, which has a `close()`.
        memory: of the machine's heap at most, in megabytes.
        needs: the name of the package, for messages.
    """

    _starting: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, make: Callable[[], Any], memory: int, needs: str) -> None:
        self._make, self._memory, self._needs = make, memory, needs
        self._game: Any = None

    @property
    def game(self) -> Any:
        """The running game.

        Raises:
            ValueError: Java is not installed.
        """
        if self._game is None:
            java = os.path.join(os.environ.get("JAVA_HOME", ""), "bin", "java")
            if not (os.path.exists(java) or shutil.which("java")):
                raise ValueError(
                    f"{self._needs} needs Java, and there is no program `java`: install a Java "
                    "runtime of version 8 or later, or set JAVA_HOME"
                )
            with self._bounded():
                self._game = self._make()
        return self._game

    def drop(self) -> None:
        """End the machine, which may be dead already."""
        game, self._game = self._game, None
        if game is not None:
            with Caught():
                game.close()

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        """Where machines that are started are bounded and exact; Java alone reads the variable."""
        with self._starting:
            key, before = "JAVA_TOOL_OPTIONS", os.environ.get("JAVA_TOOL_OPTIONS")
            os.environ[key] = f"{before or ''} -Xmx{self._memory}m {_EXACT}".strip()
            try:
                yield
            finally:
                if before is None:
                    del os.environ[key]
                else:
                    os.environ[key] = before
