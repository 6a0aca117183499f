"""One episode: an environment and a conversation, and what passes between them.

A failed episode is data. What the environment raises ends that episode alone and is recorded with
it, and so does an environment that breaks its contract or blocks for longer than its limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, SupportsFloat

import gymnasium
import numpy as np

from agentopd.base.text import check_unicode, raised
from agentopd.base.types import EndReason, Owner, Trajectory, Turn
from agentopd.environment.contract import examples, recorded, system_prompt
from agentopd.models.chat import Conversation
from agentopd.rollout.acting.roles import ALONE, Direction
from agentopd.rollout.calls import Call, Caller, Made
from agentopd.rollout.sampler import Completion, Mixture, Request
from agentopd.signal.truncation import Truncation

RAISED = (Exception, SystemExit)
"""What ends an episode alone: environments that call `sys.exit` too, but not Ctrl-C."""
_SHOWN = 60
_PREFIX_ONLY = (
    "the {} turns that were replayed played the episode to its end ({}), and nothing was left to "
    "the student: replay fewer, or allow more of rollout.max_turns"
)
_Stepped = tuple[str, float, EndReason | None, dict[str, Any]]
"""Observation, reward, end if it is one, and info."""
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Task:
    """One episode to play.

    `task` numbers what is played, equal within a group; `seed` resets the environment. An episode
    that is played again, as another `attempt`, has other random numbers.
    """

    episode: int
    task: int
    seed: int
    direction: Direction = ALONE
    attempt: int = 0


@dataclass(frozen=True)
class Limits:
    """Where an episode stops besides the environment's own end.

    Turns of an episode, tokens of one answer, tokens of the whole context, seconds of one call of
    an environment that blocks.
    """

    turns: int
    turn_tokens: int
    context: int
    env_seconds: float = 120.0


@dataclass
class Episode:
    """One episode in play.

    `conversation` is what is kept and learnt from; `aside` is the same as it is read by whoever is
    told more, where that does not stand in it.

    `start`, `advance` and `close` stop once, where the environment has been called but not listened
    to, and give that call: whoever goes on when it is done waits for nobody.
    """

    task: Task
    env_id: str
    env: gymnasium.Env[str, str]
    caller: Caller
    conversation: Conversation
    limits: Limits
    turns: list[Turn] = field(default_factory=list)
    end: EndReason | None = None
    error: str = ""
    closing: bool = False
    _prompt: dict[str, Any] = field(default_factory=dict)
    _observation: str = ""
    _sampled: int = 0
    _heard: list[int] = field(default_factory=list)
    _line: Completion | None = None

    def __post_init__(self) -> None:
        direction = self.task.direction
        self._telling = direction.teller() if direction.teller else None
        plain = self.conversation
        apart = self._telling is not None and not direction.told_history
        self.aside = Conversation(plain.template, plain.stop_ids) if apart else None

    def start(self) -> Iterator[Call[Any]]:
        """Reset the environment and open the conversation."""
        reset = self.caller.begin(lambda: _noted(*self.env.reset(seed=self.task.seed)))
        yield reset
        try:
            self._observation, self._prompt = reset.result()
            system = _text(system_prompt(self.env), "system prompt")
            shown = [(_text(a, "example"), _text(b, "example")) for a, b in examples(self.env)]
            plain = told = (system, self._observation)
            if self._telling is not None:
                told = self._telling.begin(self.env, self._prompt, *plain)
        except RAISED as error:  # whatever the environment raises ends this episode alone
            self._fail(error)
            return
        kept = plain if self.aside else told

        def begin() -> None:
            self.conversation.begin(*kept, shown)
            if self.aside:
                self.aside.begin(*told, shown)

        self._tell(begin)

    @property
    def scripted(self) -> Completion | None:
        """The next answer if it is the script's, which nobody samples."""
        return self._line

    def advance(self, completion: Completion, owner: Owner | None = None) -> Iterator[Call[Any]]:
        """Hand the answer to the environment and note what it says.

        Args:
            owner: who wrote it, if not who was asked.
        """
        voice = self.task.direction.voice(len(self.turns))
        said = completion.ids, completion.logprobs, owner or voice.owner
        apart = self.aside is not None and voice.told and owner is None
        action, start = self.conversation.answer(*said, told=apart)
        if self.aside:
            self._heard.append(self.aside.answer(*said)[1])
        self._sampled += len(completion.ids) if owner is None else 0
        observation, reward, info = "", 0.0, {"success": False}
        ended = None
        step = self._step(action)
        yield step
        try:
            observation, reward, ended, info = step.result()
        except RAISED as error:  # as in `start`
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
        ended = ended or self._limit()
        if ended and owner is Owner.DEMO and owner not in self.task.direction.learnt:
            self._fail(ValueError(_PREFIX_ONLY.format(len(self.turns), ended)))
        self.end = self.end or ended
        if self.end is None:
            self._tell(lambda: self._observe(observation))

    def request(self, seed: int, temperature: float, truncation: Truncation) -> Request:
        """What the sampler needs for the next answer; `seed` is the run's."""
        attempt = (self.task.attempt,) if self.task.attempt else ()
        random = (seed, self.task.episode, *attempt, len(self.turns))
        voice, plain = self.task.direction.voice(len(self.turns)), self.conversation.context
        told = self.aside.context if self.aside and voice.told else plain
        mixed = voice.actor is Owner.MIXTURE
        return Request(
            key=self.task.episode,
            ids=plain if mixed else told,
            seed=random,
            max_tokens=min(self.limits.turn_tokens, self._left()),
            temperature=temperature,
            truncation=truncation,
            actor=voice.actor,
            mixture=Mixture(told, voice.share, voice.blend) if mixed else None,
        )

    def close(self) -> Iterator[Call[Any]]:
        """Close the environment."""
        self.closing = True
        sound = self.end not in (None, EndReason.ERROR)
        closed = self.caller.end(self.env.close, sound)
        yield closed
        try:
            closed.result()
        except RAISED as error:  # as in `start`
            self._fail(error)

    @property
    def unopened(self) -> bool:
        """Whether it could not begin: its environment was not built or not reset."""
        return bool(self.error) and not self._prompt

    def trajectories(self) -> list[Trajectory]:
        """The finished record; or two, of which the first is what was read (see
        `Direction.untold`).
        """
        number, untold = self.task.episode, self.task.direction.untold
        if self.aside is None or untold is None or self.error:
            return [self._record(self.conversation, self.turns, number)]
        pairs = zip(self.turns, self._heard, strict=True)
        read = self._record(self.aside, [_moved(turn, to) for turn, to in pairs], number)
        return [read, self._record(self.conversation, self.turns, untold)]

    def _record(self, of: Conversation, turns: list[Turn], number: int) -> Trajectory:
        assert self.end is not None
        return of.trajectory(
            turns,
            self.end,
            self.task.direction.learnt,
            env=self.env_id,
            episode=number,
            task=self.task.task,
            seed=self.task.seed,
            prompt=self._prompt,
            error=self.error,
        )

    def _step(self, action: str) -> Call[_Stepped]:
        """One step of the environment, or what it is recorded to have said."""
        replies, turn = self.task.direction.replies, len(self.turns)
        if replies is None:
            return self.caller.begin(lambda: _stepped(self.env, action))

        def replied() -> _Stepped:
            reply = replies(turn)
            return reply.observation, reply.reward, None, dict(reply.info)

        return Made(replied)

    def _observe(self, observation: str) -> None:
        """Show an observation to whoever answers next."""
        told = observation
        if self._telling is not None:
            told = self._telling.observe(self.turns, observation)
        self.conversation.observe(observation if self.aside else told)
        if self.aside:
            self.aside.observe(told)

    def _scripted(self) -> Completion | None:
        """See `scripted`.

        Raises:
            ValueError: the environment does not repeat itself, or the script lacks a line.
        """
        script, turn = self.task.direction.script, len(self.turns)
        if script is None:
            return None
        heard = script.heard(turn)
        if heard is not None and heard != self._observation:
            raise NotRepeated(turn, heard, self._observation)
        info = self.turns[-1].info if self.turns else self._prompt
        line, template = script.line(self.env, turn, dict(info)), self.conversation.template
        if line is None:
            return None
        if isinstance(line, str):
            line = [*template.encode_content(line), template.closing]
        return Completion(line, [math.nan] * len(line), cut=False)

    def _left(self) -> int:
        """How many tokens may still be sampled in the episode."""
        most = self.task.direction.tokens
        return self.limits.turn_tokens if most is None else most - self._sampled

    def _limit(self) -> EndReason | None:
        """The rollout's limit that has been reached, if one has."""
        turns = min(self.limits.turns, self.task.direction.turns or self.limits.turns)
        if len(self.turns) >= turns:
            return EndReason.TURN_LIMIT
        return EndReason.TOKEN_LIMIT if self._left() <= 0 else None

    def _fail(self, error: BaseException) -> None:
        self.end = EndReason.ERROR
        self.error = self.error or raised(error)

    def _tell(self, say: Callable[[], None]) -> None:
        """Show the student what the environment said, if another answer fits behind it."""
        try:
            say()
            self._line = self._scripted()
        except ValueError as error:
            self._fail(error)
            return
        shown = max(len(x.context) for x in (self.conversation, self.aside) if x)
        if shown + self.limits.turn_tokens > self.limits.context:
            self.end = EndReason.CONTEXT_LIMIT
            if not self.turns:
                answer, context = self.limits.turn_tokens, self.limits.context
                self.error = (
                    f"rules and first observation are {shown} tokens: with {answer} for an answer "
                    f"that is more than the {context} of a context; shorten them, or raise "
                    "max_context as far as the student can read"
                )


