"""What the small puzzles share: turns, splits, prompts and the form of `info`.

A puzzle says how a task is drawn, what an action does and which actions are best from here; the
rest, from the turn limit to the keys of the contract, is `Puzzle`'s.
"""

from __future__ import annotations

import copy
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar, get_args

from agentopd.environment.contract import Info, TextEnv, actions, parse_action, written
from agentopd.environment.splits import split_of

Split = Literal["train", "validation", "test"]
Prompt = Literal["full", "brief"]
Rules = Literal[Prompt, "fewshot"]
"""Rules that may also show some turns played well."""

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_ATTEMPTS = 5_000
_EXAMPLE_SEED = 1_000_003
_EXAMPLE_TURNS = 3
_ANSWER = """
You may think first inside <think></think>. End your answer with one {what} inside \
<action></action>, for example
<action>{example}</action>."""

EXAMPLE_FIRST = "\nFirst some turns of another game, played well: answer in the same way."
MAY_THINK = "You may think first inside <think></think>. "
"""What rules with examples, which hold no thoughts, leave out."""

_Task = TypeVar("_Task")


@dataclass(frozen=True)
class Wording:
    """The texts of a puzzle: rules, one line, what an action is called and looks like, advice."""

    rules: str
    brief: str
    action: str
    example: str
    guide: str

    def prompt(self, kind: Rules) -> str:
        """The system prompt of that kind."""
        if kind == "brief":
            return self.brief
        text = self.rules + _ANSWER.format(what=self.action, example=self.example)
        return text.replace(MAY_THINK, "") if kind == "fewshot" else text


@dataclass(frozen=True)
class Outcome:
    """What became of one action.

    `problem` says why it could not be read and `note` what happened otherwise: the student reads
    both. `unread` says that it could not be read where the student is told nothing. `mistake`,
    `feedback` and `facts` are `info`'s, for the teacher.
    """

    problem: str = ""
    note: str = ""
    unread: bool = False
    mistake: str = ""
    feedback: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


