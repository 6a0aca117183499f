"""Sources that tell of other episodes of the task: what solved peers did, how many there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import gymnasium
from pydantic import Field, PrivateAttr

from agentopd.asking.quoting import played
from agentopd.base.types import Privilege, Trajectory
from agentopd.environment.contract import declared, parse_action, without_reasoning
from agentopd.privilege import writer
from agentopd.privilege.base import Source, When, chosen
from agentopd.rollout.acting.confidence import line
from agentopd.signal.beside import Beside

Form = Literal["actions", "episode"]
"""How an episode is told: its actions alone, as the environment writes a solution, or all that was
seen and answered. Thoughts are left out of both."""


def solved_peers(trajectory: Trajectory, batch: Sequence[Trajectory]) -> Iterator[Trajectory]:
    """The other episodes of the same task that solved it, in order; never the episode itself."""
    for peer in batch:
        own = peer is trajectory or peer.episode == trajectory.episode or _same(peer, trajectory)
        if peer.task == trajectory.task and peer.success and not own:
            yield peer


def _same(peer: Trajectory, trajectory: Trajectory) -> bool:
    """Whether a trajectory is another record of what this peer did."""
    one, other = peer.attempt, trajectory.attempt
    same = one and other and (one.first, one.number) == (other.first, other.number)
    return bool(same)


def actions_of(trajectory: Trajectory) -> list[str]:
    """What an episode's answers do, without thoughts; the whole of the rest where no action is
    tagged.
    """
    said = (without_reasoning(turn.action) for turn in trajectory.turns)
    return [parse_action(text) or text.strip() for text in said]


class PeerSource(Source):
    """What an episode did, told in one form; see `Form`."""

    form: Form = "actions"
    _between: str = PrivateAttr(default=" ")

    def enter(self, env: gymnasium.Env[str, str]) -> None:
        """See `Source.enter`."""
        self._between = declared(env, "action_between", " ") or "\n"

    def told(self, episode: Trajectory) -> str:
        """What an episode that solved the task did, in words."""
        said = self.in_form(episode)
        return writer.solution(said) if self.form == "actions" else writer.attempt(said)

    def in_form(self, episode: Trajectory) -> str:
        """Its actions, or all that was seen and answered."""
        if self.form == "actions":
            return self._between.join(actions_of(episode))
        return played([writer.without_thoughts(turn) for turn in episode.turns])


class PeerSuccess(PeerSource, kind="peer_success"):
    """What another episode of the group did that solved the task (SDPO 2601.20802): never the
    episode itself, and nothing where no other solved it.

    Args:
        form: its actions alone, or all that was seen and answered.
        when: of which episodes something is told.
        causal: before each turn what the peer did in the turn of that number, and nothing of what
            it did later (StepOPSD 2605.27140): for view: every_turn.
        remember: tasks whose solutions of earlier steps are kept, for when they come again (RESD
            2605.12741); those of this step come first.
    """

    when: When = "always"
    causal: bool = False
    remember: int = Field(default=0, ge=0)
    _kept: dict[str, list[tuple[int, list[str]]]] = PrivateAttr(default_factory=dict)

    def check(self, beside: Beside) -> None:
        """See `Source.check`.

        Raises:
            ValueError: no episode has a peer.
        """
        if beside.group < 2 and not self.remember:
            raise ValueError(
                "privilege: peer_success tells what another episode of the same task did, and "
                "rollout.group: 1 plays each task once: set rollout.group to 2 or more, or "
                "remember, where tasks come again"
            )

    def learn(self, trajectories: Sequence[Trajectory]) -> None:
        """See `Source.learn`."""
        if not self.remember:
            return
        for trajectory in trajectories:
            if trajectory.success and (name := str(trajectory.prompt.get("task_id") or "")):
                # Two, so that one is left where an episode's own is not told.
                own = [(trajectory.episode, self._texts(trajectory))]
                self._kept[name] = [*self._kept.pop(name, []), *own][-2:]
        self._kept = dict(list(self._kept.items())[-self.remember :])

    def whisper(
        self, trajectory: Trajectory, batch: Sequence[Trajectory]
    ) -> tuple[Privilege, ...] | None:
        """See `Source.whisper`."""
        if not chosen(trajectory, self.when):
            return None
        peer = next(solved_peers(trajectory, batch), None)
        texts = self._remembered(trajectory) if peer is None else self._texts(peer)
        if not texts:
            return None
        if not self.causal:
            return (Privilege(source=self.kind, text=texts[0]),)
        turns = zip(trajectory.turns, texts, strict=False)
        told = tuple(Privilege(source=self.kind, text=x, turn=turn.index) for turn, x in turns)
        return told or None

    def state(self) -> dict[str, Any]:
        """See `Source.state`."""
        return {"kept": self._kept} if self.remember else {}

    def restore(self, state: dict[str, Any]) -> None:
        """See `Source.restore`."""
        self._kept = {
            name: [(int(episode), list(texts)) for episode, texts in kept]
            for name, kept in state.get("kept", {}).items()
        }

    def _texts(self, peer: Trajectory) -> list[str]:
        if not self.causal:
            return [self.told(peer)]
        return [writer.peer_turn(number, x) for number, x in enumerate(actions_of(peer), 1)]

    def _remembered(self, trajectory: Trajectory) -> list[str]:
        kept = self._kept.get(str(trajectory.prompt.get("task_id") or ""), [])
        others = [texts for episode, texts in kept if episode != trajectory.episode]
        return others[-1] if others else []


class OwnAttempt(PeerSource, kind="attempt"):
    """This very attempt and how it ended, for a teacher that judges it in hindsight (SD-Zero
    2604.12002, RESD 2605.12741).

    It holds the student's own words, which a weight of phrases would take for secrets: leave
    `phrase_mask` out.
    """

    def whisper(
        self, trajectory: Trajectory, batch: Sequence[Trajectory]
    ) -> tuple[Privilege, ...] | None:
        """See `Source.whisper`."""
        if not trajectory.turns:
            return None
        text = writer.own_attempt(self.in_form(trajectory), trajectory.success)
        return (Privilege(source=self.kind, text=text, quotes=True),)


class Confidence(Source, kind="confidence"):
    """How many episodes of the group solved the task, and the line with which `rollout: calibrated`
    closes an answer (CaOPD 2604.16830).
    """

    def whisper(
        self, trajectory: Trajectory, batch: Sequence[Trajectory]
    ) -> tuple[Privilege, ...] | None:
        """See `Source.whisper`."""
        group = [t.success for t in batch if t.task == trajectory.task]
        if not group:
            return None
        text = writer.confidence(sum(group), len(group), confidence_line(trajectory, batch))
        return (Privilege(source=self.kind, text=text, quotes=True),)


def confidence_line(trajectory: Trajectory, batch: Sequence[Trajectory]) -> str:
    """The line that closes the answers of an episode's group; empty where none of it was played."""
    group = [t.success for t in batch if t.task == trajectory.task]
    return line(sum(group) / len(group)) if group else ""
