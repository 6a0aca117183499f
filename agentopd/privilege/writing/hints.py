"""Sources that hint: how to go about a task, written before; what would have been better, after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from agentopd.base.types import Privilege, Trajectory
from agentopd.privilege import writer
from agentopd.privilege.writing.model_writer import Ask, ModelWriter, Reply
from agentopd.privilege.writing.replies import as_object, as_text, gives_away, line_of
from agentopd.privilege.writing.slots import slots_of, turn_slots
from agentopd.privilege.writing.written import WrittenSource

_LEVELS = {
    1: "Name only the first goal to reach, and no action.",
    2: "Name the goals to reach in their order, and no action.",
    3: "Name the goals to reach in their order, and the first action or two.",
}


class Hint(WrittenSource, kind="hint"):
    """A hint at how the task is solved, which a model writes that knows the solution (NuRL
    2509.25666, SAGE 2602.03143): the same for all episodes of the task. A hint that gives the whole
    solution away is none, and is not told.

    Args:
        level: how much it may give away: 1 the first goal, 2 all goals, 3 the first actions too.
    """

    asks_with: ClassVar[str] = "hint"
    asked_for: ClassVar[str] = "for each task"
    quotes: ClassVar[bool] = False

    level: Literal[1, 2, 3] = 1

    @property
    def reads(self) -> str:
        """See `Source.reads`."""
        return "reference"

    def asks(self, trajectory: Trajectory, batch: Sequence[Trajectory]) -> list[Ask]:
        """See `WrittenSource.asks`."""
        known = slots_of(trajectory, batch)
        of_task = {name: known[name] for name in ("task", "guide", "reference")}
        return [Ask(of_task | {"level": _LEVELS[self.level]})]

    def read(self, trajectory: Trajectory, replies: Sequence[Reply]) -> tuple[Privilege, ...]:
        """See `WrittenSource.read`."""
        text = as_text(replies[0].text)
        if not text or gives_away(text, trajectory):
            return ()
        return (self.tell(writer.hint(text)),)


class HindsightHint(WrittenSource, kind="hindsight_hint"):
    """What would have been good to know before each turn, found out from what came of it: a judge
    reads the turn and what was seen then, says whether there is something to learn, and hints
    (OpenClaw-RL 2603.10165).

    Of several votes the longest hint of a positive one is told, if it is long enough to say
    anything; a turn without one is told nothing, and weight: told leaves it out.

    Args:
        votes: how often the judge is asked about a turn; they differ at a temperature above 0.
        least: characters of the shortest hint that says anything.
    """

    asks_with: ClassVar[str] = "hindsight_hint"
    asked_for: ClassVar[str] = "for each turn and vote"

    writer: ModelWriter | None = Field(
        default_factory=lambda: ModelWriter(temperature=1.0, reply_tokens=128)
    )
    votes: int = Field(default=3, ge=1)
    least: int = Field(default=10, ge=1)

    def asks(self, trajectory: Trajectory, batch: Sequence[Trajectory]) -> list[Ask]:
        """See `WrittenSource.asks`."""
        task = slots_of(trajectory, batch)["task"]
        known = [turn_slots(trajectory, turn) | {"task": task} for turn in trajectory.turns]
        return [Ask(slots, vote) for slots in known for vote in range(self.votes)]

    def read(self, trajectory: Trajectory, replies: Sequence[Reply]) -> tuple[Privilege, ...]:
        """See `WrittenSource.read`."""
        best: dict[int, str] = {}
        for reply in replies:
            turn, hint = int(reply.ask.slots["turn"]) - 1, self._hint(reply.text)
            best[turn] = max(best.get(turn, ""), hint, key=len)
        found = [(turn, text) for turn, text in sorted(best.items()) if len(text) >= self.least]
        return tuple(self.tell(writer.hint(text), turn) for turn, text in found)

    def _hint(self, reply: str) -> str:
        """The hint of a positive vote; empty of any other."""
        found = as_object(reply)
        if found is None or found.get("vote") != 1:
            return ""
        return line_of(found, "hint")
