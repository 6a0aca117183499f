"""What goes wrong with the stand-ins of other packages."""

from __future__ import annotations

from typing import ClassVar


class Broken:
    """What goes wrong, for all stand-ins: `dies` names the command that breaks the game, `said`
    replaces what a game says.
    """

    dies: ClassVar[str] = ""
    said: ClassVar[str | None] = None
    closed: ClassVar[int] = 0
    started: ClassVar[int] = 0

    @classmethod
    def mend(cls) -> None:
        """Nothing goes wrong, nothing was closed."""
        cls.dies, cls.said, cls.closed, cls.started = "", None, 0, 0

    @classmethod
    def hear(cls, command: str, text: str) -> str:
        """What is said; raises where the command breaks the game."""
        if cls.dies and command == cls.dies:
            raise ConnectionResetError("the machine is gone")
        return text if cls.said is None else cls.said
