"""What a source of privileged information is, and how a step's teacher is briefed.

In each step (`begin`) a source first takes note of the finished trajectories (`learn`), has ready
what takes a model's time (`write`), then says what the teacher may know of each (`whisper`). Where
the rollout lets sources speak to whoever acts, they write and whisper while the step is played too.
What a source keeps between steps goes into the checkpoint through `state`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import gymnasium

from agentopd.base.parts import Part
from agentopd.base.types import Briefed, EndReason, Privilege, Trajectory, Turn
from agentopd.models.chat import ChatTemplate
from agentopd.models.model import LanguageModel
from agentopd.signal.beside import Beside
from agentopd.teacher import Teacher

When = Literal["always", "failed", "solved"]
"""Of which episodes a source speaks, by how they ended."""


class Source(Part, family="privilege source"):
    """One form of privileged information: `whisper`, and the rest is optional.

    A source of your own says what the teacher may know of an episode; here, how many of the task's
    episodes were solved:

        class Odds(Source, kind="odds"):
            def whisper(
                self, trajectory: Trajectory, batch: Sequence[Trajectory]
            ) -> tuple[Privilege, ...] | None:
                group = [t for t in batch if t.task == trajectory.task]
                solved = sum(t.success for t in group)
                text = f"{solved} of {len(group)} attempts solved this task."
                return (Privilege(source=self.kind, text=text),)
    """

    @abstractmethod
    def whisper(
        self, trajectory: Trajectory, batch: Sequence[Trajectory]
    ) -> tuple[Privilege, ...] | None:
        """What the teacher may know of `trajectory`, one of `batch`.

        None means that the source has nothing to say, and so the trajectory has no teacher; an
        empty tuple means that the teacher is to judge it knowing no more than the student.
        """

    @property
    def reads(self) -> str:
        """The key of the environment's `info` without which it has nothing to say, if any."""
        return ""

    def begin(self) -> None:
        """A step begins: what is counted of a step is counted anew."""

    def learn(self, trajectories: Sequence[Trajectory]) -> None:
        """Take note of a step's trajectories before anything is said of them."""

    def check(self, beside: Beside) -> None:
        """Look at the rest of the method when the configuration is read, where a teacher is asked.

        Raises:
            ValueError: it would never have anything to say there.
        """

    def enter(self, env: gymnasium.Env[str, str]) -> None:
        """Learn, before the first step, what the environment declares."""

    def prepare(self, template: ChatTemplate) -> None:
        """Learn, before the first step, how texts become tokens."""

    def meet(self, student: LanguageModel, teacher: Teacher) -> None:
        """Learn, before the first step, which models there are; the teacher is prepared by then.

        Raises:
            ValueError: one of them cannot do what is asked of it.
        """

    def write(self, trajectories: Sequence[Trajectory], batch: Sequence[Trajectory]) -> None:
        """Have ready what is going to be said of these, where that takes a model's time.

        Args:
            batch: all finished trajectories of the step.
        """

    def scalars(self) -> dict[str, float]:
        """Numbers of the last step for the log."""
        return {}

    def state(self) -> dict[str, Any]:
        """What must survive a restart, as JSON."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """The reverse of `state`."""


class NoPrivilege(Source, kind="none"):
    """The control: the teacher knows what the student knows."""

    def whisper(self, trajectory: Trajectory, batch: Sequence[Trajectory]) -> tuple[Privilege, ...]:
        """See `Source.whisper`."""
        return ()


def gather(
    sources: Sequence[Source], trajectories: Sequence[Trajectory], begun: bool = False
) -> list[Briefed]:
    """Brief the teacher on every trajectory; all sources with something to say are heard, in order.

    A trajectory of which no source has anything to say gets no lesson. Neither does one that ended
    in an error, and no source learns from it, nor from what is no episode played.

    Args:
        begun: whether the sources know that the step has begun.
    """
    finished = [t for t in trajectories if t.acts and t.end is not EndReason.ERROR]
    for source in sources:
        if not begun:
            source.begin()
        source.learn(finished)
        source.write(finished, finished)
    briefed = []
    for trajectory in trajectories:
        if trajectory.end is EndReason.ERROR:
            briefed.append(Briefed(trajectory=trajectory, privileges=(), available=False))
            continue
        told = [source.whisper(trajectory, finished) for source in sources]
        heard = [p for privileges in told if privileges is not None for p in privileges]
        available = any(privileges is not None for privileges in told)
        briefed.append(Briefed(trajectory=trajectory, privileges=tuple(heard), available=available))
    return briefed


def scalars_of(sources: Sequence[Source]) -> dict[str, float]:
    """What all sources have for the log, each by its kind; of several of one kind, numbered."""
    found: dict[str, float] = {}
    seen = Counter[str]()
    for source in sources:
        seen[source.kind] += 1
        name = source.kind + (f"_{seen[source.kind]}" if seen[source.kind] > 1 else "")
        found |= {f"{name}_{key}": value for key, value in source.scalars().items()}
    return found


def missing_keys(sources: Sequence[Source], trajectories: Sequence[Trajectory]) -> list[str]:
    """Which sources have nothing to say because the environment never tells what they read."""
    known = {key for t in trajectories for key, value in t.prompt.items() if value}
    known |= {
        k for t in trajectories for turn in t.turns for k, value in turn.info.items() if value
    }
    return [
        f"privilege: {source.kind} has nothing to say: this environment's info never holds "
        f"{source.reads!r}. Let it, or choose another source"
        for source in sources
        if source.reads and known and source.reads not in known
    ]


def chosen(trajectory: Trajectory, when: When) -> bool:
    """Whether a trajectory is one of those that something is said of."""
    return when == "always" or trajectory.success == (when == "solved")


def before_turns(trajectory: Trajectory) -> list[tuple[Turn, Mapping[str, Any]]]:
    """Each turn, and the `info` that came with the observation that it answers."""
    infos = [trajectory.prompt, *(turn.info for turn in trajectory.turns[:-1])]
    return list(zip(trajectory.turns, infos, strict=False))


def skill_tag(trajectory: Trajectory) -> str:
    """The tag under which the skills of a trajectory's task are filed."""
    return str(trajectory.prompt.get("skill", trajectory.env))
