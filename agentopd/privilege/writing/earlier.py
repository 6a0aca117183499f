"""What the next attempt at a task is told of the one before, and what is asked about that one."""

from __future__ import annotations

from collections.abc import Sequence

from agentopd.asking.quoting import shortened
from agentopd.base.types import Trajectory
from agentopd.models.chat import ChatTemplate
from agentopd.privilege import writer
from agentopd.privilege.writing.hindsight import disclosed
from agentopd.privilege.writing.replies import as_text
from agentopd.privilege.writing.slots import slots_of
from agentopd.privilege.writing.templates import Template
from agentopd.rollout.acting.roles import Piece

_ASKS_WITH = "reflection"
_FORETELLS_WITH = "foresight"


class Recollection:
    """Puts an attempt in words, in the student's tokens. It is a `Recall`."""

    def __init__(self, template: ChatTemplate) -> None:
        self._chat = template

    def told(
        self, attempt: Trajectory, reflection: str, pieces: Sequence[Piece], tokens: int
    ) -> str:
        """See `Recall.told`."""
        slots = slots_of(attempt, ())
        found = dict[Piece, str]()
        if "episode" in pieces:
            found["episode"] = writer.earlier(shortened(slots["episode"], tokens, self._chat))
        if "outcome" in pieces:
            found["outcome"] = slots["outcome"]
        if "feedback" in pieces and slots["feedback"]:
            said = shortened(slots["feedback"], tokens, self._chat)
            found["feedback"] = writer.earlier_feedback(said)
        if "reflection" in pieces and (text := as_text(reflection)):
            found["reflection"] = writer.reflected(text)
        return "\n".join(found[piece] for piece in pieces if piece in found)

    def asked(self, attempt: Trajectory, tokens: int) -> tuple[str, str]:
        """See `Recall.asked`: how it ended and what the environment said is known."""
        return self._filled(_ASKS_WITH, disclosed(slots_of(attempt, ()), 1), tokens)

    def foretold(self, attempt: Trajectory, tokens: int) -> tuple[str, str, str]:
        """See `Recall.foretold`: what the environment said of the turns, and how it ended."""
        slots = slots_of(attempt, ())
        said = "\n".join((shortened(slots["feedback"], tokens, self._chat), slots["outcome"]))
        asked = self._filled(_FORETELLS_WITH, disclosed(slots, 0), tokens)
        return *asked, said if slots["feedback"] else ""

    def _filled(self, name: str, slots: dict[str, str], tokens: int) -> tuple[str, str]:
        """The rules and the request of a template."""
        form = Template.load(name)
        return form.system, form.filled(slots, tokens, self._chat)
