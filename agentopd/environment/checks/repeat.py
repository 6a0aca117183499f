"""Checks that a seed names one episode, whatever was played before, beside it or elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import gymnasium
import numpy as np

from agentopd.environment.checks.subject import (
    PATIENCE,
    Caught,
    Choose,
    Finding,
    Findings,
    Following,
    Subject,
    probe,
    steps,
)
from agentopd.environment.contract import Info, examples, system_prompt
from agentopd.environment.registry import make

_CHILD = """
import json, sys
from agentopd.environment.checks.repeat import elsewhere
sys.stdout.write("\\n" + json.dumps(elsewhere(*json.load(sys.stdin))))
"""
Told = dict[str, str]
"""What a reset or a step said, by its name: as it is written in Python, to be compared."""

_BEFORE, _SHOWN = 20, 60
"""Characters shown before a difference, and in all."""
_LEFT = 2
"""Turns after which an episode is left, for the next one to begin."""
_ELSEWHERE = 5
"""How many calls' time another process may take: it starts, builds and plays."""


def seeding(subject: Subject) -> Findings:
    """Two fresh instances agree on a seed."""
    for seed in subject.few:
        if differs := difference(_fresh(subject, seed), _fresh(subject, seed)):
            yield _unseeded(seed, differs)
            return


def _unseeded(seed: int, differs: str) -> Finding:
    message = (
        f"two fresh instances differ after reset(seed={seed}), first {differs}: take every random "
        "number from self.np_random or a random.Random of your own, keep nothing in the class or "
        "the module, and tell no time outside metrics"
    )
    return Finding("error", "seeding", message)


def _drift(
    subject: Subject, seed: int, told: list[Told], turns: int | None = None
) -> Finding | None:
    """What is wrong if `told` is no longer what a fresh instance tells, nothing else being changed.

    Asked before anything else is blamed: a clock in an observation differs now and then.
    """
    differs = difference(told, _fresh(subject, seed, turns=turns))
    return _unseeded(seed, differs) if differs else None


def global_random(subject: Subject) -> Findings:
    """An episode neither depends on the global random state nor changes it."""
    for seed in subject.few:
        told = _fresh(subject, seed)
        touched = _global_state() != _seed_global(0)
        differs = difference(told, _fresh(subject, seed, luck=1))
        if differs and (drift := _drift(subject, seed, told)):
            yield drift
            return
        if touched or differs:
            how = f", {differs}" if differs else ""
            message = (
                "an episode seeds or draws from the global random state (random or numpy.random), "
                f"which every other episode of the process shares{how}: use self.np_random, or a "
                "random.Random of your own"
            )
            yield Finding("error", "global-random", message)
            return


def carry_over(subject: Subject) -> Findings:
    """A used instance plays as a fresh one does."""
    fresh = [_fresh(subject, seed) for seed in subject.few]
    with subject.opened() as used:
        for seed in subject.few:
            list(_telling(used, seed + 1, subject.turns))
            if differs := difference(list(_telling(used, seed, subject.turns)), fresh[seed]):
                break
        else:
            return
    if drift := _drift(subject, seed, fresh[seed]):
        yield drift
        return
    message = (
        f"an instance that has played before plays seed {seed} differently from a fresh one, first "
        f"{differs}: set in reset() every attribute that step() changes"
    )
    yield Finding("error", "carry-over", message)


def reused(subject: Subject) -> Findings:
    """One that says it is reusable goes from episode to episode, played to the end or left in the
    middle, and plays each as a fresh one does. Then it is used for all checks that follow.
    """
    found: list[tuple[int, list[Told], list[Told]]] = []
    with subject.opened() as used:
        if not used.metadata.get("reusable"):
            return
        # The first again at the end: what is kept by its seed shows there.
        for seed in (*subject.few, 0):
            whole = list(_telling(used, seed, PATIENCE, Following()))
            found.append((seed, whole, list(_telling(used, seed, _LEFT))))
    for seed, *told in found:
        fresh = (
            _fresh(subject, seed, turns=PATIENCE, choose=Following()),
            _fresh(subject, seed, turns=_LEFT),
        )
        if differs := next(filter(None, map(difference, told, fresh)), ""):
            yield _drift(subject, seed, fresh[1], _LEFT) or _stale(seed, differs)
            return
    subject.reuse()


def _stale(seed: int, differs: str) -> Finding:
    message = (
        f"metadata['reusable'] is true, but an instance that has played before plays seed {seed} "
        f"differently from a fresh one, first {differs}: make reset() undo whatever an episode "
        "changes, in the instance and in what stands behind it, or leave reusable out"
    )
    return Finding("error", "reusable", message)


