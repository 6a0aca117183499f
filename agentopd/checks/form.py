"""Checks of what comes back: spaces, the tuples of `reset` and `step`, `info`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentopd.checks.subject import (
    PATIENCE,
    TURNS,
    Finding,
    Findings,
    Subject,
    attempt,
    by_oracle,
    probe,
    short,
    steps,
)
from agentopd.env import Info

_STRINGS = ("feedback", "mistake", "oracle", "reference", "skill", "guide")
_TABLES = ("facts", "metrics")


def spaces(subject: Subject) -> Findings:
    """Both spaces contain every text."""
    env = subject.build()
    for name in ("observation_space", "action_space"):
        space = getattr(env, name, None)
        if space is None or not all(t in space for t in ("", "two words\n<b>\u221a</b>")):
            message = f"{name} is {space}, which does not hold every text: use agentopd.Text()"
            yield Finding("error", "spaces", message)


def results(subject: Subject) -> Findings:
    """`reset` and `step` return what Gymnasium says, in Python's own types, to the end."""
    env = subject.build()
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
        env = subject.build()
        _, info = env.reset(seed=seed)
        yield from _problems("reset", info, {"task_id": str, "success": bool})
        wanted = {"task_id": str, "success": bool, "action_valid": bool}
        for _, result in steps(env, info, probe, TURNS):
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
