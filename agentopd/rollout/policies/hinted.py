"""The student acts told what the teacher would be told: always, where it fails alone, or beside
itself untold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

from pydantic import Field, model_validator

from agentopd.base.rows.costs import Cost
from agentopd.base.types import Attempt, EndReason, Record, Trajectory
from agentopd.environment.settings import EnvSettings
from agentopd.models.model import LanguageModel
from agentopd.rollout.acting.attempts import APART
from agentopd.rollout.acting.earlier import Told
from agentopd.rollout.acting.roles import Direction, Teller, Voice
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
        rising: tell the first source's text alone at first; a group that fails again is told the
            second's, and so on, until it is solved or there are no more (SAGE 2602.03143). Sources
            for which a model writes can speak here alone: of the episodes that failed.
        keep: of what was played again, `all`, or the `solved` alone: the others' places keep the
            episodes that were played untold. One that failed to be played is never kept.
        learn_under: `hint`, the prompt that it was sampled under; or `plain`, as if it had been
            told nothing (HDPO, STaR 2203.14465). Under `plain` what was played again is a group of
            its own, with which the untold are not compared. `both`: as two records with the same
            answers (pi-Distill 2602.04942), which `Trajectory.attempt` tells apart.
        ratio: where importance ratios begin in a record without the hint: at 1, from the student's
            log-probabilities without it (`recomputed`, as in RLTF 2602.02482), or at those over the
            ones with it (`sampled`, which average to what it would do unhinted).
        blend: in a record without the hint, whoever is told writes with the untold student, each
            heard in every token by how sure the told one is (hinted decoding, DDT 2602.12222):
            probabilities in proportion to told^(1 - l) untold^l with l = min(blend H, 1), H the
            told one's entropy over its largest. 0 hears the told one alone.

    Raises:
        ValueError: both records are asked for, and not every episode has two; or a blend, where it
            has no history without the hint, or nothing both may say.
    """

    when: Literal["always", "group_failed", "beside"] = "always"
    again: Literal["all", "all_but_one"] = "all"
    rising: bool = False
    keep: Literal["all", "solved"] = "all"
    learn_under: Literal["hint", "plain", "both"] = "hint"
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

    @model_validator(mode="after")
    def _keeps_all_twice(self) -> HintedRollout:
        if self.learn_under == "both" and self.when != "always":
            raise ValueError(
                f"rollout: hinted with when: {self.when} plays some episodes untold, which have no "
                "second record, and learn_under: both keeps two of each: use when: always, or "
                "learn_under: hint or plain"
            )
        return self

    @property
    def costs(self) -> tuple[Cost, ...]:
        """See `Part.costs`."""
        both = 1.0 if self.blend is None else 2.0  # each history is read in every token
        told = Cost("student", "samples", "S", both)
        if self.when == "always":
            return (told,)
        if self.when == "beside":  # a told episode is one more
            return (told,)
        where = "f: the share of episodes that are played again, as their whole group has failed"
        if self.rising:
            where += ", each as often as it is"
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
        if self.when == "beside":
            return f"p given h, and in as many more episodes {told.removeprefix('p ')}"
        often = ", of one source after another" if self.rising else ""
        return f"p given h; {told.removeprefix('p ')}{often} in groups that failed whole"

    @property
    def blends(self) -> bool:
        """See `Directed.blends`."""
        return self.blend is not None

    @property
    def tells(self) -> bool:
        """See `Rollout.tells`."""
        return True

    @property
    def consults(self) -> bool:
        """See `Rollout.consults`."""
        return self.rising and self.when == "group_failed"

    @property
    def foreign(self) -> bool:
        """See `Rollout.foreign`."""
        return self.learn_under != "hint"

    @property
    def recomputes(self) -> bool:
        """See `Rollout.recomputes`."""
        return self.foreign and self.ratio == "recomputed"

    @property
    def records(self) -> frozenset[Record]:
        """See `Rollout.records`."""
        both: tuple[Record, ...] = ("played", "untold")
        return frozenset(both if self.learn_under == "both" else ())

    def unread(self) -> dict[str, str]:
        """See `Settings.unread`."""
        found = super().unread()
        if self.when == "always":
            found |= dict.fromkeys(("again", "keep"), "when: group_failed or beside")
        if self.when != "group_failed":
            found["rising"] = "when: group_failed"
        if self.learn_under == "hint":
            found["ratio"] = "learn_under: plain or both"
        return found

    def direction(self, task: Task, seed: int, step: int) -> Direction:
        """See `Directed.direction`; at first attempts nobody is told, unless always."""
        if self.when != "always" and not task.attempt:
            return Direction()
        untold = task.episode + APART if self.learn_under == "both" else None
        return self._directed(self.cast.teller, untold)

    def collect(
        self, env: EnvSettings, student: LanguageModel, sampler: Sampler, seed: int, step: int
    ) -> list[Trajectory]:
        """See `Rollout.collect`."""
        played = super().collect(env, student, sampler, seed, step)
        if self.learn_under == "both":
            return [replace(t, attempt=_record(t.episode)) for t in played]
        if self.when == "always":
            return played
        tasks = {task.episode: task for task in self.schedule(seed, step)}
        found = {t.episode: t for t in played}
        rising = self.rising and self.when == "group_failed"
        for source in range(self.adviser.sources if rising else 1):
            # Told ones may be a group of their own by now: here they stand for their task.
            now = [replace(t, task=tasks[episode].task) for episode, t in found.items()]
            repeated = list(self._repeated(now))
            if rising:
                texts = self.adviser.of(repeated, now, source)
                again = [self._told(tasks[e], source, text) for e, text in texts.items()]
            else:
                again = [self._again(tasks[t.episode], seed, step) for t in repeated]
            told = self.play(env, student, sampler, seed, again)
            found |= {t.episode: t for t in told if self._kept(t)}
        return list(found.values())

    def _repeated(self, played: Sequence[Trajectory]) -> Iterator[Trajectory]:
        """The episodes that are to be played again."""
        spared = int(self.again == "all_but_one")
        for group in groups(played):
            if self.when == "beside" or not any(t.success for t in group):
                yield from group[spared:]

    def _again(self, task: Task, seed: int, step: int) -> Task:
        number = task.episode + (APART if self.when == "beside" else 0)
        told = replace(task, episode=number, task=self._group(task), attempt=1)
        return replace(told, direction=self.direction(told, seed, step))

    def _told(self, task: Task, source: int, text: str) -> Task:
        """The task once more, told what one source has said."""
        teller = partial(Told, text, self.adviser.place)
        again = replace(task, task=self._group(task), attempt=source + 1)
        return replace(again, direction=self._directed(teller))

    def _group(self, task: Task) -> int:
        """With which episodes one that is told something is compared."""
        return task.task if self.learn_under == "hint" else -1 - task.task

    def _directed(self, teller: Teller | None, untold: int | None = None) -> Direction:
        return Direction(
            voices=(Voice(told=True, blend=self.blend),),
            teller=teller,
            told_history=self.learn_under == "hint",
            untold=untold,
        )

    def _kept(self, trajectory: Trajectory) -> bool:
        played = trajectory.end is not EndReason.ERROR
        return played and (trajectory.success or self.keep == "all")


def _record(episode: int) -> Attempt:
    """Which of the two records of an episode has this number."""
    untold, first = divmod(episode, APART)
    return Attempt(number=0, first=first, kind="untold" if untold else "played")
