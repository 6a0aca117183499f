"""The model that writes privileged text, and how much of it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field, PrivateAttr, field_validator

from agentopd.asking.contexts import context, fitted
from agentopd.asking.models import AskedModel, asked_model, is_moving
from agentopd.base.parts import Settings
from agentopd.base.rows.costs import Who
from agentopd.environment.contract import without_reasoning
from agentopd.models.model import LanguageModel, ModelSettings
from agentopd.privilege.writing.templates import Template
from agentopd.rollout.sampler import Request, answers
from agentopd.rollout.transformers_sampler import TransformersSampler
from agentopd.teacher import Teacher


@dataclass(frozen=True)
class Ask:
    """One request: what is known for its slots, and which of several replies it is."""

    slots: Mapping[str, str]
    vote: int = 0


@dataclass(frozen=True)
class Reply:
    """What a model wrote to a request; empty where the request did not fit into what it reads."""

    ask: Ask
    text: str


class ModelWriter(Settings):
    """Who writes privileged text, what it is asked, and how much it may read and write.

    The same request has the same reply: it is written once for all episodes of which the same is
    asked, and kept for later steps where the model does not learn. Random numbers depend on the
    request alone, so a run that goes on writes what it would have written.

    Args:
        model: `student` (as it is at the time), `teacher`, or another model: its folder or
            zoo:NAME, or a mapping with its dtype and device too. It must be able to write.
        template: what it is asked: the name of a template that comes along, or a YAML file of your
            own; the source's own where not given.
        tokens: of all that is quoted in one request; the middle of longer texts is cut.
        reply_tokens: where a reply is cut.
        temperature: of its sampling; 0 takes the likeliest token.
        batch: requests that are answered at once.
        remember: replies that are kept for later steps.
    """

    model: AskedModel = ModelSettings(path="student")
    template: str | None = None
    tokens: int = Field(default=2_048, ge=16)
    reply_tokens: int = Field(default=256, ge=8)
    temperature: float = Field(default=0.0, ge=0)
    batch: int = Field(default=32, ge=1)
    remember: int = Field(default=1_024, ge=0)
    _author: LanguageModel | None = PrivateAttr(default=None)
    _sampler: Any = PrivateAttr(default=None)
    _moving: bool = PrivateAttr(default=False)
    _known: dict[str, str] = PrivateAttr(default_factory=dict)
    _spent: Counter[str] = PrivateAttr(default_factory=Counter)

    @field_validator("template")
    @classmethod
    def _is_there(cls, value: str | None) -> str | None:
        if value is not None:
            Template.load(value)
        return value

    def meet(self, student: LanguageModel, teacher: Teacher) -> None:
        """Find the model that writes.

        Raises:
            ValueError: it cannot be loaded, or cannot be sampled from.
        """
        self._author = asked_model(self.model, student, teacher)
        self._sampler = TransformersSampler(self._author)
        self._moving = is_moving(self.model, teacher)

    @property
    def who(self) -> Who:
        """Who pays for it: the student, the teacher, or a writer of its own."""
        path = self.model.path
        return "student" if path == "student" else "teacher" if path == "teacher" else "writer"

    @property
    def ready(self) -> bool:
        """Whether there is a model to ask."""
        return self._author is not None

    def begin(self) -> None:
        """A step begins: what a model that learns has written before is forgotten."""
        self._spent = Counter()
        if self._moving:
            self._known = {}

    def write(self, template: Template, asks: Sequence[Ask]) -> list[Reply]:
        """A reply a request, in order; thoughts are left out."""
        author = self._author
        assert author is not None, "meet() comes first"
        contexts = [self._context(author, template, ask) for ask in asks]
        names = [self._name(ids, ask) for ids, ask in zip(contexts, asks, strict=True)]
        room = author.positions - self.reply_tokens
        new = {n: ids for n, ids in zip(names, contexts, strict=True) if n not in self._known}
        self._ask(author, {name: ids for name, ids in new.items() if len(ids) <= room})
        pairs = zip(asks, names, strict=True)
        replies = [Reply(ask, self._known.get(name, "")) for ask, name in pairs]
        self._known = dict(list(self._known.items())[-self.remember :]) if self.remember else {}
        return replies

    def scalars(self) -> dict[str, float]:
        """Tokens read and written in the last step."""
        return {f"{name}_tokens": float(self._spent[name]) for name in ("read", "written")}

    def state(self) -> dict[str, Any]:
        """What must survive a restart, as JSON."""
        return {} if self._moving else {"known": dict(self._known)}

    def restore(self, state: dict[str, Any]) -> None:
        """The reverse of `state`."""
        self._known = dict(state.get("known", {}))

    def _context(self, author: LanguageModel, template: Template, ask: Ask) -> list[int]:
        slots = {name: _clean(text) for name, text in ask.slots.items()}

        def made(budget: int) -> list[int]:
            return context(author, template.system, template.filled(slots, budget, author.template))

        return fitted(made, self.tokens, author.positions - self.reply_tokens)

    def _name(self, ids: Sequence[int], ask: Ask) -> str:
        content = np.array([self.reply_tokens, ask.vote, *ids], dtype=np.int64).tobytes()
        return hashlib.sha256(content + str(self.temperature).encode()).hexdigest()

    def _ask(self, author: LanguageModel, contexts: Mapping[str, list[int]]) -> None:
        """Have the model reply, so many at once."""
        self._sampler.sync(author)  # the model may have learnt since
        names = list(contexts)
        for first in range(0, len(names), self.batch):
            chosen = names[first : first + self.batch]
            requests = [
                Request(
                    key=number,
                    ids=contexts[name],
                    seed=(int(name[:16], 16),),
                    max_tokens=self.reply_tokens,
                    temperature=self.temperature,
                )
                for number, name in enumerate(chosen)
            ]
            for name, answer in zip(chosen, answers(self._sampler, requests), strict=True):
                said = author.template.decode(answer.ids, skip_special_tokens=True)
                self._known[name] = _clean(without_reasoning(said)).strip()
                self._spent.update(read=len(contexts[name]), written=len(answer.ids))


def _clean(text: str) -> str:
    """A text without what no text should hold: control characters, noncharacters."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")
