"""Episodes in a pool: each goes on as soon as its own answer or its own environment is there.

Nobody waits for the slowest. An episode asks the sampler, is handed its answer when that has ended,
and gives it to its environment; who ends frees the slot for the next task. Environments in process
are called where they stand, in the order of the answers; those that block work on their own threads
while the sampler goes on.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from threading import Event
from typing import Any

import gymnasium

from agentopd.base.types import Owner, Trajectory
from agentopd.models.chat import ChatTemplate, Conversation
from agentopd.parallel.processes import ALONE, Processes
from agentopd.rollout.calls import Call, InPlace
from agentopd.rollout.episode import RAISED, Episode, Limits, Task, Unbuilt
from agentopd.rollout.kept import Key, Shelf, places
from agentopd.rollout.sampler import Sampler, SamplerFailed
from agentopd.signal.truncation import WHOLE, Truncation


def _alone(env: gymnasium.Env[str, str]) -> gymnasium.Env[str, str]:
    """An environment without wrappers."""
    return env


@dataclass(frozen=True)
class EpisodePool:
    """Plays tasks, at most `slots` at a time; an environment holds its slot until it is closed.

    An episode's answers depend on the seed, its number and its turns alone. Where all environments
    are in process the whole schedule repeats itself too, so that a run gives the same bits every
    time. Environments that block may be overtaken, and then batches differ: log-probabilities by
    their rounding, and an answer only where its random number lies that close to the border
    between two tokens.

    Args:
        make_env: builds a fresh environment, every episode its own; one that says it is reusable
            goes on to the next episode that plays what `key` names, with new wrappers `around` it.
        shelf: keeps those between plays; where there is none, they are closed after each play.
        seed: of the sampled tokens; an episode's depend on it and on the episode's number alone.
        processes: who play the tasks together, whole groups each.
    """

    env_id: str
    make_env: Callable[[], gymnasium.Env[str, str]]
    template: ChatTemplate
    stop_ids: frozenset[int]
    limits: Limits
    slots: int
    temperature: float
    seed: int
    truncation: Truncation = WHOLE
    processes: Processes = ALONE
    key: Key = ("", {})
    around: Callable[[gymnasium.Env[str, str]], gymnasium.Env[str, str]] = _alone
    shelf: Shelf | None = None

    def play(self, tasks: Iterable[Task], sampler: Sampler) -> list[Trajectory]:
        """Play every task to its end; results in the order of their episode numbers.

        Of several processes each plays its share, and all have all results.

        Raises:
            SamplerFailed: the sampler is gone; of several processes, that of any.
        """
        own = self.processes.share([*tasks], task=lambda task: task.task)
        shelf = nullcontext(self.shelf) if self.shelf else closing(Shelf())
        with self.processes.united(SamplerFailed), shelf as kept:
            played = _Play(self, own, sampler, kept).run()
        finished = self.processes.gather(played)
        return sorted(finished, key=lambda trajectory: trajectory.episode)

    def open(self, task: Task, wake: Event, shelf: Shelf, most: float) -> Episode:
        """An episode that has not begun; an environment that blocks sets `wake` when it answers.

        Args:
            most: how many environments may be there at once.
        """
        seconds = self.limits.env_seconds
        try:
            env, calls = shelf.lend(self.key, self.make_env, self.around, seconds, wake, most)
        except RAISED as error:  # its reset raises it, and so it costs this episode alone
            env, calls = Unbuilt(error), InPlace()
        conversation = Conversation(self.template, self.stop_ids)
        return Episode(task, self.env_id, env, calls, conversation, self.limits)


@dataclass(frozen=True)
class _Called:
    """An episode whose environment is working, and how it goes on."""

    episode: Episode
    rest: Iterator[Call[Any]]
    call: Call[Any]


class _Play:
    """One play of a pool. An episode in play is `asking`, being answered, or `called`."""

    def __init__(
        self, pool: EpisodePool, tasks: Iterable[Task], sampler: Sampler, shelf: Shelf
    ) -> None:
        self.pool, self.sampler, self.queue = pool, sampler, deque(tasks)
        self.shelf, self.slots = shelf, float(pool.slots)
        self.wake = Event()
        self.playing: dict[int, Episode] = {}
        self.asking: list[Episode] = []
        self.called: list[_Called] = []
        self.finished: list[Trajectory] = []

    def run(self) -> list[Trajectory]:
        """Play; the trajectories in the order in which they ended."""
        try:
            while self.queue or self.playing:
                self._open()
                self._hear()
                self._ask()
                self._listen()
        finally:
            self.sampler.forget(list(self.playing))
            for episode in self.playing.values():
                if not episode.closing:  # left by an exception or Ctrl-C: nobody waits for them
                    next(episode.close())
        return self.finished

    def _open(self) -> None:
        """Begin the next tasks in the slots that are free."""
        while self.queue and len(self.playing) < self.slots:
            episode = self.pool.open(self.queue.popleft(), self.wake, self.shelf, self.slots)
            self.slots = min(self.slots, places(episode.env))
            self.playing[episode.task.episode] = episode
            self._call(episode, episode.start())

    def _call(self, episode: Episode, part: Iterator[Call[Any]]) -> None:
        self.called.append(_Called(episode, part, next(part)))

    def _hear(self) -> None:
        """Go on with everyone whose environment has answered, until nobody's has."""
        self.wake.clear()
        while True:
            done, working = list[_Called](), list[_Called]()
            for called in self.called:
                (done if called.call.done else working).append(called)
            if not done:
                return
            self.called = working
            for called in done:
                next(called.rest, None)
            for called in done:
                self._go_on(called.episode)
            self._open()

    def _go_on(self, episode: Episode) -> None:
        key = episode.task.episode
        if episode.closing:
            del self.playing[key]
            if episode.unopened and episode.caller.used:  # it has died since the episode before
                self.queue.appendleft(episode.task)
            else:
                self.finished += episode.trajectories()
        elif episode.end is None:
            if (line := episode.scripted) is None:
                self.asking.append(episode)
            else:
                self._call(episode, episode.advance(line, Owner.DEMO))
        else:
            self.sampler.forget([key])
            self._call(episode, episode.close())

    def _ask(self) -> None:
        """All that can be answered now are asked at once, so that a sampler may batch them."""
        asking = sorted(self.asking, key=lambda episode: episode.task.episode)
        self.asking = []
        if asking:
            pool = self.pool
            drawn = pool.seed, pool.temperature, pool.truncation
            self.sampler.submit([e.request(*drawn) for e in asking])

    def _listen(self) -> None:
        """Wait for whichever comes first: an answer, an environment, or the limit of one."""
        due = min((called.call.due for called in self.called), default=math.inf)
        seconds = None if due == math.inf else max(0.0, due - time.monotonic())
        if len(self.playing) == len(self.called):  # nobody is being answered
            if self.called:
                self.wake.wait(seconds)
            return
        for answer in self.sampler.ready(self.wake, seconds):
            episode = self.playing[answer.key]
            self._call(episode, episode.advance(answer.completion))
