"""What an expert answers in every state that others have visited: labels, which nobody plays.

An episode of K turns becomes up to K records, one a state: its history, in which nothing is learnt,
and the expert's answer to it. Where the expert itself has acted, its answer is what it said then.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import gymnasium
import numpy as np
import numpy.typing as npt

from agentopd.base.types import EndReason, Message, Owner, Trajectory, Turn, View
from agentopd.environment.contract import actions, declared
from agentopd.models.template import ChatTemplate
from agentopd.privilege.base import gather
from agentopd.rollout.sampler import Completion, Request, answers
from agentopd.rollout.transformers_sampler import TransformersSampler
from agentopd.running.config import RunConfig

# T tokens of a trajectory


@dataclass(frozen=True)
class State:
    """A visited state: the history of an episode up to one of its turns."""

    trajectory: Trajectory
    turn: Turn


class Expert:
    """Answers in states that it was not led into; `owner` is whose its tokens are."""

    owner: Owner

    def __init__(self, template: ChatTemplate, stop_ids: frozenset[int]) -> None:
        self._template, self._stop_ids = template, stop_ids

    @abstractmethod
    def answers(self, states: Sequence[State]) -> list[Completion | None]:
        """One answer a state, in order; None where it has none."""

    def label(self, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        """A record of each state that the expert has an answer to, by episode and by turn."""
        states = [State(t, turn) for t in trajectories if t.acts for turn in t.turns]
        asked = [state for state in states if not self._acted(state)]
        said = iter(self.answers(asked))
        found = (
            self._as_played(state) if self._acted(state) else self._labelled(state, next(said))
            for state in states
        )
        return [record for record in found if record is not None]

    def _acted(self, state: State) -> bool:
        """Whether the answer that stands there is the expert's own."""
        return bool(state.trajectory.owner[state.turn.start] == self.owner)

    def _as_played(self, state: State) -> Trajectory:
        """The state with the answer that stands there."""
        place = slice(state.turn.start, state.turn.stop)
        own = state.trajectory
        return self._record(state, own.ids[place], own.logprob[place], state.turn)

    def _labelled(self, state: State, said: Completion | None) -> Trajectory | None:
        """The state with an answer that nobody has played, of which nothing has come."""
        if said is None:
            return None
        start = state.turn.start
        turn = replace(
            state.turn,
            action=self._template.action(self._spoken(said.ids)),
            act=start + self._template.reasoning_length(said.ids),
            stop=start + len(said.ids),
            cut=said.cut,
            reward=0.0,
            info={"success": False},
        )
        return self._record(state, np.array(said.ids), np.array(said.logprobs), turn)

    def _spoken(self, ids: Sequence[int]) -> Sequence[int]:
        """An answer without the token that ends it."""
        return ids[:-1] if ids and ids[-1] in self._stop_ids else ids

    def _record(
        self,
        state: State,
        ids: npt.NDArray[np.int64],
        logprobs: npt.NDArray[np.floating],
        turn: Turn,
    ) -> Trajectory:
        """The history, as what is shown, and an answer behind it, which alone is learnt."""
        own, start, size = state.trajectory, turn.start, len(ids)
        spoken = start + len(self._spoken(ids.tolist()))
        shown_T, said_T = np.zeros(start, np.uint8), np.ones(size, np.uint8)
        begun = _beginning(own.segments, start)
        return replace(
            own,
            ids=np.concatenate([own.ids[:start], ids]),
            turn=np.concatenate([own.turn[:start], np.full(size, turn.index, np.int32)]),
            trainable=np.concatenate([shown_T, said_T]).astype(np.bool_),
            owner=np.concatenate([shown_T, said_T * np.uint8(self.owner)]),
            logprob=np.concatenate([np.full(start, math.nan), logprobs]).astype(np.float32),
            messages=(
                *(message for message in own.messages if message.stop <= start),
                Message(role="assistant", start=start, stop=spoken),
            ),
            turns=(*own.turns[: turn.index], turn),
            segments=((begun, start + size),),
            end=EndReason.TURN_LIMIT,
            error="",
            told=None,
            attempt=None,
        )


class OracleExpert(Expert):
    """Answers with the first action of `info["oracle"]`, which the environment gave there."""

    owner = Owner.DEMO

    def __init__(
        self, env: gymnasium.Env[str, str], template: ChatTemplate, stop_ids: frozenset[int]
    ) -> None:
        super().__init__(template, stop_ids)
        self._env = env

    def answers(self, states: Sequence[State]) -> list[Completion | None]:
        """See `Expert.answers`: none where the environment names no action."""
        return [self._answer(state) for state in states]

    def _acted(self, state: State) -> bool:
        """See `Expert._acted`: what was replayed need not be its own, and asking costs nothing."""
        return False

    def _answer(self, state: State) -> Completion | None:
        own, before = state.trajectory, state.turn.index
        info = own.turns[before - 1].info if before else own.prompt
        plan = actions(self._env, str(info.get("oracle") or ""))
        if not plan:
            return None
        line = declared(self._env, "action_form", "<action>{}</action>").replace("{}", plan[0])
        ids = [*self._template.encode_content(line), self._template.closing]
        return Completion(ids, [math.nan] * len(ids), cut=False)


class TeacherExpert(Expert):
    """The teacher's likeliest answer, token by token, told what the sources of privilege say of the
    episode, where the view puts it.

    Args:
        config: of a run whose teacher and sources are prepared.
    """

    owner = Owner.TEACHER

    def __init__(self, config: RunConfig, template: ChatTemplate, stop_ids: frozenset[int]) -> None:
        super().__init__(template, stop_ids)
        self._config, self._model = config, config.teacher.model
        self._sampler = TransformersSampler(self._model)

    def answers(self, states: Sequence[State]) -> list[Completion | None]:
        """See `Expert.answers`: none where no source has anything to say, or no answer fits."""
        contexts = self._contexts(states)
        most = self._config.rollout.max_turn_tokens
        found: list[Completion | None] = [None] * len(states)
        fits = [
            n for n, ids in enumerate(contexts) if ids and len(ids) + most <= self._model.positions
        ]
        at_once = self._config.rollout.slots
        for first in range(0, len(fits), at_once):
            some = fits[first : first + at_once]
            asked = [
                Request(key=n, ids=contexts[n], seed=(n,), max_tokens=most, temperature=0.0)
                for n in some
            ]
            for n, said in zip(some, answers(self._sampler, asked), strict=True):
                found[n] = said
        return found

    def _contexts(self, states: Sequence[State]) -> list[list[int]]:
        """What the teacher reads in each state; empty where it has nothing to go by."""
        episodes = {id(state.trajectory): state.trajectory for state in states}
        read = [
            replace(t, trainable=t.owner != Owner.TEMPLATE, told=None) for t in episodes.values()
        ]
        own = dict(zip(episodes, read, strict=True))
        briefed = gather(self._config.privilege, read)
        views = self._config.view.build(briefed, self._template)
        by_episode = {id(view.trajectory): view for view in views}
        found = []
        for state in states:
            view = by_episode.get(id(own[id(state.trajectory)]))
            found.append(_context(view, state.turn) if view is not None else [])
        return found


def _context(view: View, turn: Turn) -> list[int]:
    """What stands before a turn's answer in its segment of a view."""
    place = int(view.position[turn.start])
    return view.ids[_beginning(view.segments, place) : place].tolist()


def _beginning(segments: Sequence[tuple[int, int]], place: int) -> int:
    """Where the segment that holds a place begins."""
    return next(start for start, stop in segments if start <= place < stop)
