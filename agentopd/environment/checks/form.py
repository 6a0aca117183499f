"""Checks of what is declared and what comes back: spaces, the tuples of `reset`, `step`, `info`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium

from agentopd.base.text import is_unicode
from agentopd.environment.checks.subject import (
    PATIENCE,
    Caught,
    Finding,
    Findings,
    Subject,
    attempt,
    by_oracle,
    probe,
    steps,
)
from agentopd.environment.checks.watch import short
from agentopd.environment.contract import Info, actions, declared

_STRINGS = ("feedback", "mistake", "oracle", "reference", "skill", "guide")
_TABLES = ("facts", "metrics")


def spaces(subject: Subject) -> Findings:
    """Both spaces contain every text."""
    names = ("observation_space", "action_space")
    with subject.opened() as env:
        declared_as = [(name, getattr(env, name, None)) for name in names]
    for name, space in declared_as:
        numbers = isinstance(space, gymnasium.spaces.Box | gymnasium.spaces.Discrete)
        every = ("", "two words\n<b>\u221a</b>")
        if space is None or numbers or not all(text in space for text in every):
            message = f"{name} is {space}, which does not hold every text: use agentopd.Text()"
            if numbers:
                message += (
                    "; an environment of numbers is put into words by "
                    "agentopd.envs.adapters.textualize.Textualize, some of Gymnasium's by toy:NAME"
                )
            yield Finding("error", "spaces", message)


def declarations(subject: Subject) -> Findings:
    """What the environment says of itself is of the type that its readers expect."""
    with subject.opened() as env:
        env.reset(seed=0)
        for name, fits, wanted in _DECLARED:
            value = declared(env, name, _ABSENT)
            if value is not _ABSENT and not fits(value):
                message = f"{name} is {short(value)}: set it to {wanted}"
                yield Finding("error", "declarations", message)
        for name, fits, wanted in _IN_METADATA:
            if not fits(value := env.metadata.get(name)):
                message = f"metadata[{name!r}] is {short(value)}: set it to {wanted}"
                yield Finding("error", "declarations", message)


def listed(subject: Subject) -> Findings:
    """What is listed as legal is a list of actions, the oracle's next one among them."""
    for seed in subject.few:
        with subject.opened() as env:
            _, info = env.reset(seed=seed)
            listing = declared(env, "legal_actions", None)
            given = listing() if callable(listing) else listing
            plan = actions(env, str(info.get("oracle") or ""))
        if given is None:
            return
        several = list(given) if isinstance(given, list | tuple) else [None]
        if not callable(listing) or not all(isinstance(action, str) for action in several):
            message = (
                f"legal_actions gives {short(given)}: let it be a method that returns a list of "
                "str, each an action as the oracle writes it, or None where there is no short list"
            )
            yield Finding("error", "legal-actions", message)
            return
        if plan and plan[0] not in several:
            message = (
                f"legal_actions() leaves out {short(plan[0])}, which the oracle plays next: list "
                "every action that may be taken from here, each as the oracle writes it"
            )
            yield Finding("error", "legal-actions", message)
            return


def _count(value: Any) -> bool:
    return value is None or (type(value) is int and value >= 1)


def _pairs(value: Any) -> bool:
    rows = [tuple(row) if isinstance(row, list | tuple) else () for row in value or ()]
    return all(len(row) == 2 and all(isinstance(x, str) for x in row) for row in rows)


_ABSENT = object()
_DECLARED: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    (
        "system_prompt",
        lambda value: value is None or (isinstance(value, str) and is_unicode(value)),
        "one str that can be written as UTF-8, the rules shown at the start",
    ),
    (
        "examples",
        _pairs,
        "a list of pairs of str, a user's message and its answer each",
    ),
    ("max_turns", _count, "an int of at least 1, or None where there is no limit"),
    (
        "action_form",
        lambda value: isinstance(value, str) and "{}" in value,
        "a str with {} where the action stands, '<action>{}</action>' for example",
    ),
    (
        "action_between",
        lambda value: value is None or (isinstance(value, str) and value != ""),
        "the str between two actions of an oracle, or None where an oracle is one action",
    ),
    ("stochastic", lambda value: isinstance(value, bool), "a bool"),
)
_IN_METADATA: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("reusable", lambda value: value is None or isinstance(value, bool), "a bool"),
    ("places", _count, "an int of at least 1, or None where there may be any number"),
)


def arguments(subject: Subject) -> Findings:
    """`reset` takes what Gymnasium says, each of it left out or None."""
    with subject.opened() as env:
        env.reset(seed=0)
    for given in ({}, {"seed": None}, {"seed": 0, "options": None}, {"seed": 0, "options": {}}):
        with subject.opened() as env:
            with Caught() as caught:
                env.reset(**given)
            call = subject.watch.call
        if caught.error:
            message = (
                f"{call} raised {caught.said}: declare reset(self, *, seed=None, "
                "options=None), and let a missing seed draw any task, options that are missing or "
                "empty change nothing"
            )
            yield Finding("error", "reset-arguments", message)
            return


def results(subject: Subject) -> Findings:
    """`reset` and `step` return what Gymnasium says, in Python's own types, to the end."""
    with subject.opened() as env:
        yield from _results_of(env)


