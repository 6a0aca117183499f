"""Several attempts at a task in the toy tokenizer's words, and records of attempts by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scripted import random_model, toy_tokenizer

import agentopd.rollout.policies.retry  # noqa: F401  (its kind)
from agentopd.base.types import Attempt, Owner, Trajectory
from agentopd.environment.settings import EnvSettings
from agentopd.parallel.processes import ALONE, Processes
from agentopd.rollout.acting.roles import Adviser, Piece
from agentopd.rollout.policies.base import Cast, Rollout
from agentopd.rollout.transformers_sampler import TransformersSampler

TOKENIZER = toy_tokenizer()
STUDENT = random_model(TOKENIZER, seed=1)
SIZES = {"tasks": 6, "group": 3, "max_turns": 2, "max_turn_tokens": 4, "max_context": 400}
ALL = ("first", "later", "reflections")


class Words:
    """Recalls in the toy tokenizer's own words. It is a `Recall`."""

    def told(
        self,
        attempt: Trajectory,
        written: Mapping[Piece, str],
        pieces: Sequence[Piece],
        tokens: int,
    ) -> str:
        """The attempt's answers, and what was written of it."""
        said = "|".join(turn.action for turn in attempt.turns)
        return f"push {said}" + "".join(f" wait {written[x]}" for x in pieces if x in written)

    def phrase(self, attempt: Trajectory) -> str:
        """Whether it was solved, in a word."""
        return "well" if attempt.success else "why"

    def asked(
        self, attempt: Trajectory, batch: Sequence[Trajectory], level: int, tokens: int
    ) -> tuple[str, str]:
        """The attempt's answers, after a word for each level but the first."""
        known = ("up ", "", "left ", "down ", "wait ")[level]
        return "why", known + "|".join(turn.action for turn in attempt.turns)

    def foretold(
        self, attempt: Trajectory, advice: str | None, tokens: int
    ) -> tuple[str, str, str]:
        """Of solved attempts nothing was said."""
        said = "left so" if advice is None else advice
        return *self.asked(attempt, (), 1, tokens), "" if attempt.success else said


def collect(
    env: str = "test_hinted:Picky",
    step: int = 0,
    processes: Processes = ALONE,
    adviser: Adviser | None = None,
    **written: Any,
) -> list[Trajectory]:
    """A step of `rollout: retry`, in an environment that every fifth answer solves."""
    rollout = Rollout.model_validate({"kind": "retry", **SIZES, **written})
    rollout.prepare(Cast(STUDENT, recall=Words(), adviser=adviser))
    rollout.join(processes)
    settings = EnvSettings(id=env)
    return rollout.collect(settings, STUDENT, TransformersSampler(STUDENT), seed=3, step=step)


def of(found: Sequence[Trajectory], number: int, kind: str = "played") -> dict[int, Trajectory]:
    """Attempts of one number and kind, by the episode number of the first."""
    return {
        t.attempt.first: t
        for t in found
        if t.attempt and (t.attempt.number, t.attempt.kind) == (number, kind)
    }


def text(trajectory: Trajectory, role: str) -> str:
    first = next(m for m in trajectory.messages if m.role == role)
    return STUDENT.template.decode(trajectory.ids[first.start : first.stop].tolist())


def ends_with(trajectory: Trajectory, role: str, text: str) -> bool:
    """Whether the first message of a role ends with the tokens of a text."""
    first = next(m for m in trajectory.messages if m.role == role)
    ids = STUDENT.template.encode_content(text)
    return trajectory.ids[first.start : first.stop].tolist()[-len(ids) :] == ids


def own_logprobs(t: Trajectory) -> np.ndarray:
    """(T,) the student's log-probabilities in the history that is kept, recomputed."""
    with torch.no_grad():
        logits_TV = STUDENT.logits(STUDENT.hidden(torch.from_numpy(t.ids)[None])[0])[:-1]
    own = torch.log_softmax(logits_TV, -1).gather(1, torch.from_numpy(t.ids)[1:, None])
    return np.concatenate([[np.nan], own.squeeze(1).numpy()])


def bits(found: Sequence[Trajectory]) -> list[Any]:
    return [(t.episode, t.ids.tolist(), t.logprob.tobytes(), t.attempt) for t in found]


def marked(trajectories: Sequence[Trajectory], number: int = 0) -> list[Trajectory]:
    """Attempts of that number at the same tasks."""
    return [
        replace(
            t, episode=t.episode + 100 * number, attempt=Attempt(number=number, first=t.episode)
        )
        for t in trajectories
    ]


def untold(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """The same answers in the histories without what was told."""
    found = []
    for t in trajectories:
        assert t.attempt
        mark = replace(t.attempt, kind="untold")
        found.append(replace(t, episode=t.episode + 1_000, attempt=mark, told=t.trainable))
    return found


def foreseen(trajectory: Trajectory) -> Trajectory:
    """An answer that nobody sampled."""
    assert trajectory.attempt
    owner = np.where(trajectory.trainable, Owner.DEMO, Owner.TEMPLATE).astype(np.uint8)
    return replace(
        trajectory,
        episode=trajectory.episode + 2_000,
        owner=owner,
        logprob=np.full_like(trajectory.logprob, np.nan),
        attempt=replace(trajectory.attempt, kind="foreseen"),
    )
