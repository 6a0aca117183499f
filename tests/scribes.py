"""Models that write by script, and episodes that they are asked about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import pytest
from scripted import ScriptedEnv, ends, play, says, toy_tokenizer

from agentopd.base.types import Trajectory
from agentopd.models.chat import ChatTemplate
from agentopd.models.model import LanguageModel
from agentopd.privilege.base import Source
from agentopd.privilege.writing import model_writer
from agentopd.rollout.sampler import Answer, Completion, Request
from agentopd.teachers.copies import FrozenTeacher

TOY = toy_tokenizer()


@dataclass
class Scribe:
    """The sampler of a model that writes what `says` makes of the text of each request.

    `asked` holds the texts, `requests` what was asked a call.
    """

    model: LanguageModel
    says: Callable[[str], str]
    asked: list[str] = field(default_factory=list)
    requests: list[list[Request]] = field(default_factory=list)

    def submit(self, requests: Sequence[Request]) -> None:
        self.requests.append(list(requests))

    def ready(self, wake: Event | None = None, seconds: float | None = None) -> list[Answer]:
        template, found = ChatTemplate(self.model.tokenizer), []
        for request in self.requests[-1]:
            text = template.decode(list(request.ids))
            self.asked.append(text)
            ids = template.encode_content(self.says(text))[: request.max_tokens - 1]
            ids = [*ids, min(self.model.stop_ids)]
            found.append(Answer(request.key, Completion(ids, [0.0] * len(ids), False)))
        return found

    def forget(self, keys: Sequence[int]) -> None:
        pass

    def sync(self, student: LanguageModel) -> None:
        pass


def ready(
    source: Source,
    model: LanguageModel,
    says: str | Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> Scribe:
    """Let a scripted model write for a source."""
    scribe = Scribe(model, says if callable(says) else lambda _: says)
    monkeypatch.setattr(model_writer, "TransformersSampler", lambda _: scribe)
    source.prepare(ChatTemplate(model.tokenizer))
    teacher = FrozenTeacher()
    teacher.prepare(model)
    source.meet(model, teacher)
    return scribe


def told(source: Source, batch: Sequence[Trajectory]) -> list[list[tuple[str, int | None]] | None]:
    """What a source says of each episode of a step, in words and turns; None where nothing."""
    source.begin()
    source.learn(batch)
    source.write(batch, batch)
    heard = [source.whisper(t, batch) for t in batch]
    return [None if x is None else [(p.text, p.turn) for p in x] for x in heard]


def attempts(
    *answers: Sequence[str], solved: Sequence[int] = (), **prompt: Any
) -> list[Trajectory]:
    """Episodes of one turn an answer, by tokens as `ids_of` has them; two to a task.

    Args:
        solved: whether each episode was; none where not given.
        prompt: what the environment says on reset.
    """
    envs = []
    for number, said in enumerate(answers):
        won = bool(solved and solved[number])
        steps = [
            says(f"B{k + 2}", feedback="so", oracle="left", mistake="wait")
            for k in range(len(said) - 1)
        ]
        last = ends(float(won), won, not won, feedback="well")
        first = ("B1", {"task_id": f"task {number // 2}", "oracle": "up", **prompt})
        envs.append(ScriptedEnv(first, [*steps, last], "rules"))
    return play(TOY, envs, [[f"{a} <|im_end|>" for a in said] for said in answers])[0]
