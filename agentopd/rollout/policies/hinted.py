"""The student acts told what the teacher would be told: always, where it fails alone, or beside
itself untold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

from agentopd.base.rows.costs import Cost
from agentopd.base.types import EndReason, Trajectory
from agentopd.environment.wrappers import EnvSettings
from agentopd.models.model import LanguageModel
from agentopd.rollout.acting.roles import Direction, Voice
from agentopd.rollout.episode import Task
from agentopd.rollout.policies.directed import APART, Directed
from agentopd.rollout.sampler import Sampler
from agentopd.signal.groups import groups


class HintedRollout(Directed, kind="hinted"):
    """The student reads in its own prompt what the sources of privilege say, where the view puts
    it.

    Evaluations tell it nothing.

    Args:
        when: `always`; or `group_failed`: all play alone at first, and only where a whole group has
            failed its episodes are played again, told (NuRL 2509.25666, HDPO 2603.23871).
        again: whether `all` episodes of a failed group are played again, or `all_but_one`.
        keep: of what was played again, `all`, or the `solved` alone: the others' places keep the
            episodes that were played untold. One that failed to be played is never kept.
        learn_under: `hint`, the prompt that it was sampled under; or `plain`, as if it had been
            told nothing (HDPO, STaR 2203.14465). Under `plain` what was played again is a group of
            its own, with which the untold are not compared.
        ratio: under `plain`, where importance ratios begin: at 1, from the student's
            log-probabilities without the hint (`recomputed`, as in RLTF 2602.02482), or at those
            over the ones with it (`sampled`, which average to what it would do unhinted).
    """

    when: Literal["always", "group_failed", "beside"] = "always"
    again: Literal["all", "all_but_one"] = "all"
    keep: Literal["all", "solved"] = "all"
    learn_under: Literal["hint", "plain"] = "hint"
    ratio: Literal["recomputed", "sampled"] = "recomputed"

    @property
    def costs(self) -> tuple[Cost, ...]:
        """See `Part.costs`."""
        first = Cost("student", "samples", "S")
        if self.when != "group_failed":  # beside others a told episode is one more
            return (first,)
        where = "f: the share of episodes that are played again, as their whole group has failed"
        return first, Cost("student", "samples", "f S", where=where)

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        if self.when == "always":
            return "p given h~"
        if self.when == "beside":
            return "p given h, and in as many more episodes given h~"
        return "p given h; given h~ in groups that failed whole"

    @property
    def tells(self) -> bool:
        """See `Rollout.tells`."""
        return True

    @property
    def foreign(self) -> bool:
        """See `Rollout.foreign`."""
        return self.learn_under == "plain"

    @property
    def recomputes(self) -> bool:
        """See `Rollout.recomputes`."""
        return self.learn_under == "plain" and self.ratio == "recomputed"

    def unread(self) -> dict[str, str]:
        """See `Settings.unread`."""
        found = super().unread()
        if self.when == "always":
            found |= dict.fromkeys(("again", "keep"), "when: group_failed or beside")
        if self.learn_under == "hint":
            found["ratio"] = "learn_under: plain"
        return found

    def direction(self, task: Task, seed: int, step: int) -> Direction:
        """See `Directed.direction`; at first attempts nobody is told, unless always."""
        if self.when != "always" and not task.attempt:
            return Direction()
        return Direction(
            voices=(Voice(told=True),),
            teller=self.cast.teller,
            told_history=self.learn_under == "hint",
        )

    def collect(
        self, env: EnvSettings, student: LanguageModel, sampler: Sampler, seed: int, step: int
    ) -> list[Trajectory]:
        """See `Rollout.collect`."""
        played = super().collect(env, student, sampler, seed, step)
        if self.when == "always":
            return played
        tasks = {task.episode: task for task in self.schedule(seed, step)}
        again = [self._again(tasks[t.episode], seed, step) for t in self._repeated(played)]
        told = {
            t.episode: t for t in self.play(env, student, sampler, seed, again) if self._kept(t)
        }
        return [*(told.pop(t.episode, t) for t in played), *told.values()]

    def _repeated(self, played: Sequence[Trajectory]) -> Iterator[Trajectory]:
        """The episodes that are to be played again."""
        spared = int(self.again == "all_but_one")
        for group in groups(played):
            if self.when == "beside" or not any(t.success for t in group):
                yield from group[spared:]

    def _again(self, task: Task, seed: int, step: int) -> Task:
        group = task.task if self.learn_under == "hint" else -1 - task.task
        number = task.episode + (APART if self.when == "beside" else 0)
        told = replace(task, episode=number, task=group, attempt=1)
        return replace(told, direction=self.direction(told, seed, step))

    def _kept(self, trajectory: Trajectory) -> bool:
        played = trajectory.end is not EndReason.ERROR
        return played and (trajectory.success or self.keep == "all")
