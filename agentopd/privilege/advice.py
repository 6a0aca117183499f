"""What the sources of privilege say of episodes that are over, for whoever acts next."""

from __future__ import annotations

from collections.abc import Sequence

from agentopd.base.types import Trajectory
from agentopd.privilege.base import Source
from agentopd.privilege.view import SystemView, ViewBuilder, in_words
from agentopd.rollout.acting.earlier import Place


class Advice:
    """Has the sources write, and tells what they whisper. It is an `Adviser`.

    What they say of single turns bears the turn's number, as in view: system.
    """

    def __init__(self, sources: Sequence[Source], view: ViewBuilder) -> None:
        self._sources, self._view = tuple(sources), view

    @property
    def sources(self) -> int:
        """See `Adviser.sources`."""
        return len(self._sources)

    @property
    def place(self) -> Place:
        """See `Adviser.place`."""
        return "system" if isinstance(self._view, SystemView) else "observation"

    def of(
        self,
        about: Sequence[Trajectory],
        batch: Sequence[Trajectory],
        source: int | None = None,
    ) -> dict[int, str]:
        """See `Adviser.of`."""
        speaking = self._sources if source is None else self._sources[source : source + 1]
        for one in speaking:
            one.write(about, batch)
        found = {t.episode: "\n".join(_said(speaking, t, batch)) for t in about}
        return {episode: text for episode, text in found.items() if text}


def _said(
    sources: Sequence[Source], trajectory: Trajectory, batch: Sequence[Trajectory]
) -> list[str]:
    heard = [source.whisper(trajectory, batch) or () for source in sources]
    return [text for privileges in heard for text in in_words(privileges)]
