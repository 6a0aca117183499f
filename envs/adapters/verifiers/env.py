"""Environments of verifiers: `agentopd.make("verifiers:reverse_text")`.

Such an environment plays by itself and calls a model's endpoint. Here the endpoint's answers are
what `step(action)` is given: the environment plays on a thread of its own, waits at the endpoint,
and what it asks there is the observation. Tokens stay the sampler's: the conversation that the
student reads and learns from is kept by the rollout, of which the environment is handed the text.

What is mapped: the system message is the rules; the first observation is the messages that the
environment begins with, a later one those that stand behind the model's last answer. The student's
answer reaches the environment whole but for its thoughts. Rewards are counted by the environment
when the episode has ended, so the last step is paid all; success is a reward of at least `solved`.
A field `answer` of the task is the oracle.

Only environments of messages are played, by one agent, without tools and containers, on tasks that
lie on the disk or are made in Python. A judge that is a model is called by the environment itself.

Source: the package `verifiers`, 0.4 (github.com/PrimeIntellect-ai/verifiers), its interface `v1`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentopd.environment.contract import TextEnv
from agentopd.envs.adapters.isolation import Isolation
from agentopd.envs.adapters.played.base import SHOWN, Begun, Heard, Played
from agentopd.envs.adapters.played.rows import form_pattern, read_answer
from agentopd.envs.adapters.verifiers.endpoint import Asked, Ended, Message, Player
from agentopd.envs.adapters.verifiers.package import Episodes, Result
from agentopd.envs.puzzle import Outcome, check_number


class Verified(Played):
    """An environment of verifiers.

    Args:
        name: the module that exports its `Taskset`, in the current folder or installed.
        taskset: fields of the taskset's configuration, `{split: test}` where it has splits.
        env: fields of the environment's configuration.
        skip, limit: how many tasks are left out at first and how many are taken, so that an
            evaluation may have others; of tasks without end a thousand are taken. Seed n plays the
            task n modulo their number.
        forms: what answers look like, {} for what is said; without any each answer with a letter
            or a digit in it is read.
        answer: the task's field that holds the right answer, told as the oracle in the first form.
        max_turns: answers before the episode is truncated.
        solved: the reward from which a task counts as solved.
        seconds: for what the environment does between two answers.
        shown: characters of an observation.

    Raises:
        ValueError: there is no such environment or field, its tasks cannot be had without a
            network, it needs more than messages, or verifiers is not installed.
    """

    metadata: dict[str, Any] = {**TextEnv.metadata, "blocking": True}  # noqa: RUF012
    action_between = None
    action_form = "{}"
    missing = "The answer is empty."

    def __init__(
        self,
        name: str,
        *,
        taskset: Mapping[str, Any] | None = None,
        env: Mapping[str, Any] | None = None,
        skip: int = 0,
        limit: int | None = None,
        forms: Sequence[str] = (),
        answer: str = "answer",
        max_turns: int = 10,
        solved: float = 1.0,
        seconds: float = 300.0,
        shown: int = SHOWN,
    ) -> None:
        super().__init__(
            f"verifiers' {name}",
            max_turns=max_turns,
            prompt="full",
            rules={"full": "", "brief": ""},
            shown=shown,
        )
        check_number("skip", skip, 0)
        if limit is not None:
            check_number("limit", limit, 1)
        self._forms = [form_pattern(form) for form in forms]
        if forms:
            self.action_form = forms[0]
            named = " or ".join(form.replace("{}", "...") for form in forms)
            self.missing = f"Answer in the form {named}."
        with Isolation(0, numpy=True):
            self._episodes = Episodes(
                name,
                taskset=taskset or {},
                env=env or {},
                skip=skip,
                limit=limit,
                max_turns=max_turns,
            )
        self._id, self._field, self._solved, self._seconds = name, answer, solved, seconds
        self._isolation = Isolation(0, numpy=True)
        self._player: Player | None = None
        self._gold, self._result = "", Result(0.0, {}, {}, False)

    def _begin(self, number: int) -> Begun:
        self.drop()
        tasks = self._episodes.tasks
        task = tasks[number % len(tasks)]
        self._isolation = Isolation(number, numpy=True)
        self._gold, self._result = _gold(task.data, self._field), Result(0.0, {}, {}, False)
        self._player = Player(lambda url: self._episodes.play(task, url))
        event = self._next()
        if isinstance(event, Ended):
            raise RuntimeError(f"{self.name} ended without asking the model anything")
        rules = [_text(m) for m in event.messages if m["role"] == "system"]
        self.system_prompt = "\n".join(rules)
        named = task.data.id or task.key[:16]
        return Begun(
            task_id=f"verifiers/{self._id}/{named}",
            text="\n".join(_text(m) for m in event.messages if m["role"] != "system"),
            skill=self._id,
        )

    def _next(self) -> Asked | Ended:
        """What the environment does next: it asks, or ends.

        Raises:
            Exception: what the environment raised.
            TimeoutError: it does nothing.
        """
        assert self._player is not None
        with self._isolation:
            event = self._player.wait(self._seconds)
        if isinstance(event, Ended) and event.error is not None:
            raise event.error
        return event

    def _act(self, command: str) -> Heard:
        assert self._player is not None
        self._player.answer(command)
        event = self._next()
        if isinstance(event, Asked):
            return Heard("\n".join(map(_text, _new(event.messages))))
        self._result = event.result
        reward = self._result.reward
        solved = reward >= self._solved
        truncated = self._result.truncated and not solved
        return Heard(
            "",
            reward=reward,
            over=not truncated,
            truncated=truncated,
            success=solved,
            outcome=Outcome(
                mistake="" if solved else "not solved",
                feedback=f"The episode is over and paid {reward:g}.",
            ),
        )

    def _read(self, answer: str) -> str | None:
        return read_answer(answer, self._forms)

    def drop(self) -> None:
        """End the environment's episode, wherever it is."""
        player, self._player = self._player, None
        if player is not None:
            player.close()

    def _plan(self) -> Sequence[str]:
        return [self._gold] if self._gold else []

    def _facts(self) -> dict[str, Any]:
        rewards = {f"reward {name}": paid for name, paid in self._result.rewards.items()}
        return {"reward": self._result.reward, **rewards}

    def _metrics(self) -> dict[str, float]:
        return {"reward": self._result.reward, **self._result.metrics}


def _new(messages: Sequence[Message]) -> Sequence[Message]:
    """The messages behind the model's last answer."""
    answers = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    return messages[answers[-1] + 1 :] if answers else messages


def _text(message: Message) -> str:
    """What a message says, without what is no text."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(str(part["text"]) for part in content if part.get("type") == "text")


def _gold(data: Any, name: str) -> str:
    """The right answer in a task's field, where it holds one as text or number."""
    found = getattr(data, name, None)
    is_one = isinstance(found, str | int | float) and not isinstance(found, bool)
    return str(found).strip() if is_one else ""
