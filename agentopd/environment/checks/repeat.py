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

from agentopd.environment.checks.subject import Finding, Findings, Subject, probe, steps
from agentopd.environment.contract import Info
from agentopd.environment.registry import make

_CHILD = """
import json, sys
from agentopd.environment.checks.repeat import elsewhere
sys.stdout.write("\\n" + json.dumps(elsewhere(*json.load(sys.stdin))))
"""
_ELSEWHERE = 5
"""How many calls' time another process may take: it starts, builds and plays."""


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
        list(_telling(used, seed + 1, subject.turns))
        if list(_telling(used, seed, subject.turns)) != _fresh(subject, seed):
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
        tellings = [_telling(subject.build(), s, subject.turns) for s in (seed, seed + 1)]
        together: list[list[str]] = [[], []]
        for _ in range(subject.turns + 1):
            for telling, told in zip(tellings, together, strict=True):
                told.extend(said for said in [next(telling, "")] if said)
        if alone != together:
            message = (
                "two instances that play in turns disturb each other: move what they share, in "
                "the class or the module, into the instance"
            )
            yield Finding("error", "interleaving", message)
            return


def hash_seed(subject: Subject) -> Findings:
    """Another process, with another hash seed, plays the same episodes."""
    if problem := _not_json(subject.options):
        message = (
            f"the options cannot be written for another process ({problem}): let the constructor "
            "take texts, numbers and lists, and build the rest from them"
        )
        yield Finding("error", "options", message)
        return
    done = _child(subject)
    if done.returncode:
        said = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        message = (
            f"{subject.spec} cannot be built in another process ({said}): name it as "
            "package.module:Class, of a module that can be imported"
        )
        yield Finding("error", "not-importable", message)
        return
    there = json.loads(done.stdout.splitlines()[-1])
    here = _tellings(subject.build(), subject.seeds, subject.turns)
    for seed, (ours, theirs) in enumerate(zip(here, there, strict=True)):
        if ours != theirs:
            # Equal results have led to this one: the shorter telling differs before its end.
            both = enumerate(zip(ours, theirs, strict=False))
            turn = next(turn for turn, (our, their) in both if our != their)
            message = (
                f"the episode of seed {seed} changes with PYTHONHASHSEED, first after "
                f"{f'step {turn}' if turn else 'reset'}: sort a set before drawing from it or "
                "writing it, seed a random.Random with a str, and never use hash()"
            )
            yield Finding("error", "hash-seed", message)
            return


def _child(subject: Subject) -> subprocess.CompletedProcess[str]:
    """What another process says of the episodes, with another hash seed."""
    seconds = _ELSEWHERE * subject.watch.seconds
    subject.watch.begin(f"{subject.spec}, played in another process,", seconds=seconds)
    path = os.pathsep.join(place or os.getcwd() for place in sys.path)
    other = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    given = [subject.spec, dict(subject.options), subject.seeds, subject.turns]
    done = subprocess.run(
        [sys.executable, "-c", _CHILD],
        input=json.dumps(given),
        env={**os.environ, "PYTHONHASHSEED": other, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    subject.watch.end()
    return done


def _not_json(options: Mapping[str, Any]) -> str:
    """Why `options` cannot be written as JSON; empty where they can."""
    try:
        json.dumps(dict(options))
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


def elsewhere(spec: str, options: Mapping[str, Any], seeds: int, turns: int) -> list[list[str]]:
    """What the episodes of all seeds tell in this process, which has a hash seed of its own."""
    with contextlib.closing(make(spec, options)) as env:
        return _tellings(env, seeds, turns)


def _tellings(env: gymnasium.Env[str, str], seeds: int, turns: int) -> list[list[str]]:
    return [list(_telling(env, seed, turns)) for seed in range(seeds)]


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
    return list(_telling(subject.build(), seed, subject.turns))


def _telling(env: gymnasium.Env[str, str], seed: int, turns: int) -> Iterator[str]:
    """Everything an episode says."""
    observation, info = env.reset(seed=seed)
    yield repr((observation, told(info)))
    for _, result in steps(env, info, probe, turns):
        yield repr((*result[:4], told(result[4])))


def told(info: Info, *but: str) -> Info:
    """`info` in order, without the keys `but` and `metrics`, which may measure time."""
    kept = {key: info[key] for key in sorted(info) if key not in (*but, "metrics")}
    return {key: _ordered(value) for key, value in kept.items()}


def _ordered(value: Any) -> Any:
    return dict(sorted(value.items())) if isinstance(value, dict) else value
