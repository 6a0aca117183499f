"""Demonstrations in the place of episodes: somebody has played them before."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import PrivateAttr

from agentopd.base.types import Owner, Trajectory
from agentopd.environment.settings import EnvSettings
from agentopd.models.model import LanguageModel
from agentopd.models.passes import trained_logprobs
from agentopd.rollout.policies.base import Cast, Rollout
from agentopd.rollout.sampler import Sampler
from agentopd.stored.demonstrations import Choice, most_divergent, read_demonstrations


class DemonstrationsRollout(Rollout, kind="demonstrations"):
    """Episodes of a store are read and not played: nothing is sampled.

    A step takes as many as it would have played, in an order drawn anew for each pass over the
    store, and in no pass one twice. The rest of the settings are those of evaluations, in which the
    student acts.

    Args:
        path: a folder that `agentopd collect` wrote, or a run's; in a stage, `previous` is what an
            earlier one has left.
        keep: which of its episodes are learnt from.
    """

    replays = True

    path: str
    keep: Choice = Choice()

    _read: dict[str, list[Trajectory]] = PrivateAttr(default_factory=dict)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"whoever wrote {self.path}"

    def prepare(self, cast: Cast) -> None:
        """See `Rollout.prepare`.

        Raises:
            ValueError: there are no demonstrations, or the student cannot read them.
        """
        self._read[self.path] = demonstrations_for(cast.student, self.path, self.keep)

    def collect(
        self, env: EnvSettings, student: LanguageModel, sampler: Sampler, seed: int, step: int
    ) -> list[Trajectory]:
        """See `Rollout.collect`."""
        store, first = self._read[self.path], step * self.episodes
        taken = (nth(len(store), seed, first + i) for i in range(self.episodes))
        return [
            replace(store[place], episode=first + i, task=first + i)
            for i, place in enumerate(taken)
        ]


def nth(count: int, seed: int, number: int) -> int:
    """Which of so many demonstrations comes in that place, over one pass after another."""
    turn, place = divmod(number, count)
    return random.Random(f"demonstrations/{seed}/{turn}").sample(range(count), count)[place]


def demonstrations_for(student: LanguageModel, path: str, keep: Choice) -> list[Trajectory]:
    """The demonstrations of a store that are kept.

    Raises:
        ValueError: there are none, the student cannot read them, or nobody drew their tokens where
            they are chosen by the chances of these.
    """
    store = read_demonstrations(Path(path), keep)
    check_readable(store, student, path)
    if keep.divergent is None:
        return store
    for trajectory in store:
        if np.isnan(trajectory.logprob[trajectory.trainable]).any():
            raise ValueError(
                "keep.divergent compares the student with whoever drew the tokens, and episode "
                f"{trajectory.episode} of {path} holds some that nobody drew: choose among "
                "episodes that a teacher or a student has played"
            )
    return most_divergent(store, [_gap(t, student) for t in store], keep.divergent)


def _gap(trajectory: Trajectory, student: LanguageModel) -> float:
    """The mean of log q - log p over the tokens to learn from, q whoever drew them."""
    drawn = float(trajectory.logprob[trajectory.trainable].mean())
    return drawn - float(trained_logprobs(student, trajectory).mean())


def check_readable(store: list[Trajectory], student: LanguageModel, path: str) -> None:
    """That the demonstrations are in the student's tokens, and fit into its contexts.

    What an answer said is kept as text too: the student's tokenizer has to read the same in it.

    Raises:
        ValueError: they are of another tokenizer, or too long; one line that names the episode.
    """
    for trajectory in store:
        where = f"episode {trajectory.episode} of {path}"
        if not _is_of(trajectory, student):
            raise ValueError(
                f"{where} is of another tokenizer than {student.name}'s: its tokens do not read as "
                "its answers do. Collect the demonstrations again with this student, or bring them "
                "as text: agentopd collect CONFIG --by FILE.jsonl"
            )
        longest = max(stop - start for start, stop in trajectory.segments)
        if longest > student.positions:
            raise ValueError(
                f"{where} is {longest} tokens long, and {student.name} reads "
                f"{student.positions:g}: leave it out of the store"
            )


def _is_of(trajectory: Trajectory, student: LanguageModel) -> bool:
    """Whether the answers' tokens are those of the student's vocabulary."""
    if int(trajectory.ids.max()) >= student.vocabulary:
        return False
    template = student.template
    for turn in trajectory.turns:
        ids = trajectory.ids[turn.start : turn.stop].tolist()
        spoken = ids[:-1] if ids and ids[-1] in student.stop_ids else ids
        own = trajectory.owner[turn.start : turn.stop]
        if (own != Owner.TEMPLATE).any() and template.action(spoken) != turn.action:
            return False
    return True
