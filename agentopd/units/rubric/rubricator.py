"""Rubrics that a model writes from good and bad episodes, in words (ROPD 2605.07396)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, PrivateAttr, field_validator, model_validator

from agentopd.asking.contexts import context, fitted
from agentopd.asking.models import AskedModel, asked_model, check_asked
from agentopd.base.types import Turn
from agentopd.models.model import LanguageModel, ModelSettings
from agentopd.rollout.sampler import Request, answers
from agentopd.rollout.transformers_sampler import TransformersSampler
from agentopd.signal.beside import Beside
from agentopd.units.rubric import prompts as rubric_text
from agentopd.units.rubric.criteria import Criterion
from agentopd.units.rubric.induction import Attempt, RubricWriter, Sides
from agentopd.units.rubric.judges import Case, ModelVerifier, Verifier

if TYPE_CHECKING:
    from agentopd.teacher import Teacher

_BLANK = Attempt(
    turns=(
        Turn(
            index=0, observation="", action="", start=0, act=0, stop=0, cut=False, reward=0, info={}
        ),
    )
)
_SLACK = 32
"""Tokens by which the shortest request may be longer than that of blank episodes."""


class ModelWriter(RubricWriter, kind="model"):
    """A model reads good and bad episodes of one task and writes criteria, as questions in words
    that the rubric's judge answers (ROPD 2605.07396).

    With `per: run` the task is the one that was solved and failed most evenly of late, and the
    rubric holds for all tasks until the next; ROPD's own is `per: task`. ROPD asks for criteria
    that tell good from bad answers and takes what it gets; here the judge is asked about all of
    these episodes first, and what does not tell them apart is left out.

    Args:
        model: `teacher`, `student` (as it is at the time), or another model: its folder or
            zoo:NAME, or a mapping with its dtype and device too. It must be able to write.
        shown: how many good and how many bad episodes it reads at most: those of the greatest and
            of the least reward, the latest first.
        tokens: of all these episodes together; the middle of the longer ones is cut.
        reply_tokens: where its reply is cut.
        temperature: of its sampling; 0 takes the likeliest token.
        weights: the least and the greatest weight; others are brought to the nearer one.
        difference: how much higher the mean verdict of the good episodes must be than that of the
            bad ones for a criterion to be kept; null keeps all, as ROPD does.
    """

    in_words: ClassVar[bool] = True

    model: AskedModel = ModelSettings(path="teacher")
    shown: int = Field(default=4, ge=1)
    tokens: int = Field(default=4_096, ge=64)
    reply_tokens: int = Field(default=512, ge=16)
    temperature: float = Field(default=0.0, ge=0)
    weights: tuple[float, float] = (1.0, 5.0)
    difference: float | None = Field(default=0.1, gt=0, le=1)
    _author: LanguageModel | None = PrivateAttr(default=None)
    _judge: Verifier | None = PrivateAttr(default=None)
    _last: dict[str, Any] = PrivateAttr(default_factory=dict)
    """The last reply and what became of its lines."""

    @field_validator("weights")
    @classmethod
    def _in_order(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError(
                f"the least weight is {value[0]:g} and the greatest {value[1]:g}; give the least "
                "first, above 0, such as [1, 5]"
            )
        return value

    @model_validator(mode="after")
    def _remembers_what_it_shows(self) -> ModelWriter:
        if self.shown > self.memory:
            raise ValueError(
                f"shown ({self.shown}) must not be above memory ({self.memory}): no more episodes "
                "of a kind are remembered"
            )
        return self

    def check(self, beside: Beside) -> None:
        """See `Unit.check`."""
        check_asked(self.model, beside, "writer")

    def prepare(self, student: LanguageModel, teacher: Teacher, judge: Verifier | None) -> None:
        """See `RubricWriter.prepare`.

        Raises:
            ValueError: the model cannot be loaded, or its context holds no request.
        """
        super().prepare(student, teacher, judge)
        # One model that writes and judges is loaded once.
        if isinstance(judge, ModelVerifier) and judge.model == self.model:
            author = judge.judge
        else:
            author = asked_model(self.model, student, teacher)
        TransformersSampler(author)  # refuses what it cannot sample from
        blank = [_BLANK] * self.shown
        least = len(self._context(author, blank, blank, 0)) + _SLACK + self.reply_tokens
        if least > author.positions:
            raise ValueError(
                f"{author.name} cannot write a rubric: its context has {author.positions} tokens, "
                f"and the request alone and a reply of {self.reply_tokens} need {least}. Lower "
                "reply_tokens or shown, or use a model of a longer context"
            )
        self._author, self._judge = author, judge

    def write(self, good: Sequence[Attempt], bad: Sequence[Attempt]) -> list[Criterion]:
        """See `RubricWriter.write`; the heaviest first."""
        return self.write_each([(good, bad)])[0]

    def write_each(self, sides: Sequence[Sides]) -> list[list[Criterion]]:
        """See `RubricWriter.write_each`: all are asked for at once."""
        shown = [self._shown(*side) for side in sides]
        replies = self._replies(shown)
        counts, found = Counter[str](), list[list[Criterion]]()
        for (good, bad), (best, worst), reply in zip(sides, shown, replies, strict=True):
            said = (text for attempt in (*best, *worst) for text in _said(attempt))
            reading = rubric_text.read_reply(reply, self.weights, said)
            kept = [c for c in reading.criteria if self._tells_apart(c, good, bad)]
            counts["indistinct"] += len(reading.criteria) - len(kept)
            counts.update({k: v for k, v in asdict(reading).items() if k != "criteria"})
            found.append(sorted(kept, key=lambda criterion: -criterion.weight))
        self._last = {"reply": replies[-1], **counts}
        return found

    def _shown(self, good: Sequence[Attempt], bad: Sequence[Attempt]) -> Sides:
        """The episodes that the model reads."""
        # From the latest on: sorting keeps that order among equals.
        own_good, own_bad = (side[::-1] for side in _group(good, bad))
        best = sorted(own_good, key=lambda attempt: -attempt.reward)[: self.shown]
        worst = sorted(own_bad, key=lambda attempt: attempt.reward)[: self.shown]
        return best, worst

    def scalars(self) -> dict[str, float]:
        """See `Unit.scalars`: also what became of the last reply's lines."""
        counts = {name: count for name, count in self._last.items() if name != "reply"}
        return super().scalars() | {f"induced_{name}": count for name, count in counts.items()}

    def state(self) -> dict[str, Any]:
        """See `RubricWriter.state`."""
        return super().state() | {"last": dict(self._last)}

    def restore(self, state: dict[str, Any]) -> None:
        """See `RubricWriter.restore`."""
        super().restore(state)
        self._last = dict(state["last"])

    def _replies(self, shown: Sequence[Sides]) -> list[str]:
        """What the model writes about the episodes of each task."""
        author = self._author
        assert author is not None, "prepare() comes first"
        requests = []
        for place, (good, bad) in enumerate(shown):
            ids = fitted(
                partial(self._context, author, good, bad),
                self.tokens,
                author.positions - self.reply_tokens,
            )
            seed = (self._steps, place) if place else (self._steps,)
            requests.append(Request(place, ids, seed, self.reply_tokens, self.temperature))
        # Made anew each time: the model may have learnt since, and its cache is not kept.
        found = answers(TransformersSampler(author), requests)
        return [author.template.decode(x.ids, skip_special_tokens=True) for x in found]

    def _context(
        self, author: LanguageModel, good: Sequence[Attempt], bad: Sequence[Attempt], budget: int
    ) -> list[int]:
        """The conversation up to where the author is to write."""
        template = author.template
        asked = rubric_text.request(
            rubric_text.accounts(good, bad), budget, template, self.most, self.weights
        )
        return context(author, rubric_text.SYSTEM, asked)

    def _tells_apart(
        self, criterion: Criterion, good: Sequence[Attempt], bad: Sequence[Attempt]
    ) -> bool:
        """Whether the judge finds that the good episodes meet it more often than the bad ones."""
        if self.difference is None:
            return True
        among_good, among_bad = (self._mean_verdict(criterion, side) for side in (good, bad))
        if among_good is None or among_bad is None:
            return False
        return among_good - among_bad >= self.difference

    def _mean_verdict(self, criterion: Criterion, attempts: Sequence[Attempt]) -> float | None:
        """The mean over episodes of the mean over the turns that it speaks of; None of none."""
        assert self._judge is not None, "prepare() comes first"
        cases = [
            Case(episode, turn, criterion.text, criterion.part)
            for episode in [attempt.trajectory() for attempt in attempts]
            for turn in criterion.turns_of(episode)
        ]
        by_episode: dict[int, list[float]] = {}
        for case, verdict in zip(cases, self._judge.verdicts(cases), strict=True):
            if verdict is not None:
                by_episode.setdefault(id(case.trajectory), []).append(verdict)
        means = [sum(verdicts) / len(verdicts) for verdicts in by_episode.values()]
        return sum(means) / len(means) if means else None


def _group(good: Sequence[Attempt], bad: Sequence[Attempt]) -> tuple[list[Attempt], list[Attempt]]:
    """The episodes of the task with the most pairs of a good and a bad one, the latest of those;
    all episodes where every task has but one kind.
    """
    solved, failed = (Counter(attempt.task for attempt in side) for side in (good, bad))
    pairs, task = max((min(count, failed[task]), task) for task, count in solved.items())
    if not pairs:
        return list(good), list(bad)
    return [a for a in good if a.task == task], [a for a in bad if a.task == task]


def _said(attempt: Attempt) -> Iterator[str]:
    for turn in attempt.turns:
        yield turn.observation
        yield turn.action
