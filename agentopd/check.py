"""What is wrong with an environment: the contract of `agentopd.env`, tried out.

    for finding in check_env("my_package.maze:Maze"):
        ...

Gymnasium's own checker passes an environment that draws from the global random state or carries a
counter over from one episode to the next. Both make the episodes of a group play different tasks,
and neither shows in a reward curve; here each has a check of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agentopd.checks import form, play, repeat
from agentopd.checks.subject import Caught, Finding, Findings, Subject

__all__ = ["Finding", "check_env"]

_Check = Callable[[Subject], Findings]

_LEVELS = ("error", "warning", "note")
_FORM: tuple[_Check, ...] = (form.spaces, form.results, form.infos)
_REPEAT: tuple[_Check, ...] = (
    repeat.seeding,
    repeat.global_random,
    repeat.carry_over,
    repeat.interleaving,
)
_PLAY: tuple[_Check, ...] = (
    repeat.tasks,
    play.unreadable,
    play.end,
    play.oracle,
    play.told,
    play.cost,
)


def check_env(
    spec: str, options: Mapping[str, Any] | None = None, seeds: int = 20, strict: bool = False
) -> list[Finding]:
    """Play an environment in many ways and report how it breaks the contract.

    A mistake that would only be found again by later checks stops those: mend it and check again.

    Args:
        spec: what `agentopd.env.make` takes.
        options: for the environment's constructor; JSON-able where `strict`.
        seeds: tasks to try.
        strict: also compare the tasks with those of a process that hashes differently, which takes
            a few seconds.

    Returns:
        What is wrong, errors first, notes last; empty for a good environment.

    Raises:
        ValueError: there is no such environment, it refuses the options, or `seeds` is below 2.
    """
    if seeds < 2:
        raise ValueError(f"seeds must be at least 2, to compare tasks; got {seeds}")
    subject = Subject(spec, dict(options or {}), seeds)
    subject.build()
    subject.close()
    with repeat.own_global_random():
        found = _until_error(subject, _FORM)
        if not _has_error(found):
            found += _until_error(subject, _REPEAT)
            for check in (*_PLAY, repeat.hash_seed) if strict else _PLAY:
                found += _run(check, subject)
    return sorted(dict.fromkeys(found), key=lambda finding: _LEVELS.index(finding.level))


def _until_error(subject: Subject, checks: tuple[_Check, ...]) -> list[Finding]:
    """What `checks` find in order, up to the first that finds an error."""
    found: list[Finding] = []
    for check in checks:
        found += _run(check, subject)
        if _has_error(found):
            break
    return found


def _run(check: _Check, subject: Subject) -> list[Finding]:
    found: list[Finding] = []
    with Caught() as caught:
        try:
            found.extend(check(subject))
        finally:
            subject.close()
    if caught.error:
        message = f"the environment raised {caught.said}: neither reset, step nor close may"
        found.append(Finding("error", "raises", message))
    return found


def _has_error(findings: list[Finding]) -> bool:
    return any(finding.level == "error" for finding in findings)
