"""Checks that a seed names one episode, whatever was played before, beside it or elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np

from agentopd.checks.subject import TURNS, Finding, Findings, Subject, probe, steps
from agentopd.env import make

_CHILD = """
import json, sys
from agentopd.checks.repeat import first_texts
sys.stdout.write("\\n" + json.dumps(first_texts(*json.load(sys.stdin))))
"""


def seeding(subject: Subject) -> Findings:
    """Two fresh instances agree on a seed."""
    for seed in subject.few:
        if _fresh(subject, seed) != _fresh(subject, seed):
            message = (
                f"two fresh instances differ after reset(seed={seed}): take every random number "
                "from self.np_random or a random.Random of your own, and keep nothing in the class "
                "or the module"
            )
            yield Finding("error", "seeding", message)
            return


def global_random(subject: Subject) -> Findings:
    """An episode neither depends on the global random state nor changes it."""
    for seed in subject.few:
        told = _fresh(subject, seed)
        touched = _global_state() != _seed_global(0)
        if touched or told != _fresh(subject, seed, luck=1):
            message = (
                "an episode seeds or draws from the global random state (random or numpy.random), "
                "which every other episode of the process shares: use self.np_random, or a "
                "random.Random of your own"
            )
            yield Finding("error", "global-random", message)
            return


def carry_over(subject: Subject) -> Findings:
    """A used instance plays as a fresh one does."""
    used = subject.build()
    for seed in subject.few:
        list(_telling(used, seed + 1))
        if list(_telling(used, seed)) != _fresh(subject, seed):
            message = (
                f"an instance that has played before plays seed {seed} differently from a fresh "
                "one: set in reset() every attribute that step() changes"
            )
            yield Finding("error", "carry-over", message)
            return


def interleaving(subject: Subject) -> Findings:
    """Two instances that play in turns do not disturb each other."""
    for seed in subject.few:
        alone = [_fresh(subject, s) for s in (seed, seed + 1)]
        tellings = [_telling(subject.build(), s) for s in (seed, seed + 1)]
        together: list[list[str]] = [[], []]
        for _ in range(TURNS + 1):
            for telling, told in zip(tellings, together, strict=True):
                told.extend(said for said in [next(telling, "")] if said)
        if alone != together:
            message = (
                "two instances that play in turns disturb each other: move what they share, in "
                "the class or the module, into the instance"
            )
            yield Finding("error", "interleaving", message)
            return


def tasks(subject: Subject) -> Findings:
    """The seeds give more than one task."""
    if len(set(first_texts(subject.spec, subject.options, subject.seeds))) == 1:
        message = (
            f"{subject.seeds} seeds give one and the same first observation: let reset(seed=...) "
            "choose the task, or train on this one alone"
        )
        yield Finding("warning", "one-task", message)


def hash_seed(subject: Subject) -> Findings:
    """Another process, with another hash seed, gives the same tasks."""
    if problem := _not_json(subject.options):
        message = (
            f"the options cannot be written for another process ({problem}): let the constructor "
            "take texts, numbers and lists, and build the rest from them"
        )
        yield Finding("error", "options", message)
        return
    other = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    path = os.pathsep.join(place or os.getcwd() for place in sys.path)
    done = subprocess.run(
        [sys.executable, "-c", _CHILD],
        input=json.dumps([subject.spec, dict(subject.options), subject.seeds]),
        env={**os.environ, "PYTHONHASHSEED": other, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        message = (
            f"{subject.spec} cannot be built in another process ({said}): name it as "
            "package.module:Class, of a module that can be imported"
        )
        yield Finding("error", "not-importable", message)
        return
    there = json.loads(done.stdout.splitlines()[-1])
    if there != first_texts(subject.spec, subject.options, subject.seeds):
        message = (
            "the first observations change with PYTHONHASHSEED: sort a set before drawing from it, "
            "and seed a random.Random with a str, never with hash()"
        )
        yield Finding("error", "hash-seed", message)


def _not_json(options: Mapping[str, Any]) -> str:
    """Why `options` cannot be written as JSON; empty where they can."""
    try:
        json.dumps(dict(options))
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


def first_texts(spec: str, options: Mapping[str, Any], seeds: int) -> list[str]:
    """The first observation of each seed."""
    with contextlib.closing(make(spec, options)) as env:
        return [env.reset(seed=seed)[0] for seed in range(seeds)]


@contextlib.contextmanager
def own_global_random() -> Iterator[None]:
    """Lets the checks change the global random state, and puts it back."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _seed_global(seed: int) -> bytes:
    random.seed(seed)
    np.random.seed(seed)
    return _global_state()


def _global_state() -> bytes:
    return pickle.dumps((random.getstate(), np.random.get_state()))


def _fresh(subject: Subject, seed: int, luck: int = 0) -> list[str]:
    """What a fresh instance tells of `seed`, with `luck` as the seed of the global state."""
    _seed_global(luck)
    return list(_telling(subject.build(), seed))


def _telling(env: gymnasium.Env[str, str], seed: int) -> Iterator[str]:
    """Everything an episode says; without `metrics`, which may measure time."""
    observation, info = env.reset(seed=seed)
    yield repr((observation, {key: info[key] for key in info if key != "metrics"}))
    for _, result in steps(env, info, probe, TURNS):
        told = {key: value for key, value in result[4].items() if key != "metrics"}
        yield repr((*result[:4], told))
