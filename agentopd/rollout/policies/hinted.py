"""The student acts told what the teacher would be told: always, or where it fails alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field, model_validator

from agentopd.base.rows.costs import Cost
from agentopd.base.types import EndReason, Trajectory
from agentopd.environment.wrappers import EnvSettings
from agentopd.models.model import LanguageModel
from agentopd.rollout.acting.roles import Direction, Voice
from agentopd.rollout.episode import Task
from agentopd.rollout.policies.directed import Directed
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
        blend: under `plain`, whoever is told writes with the untold student, each heard in every
            token by how sure the told one is (hinted decoding, DDT 2602.12222): probabilities in
            proportion to told^(1 - l) untold^l with l = min(blend H, 1), H the told one's entropy
            over its largest. 0 hears the told one alone.
    """

    when: Literal["always", "group_failed"] = "always"
    again: Literal["all", "all_but_one"] = "all"
    keep: Literal["all", "solved"] = "all"
    learn_under: Literal["hint", "plain"] = "hint"
    ratio: Literal["recomputed", "sampled"] = "recomputed"
    blend: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _can_blend(self) -> HintedRollout:
        if self.blend is not None and self.learn_under == "hint":
            raise ValueError(
                "rollout: hinted with blend has the student write told and untold at once, and "
                "learn_under: hint keeps no history without what it is told: set learn_under: plain"
            )
        if self.blend is not None and (self.top_p < 1 or self.top_k):
            raise ValueError(
                "rollout: hinted with blend multiplies what two histories make likely, and under "
                "top_p or top_k each may cut off all that the other keeps: leave them out"
            )
        return self

    @property
    def costs(self) -> tuple[Cost, ...]:
        """See `Part.costs`."""
        both = 1.0 if self.blend is None else 2.0  # each history is read in every token
        if self.when == "always":
            return (Cost("student", "samples", "S", both),)
        where = "f: the share of episodes that are played again, as their whole group has failed"
        again = Cost("student", "samples", "f S", both, where=where)
        return Cost("student", "samples", "S"), again

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        told = "p given h~"
        if self.blend is not None:
            power = f"min({self.blend:g} H(p given h~) / log V, 1)"
            told = f"(p given h~)^(1 - l) (p given h)^l / Z with l = {power}"
        if self.when == "always":
            return told
        return f"p given h; {told.removeprefix('p ')} in groups that failed whole"

    @property
    def blends(self) -> bool:
        """See `Directed.blends`."""
        return self.blend is not None

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
            found |= dict.fromkeys(("again", "keep"), "when: group_failed")
        if self.learn_under == "hint":
            found["ratio"] = "learn_under: plain"
        return found

    def direction(self, task: Task, seed: int, step: int) -> Direction:
        """See `Directed.direction`; at first attempts nobody is told where only failures are."""
        if self.when == "group_failed" and not task.attempt:
            return Direction()
        return Direction(
            voices=(Voice(told=True, blend=self.blend),),
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
        again = [self._again(tasks[t.episode], seed, step) for t in self._failed(played)]
        told = {
            t.episode: t for t in self.play(env, student, sampler, seed, again) if self._kept(t)
        }
        return [told.get(t.episode, t) for t in played]

    def _failed(self, played: Sequence[Trajectory]) -> Iterator[Trajectory]:
        """The episodes that are to be played again."""
        spared = int(self.again == "all_but_one")
        for group in groups(played):
            if not any(t.success for t in group):
                yield from group[spared:]

    def _again(self, task: Task, seed: int, step: int) -> Task:
        group = task.task if self.learn_under == "hint" else -1 - task.task
        told = replace(task, task=group, attempt=1)
        return replace(told, direction=self.direction(told, seed, step))

    def _kept(self, trajectory: Trajectory) -> bool:
        played = trajectory.end is not EndReason.ERROR
        return played and (trajectory.success or self.keep == "all")