def _results_of(env: gymnasium.Env[str, str]) -> Findings:
    if problem := _reset_problem(env.reset(seed=0)):
        yield Finding("error", "reset-result", problem)
        return
    # Gymnasium's TimeLimit may truncate the very step that ends the task.
    both = env.spec is not None and env.spec.max_episode_steps is not None
    for choose in (probe, by_oracle):
        _, info = env.reset(seed=0)
        for turn in range(PATIENCE):
            action = choose(env, turn, info)
            result, failure = attempt(env, action)
            if failure:
                yield failure
                return
            if problem := _step_problem(result, both):
                yield Finding("error", "step-result", problem)
                return
            info = result[4]
            if result[2] or result[3]:
                break


def _reset_problem(result: Any) -> str:
    if not isinstance(result, tuple) or len(result) != 2:
        return f"reset() returned {short(result)}: return the pair (observation, info)"
    if not isinstance(result[0], str):
        return f"reset() observed {short(result[0])}: return a str, the next user message"
    return "" if isinstance(result[1], dict) else "reset() returned an info that is not a dict"


def _step_problem(result: Any, both: bool) -> str:
    if not isinstance(result, tuple) or len(result) != 5:
        return (
            f"step() returned {short(result)}: return (observation, reward, terminated, "
            "truncated, info)"
        )
    observation, reward, terminated, truncated, info = result
    if not isinstance(observation, str):
        return f"step() observed {short(observation)}: return a str, the next user message"
    if isinstance(reward, bool) or not isinstance(reward, int | float):
        return f"the reward is {short(reward)}: return a float"
    for name, value in (("terminated", terminated), ("truncated", truncated)):
        if not isinstance(value, bool):
            return f"{name} is {short(value)}, not a Python bool: wrap it in bool()"
    if terminated and truncated and not both:
        return "terminated and truncated are both true: set truncated only where the task goes on"
    return "" if isinstance(info, dict) else "step() returned an info that is not a dict"


def infos(subject: Subject) -> Findings:
    """`info` has its required keys, is flat, can be saved, and is a new one each time."""
    for seed in subject.few:
        with subject.opened() as env:
            yield from _infos_of(env, seed, subject.turns)


def _infos_of(env: gymnasium.Env[str, str], seed: int, turns: int) -> Findings:
    _, info = env.reset(seed=seed)
    yield from _problems("reset", info, {"task_id": str, "success": bool})
    wanted = {"task_id": str, "success": bool, "action_valid": bool}
    for _, result in steps(env, info, probe, turns):
        yield from _problems("step", result[4], wanted)
        if result[4] is info:
            message = (
                "step() returns the dict it returned before, which rewrites the turns already "
                "recorded: build a new info each time"
            )
            yield Finding("error", "info-reused", message)
        info = result[4]


def _problems(where: str, info: Info, wanted: Mapping[str, type]) -> Findings:
    for key, kind in wanted.items():
        if not isinstance(info.get(key), kind):
            shown = short(info[key]) if key in info else "missing"
            message = f"info[{key!r}] after {where}() is {shown}: set it to a {kind.__name__}"
            yield Finding("error", "info-required", message)
    for key, value in info.items():
        if key not in wanted and (problem := _form_problem(key, value)):
            message = f"info[{key!r}] after {where}() is {short(value)}: it must be {problem}"
            yield Finding("error", "info-form", message)


def _form_problem(key: Any, value: Any) -> str:
    """What `info[key]` must be and is not."""
    if not isinstance(key, str):
        return "under a key that is a str"
    if key in _STRINGS:
        return "" if isinstance(value, str) else "a str; leave the key out where there is nothing"
    if key in _TABLES:
        table = isinstance(value, dict) and all(
            isinstance(name, str) and _plain(entry) for name, entry in value.items()
        )
        return "" if table else "a dict from names to str, bool, int or float"
    flat = all(map(_plain, value)) if isinstance(value, list | tuple) else _plain(value)
    return "" if flat else "a str, bool, int, float or a list of those, to be saved with the run"


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, str | bool | int | float)


def values(subject: Subject) -> Findings:
    """Every text can be written, every reward added up."""
    probed = [subject.played("probe", seed) for seed in subject.few]
    for episode in (*probed, *subject.followed()):
        told = [("after reset()", episode.observation, 0.0, episode.info)]
        told += [("after step()", *turn.result[:2], turn.result[4]) for turn in episode.turns]
        for where, observation, reward, info in told:
            for name, text in (("the observation", observation), *_texts(info)):
                if not is_unicode(text):
                    message = (
                        f"{name} {where} is {short(text)}, which holds half of a surrogate pair "
                        'and cannot be written as UTF-8: decode bytes with errors="replace"'
                    )
                    yield Finding("error", "text", message)
                    return
            if not math.isfinite(reward):
                message = (
                    f"the reward {where} is {reward}, which no mean survives: return a finite float"
                )
                yield Finding("error", "reward", message)
                return


def _texts(info: Info) -> Iterator[tuple[str, str]]:
    """What `info` holds in words, each with its name."""
    for key, value in info.items():
        inner = value.values() if isinstance(value, dict) else value
        for text in inner if isinstance(value, dict | list | tuple) else (value,):
            if isinstance(text, str):
                yield f"info[{key!r}]", text