class Puzzle(TextEnv, ABC):
    """The base of the puzzles: one action a turn, reward 1 for solving the task, else 0.

    Args:
        name: the first part of task ids, and the tag under which skills are filed.
        wording: the puzzle's texts.
        split: which tasks `reset(seed=...)` draws; splits never share one.
        max_turns: answers before the episode is truncated.
        prompt: the full rules, one line for models that were trained on the puzzle, or the rules
            with some turns of a task of the training split, played well (`fewshot`).
        label: what else the drawn tasks depend on: the options that set the difficulty.

    Raises:
        ValueError: an option has no such value.
    """

    unread: ClassVar[Mapping[str, bool]] = {"moves_closer": False}
    """The facts of a step whose action could not be read; an outcome's own replace them."""

    def __init__(
        self,
        name: str,
        wording: Wording,
        *,
        split: Split,
        max_turns: int,
        prompt: Rules,
        label: str,
    ) -> None:
        check_choice("split", split, SPLITS)
        check_choice("prompt", prompt, get_args(Rules))
        check_number("max_turns", max_turns, 1)
        self.name, self.split, self._label = name, split, label
        self.turn_limit = self.max_turns = max_turns
        self.system_prompt = wording.prompt(prompt)
        self._guide = wording.guide
        self.turns = 0
        self._playing = False
        if prompt == "fewshot":
            self.system_prompt += EXAMPLE_FIRST
            self.examples = worked_example(self._apprentice())

    def _apprentice(self) -> Puzzle:
        """The same puzzle with tasks of the training split, to show how it is played."""
        twin = copy.copy(self)
        twin.split = "train"
        return twin

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        """Start the task of `seed`, or the one that `options["task"]` writes out.

        Raises:
            ValueError: the options hold anything else, the task cannot be read or has no solution,
                or no task of the wanted difficulty exists in the split.
        """
        super().reset(seed=seed)
        number = int(self.np_random.integers(2**31)) if seed is None else seed
        options = options or {}
        if unknown := set(options) - {"task"}:
            raise ValueError(f"reset takes the option 'task' only, not {sorted(unknown)}")
        if (text := options.get("task")) is not None and not isinstance(text, str):
            raise ValueError(f"the option 'task' is a text, not {text!r}")
        named = self._choose(number, text)
        self.task_id = f"{self.name}/{self.split if text is None else 'own'}/{named}"
        return self.restart()

    def restart(self) -> tuple[str, Info]:
        """Play the same task again."""
        self.turns = 0
        self._playing = True
        self._restart()
        info = self._info()
        told = {"reference": self._reference(), "skill": self.name, "guide": self._guide}
        return self._show(), info | told

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Do what `action` says.

        An action that cannot be read changes nothing and costs the turn.

        Raises:
            ValueError: the episode is over, or none was begun.
        """
        if not self._playing:
            raise ValueError(f"no episode of {self.name} is being played: call reset() first")
        self.turns += 1
        content = self._read(action)
        if content is None:
            outcome = Outcome(problem="No <action></action> in the answer.")
        else:
            outcome = self._act(content)
        terminated = self.over
        truncated = not terminated and self.turns >= self.turn_limit
        self._playing = not (terminated or truncated)
        valid = not (outcome.problem or outcome.unread)
        info: Info = self._info() | {"action_valid": valid}
        info["facts"] |= {"well_formed": valid, **self.unread, **outcome.facts}
        info["mistake"] = outcome.mistake if valid else "unreadable action"
        info["feedback"] = outcome.problem or outcome.feedback
        shown = "\n".join(filter(None, (outcome.problem or outcome.note, self._show())))
        return shown, float(self.solved), terminated, truncated, info

    def render(self) -> str:
        """The state as it stands."""
        return self._show()

    @property
    @abstractmethod
    def solved(self) -> bool:
        """Whether the task is solved."""

    @property
    def over(self) -> bool:
        """Whether the task is over, won or lost."""
        return self.solved

    @abstractmethod
    def _choose(self, number: int, text: str | None) -> str:
        """Set the task of seed `number`, or the one in `text`; its name."""

    @abstractmethod
    def _restart(self) -> None:
        """Go to the task's start."""

    @abstractmethod
    def _show(self) -> str:
        """What the student sees of the state."""

    @abstractmethod
    def _act(self, content: str) -> Outcome:
        """Read `content` and do what it says."""

    @abstractmethod
    def _oracle(self) -> Sequence[str]:
        """The best next actions from here; none where the task is over."""

    @abstractmethod
    def _facts(self) -> dict[str, Any]:
        """The facts of the state."""

    def _read(self, answer: str) -> str | None:
        """The action in an answer, if it holds one."""
        return parse_action(answer)

    def _reference(self) -> str:
        """The solution of the whole task, as it is known at the start."""
        return written(self, self._oracle())

    def _draw(
        self,
        number: int,
        propose: Callable[[random.Random], _Task],
        key: Callable[[_Task], str],
        admits: Callable[[_Task], bool],
    ) -> _Task:
        """The first proposal of seed `number` whose key lies in the split and that is admitted."""
        rng = random.Random(f"{self.name}/{self._label}/{self.split}/{number}")
        for _ in range(_ATTEMPTS):
            task = propose(rng)
            if split_of(self.name, key(task)) == self.split and admits(task):
                return task
        raise ValueError(
            f"no task of {self.name} in the split {self.split!r} fits {self._label}: "
            "widen the band of best solutions, or enlarge the puzzle"
        )

    def _info(self) -> Info:
        info: Info = {
            "task_id": self.task_id,
            "success": self.solved,
            "action_valid": True,
            "facts": self._facts(),
            "metrics": {"turns": float(self.turns)},
        }
        plan = self._oracle()
        return info | {"oracle": written(self, plan)} if plan else info


def worked_example(env: TextEnv) -> list[tuple[str, str]]:
    """The first turns of a task of `env`, answered by its oracle."""
    (observation, info), found = env.reset(seed=_EXAMPLE_SEED), []
    for _ in range(_EXAMPLE_TURNS):
        if not (plan := actions(env, str(info.get("oracle", "")))):
            break
        answer = env.action_form.replace("{}", plan[0])
        found.append((observation, answer))
        observation, _, terminated, truncated, info = env.step(answer)
        if terminated or truncated:
            break
    return found


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Refuse a value that is none of the choices.

    Raises:
        ValueError: it is none.
    """
    if value not in choices:
        raise ValueError(f"{name} is one of {', '.join(map(str, choices))}, not {value!r}")


def check_number(name: str, value: Any, least: int, most: int | None = None) -> None:
    """Refuse what is no whole number from `least` to `most`.

    Raises:
        ValueError: it is none.
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        above = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} is a whole number {above}, not {value!r}")


def check_band(name: str, least: int, most: int, turns: int) -> None:
    """Refuse a band of best solutions that is empty, or too long for the turns.

    Raises:
        ValueError: it is.
    """
    check_number(f"min_{name}", least, 1)
    check_number(f"max_{name}", most, least)
    if most > turns:
        raise ValueError(
            f"a task of {most} {name} cannot be solved in {turns} turns: lower max_{name} or raise "
            "max_turns"
        )
