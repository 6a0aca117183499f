"""Checks of the tasks that seeds and splits give."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import gymnasium

from agentopd.base.objects import load_object
from agentopd.environment.checks.repeat import told
from agentopd.environment.checks.subject import Caught, Episode, Finding, Findings, Subject
from agentopd.environment.checks.watch import short
from agentopd.environment.contract import declared
from agentopd.environment.splits import SHARES

_DRAWN = 10
"""Tasks of each split, where nothing stricter is asked for."""


def seeds(subject: Subject) -> Findings:
    """The seeds give more than one task, and each its name."""
    episodes = subject.followed()
    if len({episode.info["task_id"] for episode in episodes}) > 1:
        return
    count = len(episodes)
    if len({_begun(episode) for episode in episodes}) > 1:
        message = (
            f"{count} seeds give different tasks that are all called "
            f"{short(episodes[0].info['task_id'])}: build info['task_id'] from what makes a task, "
            "so that it is equal for equal tasks alone"
        )
        yield Finding("error", "task-id", message)
    elif len({_whole(episode) for episode in episodes}) == 1:
        message = (
            f"{count} seeds give one and the same task: let reset(seed=...) choose the task, or "
            "train on this one alone"
        )
        yield Finding("warning", "one-task", message)


def _begun(episode: Episode) -> str:
    return repr((episode.observation, told(episode.info, "task_id")))


def _whole(episode: Episode) -> str:
    turns = [(*turn.result[:4], told(turn.result[4], "task_id")) for turn in episode.turns]
    return repr((_begun(episode), turns))


@dataclass(frozen=True)
class _Task:
    """What `reset(seed=...)` gives in a split."""

    split: str
    seed: int
    task_id: str
    observation: str
    begun: str

    @property
    def place(self) -> str:
        """Where it is found, for a message."""
        return f"seed {self.seed} of split={self.split!r}"


def splits(subject: Subject) -> Findings:
    """No task turns up in two splits, where the environment has some."""
    # Two names of one split are one: the environment's attribute says which it plays.
    of: dict[str, list[_Task]] = {}
    for name in _names(subject):
        with Caught() as caught, subject.opened(split=name) as env:
            if (split := str(declared(env, "split", name))) not in of:
                of[split] = list(_draw(subject, env, name))
        # A split that it refuses is none of its own; the options say which it has.
        if caught.error and not isinstance(caught.error, ValueError):
            raise caught.error
    drawn = list(of.values())
    tasks = [task for split in drawn for task in split]
    ways: tuple[tuple[str, Callable[[_Task], str]], ...] = (
        ("info['task_id']", lambda task: task.task_id),
        ("observation and info", lambda task: task.begun),
        ("first observation", lambda task: task.observation),
    )
    for what, key in ways:
        # Where tasks hide what differs, equal texts are no sign of equal tasks.
        telling = all(_tells(split, key) for split in drawn)
        if telling and (pair := _shared(tasks, key)):
            message = (
                f"{pair[0].place} and {pair[1].place} have the same {what} "
                f"({short(pair[0].task_id)}): let a task's key decide the split it belongs to, as "
                "agentopd.environment.splits.split_of does, or a test measures what was trained on"
            )
            level = "warning" if what == "first observation" else "error"
            yield Finding(level, "splits", message)
            return


def _draw(subject: Subject, env: gymnasium.Env[str, str], split: str) -> Iterator[_Task]:
    for seed in range(subject.seeds if subject.strict else min(subject.seeds, _DRAWN)):
        observation, info = env.reset(seed=seed)
        begun = repr((observation, told(info, "task_id")))
        yield _Task(split, seed, info["task_id"], observation, begun)


def _tells(tasks: list[_Task], key: Callable[[_Task], str]) -> bool:
    """Whether tasks of different names differ in `key`."""
    return len({key(task) for task in tasks}) == len({(key(t), t.task_id) for t in tasks})


def _shared(tasks: list[_Task], key: Callable[[_Task], str]) -> tuple[_Task, _Task] | None:
    """Two tasks of different splits that have `key` in common."""
    first: dict[str, _Task] = {}
    for task in tasks:
        if first.setdefault(key(task), task).split != task.split:
            return first[key(task)], task
    return None


def _names(subject: Subject) -> tuple[str, ...]:
    """The splits that the environment takes: as its annotation lists them, or the usual ones."""
    for taker in _takers(subject):
        with Caught():
            if "split" in inspect.signature(taker).parameters:
                return _listed(taker) or tuple(SHARES)
    return ()


def _takers(subject: Subject) -> Iterator[Callable[..., Any]]:
    """What may take options: what the name stands for, and the environment's class."""
    with subject.opened() as env:
        kind = type(env.unwrapped)
    spec = gymnasium.registry.get(subject.spec)
    entry = spec.entry_point if spec else subject.spec
    if callable(entry):
        yield entry
    with Caught():
        yield load_object(str(entry))
    yield kind


def _listed(taker: Callable[..., Any]) -> tuple[str, ...]:
    """The texts of `split: Literal[...]`, or of a union that holds it."""
    hints: dict[str, Any] = {}
    with Caught():
        hints = get_type_hints(taker.__init__ if inspect.isclass(taker) else taker)
    kind = hints.get("split")
    kinds = (kind,) if get_origin(kind) is Literal else get_args(kind)
    found = [text for k in kinds if get_origin(k) is Literal for text in get_args(k)]
    return tuple(text for text in found if isinstance(text, str))
