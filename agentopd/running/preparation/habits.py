"""What scores without reading anything: the baselines that a trained student has to beat.

A success rate may be that of a habit: on a lake whose goal lies in the last corner, right and down
at random cross it more often than a model that has learnt a little. So three habits are measured on
the tasks that the student is measured on: a random legal action each turn, the best single action
played again and again, and the best two, one of them at random each turn. Which are best is found
on other tasks, of the training split: the best of many on the same tasks would be a maximum over
chance.

They are played as the student plays, by the same pool within the same limits; no model is asked.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from threading import Event
from typing import Any

import gymnasium

from agentopd.base.statistics import wilson
from agentopd.base.types import Trajectory
from agentopd.environment.contract import HELD_OUT_SEED, declared, legal_actions
from agentopd.environment.settings import EnvSettings
from agentopd.models.model import LanguageModel, load_model
from agentopd.rollout.kept import Shelf
from agentopd.rollout.policies import Rollout
from agentopd.rollout.sampler import Answer, Completion, Request
from agentopd.running.config import RunConfig
from agentopd.running.evaluate import play_tasks

_ROUND = 16
"""Tasks on which habits are compared before the worse half of them is dropped."""
_SHORT = 32
"""Actions up to which the best one is looked for: of more, each belongs to few tasks."""
_PAIRED = 8
"""Actions of which the best two are looked for."""
_SEEN = "legal_actions"
"""The key of `info` under which `HabitEnv` tells what could have been played."""

Habit = tuple[str, ...]
"""The actions of which one is played at random each turn; none stands for all legal ones."""


@dataclass(frozen=True)
class Baseline:
    """A habit, measured.

    `kind` is random, constant or mixture; `interval` is Wilson's, of 95 %.
    """

    kind: str
    actions: Habit
    success: float
    interval: tuple[float, float]
    episodes: int

    @property
    def name(self) -> str:
        """The habit in words."""
        if not self.actions:
            return "random legal action"
        listed = " or ".join(self.actions)
        return f"{listed} at random" if len(self.actions) > 1 else f"always {listed}"

    def described(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "name": self.name, "interval": list(self.interval)}


@dataclass(frozen=True)
class Baselines:
    """Plays habits in an environment.

    Args:
        env: where they are measured, with `options` in place of its own of the same names.
        chosen_on: the same with tasks that nobody is measured on: there the best are found.
        student: as which they play: its chat template counts the context's tokens.
        rollout: its limits are theirs.
        seed: of the first task on which they are measured.
    """

    env: EnvSettings
    chosen_on: EnvSettings
    student: LanguageModel
    rollout: Rollout
    options: Mapping[str, Any]
    seed: int = HELD_OUT_SEED

    def measure(self, episodes: int) -> list[Baseline]:
        """Every habit on `episodes` tasks, from the task of `seed` on.

        Empty where the environment does not list its legal actions; a random one alone where the
        tasks have more than 32 different ones between them.
        """
        if not self._seen(1):
            return []
        habits: dict[str, Habit] = {"random": ()}
        known = self._seen(_ROUND)
        if len(known) <= _SHORT:
            best = self._best([(action,) for action in known])
            habits["constant"] = best[0]
            few = known if len(known) <= _PAIRED else [a for (a,) in best[:_PAIRED]]
            if len(few) > 1:
                habits["mixture"] = self._best(list(itertools.combinations(few, 2)))[0]
        return [self._measured(kind, habit, episodes) for kind, habit in habits.items()]

    def _measured(self, kind: str, habit: Habit, episodes: int) -> Baseline:
        played = self._play(self.env, habit, episodes, dict(self.options), self.seed)
        solved = sum(t.success for t in played)
        return Baseline(kind, habit, solved / episodes, wilson(solved, episodes), episodes)

    def _seen(self, tasks: int) -> list[str]:
        """The actions that could have been played on the first tasks, in order of the alphabet."""
        played = self._play(self.chosen_on, (), tasks, {}, 0)
        turns = (turn for t in played for turn in t.turns)
        return sorted({action for turn in turns for action in turn.info.get(_SEEN, ())})

    def _best(self, habits: Sequence[Habit]) -> list[Habit]:
        """The habits by their success, the best first; those dropped early stand behind.

        Each round is of new tasks, and the better half of the habits goes on to the next; where
        none has solved any, the first one is as good as any other.
        """
        left, dropped, solved = list(habits), list[Habit](), Counter[Habit]()
        for first in itertools.count(0, _ROUND):
            for habit in left:
                played = self._play(self.chosen_on, habit, _ROUND, {}, first)
                solved[habit] += sum(t.success for t in played)
            left.sort(key=lambda habit: -solved[habit])
            if len(left) <= 2 or not solved[left[0]]:
                return left + dropped
            half = (len(left) + 1) // 2
            left, dropped = left[:half], left[half:] + dropped
        raise AssertionError("there is always another round")

    def _play(
        self, env: EnvSettings, habit: Habit, tasks: int, options: dict[str, Any], seed: int
    ) -> list[Trajectory]:
        settings = Habitual(**dict(env), habit=habit)
        silent = Silent(min(self.student.stop_ids))
        return play_tasks(settings, self.student, silent, self.rollout, tasks, options, seed)


def habits_of(config: RunConfig) -> list[Baseline]:
    """Every habit on the held-out tasks of a run, within the limits of its evaluation."""
    config = config.fresh()
    settings = config.evaluate
    student = load_model(config.student)
    with closing(Shelf()) as shelf:
        rollout = config.rollout.model_copy(update=settings.sampling).reuse(shelf)
        played = Baselines(config.env, config.env, student, rollout, settings.options)
        return played.measure(settings.episodes)


class Habitual(EnvSettings):
    """Environments that are played by a habit, whatever is answered."""

    habit: Habit

    def around(self, env: gymnasium.Env[str, str]) -> gymnasium.Env[str, str]:
        """See `EnvSettings.around`."""
        return HabitEnv(super().around(env), self.habit)


class HabitEnv(gymnasium.Wrapper[str, str, str, str]):
    """Plays one of a habit's actions in place of every answer.

    Its random numbers depend on the seed of the task alone. What could have been played in place of
    a random action stands in `info["legal_actions"]`, of a long list its beginning.
    """

    def __init__(self, env: gymnasium.Env[str, str], habit: Habit) -> None:
        super().__init__(env)
        self.habit = habit
        self._form: str = declared(env, "action_form", "<action>{}</action>")

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """See `gymnasium.Env.reset`."""
        self._random = random.Random(f"habit/{seed}")
        return self.env.reset(seed=seed, options=options)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play; the answer is not read."""
        del action
        legal = () if self.habit else legal_actions(self.env)
        choices = self.habit or legal
        played = self._form.replace("{}", self._random.choice(choices)) if choices else ""
        observation, reward, terminated, truncated, info = self.env.step(played)
        info = info | {_SEEN: list(legal[: _SHORT + 1])}
        return observation, float(reward), terminated, truncated, info


class Silent:
    """A `Sampler` that ends every answer at once: who acts does not say so."""

    def __init__(self, stop: int) -> None:
        self._completion = Completion([stop], [0.0], False)
        self._asked: list[int] = []

    def submit(self, requests: Sequence[Request]) -> None:
        """See `Sampler.submit`."""
        self._asked += [request.key for request in requests]

    def ready(self, wake: Event | None = None, seconds: float | None = None) -> list[Answer]:
        """See `Sampler.ready`."""
        asked, self._asked = self._asked, []
        return [Answer(key, self._completion) for key in asked]

    def forget(self, keys: Sequence[int]) -> None:
        """See `Sampler.forget`."""
        self._asked = [key for key in self._asked if key not in keys]

    def sync(self, student: LanguageModel) -> None:
        """There are no weights."""