def beside(subject: Subject) -> Findings:
    """Two instances can be open at once, and do not disturb each other when they play in turns."""
    for seed in subject.few:
        alone = [_fresh(subject, s) for s in (seed, seed + 1)]
        together: list[list[Told]] = []
        with Caught() as caught:
            together = _in_turns(subject, seed)
        if caught.error:
            yield _crowded(subject.watch.call, caught.said)
            return
        differs = map(difference, together, alone)
        if first := next(filter(None, differs), ""):
            drifts = (_drift(subject, seed + n, told) for n, told in enumerate(alone))
            if drift := next(filter(None, drifts), None):
                yield drift
                return
            message = (
                f"two instances that play in turns disturb each other, first {first}: move what "
                "they share, in the class or the module, into the instance"
            )
            yield Finding("error", "interleaving", message)
            return


def _crowded(call: str, said: str) -> Finding:
    """Two instances could be played alone, but not together, where `call` raised."""
    if call.startswith("step("):
        message = (
            f"two instances that play in turns disturb each other, {call} raised {said}: move what "
            "they share, in the class or the module, into the instance"
        )
        return Finding("error", "interleaving", message)
    message = (
        f"beside an open instance {call} raised {said}: train and evaluate with rollout.slots=1 "
        "(eval --slots 1), or let as many be open as there are slots"
    )
    return Finding("warning", "limits-instances", message)


def _in_turns(subject: Subject, seed: int) -> list[list[Told]]:
    """What two instances tell of `seed` and the next, played a turn each by turns."""
    together: list[list[Told]] = [[], []]
    with subject.opened() as first, subject.opened() as second:
        tellings = [
            _telling(env, s, subject.turns)
            for env, s in zip((first, second), (seed, seed + 1), strict=True)
        ]
        for _ in range(subject.turns + 1):
            for telling, told in zip(tellings, together, strict=True):
                told.extend(filter(None, [next(telling, None)]))
    return together


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
    with subject.opened() as env:
        here = _tellings(env, subject.seeds, subject.turns)
    for seed, (ours, theirs) in enumerate(zip(here, there, strict=True)):
        if differs := difference(ours, theirs):
            message = (
                f"the episode of seed {seed} changes with PYTHONHASHSEED, first {differs}: sort a "
                "set before drawing from it or writing it, seed a random.Random with a str, and "
                "never use hash()"
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


def elsewhere(spec: str, options: Mapping[str, Any], seeds: int, turns: int) -> list[list[Told]]:
    """What the episodes of all seeds tell in this process, which has a hash seed of its own."""
    with contextlib.closing(make(spec, options)) as env:
        return _tellings(env, seeds, turns)


def _tellings(env: gymnasium.Env[str, str], seeds: int, turns: int) -> list[list[Told]]:
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


def _fresh(
    subject: Subject,
    seed: int,
    luck: int = 0,
    turns: int | None = None,
    choose: Choose = probe,
) -> list[Told]:
    """What a fresh instance tells of `seed`, with `luck` as the seed of the global state."""
    _seed_global(luck)
    with subject.opened() as env:
        return list(_telling(env, seed, turns or subject.turns, choose))


def _telling(
    env: gymnasium.Env[str, str], seed: int, turns: int, choose: Choose = probe
) -> Iterator[Told]:
    """Everything an episode says."""
    observation, info = env.reset(seed=seed)
    rules = {"system_prompt": repr(system_prompt(env)), "examples": repr(examples(env))}
    yield _named(("observation",), (observation,), info) | rules
    names = ("observation", "reward", "terminated", "truncated")
    for _, result in steps(env, info, choose, turns):
        yield _named(names, result[:4], result[4])


def _named(names: Sequence[str], values: Sequence[Any], info: Info) -> Told:
    named = dict(zip(names, values, strict=True))
    named |= {f"info[{key!r}]": value for key, value in told(info).items()}
    return {name: repr(value) for name, value in named.items()}


def difference(one: Sequence[Told], other: Sequence[Told]) -> str:
    """Where two tellings of an episode part, and in what; empty where they are equal."""
    for turn, (ours, theirs) in enumerate(zip_longest(one, other, fillvalue={})):
        for name in dict.fromkeys((*ours, *theirs)):
            a, b = ours.get(name, "missing"), theirs.get(name, "missing")
            if a != b:
                after = f"step {turn}" if turn else "reset"
                pairs = enumerate(zip_longest(a, b))
                start = max(0, next(n for n, (x, y) in pairs if x != y) - _BEFORE)
                return f"after {after} in {name}: {_around(a, start)} and {_around(b, start)}"
    return ""


def _around(text: str, start: int) -> str:
    """The part of `text` where it differs from another."""
    end = start + _SHOWN
    return ("..." if start else "") + text[start:end] + ("..." if end < len(text) else "")


def told(info: Info, *but: str) -> Info:
    """`info` in order, without the keys `but` and `metrics`, which may measure time."""
    kept = {key: info[key] for key in sorted(info) if key not in (*but, "metrics")}
    return {key: _ordered(value) for key, value in kept.items()}


def _ordered(value: Any) -> Any:
    return dict(sorted(value.items())) if isinstance(value, dict) else value
