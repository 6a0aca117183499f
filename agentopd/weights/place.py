"""Weights that look at where a token stands and what it repeats, whatever the models say of it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from agentopd.base.types import Lesson
from agentopd.models.phrases import inserted_phrases, phrases, runs
from agentopd.signal.evidence import Evidence
from agentopd.signal.tokens import sum_by
from agentopd.weights.base import (
    Per,
    Renormalise,
    Weight,
    groups,
)

# N tokens of a micro-batch, G groups of them, T tokens of a trajectory


class DepthDecay(Weight, kind="depth_decay"):
    """gamma^k for the tokens of turn k = 0, 1, ...: late turns count less."""

    gamma: float = Field(default=0.9, gt=0, le=1)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"{self.gamma:g}^k, k the turn"

    def raw(self, evidence: Evidence) -> torch.Tensor:
        """See `Weight.raw`."""
        return self.gamma ** evidence.tokens.turn_N.to(evidence.tokens.behaviour_N.dtype)


class DepthCurriculum(Weight, kind="depth_curriculum"):
    """The first k turns alone teach, k = min(start + step // every, most), front to back (TCOD's
    F2B, 2604.24005).

    Not rescaled: an episode's first turn counts the same, however few of the others do yet.

    Args:
        most: no limit if not given.
    """

    renormalise: Renormalise = False
    start: int = Field(default=1, ge=1)
    every: int = Field(default=2, ge=1)
    most: int | None = Field(default=None, ge=1)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        most = "" if self.most is None else f", at most {self.most}"
        return f"1[turn among the first {self.start} + step // {self.every}{most}]"

    @property
    def mask(self) -> bool:
        """See `Weight.mask`."""
        return True

    def raw(self, evidence: Evidence) -> torch.Tensor:
        """See `Weight.raw`."""
        depth = self.start + evidence.step // self.every
        depth = depth if self.most is None else min(depth, self.most)
        return (evidence.tokens.turn_N < depth).to(evidence.tokens.behaviour_N.dtype)


class SkipFirst(Weight, kind="skip_first"):
    """0 for the first `tokens` tokens, 1 for the rest (SDFT 2601.19897).

    A teacher that was shown something likes to begin by speaking of it.

    Args:
        per: of each turn, or of the episode.
    """

    tokens: int = Field(default=3, ge=0)
    per: Per = "turn"

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"0 at the first {self.tokens} tokens of each {self.per}, else 1"

    @property
    def mask(self) -> bool:
        """See `Weight.mask`."""
        return True

    def raw(self, evidence: Evidence) -> torch.Tensor:
        """See `Weight.raw`."""
        group_N, count = groups(self.per, evidence.tokens)
        length_G = sum_by(torch.ones_like(group_N), group_N, count)
        number_N = torch.arange(len(group_N), device=group_N.device)
        number_N = number_N - (length_G.cumsum(0) - length_G)[group_N]
        return (number_N >= self.tokens).to(evidence.tokens.behaviour_N.dtype)


class Told(Weight, kind="told"):
    """1 for the tokens of turns that the teacher was told something about, 0 for the rest (HERO
    2606.11559, OpenClaw-RL 2603.10165).

    A text about the whole episode is about each of its turns. Without a view nothing was told.

    Args:
        sources: the kinds of the sources whose texts count; all where none is named.
    """

    sources: tuple[str, ...] = ()

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return "1 in turns that the teacher was told something about, else 0"

    @property
    def mask(self) -> bool:
        """See `Weight.mask`."""
        return True

    def raw(self, evidence: Evidence) -> torch.Tensor:
        """See `Weight.raw`."""
        told = np.concatenate([self._told(lesson) for lesson in evidence.lessons])
        return torch.from_numpy(told).to(evidence.tokens.behaviour_N)

    def _told(self, lesson: Lesson) -> npt.NDArray[np.bool_]:
        """Which of the trajectory's trainable tokens belong to such turns."""
        trajectory, view = lesson.trajectory, lesson.view
        texts = () if view is None else view.briefed.privileges
        counted = [p for p in texts if not self.sources or p.source in self.sources]
        turn_T = trajectory.turn[trajectory.trainable]
        if any(p.turn is None for p in counted):
            return np.ones(len(turn_T), dtype=np.bool_)
        return np.isin(turn_T, [p.turn for p in counted if p.turn is not None])


class PhraseMask(Weight, kind="phrase_mask"):
    """0 for tokens that repeat a phrase of the privileged text, 1 for the rest (SDFT 2601.19897).

    A phrase is `length` tokens in a row that the teacher's view inserted and that the student's own
    system and user messages do not hold. Every token of a phrase is masked. Without a view nothing
    was inserted, and nothing is.
    """

    length: int = Field(default=4, ge=1)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"0 at tokens that repeat {self.length} in a row of what is told, else 1"

    @property
    def mask(self) -> bool:
        """See `Weight.mask`."""
        return True

    def raw(self, evidence: Evidence) -> torch.Tensor:
        """See `Weight.raw`."""
        kept = np.concatenate([~self._repeats(lesson) for lesson in evidence.lessons])
        return torch.from_numpy(kept).to(evidence.tokens.behaviour_N)

    def _repeats(self, lesson: Lesson) -> npt.NDArray[np.bool_]:
        """Which of the trajectory's trainable tokens repeat a phrase."""
        trajectory, view = lesson.trajectory, lesson.view
        found_T = np.zeros(len(trajectory.ids), dtype=np.bool_)
        if view is not None:
            ids, size = trajectory.ids.tolist(), self.length
            secret = inserted_phrases(view, size)
            for message in trajectory.messages:
                if not trajectory.trainable[message.start : message.stop].any():
                    secret.difference_update(phrases(ids[message.start : message.stop], size))
            for start, stop in runs(trajectory.trainable):
                for place, phrase in enumerate(phrases(ids[start:stop], size), start):
                    if phrase in secret:
                        found_T[place : place + size] = True
        return found_T[trajectory.trainable]
