"""A language model as a judge of whole episodes, who replies with a digit (OVD 2601.21968)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import Field, PrivateAttr, field_validator

from agentopd.asking.contexts import context, fitted
from agentopd.asking.models import AskedModel, asked_model, check_asked
from agentopd.asking.quoting import played, quote, shortened
from agentopd.base.parts import closest
from agentopd.base.rows.costs import Cost, Who
from agentopd.base.types import Trajectory
from agentopd.base.written import read_mapping
from agentopd.environment.contract import without_reasoning
from agentopd.models.model import LanguageModel, ModelSettings
from agentopd.rollout.acting.judging import Judge
from agentopd.rollout.sampler import Request, answers
from agentopd.rollout.transformers_sampler import TransformersSampler
from agentopd.signal.beside import Beside
from agentopd.teacher import Teacher

_OWN = Path(__file__).parent / "templates" / "grade.yaml"
_KEYS = ("system", "request")
_SLOT = re.compile(r"\{(\w+)\}")
_SLOTS = ("task", "episode")
_DIGIT = re.compile(r"(?<![\d.])\d(?!\.?\d)")


@dataclass(frozen=True)
class _Form:
    """What a judge is asked: its rules, and a request with slots for the task and the episode."""

    system: str
    request: str

    @classmethod
    def load(cls, path: Path) -> _Form:
        """The one in a YAML file.

        Raises:
            ValueError: it is none; one line that names the file.
        """
        found = read_mapping(path)
        for key in found:
            if key not in _KEYS:
                raise ValueError(f"{path}: unknown key {key!r}; {closest(str(key), _KEYS)}")
        system, request = (found.get(key) for key in _KEYS)
        if not (isinstance(system, str) and isinstance(request, str)):
            raise ValueError(f"{path}: `system` and `request` are texts, and both must be there")
        slots = _SLOT.findall(request)
        for slot in slots:
            if slot not in _SLOTS:
                raise ValueError(f"{path}: unknown slot {{{slot}}}; {closest(slot, _SLOTS)}")
        if "episode" not in slots:
            raise ValueError(f"{path}: the judge would not see the {{episode}} that it is to grade")
        return cls(system.strip(), request.strip())

    def filled(self, task: str, episode: str) -> str:
        """The request about one episode; what is quoted in it cannot name a slot."""
        said = {"task": task, "episode": episode}
        return _SLOT.sub(lambda found: said[found[1]], self.request)


class ModelJudge(Judge, kind="model"):
    """A language model reads the task and every turn, and replies with a digit.

    It is told neither who wrote the episode nor whether the environment calls it solved. The grade
    is the first single digit of its reply, thoughts left out; a reply without one gives no grade.

    Args:
        model: `teacher`, `student` (as it is at the time), or another model: its folder or
            zoo:NAME, or a mapping with its dtype and device too.
        template: a YAML file of your own with `system` and `request`, which may hold `{task}` and
            must hold `{episode}`; the one that comes along where not given.
        tokens: of an episode; the middle of longer ones is cut.
        reply_tokens: where its reply is cut.
        temperature: of its sampling; 0 takes the likeliest token.
    """

    in_words: ClassVar[bool] = True

    model: AskedModel = ModelSettings(path="teacher")
    template: str | None = None
    tokens: int = Field(default=2_048, ge=16)
    reply_tokens: int = Field(default=8, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    _asked: LanguageModel | None = PrivateAttr(default=None)

    @field_validator("template")
    @classmethod
    def _is_there(cls, value: str | None) -> str | None:
        if value is not None:
            _Form.load(Path(value))
        return value

    @property
    def costs(self) -> tuple[Cost, ...]:
        """See `Part.costs`."""
        path = self.model.path
        who: Who = "student" if path == "student" else "teacher" if path == "teacher" else "writer"
        where = "J: what the judge replies"
        return Cost(who, "reads", "L"), Cost(who, "samples", "J", where=where)

    def check(self, beside: Beside) -> None:
        """See `Judge.check`."""
        check_asked(self.model, beside, "judge")

    def prepare(self, student: LanguageModel, teacher: Teacher) -> None:
        """See `Judge.prepare`."""
        self._asked = asked_model(self.model, student, teacher)
        TransformersSampler(self._asked)  # refuses what it cannot sample from

    def grades(self, trajectories: Sequence[Trajectory]) -> list[int | None]:
        """See `Judge.grades`; None where the reply holds no digit, or the request does not fit."""
        model = self._asked
        assert model is not None, "prepare() comes first"
        form = _Form.load(Path(self.template) if self.template else _OWN)
        room = model.positions - self.reply_tokens
        contexts = [self._context(model, form, t, room) for t in trajectories]
        requests = [
            Request(place, ids, (t.episode,), self.reply_tokens, self.temperature)
            for place, (t, ids) in enumerate(zip(trajectories, contexts, strict=True))
            if len(ids) <= room
        ]
        # Made anew each time: the model may have learnt since, and its cache is not kept.
        replies = answers(TransformersSampler(model), requests)
        found: list[int | None] = [None] * len(trajectories)
        for request, reply in zip(requests, replies, strict=True):
            found[request.key] = grade_of(
                model.template.decode(reply.ids, skip_special_tokens=True)
            )
        return found

    def _context(
        self, model: LanguageModel, form: _Form, trajectory: Trajectory, room: float
    ) -> list[int]:
        """The conversation up to where the judge is to reply."""
        task = quote(trajectory.turns[0].observation) if trajectory.turns else ""
        turns = played(trajectory.turns, skip_task=True)

        def made(budget: int) -> list[int]:
            said = shortened(turns, budget, model.template)
            return context(model, form.system, form.filled(task, said))

        return fitted(made, self.tokens, room)


def grade_of(reply: str) -> int | None:
    """The grade in a judge's reply: its first digit that stands alone, thoughts left out."""
    found = _DIGIT.search(without_reasoning(reply))
    return int(found[0]) if found else None
