"""What is wrong with an environment: the contract of `agentopd.environment.contract`, tried out.

    for finding in check_env("my_package.maze:Maze"):
        ...

An environment that says it is reusable is started a few times, until that is seen to be true, and
then plays all other checks.

Gymnasium's own checker passes an environment that draws from the global random state or carries a
counter over from one episode to the next. Both make the episodes of a group play different tasks,
and neither shows in a reward curve; here each has a check of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentopd.base.objects import BuildError
from agentopd.environment.checks import form, play, repeat, tasks
from agentopd.environment.checks.subject import Caught, Finding, Findings, Subject, said
from agentopd.environment.checks.told import told
from agentopd.environment.checks.watch import Watch, in_time

__all__ = ["Finding", "check_env"]

_Check = Callable[[Subject], Findings]

_LEVELS = ("error", "warning", "note")
_FORM: tuple[_Check, ...] = (
    form.spaces,
    form.arguments,
    form.declarations,
    form.results,
    form.infos,
)
_REPEAT: tuple[_Check, ...] = (
    repeat.seeding,
    repeat.global_random,
    repeat.carry_over,
    repeat.reused,
    repeat.beside,
    form.values,
    form.listed,
)
_PLAY: tuple[_Check, ...] = (
    tasks.seeds,
    tasks.splits,
    play.unreadable,
    play.thoughts,
    play.end,
    play.oracle,
    play.success,
    told,
    play.cost,
)
SEEDS = 20
STRICT_SEEDS = 30
SECONDS = 30.0


def check_env(
    spec: str,
    options: Mapping[str, Any] | None = None,
    seeds: int | None = None,
    strict: bool = False,
    seconds: float = SECONDS,
) -> list[Finding]:
    """Play an environment in many ways and report how it breaks the contract.

    A mistake that would only be found again by later checks stops those: mend it and check again.
    It is played on a thread of its own, which is left alone where a call never returns.

    Args:
        spec: what `agentopd.environment.registry.make` takes.
        options: for the environment's constructor; JSON-able where `strict`.
        seeds: tasks to try; 20 if not given, 30 where `strict`.
        strict: also play more and longer episodes, and compare them with those of a process that
            hashes differently, which takes a few seconds.
        seconds: wall-clock time from which a call counts as one that never returns; building takes
            up to four times as long, since it may import large packages.

    Returns:
        What is wrong, errors first, notes last; empty for a good environment.

    Raises:
        ValueError: there is no such environment, it refuses the options, `seeds` is below 2, or
            `seconds` is not above 0.
    """
    count = (STRICT_SEEDS if strict else SEEDS) if seeds is None else seeds
    if count < 2:
        raise ValueError(f"seeds must be at least 2, to compare tasks; got {count}")
    if not seconds > 0:
        raise ValueError(f"seconds must be above 0, for calls to return in; got {seconds:g}")
    watch = Watch(seconds)
    subject = Subject(spec, dict(options or {}), count, strict, watch)
    found: list[Finding] = []
    with repeat.own_global_random():
        if not in_time(lambda: _check_and_close(subject, found), watch):
            found.append(_hangs(watch))
    return sorted(dict.fromkeys(found), key=lambda finding: _LEVELS.index(finding.level))


def _check_and_close(subject: Subject, found: list[Finding]) -> None:
    """`_check`, and what is open afterwards is closed."""
    try:
        _check(subject, found)
    finally:
        subject.close()


def _check(subject: Subject, found: list[Finding]) -> None:
    """Add to `found` what is wrong with `subject`."""
    with Caught() as caught, subject.opened():
        pass
    built = caught.error
    if isinstance(built, BuildError):
        built = built.__cause__ or built
    # What `make` refuses otherwise is the caller's mistake, not the environment's.
    elif isinstance(built, ValueError):
        raise built
    if built:
        found.append(_raised(subject.watch.call, built))
        return
    _until_error(subject, _FORM, found)
    if _has_error(found):
        return
    _until_error(subject, _REPEAT, found)
    for check in (*_PLAY, repeat.hash_seed) if subject.strict else _PLAY:
        _run(check, subject, found)


def _until_error(subject: Subject, checks: tuple[_Check, ...], found: list[Finding]) -> None:
    """Add what `checks` find in order, up to the first that finds an error."""
    for check in checks:
        _run(check, subject, found)
        if _has_error(found):
            break


def _run(check: _Check, subject: Subject, found: list[Finding]) -> None:
    """Add what `check` finds, each finding at once: a later call may never return."""
    with Caught() as caught:
        for finding in check(subject):
            found.append(finding)
    if caught.error:
        found.append(_raised(subject.watch.call, caught.error))


def _has_error(findings: list[Finding]) -> bool:
    return any(finding.level == "error" for finding in findings)


def _raised(call: str, error: BaseException) -> Finding:
    """What `call` should not have raised."""
    raised = f"{call} raised {said(error)}"
    if not call.startswith("building"):
        message = f"{raised}: neither reset, step nor close may"
        return Finding("error", "raises", message)
    message = (
        f"{raised}: let the constructor work each time, and raise a ValueError that says what to "
        "do where it cannot"
    )
    return Finding("error", "constructor", message)


def _hangs(watch: Watch) -> Finding:
    message = (
        f"{watch.call} has not returned within {watch.allowed:g} seconds{_at(watch.hung)}: give "
        "every loop an end and every wait a limit; where a call may take longer, allow it more "
        "(--seconds)"
    )
    return Finding("error", "hangs", message)


def _at(lines: Sequence[str]) -> str:
    """Where a call was, in words: the lines of code that called one another, the last innermost."""
    return f", it is at {' > '.join(lines)}" if lines else ""