class NotRepeated(ValueError):
    """An environment says something else than when a demonstration was played in it."""

    def __init__(self, turn: int, heard: str, said: str) -> None:
        super().__init__(
            f"the demonstration cannot be replayed: before turn {turn + 1} the environment said "
            f"{heard[:_SHOWN]!r} when it was recorded and {said[:_SHOWN]!r} now, under the same "
            "seed and actions; agentopd check-env says where it does not repeat itself"
        )


class Unbuilt(gymnasium.Env[str, str]):
    """Stands in for an environment that could not be built: its reset raises the reason."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        raise self.error


def _moved(turn: Turn, start: int) -> Turn:
    """A turn whose answer starts elsewhere."""
    by = start - turn.start
    return replace(turn, start=start, act=turn.act + by, stop=turn.stop + by)


def _stepped(env: gymnasium.Env[str, str], action: str) -> _Stepped:
    """One step of an environment.

    Raises:
        Exception: the environment did, or broke the contract of `agentopd.environment.contract`.
    """
    observation, reward, terminated, truncated, info = env.step(action)
    said, noted = _noted(observation, info)
    end = EndReason.TRUNCATED if truncated else None
    # Gymnasium's TimeLimit may truncate the very step that ends the task: the task's end counts.
    return said, _reward(reward), EndReason.TERMINATED if terminated else end, noted


def _noted(observation: str, info: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The observation, and a copy of `info` as a file would give it back.

    A copy, because an environment may go on writing into what it has returned.

    Raises:
        TypeError: the observation is not a string, or `info` cannot be written as JSON.
        ValueError: a text is not Unicode.
    """
    return _text(observation, "observation"), recorded(info)


def _text(given: Any, what: str) -> str:
    """What the student is to read.

    Raises:
        TypeError: it is not a string.
        ValueError: it is not Unicode text.
    """
    if not isinstance(given, str):
        raise TypeError(f"the {what} is of type {type(given).__name__}, not a string")
    return check_unicode(given, f"the {what}")


def _reward(given: Any) -> float:
    """A reward that can be learnt from: one that is not finite would reach every other episode.

    Raises:
        TypeError: it is not a number.
        ValueError: it is not finite, or too large for a 32-bit float.
    """
    if not isinstance(given, SupportsFloat) or np.ndim(given):  # type: ignore[arg-type]
        raise TypeError(f"the reward is of type {type(given).__name__}, not a number")
    reward = float(given)
    if not math.isfinite(reward) or abs(reward) > _LARGEST:
        raise ValueError(f"the reward is {reward:g}: it must be finite in 32 bits")
    return reward
