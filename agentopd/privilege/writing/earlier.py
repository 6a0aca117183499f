"""What the next attempt at a task is told of the one before, and what is asked about that one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, PrivateAttr

from agentopd.asking.quoting import shortened
from agentopd.base.types import Privilege, Trajectory
from agentopd.models.chat import ChatTemplate
from agentopd.privilege import writer
from agentopd.privilege.base import Source
from agentopd.privilege.writing.hindsight import disclosed
from agentopd.privilege.writing.replies import as_text
from agentopd.privilege.writing.slots import slots_of
from agentopd.privilege.writing.templates import Template
from agentopd.privilege.writing.written import copied_phrases, copied_share
from agentopd.rollout.acting.roles import Piece

_ASKS_WITH = "reflection"
_FORETELLS_WITH = "foresight"
_FORETELLS_ADVICE_WITH = "foreseen_message"


class Recollection:
    """Puts an attempt in words, in the student's tokens. It is a `Recall`."""

    def __init__(self, template: ChatTemplate) -> None:
        self.chat = template

    def told(
        self,
        attempt: Trajectory,
        written: Mapping[Piece, str],
        pieces: Sequence[Piece],
        tokens: int,
    ) -> str:
        """See `Recall.told`."""
        slots = slots_of(attempt, ())
        found = dict[Piece, str]()
        if "episode" in pieces:
            found["episode"] = writer.earlier(shortened(slots["episode"], tokens, self.chat))
        if "outcome" in pieces:
            found["outcome"] = slots["outcome"]
        if "feedback" in pieces and slots["feedback"]:
            said = shortened(slots["feedback"], tokens, self.chat)
            found["feedback"] = writer.earlier_feedback(said)
        if "phrase" in pieces:
            found["phrase"] = self.phrase(attempt)
        if text := as_text(written.get("reflection", "")):
            found["reflection"] = writer.reflected(text)
        if text := written.get("privilege", ""):
            found["privilege"] = text
        return "\n".join(found[piece] for piece in pieces if piece in found)

    def phrase(self, attempt: Trajectory) -> str:
        """See `Recall.phrase`."""
        return writer.phrase(attempt.success)

    def asked(
        self, attempt: Trajectory, batch: Sequence[Trajectory], level: int, tokens: int
    ) -> tuple[str, str]:
        """See `Recall.asked`."""
        return self._filled(_ASKS_WITH, disclosed(slots_of(attempt, batch), level), tokens)

    def foretold(
        self, attempt: Trajectory, advice: str | None, tokens: int
    ) -> tuple[str, str, str]:
        """See `Recall.foretold`: what the environment said of the turns, and how it ended."""
        slots = slots_of(attempt, ())
        if advice is not None:
            return *self._filled(_FORETELLS_ADVICE_WITH, disclosed(slots, 0), tokens), advice
        said = "\n".join((shortened(slots["feedback"], tokens, self.chat), slots["outcome"]))
        asked = self._filled(_FORETELLS_WITH, disclosed(slots, 0), tokens)
        return *asked, said if slots["feedback"] else ""

    def _filled(self, name: str, slots: dict[str, str], tokens: int) -> tuple[str, str]:
        """The rules and the request of a template."""
        form = Template.load(name)
        return form.system, form.filled(slots, tokens, self.chat)


class Recalled(Source, kind="recalled"):
    """What `rollout: retry` would tell the next attempt of this very one, for a teacher that judges
    it in hindsight: the attempt, and the phrase that goes on from it (SD-Zero 2604.12002).

    It holds the student's own words by design: the probe `leak` is not taken, and the share of the
    text's phrases (of four tokens) that are the student's is in the metrics. Leave the weight
    `phrase_mask` out.

    Args:
        recalls: what is told, as in the rollout.
        quoted_tokens: the most that is quoted of the episode; its middle is cut.
    """

    recalls: tuple[Literal["episode", "outcome", "feedback", "phrase"], ...] = Field(
        default=("episode", "phrase"), min_length=1
    )
    quoted_tokens: int = Field(default=512, ge=16)
    _recall: Recollection | None = PrivateAttr(default=None)
    _counts: Counter[str] = PrivateAttr(default_factory=Counter)

    def begin(self) -> None:
        """See `Source.begin`."""
        self._counts = Counter()

    def prepare(self, template: ChatTemplate) -> None:
        """See `Source.prepare`."""
        self._recall = Recollection(template)

    def write(self, trajectories: Sequence[Trajectory], batch: Sequence[Trajectory]) -> None:
        """See `Source.write`: it is counted how much of it is the student's own."""
        assert self._recall is not None, "prepare() comes first"
        for trajectory in trajectories:
            for told in self.whisper(trajectory, batch) or ():
                self._counts += copied_phrases(self._recall.chat, trajectory, told.text)

    def whisper(
        self, trajectory: Trajectory, batch: Sequence[Trajectory]
    ) -> tuple[Privilege, ...] | None:
        """See `Source.whisper`."""
        assert self._recall is not None, "prepare() comes first"
        if not trajectory.turns:
            return None
        text = self._recall.told(trajectory, {}, self.recalls, self.quoted_tokens)
        return (Privilege(source=self.kind, text=text, quotes=True),) if text else None

    def scalars(self) -> dict[str, float]:
        """See `Source.scalars`."""
        return copied_share(self._counts)
