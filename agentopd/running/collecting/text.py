"""Other people's traces: one episode a line of JSON, encoded once with the student's template.

    {"turns": [{"observation": "#@$.#", "answer": "<action>right</action>"}], "success": true}

`system` (the rules), `reward` (the episode's) and `success` may be left out. Nothing that a text
says can forge a control token: contents are encoded as contents.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentopd.base.files import read_text
from agentopd.base.text import check_unicode
from agentopd.base.types import EndReason, Owner, Trajectory, Turn
from agentopd.models.chat import Conversation
from agentopd.models.model import LanguageModel


class Exchange(BaseModel):
    """What was seen, and what was answered."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    observation: str
    answer: str


class Trace(BaseModel):
    """One episode as text."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    turns: tuple[Exchange, ...] = Field(min_length=1)
    system: str = ""
    success: bool = False
    reward: float = 0.0


def read_traces(path: Path, student: LanguageModel, env: str) -> Iterator[Trajectory]:
    """The episodes of a file, in its order.

    Args:
        env: in which they were played, as they are to be recorded.

    Raises:
        ValueError: the file cannot be read, or a line in it is no episode or too long for the
            student; the message names the line.
    """
    try:
        lines = read_text(path).splitlines()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    number = 0
    for at, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {at}"
        encoded = _encoded(_trace(line, where), student, where)
        yield _recorded(encoded, env, number)
        number += 1


def _trace(line: str, where: str) -> Trace:
    try:
        return Trace.model_validate(json.loads(line))
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON ({error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"{where} is no episode: {place + ': ' if place else ''}{first['msg']}; write "
            '{"turns": [{"observation": ..., "answer": ...}], "success": true}'
        ) from error


def _encoded(trace: Trace, student: LanguageModel, where: str) -> tuple[Conversation, list[Turn]]:
    """The conversation as the template writes it, and its turns."""
    template = student.template
    conversation, turns = Conversation(template, student.stop_ids), list[Turn]()
    for index, (exchange, ended) in enumerate(_with_end(trace)):
        try:
            seen = check_unicode(exchange.observation, "the observation")
            said = check_unicode(exchange.answer, "the answer")
            if index:
                conversation.observe(seen)
            else:
                conversation.begin(check_unicode(trace.system, "the system text"), seen)
        except ValueError as error:
            raise ValueError(f"{where}, turn {index + 1}: {error}") from error
        ids = [*template.encode_content(said), template.closing]
        if len(conversation.context) + len(ids) > student.positions:
            raise ValueError(
                f"{where} is longer than the {student.positions:g} tokens that {student.name} "
                "reads: shorten it, or leave it out"
            )
        action, start = conversation.answer(ids, [math.nan] * len(ids), Owner.DEMO)
        turns.append(
            Turn(
                index=index,
                observation=seen,
                action=action,
                start=start,
                act=start + template.reasoning_length(ids),
                stop=start + len(ids),
                cut=False,
                **ended,
            )
        )
    return conversation, turns


def _with_end(trace: Trace) -> Iterator[tuple[Exchange, Mapping[str, Any]]]:
    """Each exchange with its reward and info: what is known of the episode, at its last one."""
    for exchange in trace.turns[:-1]:
        yield exchange, {"reward": 0.0, "info": {"success": False}}
    yield trace.turns[-1], {"reward": trace.reward, "info": {"success": trace.success}}


def _recorded(encoded: tuple[Conversation, list[Turn]], env: str, number: int) -> Trajectory:
    conversation, turns = encoded
    return conversation.trajectory(
        turns, EndReason.TERMINATED, env=env, episode=number, task=number, seed=number
    )
