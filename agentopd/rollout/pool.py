"""Episodes in a pool: who waits for an answer joins the next batch, who ends frees the slot.

A failed episode is data. What the environment raises ends that episode alone and is recorded with
it.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from agentopd.chat import ChatTemplate, Conversation
from agentopd.env import system_prompt
from agentopd.rollout.sampler import Completion, Request, Sampler
from agentopd.types import EndReason, Owner, Trajectory, Turn


@dataclass(frozen=True)
class Task:
    """One episode to play.

    `task` numbers what is played, equal within a group; `seed` resets the environment.
    """

    episode: int
    task: int
    seed: int


@dataclass(frozen=True)
class Limits:
    """Where an episode stops besides the environment's own end.

    Turns of an episode, tokens of one answer, tokens of the whole context.
    """

    turns: int
    turn_tokens: int
    context: int


@dataclass
class Episode:
    """One episode in play."""

    task: Task
    env_id: str
    env: gymnasium.Env[str, str]
    conversation: Conversation
    limits: Limits
    turns: list[Turn] = field(default_factory=list)
    end: EndReason | None = None
    error: str = ""
    _prompt: dict[str, Any] = field(default_factory=dict)
    _observation: str = ""

    def start(self) -> None:
        """Reset the environment and open the conversation."""
        try:
            self._observation, self._prompt = _noted(*self.env.reset(seed=self.task.seed))
            system = system_prompt(self.env)
        except Exception as error:  # whatever the environment raises ends this episode alone
            self._fail(error)
            return
        self._tell(lambda: self.conversation.begin(system, self._observation))

    def advance(self, completion: Completion) -> None:
        """Hand the answer to the environment and note what it says."""
        action, start = self.conversation.answer(completion.ids, completion.logprobs, Owner.STUDENT)
        observation, reward, info = "", 0.0, {"success": False}
        ended = None
        try:
            observation, reward, ended, info = _stepped(self.env, action)
        except Exception as error:  # as in `start`
            self._fail(error)
        turn = Turn(
            index=len(self.turns),
            observation=self._observation,
            action=action,
            start=start,
            act=start + self.conversation.template.reasoning_length(completion.ids),
            stop=start + len(completion.ids),
            cut=completion.cut,
            reward=reward,
            info=info,
        )
        self.turns.append(turn)
        self._observation = observation
        if len(self.turns) >= self.limits.turns:
            ended = ended or EndReason.TURN_LIMIT
        self.end = self.end or ended
        if self.end is None:
            self._tell(lambda: self.conversation.observe(observation))

    def request(self, seed: int) -> Request:
        """What the sampler needs for the next answer."""
        random = (seed, self.task.episode, len(self.turns))
        return Request(self.task.episode, self.conversation.context, random)

    def trajectory(self) -> Trajectory:
        """The finished record; closes the environment."""
        try:
            self.env.close()
        except Exception as error:  # as in `start`
            self._fail(error)
        assert self.end is not None
        return self.conversation.trajectory(
            self.turns,
            self.end,
            env=self.env_id,
            episode=self.task.episode,
            task=self.task.task,
            seed=self.task.seed,
            prompt=self._prompt,
            error=self.error,
        )

    def _fail(self, error: Exception) -> None:
        self.end = EndReason.ERROR
        self.error = self.error or f"{type(error).__name__}: {error}"

    def _tell(self, say: Callable[[], None]) -> None:
        """Show the student what the environment said, if another answer fits behind it."""
        try:
            say()
        except ValueError as error:
            self._fail(error)
            return
        if len(self.conversation.context) + self.limits.turn_tokens > self.limits.context:
            self.end = EndReason.CONTEXT_LIMIT


@dataclass(frozen=True)
class EpisodePool:
    """Plays tasks, at most `slots` at a time.

    Args:
        make_env: builds a fresh environment; every episode gets its own.
        seed: of the sampled tokens; an episode's depend on it and on the episode's number alone.
    """

    env_id: str
    make_env: Callable[[], gymnasium.Env[str, str]]
    template: ChatTemplate
    stop_ids: frozenset[int]
    limits: Limits
    slots: int
    temperature: float
    seed: int

    def play(self, tasks: Iterable[Task], sampler: Sampler) -> list[Trajectory]:
        """Play every task to its end; results in the order of their episode numbers."""
        queue, playing = deque(tasks), list[Episode]()
        finished: list[Trajectory] = []
        while queue or playing:
            while queue and len(playing) < self.slots:
                playing.append(self._open(queue.popleft()))
            waiting = [episode for episode in playing if episode.end is None]
            requests = [episode.request(self.seed) for episode in waiting]
            completions = sampler.generate(requests, self.limits.turn_tokens, self.temperature)
            for episode, completion in zip(waiting, completions, strict=True):
                episode.advance(completion)
            finished += [episode.trajectory() for episode in playing if episode.end is not None]
            playing = [episode for episode in playing if episode.end is None]
        return sorted(finished, key=lambda trajectory: trajectory.episode)

    def _open(self, task: Task) -> Episode:
        conversation = Conversation(self.template, self.stop_ids)
        episode = Episode(task, self.env_id, self.make_env(), conversation, self.limits)
        episode.start()
        return episode


def _stepped(
    env: gymnasium.Env[str, str], action: str
) -> tuple[str, float, EndReason | None, dict[str, Any]]:
    """One step's observation, reward, end if it is one, and info.

    Raises:
        Exception: the environment did, or broke the contract of `agentopd.env`.
    """
    observation, reward, terminated, truncated, info = env.step(action)
    said, noted = _noted(observation, info)
    end = EndReason.TRUNCATED if truncated else None
    # Gymnasium's TimeLimit may truncate the very step that ends the task: the task's end counts.
    return said, float(reward), EndReason.TERMINATED if terminated else end, noted


def _noted(observation: str, info: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The observation, and a copy of `info` as a file would give it back.

    A copy, because an environment may go on writing into what it has returned.

    Raises:
        TypeError: the observation is not a string, or `info` cannot be written as JSON.
        ValueError: the observation is not Unicode text.
    """
    if not isinstance(observation, str):
        raise TypeError(f"the observation is of type {type(observation).__name__}, not a string")
    observation.encode()
    return observation, json.loads(json.dumps(dict(info), default=_plain))


def _plain(value: Any) -> Any:
    """The Python form of what JSON has no form for."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"info holds a {type(value).__name__}, which JSON has no form for")
