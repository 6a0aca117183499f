"""What a model makes of what it is told: the capacity check.

Self-distillation teaches nothing where the teacher, told more, does not predict otherwise: OPSD
2601.18734 finds a floor of capacity under which that is so. Measured is the log-probability of the
best next action, as the environment's oracle has it, in contexts that the model came into by
itself: told nothing, and told what a source says. A first turn and a later one are told apart, as
the model's own wrong answers may disarm what it is told behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from agentopd.base.types import Trajectory, View
from agentopd.environment.contract import actions, declared
from agentopd.environment.settings import EnvSettings
from agentopd.environment.wrappers import Env
from agentopd.models.batching import by_length, padded
from agentopd.models.encoding import Piece
from agentopd.models.model import LanguageModel
from agentopd.privilege.base import Source, gather
from agentopd.privilege.view import ViewBuilder

# N questions, T tokens of a context, A tokens of an action, V vocabulary

_ASKED = 6
"""Episodes that are asked at their first turn, and at a later one."""
_LATER = 2
_BATCH = 2_048
"""Padded tokens in one forward pass."""


@dataclass(frozen=True)
class Shift:
    """The mean log-probability in nats of the best action, alone and told.

    `first` and `later` are the mean of told less alone at first turns, and at later ones behind the
    model's own answers; None where there were none.
    """

    source: str
    view: str
    alone: float
    told: float
    first: float | None
    later: float | None
    asked: int

    @property
    def gain(self) -> float:
        """By how much being told raises it, in nats."""
        return self.told - self.alone


@dataclass(frozen=True)
class Question:
    """Where in an episode the best action is known, and which it is."""

    trajectory: Trajectory
    turn: int
    action: str

    @property
    def start(self) -> int:
        """Where the turn's answer starts in the student's ids."""
        return self.trajectory.turns[self.turn].start


@dataclass(frozen=True)
class Capacity:
    """Asks a model for the best action, alone and told."""

    model: LanguageModel
    questions: Sequence[Question]
    form: str

    @classmethod
    def of(
        cls, model: LanguageModel, settings: EnvSettings, trajectories: Sequence[Trajectory]
    ) -> Capacity:
        """Questions in episodes that the model has played; none where there is no oracle."""
        env = settings.build()
        asked = [
            found
            for t in trajectories
            for turn in (0, _LATER)
            if (found := _question(env, t, turn)) is not None
        ]
        chosen = [
            question
            for turn in (0, _LATER)
            for question in [q for q in asked if q.turn == turn][:_ASKED]
        ]
        form: str = declared(env, "action_form", "<action>{}</action>")
        env.close()
        return cls(model, chosen, form)

    def alone(self) -> list[float]:
        """The log-probability (N) of each question's action, told nothing."""
        return self._logprobs([q.trajectory.ids[_begin(q) : q.start] for q in self.questions])

    def told(self, source: Source, view: ViewBuilder) -> list[float | None]:
        """The same, told what `source` says; None where it says nothing."""
        asked = list({id(q.trajectory): q.trajectory for q in self.questions}.values())
        built = view.build(gather([source], asked), self.model.template)
        views = {id(v.trajectory): v for v in built if len(v.ids) > len(v.trajectory.ids)}
        heard = [n for n, q in enumerate(self.questions) if id(q.trajectory) in views]
        contexts = [
            _context(views[id(self.questions[n].trajectory)], self.questions[n]) for n in heard
        ]
        found: list[float | None] = [None] * len(self.questions)
        chosen = Capacity(self.model, [self.questions[n] for n in heard], self.form)
        for n, logprob in zip(heard, chosen._logprobs(contexts), strict=True):
            found[n] = logprob
        return found

    def shift(self, source: Source, view: ViewBuilder, alone: Sequence[float]) -> Shift | None:
        """What being told changes; None where the source has nothing to say.

        Args:
            alone: what `alone` gave.
        """
        told = self.told(source, view)
        pairs = [
            (question.turn, before, after)
            for question, before, after in zip(self.questions, alone, told, strict=True)
            if after is not None
        ]
        if not pairs:
            return None
        return Shift(
            source=source.kind,
            view=view.kind,
            alone=_mean([before for _, before, _ in pairs]) or 0.0,
            told=_mean([after for *_, after in pairs]) or 0.0,
            first=_mean([after - before for turn, before, after in pairs if turn == 0]),
            later=_mean([after - before for turn, before, after in pairs if turn > 0]),
            asked=len(pairs),
        )

    @torch.no_grad()
    def _logprobs(self, contexts: Sequence[np.ndarray]) -> list[float]:
        """The log-probability of each question's action behind its context."""
        answers = [self._answer(question.action) for question in self.questions]
        rows = [
            np.concatenate([context, np.array(ids, dtype=np.int64)])
            for context, (ids, _, _) in zip(contexts, answers, strict=True)
        ]
        found = [0.0] * len(rows)
        for batch in by_length([len(row) for row in rows], _BATCH):
            hidden_NTH = self.model.hidden(padded([rows[n] for n in batch], self.model.device))
            for row, n in enumerate(batch):
                (ids, begin, stop), place = answers[n], len(contexts[n])
                hidden_AH = hidden_NTH[row, place + begin - 1 : place + stop - 1]
                logprobs_AV = self.model.logits(hidden_AH).log_softmax(-1)
                said_A = torch.tensor(ids[begin:stop], device=logprobs_AV.device)
                found[n] = float(logprobs_AV.gather(1, said_A[:, None]).sum())
        return found

    def _answer(self, action: str) -> tuple[list[int], int, int]:
        """Ids of an answer up to the end of its action, and where the action's tokens lie in it."""
        front = ("\n</think>\n\n" if self.model.template.opening else "") + self.form.split("{}")[0]
        text = front + action
        encoded = self.model.template.encoded([Piece(text, 0)], "text")
        begin, stop = encoded.bounds(len(front), len(text))
        return encoded.ids, begin, stop


def _question(env: Env, trajectory: Trajectory, turn: int) -> Question | None:
    """The best action at the start of a turn; None where it is not known or not reached."""
    if turn >= len(trajectory.turns):
        return None
    info = trajectory.turns[turn - 1].info if turn else trajectory.prompt
    plan = actions(env, str(info.get("oracle") or ""))
    return Question(trajectory, turn, plan[0]) if plan else None


def _begin(question: Question) -> int:
    """Where the segment of a question's turn begins."""
    segments = question.trajectory.segments
    return next(start for start, stop in segments if start <= question.start < stop)


def _context(view: View, question: Question) -> np.ndarray:
    """What the teacher reads before the turn's answer."""
    pairs = zip(question.trajectory.segments, view.segments, strict=True)
    begin = next(b for (start, stop), (b, _) in pairs if start <= question.start < stop)
    return view.ids[begin : int(view.position[question.start])]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
