"""Checks by playing: unreadable answers, the oracle, what the student gets to see, the end."""

from __future__ import annotations

import time
from typing import Literal

import gymnasium

from agentopd.checks.subject import (
    PATIENCE,
    Finding,
    Findings,
    Subject,
    as_action,
    attempt,
    by_oracle,
    plan_of,
    short,
    steps,
    turn_limit,
)
from agentopd.env import Info, declared, system_prompt

_TELLING = 12
"""Characters from which a text that turns up in an observation is no coincidence."""
_UNREADABLE = ("", "\x00", "x" * 20_000, "<action>", "<think>never closed")
_ODD = "\u221a \U0001f642 \u05d0\u0301 \u202e"
"""Perhaps an action somewhere, but nothing an environment may stumble over."""
_LONG = 16_000
"""Characters of an observation that fill a usual context with a turn or two."""
_SLOW = 0.05
"""Seconds of processor time a step that hold up the batch all other episodes wait in."""
_SHARE = 0.95
_TOLD_LATER = ("feedback", "oracle")
_TOLD_FIRST = ("oracle", "reference", "guide")


def unreadable(subject: Subject) -> Findings:
    """An answer that cannot be read is flagged, raises nothing and ends nothing."""
    for action in (*_UNREADABLE, _ODD):
        env = subject.build()
        env.reset(seed=0)
        result, failure = attempt(env, as_action(env, action) if action == _ODD else action)
        if failure:
            yield failure
            return
        _, _, terminated, truncated, info = result
        if info["action_valid"]:
            if action != _ODD:
                message = (
                    f"step({short(action)}) counts as valid: set info['action_valid'] to False "
                    "where no action can be read from the answer"
                )
                yield Finding("error", "unreadable-valid", message)
                return
        elif terminated or (truncated and turn_limit(env) != 1):
            yield _ends(f"step({short(action)}), an answer that cannot be read, ends the episode")
            return


def end(subject: Subject) -> Findings:
    """With unreadable answers alone the episode ends at the limit, neither before nor after."""
    env = subject.build()
    # Wrappers may declare that unreadable answers end an episode sooner.
    limits = (turn_limit(env), declared(env, "invalid_limit", None))
    limit = min((n for n in limits if n), default=None)
    _, info = env.reset(seed=0)
    turns, over, lost = 0, False, False
    for _, result in steps(env, info, lambda env, turn, info: _UNREADABLE[0], PATIENCE):
        turns, over, lost = turns + 1, result[2] or result[3], result[2]
    if limit and turns > limit:
        message = (
            f"the episode took {turns} turns or more, its limit is {limit}: truncate it there, and "
            "count the turns whose answer cannot be read too"
        )
        yield Finding("error", "turn-limit", message)
    elif not over:
        if not limit:
            message = (
                f"after {turns} unreadable answers the episode still goes on: set max_turns and "
                "return truncated=True when it is reached"
            )
            yield Finding("warning", "endless", message)
    elif limit and turns < limit:
        yield _ends(f"{turns} answers that cannot be read end the episode")
    elif lost and not limit:
        # Perhaps it is the time that ran out: without a declared limit nobody can tell.
        yield _ends(f"{turns} answers that cannot be read lose the episode", "warning")


def _ends(what: str, level: Literal["error", "warning"] = "error") -> Finding:
    message = (
        f"{what}: let them cost a turn each, truncate at max_turns, and terminate only where the "
        "task itself is over"
    )
    return Finding(level, "unreadable-ends", message)


