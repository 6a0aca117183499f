"""Verifiers: who says whether a turn meets a criterion.

A verifier gives verdicts in [0, 1]: 1 where the turn meets the criterion, 0 where it does not. None
means that it cannot tell, and then the criterion does not speak of the turn.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from pydantic import Field, PrivateAttr, model_validator

from agentopd.asking.models import AskedModel, asked_model, check_asked
from agentopd.base.parts import Part
from agentopd.base.types import Trajectory, Turn
from agentopd.models.batching import by_length, padded
from agentopd.models.chat import ChatTemplate, Conversation
from agentopd.models.model import LanguageModel, ModelSettings
from agentopd.signal.beside import Beside
from agentopd.units.facts import AnswerPart, Fact, fact_of, named_function, part_of

if TYPE_CHECKING:
    from agentopd.teacher import Teacher

# B sequences, T tokens, H hidden size, V vocabulary


@dataclass(frozen=True)
class Case:
    """A turn to be judged by a criterion: what it asks for, and of which part of the answer."""

    trajectory: Trajectory
    turn: Turn
    text: str
    part: AnswerPart


class Verifier(Part, family="verifier"):
    """Judges turns."""

    in_words: ClassVar[bool] = True
    """Whether it reads what a criterion asks for; one that does not judges every criterion alike.
    """

    def check(self, beside: Beside) -> None:
        """See `Unit.check`."""

    def prepare(self, student: LanguageModel, teacher: Teacher) -> None:
        """See `Unit.prepare`."""

    @abstractmethod
    def verdicts(self, cases: Sequence[Case]) -> list[float | None]:
        """A verdict a case, in order."""


class FactVerifier(Verifier, kind="fact"):
    """Reads what the environment states after the turn.

    Args:
        fact: the key of `facts`; `success` reads the episode's outcome.
        want: the value that satisfies.
    """

    in_words = False

    fact: str
    want: Fact = True

    def verdicts(self, cases: Sequence[Case]) -> list[float | None]:
        """See `Verifier.verdicts`; None where the fact is missing."""
        stated = [fact_of(case.turn, self.fact) for case in cases]
        return [None if value is None else float(value == self.want) for value in stated]


class FunctionVerifier(Verifier, kind="function"):
    """Calls a function of yours with the trajectory and the turn.

    Args:
        function: `package.module:function`; it returns a bool, a number in [0, 1] or None.
    """

    in_words = False

    function: str

    @model_validator(mode="after")
    def _can_be_called(self) -> FunctionVerifier:
        named_function(self.function)
        return self

    def verdicts(self, cases: Sequence[Case]) -> list[float | None]:
        """See `Verifier.verdicts`.

        Raises:
            ValueError: the function returned something that is no verdict.
        """
        judge = named_function(self.function)
        return [self._checked(judge(case.trajectory, case.turn), case) for case in cases]

    def _checked(self, verdict: Any, case: Case) -> float | None:
        if verdict is None:
            return None
        if not isinstance(verdict, bool | int | float | np.bool_ | np.number) or not (
            0 <= float(verdict) <= 1
        ):
            raise ValueError(
                f"{self.function} judged turn {case.turn.index + 1} of episode "
                f"{case.trajectory.episode} to be {verdict!r}; it must return True, False, a "
                "number in [0, 1], or None where it cannot tell"
            )
        return float(verdict)


class ModelVerifier(Verifier, kind="model"):
    """A language model is asked yes or no, of one turn and one criterion at a time.

    It is shown the task (the first observation), the observation, the answer or the part of it that
    the criterion speaks of, and the criterion; not who wrote the answer nor how the episode ended
    (ROPD's verifier is blind, 2605.07396). The verdict is p(yes) / (p(yes) + p(no)) of the first
    token of its reply, over all ways to begin either word.

    Args:
        model: `student` (as it is at the time), `teacher`, or another model: its folder or
            zoo:NAME, or a mapping with its dtype and device too.
        threshold: a verdict is 1 from this probability on and 0 below; without it, the verdict is
            the probability.
        tokens_per_batch: padded tokens in one forward pass.
    """

    model: AskedModel = ModelSettings(path="teacher")
    threshold: float | None = Field(default=None, gt=0, le=1)
    tokens_per_batch: int = Field(default=4_096, ge=64)
    _judge: LanguageModel | None = PrivateAttr(default=None)
    _yes: list[int] = PrivateAttr(default_factory=list)
    _no: list[int] = PrivateAttr(default_factory=list)

    @property
    def judge(self) -> LanguageModel:
        """The model that is asked, once `prepare` has set it."""
        assert self._judge is not None, "prepare() comes first"
        return self._judge

    def check(self, beside: Beside) -> None:
        """See `Unit.check`."""
        check_asked(self.model, beside, "judge")

    def prepare(self, student: LanguageModel, teacher: Teacher) -> None:
        """See `Unit.prepare`."""
        self._judge = asked_model(self.model, student, teacher)
        self._yes, self._no = answer_ids(self.judge)

    @torch.no_grad()
    def verdicts(self, cases: Sequence[Case]) -> list[float | None]:
        """See `Verifier.verdicts`; None where the answer lacks the part that is asked about."""
        model = self.judge
        template = model.template
        found: list[float | None] = [None] * len(cases)
        asked = [n for n, case in enumerate(cases) if np.ptp(part_of(case.turn, case.part))]
        sequences = [question_ids(cases[n], template, model.stop_ids) for n in asked]
        for batch in by_length([len(ids) for ids in sequences], self.tokens_per_batch):
            last = torch.tensor([len(sequences[i]) - 1 for i in batch], device=model.device)
            hidden_BTH = model.hidden(padded([sequences[i] for i in batch], model.device))
            rows = torch.arange(len(batch), device=model.device)
            logits_BV = model.logits(hidden_BTH[rows, last])
            odds_B = logits_BV[:, self._yes].logsumexp(-1) - logits_BV[:, self._no].logsumexp(-1)
            for i, probability in zip(batch, odds_B.sigmoid().tolist(), strict=True):
                found[asked[i]] = self._verdict(probability)
        return found

    def _verdict(self, probability: float) -> float:
        return probability if self.threshold is None else float(probability >= self.threshold)


def question_ids(
    case: Case, template: ChatTemplate, stop_ids: frozenset[int]
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """(T,) the conversation that asks a judge, up to where it is to reply."""
    task, turn = case.trajectory.turns[0].observation, case.turn
    asked = [
        f"Task:\n{task}",
        f"Observation:\n{turn.observation}" if turn.index else "",
        f"Answer:\n{_text_of(turn, case.part)}",
        f"Criterion: {case.text}",
        "Does the answer meet the criterion? Reply yes or no.",
    ]
    conversation = Conversation(template, stop_ids)
    system = "You judge one answer of an agent. Reply with one word: yes or no."
    conversation.begin(system, "\n\n".join(filter(None, asked)))
    return np.array(conversation.context, dtype=np.int64)


def answer_ids(model: LanguageModel) -> tuple[list[int], list[int]]:
    """The tokens that a reply of yes, and one of no, may begin with.

    Raises:
        ValueError: the tokenizer begins both words with the same tokens.
    """
    template = model.template

    def first_of(word: str) -> set[int]:
        ways = [f"{gap}{way}" for gap in ("", " ") for way in (word, word.title(), word.upper())]
        found = {template.encode_content(way)[0] for way in ways}
        # A space that is a token of its own may begin anything.
        return {token for token in found if template.decode([token]).strip()}

    yes, no = first_of("yes"), first_of("no")
    if not yes - no or not no - yes:
        raise ValueError(
            f"{model.name} cannot judge: its tokenizer begins yes and no with the same token, so "
            "the first token of a reply does not tell them apart; use another model"
        )
    return sorted(yes - no), sorted(no - yes)


def _text_of(turn: Turn, part: AnswerPart) -> str:
    if part == "turn" or turn.act == turn.start:
        return turn.action
    reasoning, tag, rest = turn.action.rpartition("</think>")
    if not tag:  # a thought that was never closed
        return turn.action if part == "reasoning" else ""
    return reasoning + tag if part == "reasoning" else rest
