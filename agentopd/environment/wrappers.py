"""Wrappers: what stands between a student and an environment, as parts of a config.

    env:
      id: agentopd/Sokoban-v0
      wrappers: [{kind: parse, tag: answer}, {kind: invalid_limit, limit: 3}]

or `--wrapper '{kind: parse, tag: answer}'` for a command. They are put around the environment in
order, the last one outermost. Each keeps the contract of `agentopd.environment.contract`: what it
changes in the texts, it changes in the rules and the oracle too.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections import deque
from typing import Any, Self

import gymnasium
from pydantic import Field, field_validator, model_validator

from agentopd.base.objects import load_object
from agentopd.base.parts import Part
from agentopd.environment.contract import (
    Info,
    actions,
    declared,
    examples,
    legal_actions,
    parse_action,
    system_prompt,
    without_reasoning,
)
from agentopd.environment.tools import Syntax, Tool, ToolError

Env = gymnasium.Env[str, str]
Result = tuple[str, float, bool, bool, Info]
Around = gymnasium.Wrapper[str, str, str, str]


class Wrapper(Part, family="wrapper"):
    """Something around an environment."""

    @abstractmethod
    def wrap(self, env: Env) -> Env:
        """`env` inside this wrapper."""


class Unreadable(ValueError):
    """An answer from which no action can be read; the message is for the student."""


class Reading(Around):
    """Hands the environment inside the action that it reads from an answer.

    An answer that cannot be read reaches it empty, so that it costs a turn there.
    """

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        self._inner_form: str = declared(env, "action_form", "<action>{}</action>")

    def read(self, answer: str) -> str:
        """The action in `answer`.

        Raises:
            Unreadable: there is none.
        """
        raise NotImplementedError

    def show(self, text: str) -> str:
        """A text of the environment inside, in the words of this wrapper."""
        return text

    def tell(self, info: Info) -> Info:
        """The `info` of the environment inside, in the words of this wrapper."""
        return info

    def reset(self, **kwargs: Any) -> tuple[str, Info]:
        """See `gymnasium.Env.reset`."""
        observation, info = self.env.reset(**kwargs)
        return self.show(observation), self.tell(info)

    def step(self, action: str) -> Result:
        """See `gymnasium.Env.step`."""
        try:
            problem, given = "", self._inner_form.replace("{}", self.read(action))
        except Unreadable as error:
            problem, given = str(error), ""
        observation, reward, terminated, truncated, info = self.env.step(given)
        if problem:
            observation = _without_complaint(observation, info)
        observation, info = self.show(observation), self.tell(info)
        if problem:
            observation = "\n".join(filter(None, (problem, observation)))
            info = info | {"action_valid": False, "feedback": problem}
        return observation, float(reward), terminated, truncated, info


def _without_complaint(observation: str, info: Info) -> str:
    """An observation without the environment's own complaint in front, which it tells in `info`
    too: the wrapper has one of its own, of the form that the student knows.
    """
    complaint = info.get("feedback")
    if info["action_valid"] or not isinstance(complaint, str):
        return observation
    return observation.removeprefix(complaint).removeprefix("\n") if complaint else observation


class Parse(Wrapper, kind="parse"):
    """Actions are written in another form.

    Args:
        tag: the action is what stands in the last `<tag>...</tag>` outside thoughts. Texts of the
            environment that name its own tag name this one instead.
        pattern: in place of a tag, a regular expression: the first group of its last match outside
            thoughts, or the whole match where it has no group.
        form: how an action is written so that `pattern` finds it, with `{}` for the action.
        rules: added to the system prompt; where `pattern` is given, this says how to write actions.
    """

    tag: str | None = Field(default=None, pattern=r"^[A-Za-z][\w-]*$")
    pattern: str | None = None
    form: str | None = None
    rules: str = ""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.tag is None) == (self.pattern is None):
            raise ValueError("parse needs a tag or a pattern, and not both")
        if self.pattern is None:
            if self.form is not None:
                raise ValueError("a form goes with a pattern; a tag is its own form")
            return self
        try:
            found = re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"the pattern is no regular expression: {error}") from error
        read = _last(found, (self.form or "").replace("{}", "up"))
        if self.form is None or read != "up":
            raise ValueError(
                f"the form {self.form!r} must hold {{}} where the pattern finds the action: of the "
                f"action 'up' the pattern reads {read!r}"
            )
        return self

    def wrap(self, env: Env) -> Env:
        """See `Wrapper.wrap`."""
        return _Parsed(env, self)


class _Parsed(Reading):
    def __init__(self, env: Env, settings: Parse) -> None:
        super().__init__(env)
        self._tag, self._rules = settings.tag, settings.rules
        self._pattern = re.compile(settings.pattern) if settings.pattern else None
        self.action_form = settings.form or f"<{self._tag}>{{}}</{self._tag}>"

    @property
    def system_prompt(self) -> str:
        """The rules of the environment inside, with the tag renamed, and those of the wrapper."""
        return "\n".join(filter(None, (self.show(system_prompt(self.env)), self._rules)))

    @property
    def examples(self) -> list[tuple[str, str]]:
        """Those of the environment inside, in this form."""
        pairs = examples(self.env)
        if self._tag is not None:
            return [(self.show(asked), self.show(answer)) for asked, answer in pairs]
        actions = [(asked, parse_action(answer)) for asked, answer in pairs]
        return [(asked, self.action_form.replace("{}", a)) for asked, a in actions if a is not None]

    def show(self, text: str) -> str:
        if self._tag is None:
            return text
        for ours, theirs in zip(
            self.action_form.split("{}"), self._inner_form.split("{}"), strict=True
        ):
            text = text.replace(theirs, ours) if theirs else text
        return text

    def read(self, answer: str) -> str:
        if self._pattern is None:
            found = parse_action(answer, self._tag or "")
            missing = f"No <{self._tag}></{self._tag}> in the answer."
        else:
            found = _last(self._pattern, without_reasoning(answer))
            missing = "No action in the answer."
        if found is None:
            raise Unreadable(missing)
        return found


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    found = deque(pattern.finditer(text), maxlen=1)
    if not found:
        return None
    return (found[0].group(1 if pattern.groups else 0) or "").strip()


class InvalidLimit(Wrapper, kind="invalid_limit"):
    """The episode is truncated after too many answers that cannot be read.

    Args:
        limit: the number of such answers that truncates.
        in_a_row: only those in a row count; otherwise all of the episode.
    """

    limit: int = Field(default=3, ge=2)
    in_a_row: bool = True

    def wrap(self, env: Env) -> Env:
        """See `Wrapper.wrap`."""
        return _Limited(env, self)


class _Limited(Around):
    def __init__(self, env: Env, settings: InvalidLimit) -> None:
        super().__init__(env)
        self.invalid_limit, self._in_a_row = settings.limit, settings.in_a_row
        self._count = 0

    def reset(self, **kwargs: Any) -> tuple[str, Info]:
        self._count = 0
        return self.env.reset(**kwargs)

    def step(self, action: str) -> Result:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if not info["action_valid"]:
            self._count += 1
        elif self._in_a_row:
            self._count = 0
        late = not terminated and self._count >= self.invalid_limit
        return observation, float(reward), terminated, truncated or late, info


class History(Wrapper, kind="history"):
    """Each observation repeats the last turns: for policies that see one message alone.

    Args:
        turns: how many turns are repeated.
        answer: characters of an answer that are repeated, its end; reasoning is left out.
    """

    turns: int = Field(default=3, ge=1)
    answer: int = Field(default=200, ge=1)

    def wrap(self, env: Env) -> Env:
        """See `Wrapper.wrap`."""
        return _Remembering(env, self)


class _Remembering(Around):
    def __init__(self, env: Env, settings: History) -> None:
        super().__init__(env)
        self._answer = settings.answer
        self._past: deque[tuple[str, str]] = deque(maxlen=settings.turns)
        self._now = ""

    def reset(self, **kwargs: Any) -> tuple[str, Info]:
        self._past.clear()
        self._now, info = self.env.reset(**kwargs)
        return self._now, info

    def step(self, action: str) -> Result:
        observation, reward, terminated, truncated, info = self.env.step(action)
        said = without_reasoning(action).strip()[-self._answer :]
        self._past.append((self._now, said))
        self._now = observation
        lines = [f"You saw:\n{seen}\nYou answered:\n{said}" for seen, said in self._past]
        shown = "\n\n".join((*lines, f"Now:\n{observation}"))
        return shown, float(reward), terminated, truncated, info


class Tools(Wrapper, kind="tools"):
    """Actions are calls of typed functions.

    A function takes the arguments of a call, checked and converted by its annotations, and returns
    the action that the environment inside is given. What it raises as a ValueError the student
    reads; anything else costs the episode. An oracle is told as calls, one on a line, where every
    action in it is what some call of arguments with finitely many values (Literal, bool, Enum)
    returns; elsewhere it is left out.

    Args:
        functions: "package.module:function" of each; name, annotations and docstring are shown.
        syntax: `json` is `{"name": "move", "arguments": {"way": "up"}}`, `call` is
            `move(way="up")`.
    """

    functions: list[str] = Field(min_length=1)
    syntax: Syntax = "json"

    @field_validator("functions")
    @classmethod
    def _named_once(cls, value: list[str]) -> list[str]:
        names = [path.rpartition(":")[2] for path in value]
        if len(set(names)) < len(names):
            raise ValueError(f"two functions share a name among {', '.join(names)}: rename one")
        return value

    def wrap(self, env: Env) -> Env:
        """See `Wrapper.wrap`.

        Raises:
            ValueError: a function cannot be imported or is not annotated.
        """
        return _Calling(env, [Tool(load_object(path)) for path in self.functions], self.syntax)


class _Calling(Reading):
    action_form = "<action>{}</action>"
    action_between = "\n"

    def __init__(self, env: Env, tools: list[Tool], syntax: Syntax) -> None:
        super().__init__(env)
        self._tools = {tool.name: tool for tool in tools}
        self._syntax: Syntax = syntax
        self._calls: dict[str, str] = {}
        for tool in tools:
            for arguments, action in tool.every_call():
                self._calls.setdefault(action, tool.write(arguments, syntax))

    @property
    def system_prompt(self) -> str:
        """The rules of the environment inside, and the functions."""
        example = next(iter(self._calls.values()), "")
        lines = ["Your action is one call of:", *(t.described() for t in self._tools.values())]
        form = 'a JSON object with "name" and "arguments"' if self._syntax == "json" else "Python"
        lines.append(f"Write it inside <action></action> as {form}.")
        if example:
            lines.append(f"For example {self.action_form.format(example)}")
        return "\n".join(filter(None, (system_prompt(self.env), *lines)))

    @property
    def examples(self) -> list[tuple[str, str]]:
        """Those of the environment inside, as calls; without those that no call answers."""
        calls = [(asked, self._calls.get(parse_action(a) or "")) for asked, a in examples(self.env)]
        return [(asked, self.action_form.format(call)) for asked, call in calls if call]

    def read(self, answer: str) -> str:
        content = parse_action(answer)
        if content is None:
            raise Unreadable("No <action></action> in the answer.")
        try:
            return Tool.call(content, self._syntax, self._tools)
        except ToolError as error:
            raise Unreadable(str(error)) from error

    def legal_actions(self) -> list[str] | None:
        """The calls that return an action which the environment inside lists, if it lists any."""
        return [self._calls[a] for a in legal_actions(self.env) if a in self._calls] or None

    def tell(self, info: Info) -> Info:
        told = dict(info)
        for key in ("oracle", "reference"):
            if key in told:
                calls = [self._calls.get(word) for word in actions(self.env, told.pop(key))]
                if calls and None not in calls:
                    told[key] = "\n".join(filter(None, calls))
        if "admissible" in told:
            listed = told["admissible"]
            told["admissible"] = [self._calls[word] for word in listed if word in self._calls]
        return told