def oracle(subject: Subject) -> Findings:
    """Following the oracle solves every task."""
    plans = {
        seed: subject.build().reset(seed=seed)[1].get("oracle") for seed in range(subject.seeds)
    }
    planned = [seed for seed, plan in plans.items() if plan]
    if not planned:
        message = (
            "no task has info['oracle'], so a teacher cannot be told the next actions: set it to "
            "the best actions from the current state, separated by spaces (or what action_between "
            "declares), if they are known"
        )
        yield Finding("warning", "no-oracle", message)
    failed = [seed for seed in planned if not _follow(subject.build(), seed)]
    if failed:
        message = (
            f"following info['oracle'] fails on {len(failed)} of {len(planned)} seeds, first on "
            f"seed {failed[0]} with {short(plans[failed[0]])}: after every step it has to hold the "
            "actions, in order, that solve the task from there within the turns that are left, "
            "separated by what action_between declares, a space by default"
        )
        yield Finding("error", "oracle", message)


def _follow(env: gymnasium.Env[str, str], seed: int) -> bool:
    """Whether the first action of each oracle leads to success.

    A step without an oracle goes on with the rest of the last one.
    """
    plan = plan_of(env, env.reset(seed=seed)[1])
    for _ in range(PATIENCE):
        if not plan:
            return False
        _, _, terminated, truncated, info = env.step(as_action(env, plan[0]))
        if info["success"] or terminated or truncated:
            return info["success"]
        plan = plan_of(env, info) or plan[1:]
    return False


def told(subject: Subject) -> Findings:
    """What only the teacher may know does not stand in what the student reads.

    Words that an unreadable answer earns may: the student is told what was wrong with it.
    """
    found: dict[str, tuple[str, int]] = {}
    for seed in subject.few:
        env = subject.build()
        observation, first = env.reset(seed=seed)
        rules = system_prompt(env)
        read = [(observation + "\0" + rules, "", _secrets(first, _TOLD_FIRST))]
        said = ""
        for action, result in steps(env, first, by_oracle, PATIENCE):
            said += f"\0{action}"
            if result[4]["action_valid"]:
                secrets = _secrets(result[4], _TOLD_LATER)
                read.append((result[0], said, secrets | _secrets(first, ("reference",))))
        for text, said, secrets in read:
            for key, secret in secrets.items():
                # An answer repeated to the one who gave it is no secret.
                if len(secret) >= _TELLING and secret in text and secret not in said:
                    found[key] = secret, found.get(key, ("", 0))[1] + 1
    for key, (secret, count) in found.items():
        message = (
            f"info[{key!r}] stands word for word in {count} texts that the student reads "
            f"({short(secret)}): leave it out of observations and system_prompt, or out of info"
        )
        # Feedback that everybody hears is no lead for the teacher, but it gives nothing away.
        heard = key == "feedback" or key.startswith("facts")
        yield Finding("warning" if heard else "error", "told-to-student", message)


def _secrets(info: Info, keys: tuple[str, ...]) -> dict[str, str]:
    """What `info` holds in words under `keys` and in its facts."""
    facts = {f"facts.{name}": value for name, value in info.get("facts", {}).items()}
    named = {key: info.get(key) for key in keys} | facts
    return {key: text for key, text in named.items() if isinstance(text, str)}


def cost(subject: Subject) -> Findings:
    """Observations fit into a context, and a step takes little of a batch's time."""
    longest, taken = 0, list[float]()
    for seed in subject.few:
        env = subject.build()
        observation, info = env.reset(seed=seed)
        longest = max(longest, len(observation))
        start = time.process_time()
        for _, result in steps(env, info, by_oracle, PATIENCE):
            taken.append(time.process_time() - start)
            longest = max(longest, len(result[0]))
            start = time.process_time()
    if longest > _LONG:
        message = (
            f"an observation is {longest:,} characters long and stays in the context of every "
            f"later turn: show only what is new, below {_LONG:,} characters, and page the rest"
        )
        yield Finding("warning", "long-observation", message)
    if taken and (late := sorted(taken)[int(_SHARE * (len(taken) - 1))]) > _SLOW:
        message = (
            f"one step in twenty takes {late * 1000:.0f} ms of computing or more, while the other "
            "episodes of the batch wait: move what can be computed once into reset() or the "
            "constructor"
        )
        yield Finding("note", "slow-step", message)
