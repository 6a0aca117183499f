"""The check that what only the teacher may know does not stand in what the student reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import gymnasium

from agentopd.environment.checks.subject import Episode, Finding, Findings, Subject
from agentopd.environment.checks.watch import short
from agentopd.environment.contract import Info, actions

_TELLING = 12
"""Characters from which a text that turns up in an observation is no coincidence."""
_FIRST = ("oracle", "reference", "guide")
_LATER = ("feedback", "oracle")
_UNREAD = ("oracle",)
"""Feedback and a mistake's name may be said of an answer that cannot be read."""
_ONCE = ("reference", "guide")
"""What is told on reset and stays a secret."""


@dataclass(frozen=True)
class _Read:
    """A text that the student reads, what it had said itself by then, and what it may not know."""

    text: str
    said: str
    secrets: dict[str, str]


def told(subject: Subject) -> Findings:
    """No secret is told word for word; but a question may hold its answer."""
    found: dict[tuple[str, bool], tuple[str, int]] = {}
    probed = [subject.played("probe", seed) for seed in subject.few]
    episodes = (*subject.followed(), *probed)
    with subject.opened() as env:
        for episode in episodes:
            for key, secret in _let_out(episode):
                kind = key, _asked(env, episode, key, secret)
                found[kind] = secret, found.get(kind, ("", 0))[1] + 1
    for (key, asked), (secret, count) in found.items():
        yield _asking(key, secret) if asked else _telling(key, secret, count)


def _let_out(episode: Episode) -> Iterator[tuple[str, str]]:
    """The secrets that stand word for word in what the student reads, by their keys."""
    for read in _reads(episode):
        for key, secret in read.secrets.items():
            # An answer repeated to the one who gave it is no secret.
            if len(secret) >= _TELLING and secret in read.text and secret not in read.said:
                yield key, secret


def _reads(episode: Episode) -> Iterator[_Read]:
    """What the student reads in an episode."""
    first = _secrets(episode.info, _FIRST)
    yield _Read(f"{episode.observation}\0{episode.rules}", "", first)
    once = {key: first[key] for key in _ONCE if key in first}
    said = ""
    for turn in episode.turns:
        said += f"\0{turn.action}"
        info = turn.result[4]
        secrets = _secrets(info, _LATER if info["action_valid"] else _UNREAD)
        yield _Read(turn.result[0], said, once | secrets)


def _secrets(info: Info, keys: tuple[str, ...]) -> dict[str, str]:
    """What `info` holds in words under `keys` and in its facts."""
    facts = {f"facts.{name}": value for name, value in info.get("facts", {}).items()}
    named = {key: info.get(key) for key in keys} | facts
    return {key: text for key, text in named.items() if isinstance(text, str)}


def _asked(env: gymnasium.Env[str, str], episode: Episode, key: str, secret: str) -> bool:
    """Whether `secret` may be an answer that stands in the text of its question.

    A plan of several actions is no part of a question.
    """
    single = key in ("oracle", "reference") and len(actions(env, secret)) == 1
    return single and secret in episode.observation and secret not in episode.rules


def _asking(key: str, secret: str) -> Finding:
    message = (
        f"info[{key!r}] stands word for word in the first observation ({short(secret)}): where the "
        "answer is to be found in a text, that is the task; otherwise leave it out"
    )
    return Finding("warning", "told-to-student", message)


def _telling(key: str, secret: str, count: int) -> Finding:
    message = (
        f"info[{key!r}] stands word for word in {count} texts that the student reads "
        f"({short(secret)}): leave it out of observations and system_prompt, or out of info"
    )
    # Feedback that everybody hears is no lead for the teacher, but it gives nothing away.
    heard = key == "feedback" or key.startswith("facts")
    return Finding("warning" if heard else "error", "told-to-student", message)
