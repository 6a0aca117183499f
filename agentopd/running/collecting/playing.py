"""Who plays the episodes that are collected, and what of them is kept as history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import gymnasium

from agentopd.base.types import Owner, Trajectory
from agentopd.environment.contract import Info, actions, declared
from agentopd.models.chat import ANYONE
from agentopd.models.model import LanguageModel, load_model
from agentopd.privilege.whispered import Told, Whisper
from agentopd.rollout.acting.ensemble import Ensemble
from agentopd.rollout.acting.roles import Direction, Teller, Voice
from agentopd.rollout.pool import Task
from agentopd.rollout.sampler import Sampler
from agentopd.rollout.transformers_sampler import TransformersSampler, check_actor
from agentopd.running.cast import cast_of
from agentopd.running.collecting.labels import Expert, OracleExpert, TeacherExpert
from agentopd.running.collecting.settings import CollectSettings
from agentopd.running.config import RunConfig


class OracleScript:
    """Answers each turn with the first action of `info["oracle"]`. It is a `Script`.

    Where the environment names none any more, it answers with nothing.
    """

    def line(self, env: gymnasium.Env[str, str], turn: int, info: Info) -> str:
        """See `Script.line`."""
        plan = actions(env, str(info.get("oracle") or ""))
        form = declared(env, "action_form", "<action>{}</action>")
        return form.replace("{}", plan[0]) if plan else ""

    def heard(self, turn: int) -> str | None:
        """See `Script.heard`."""
        return None


@dataclass(frozen=True)
class Players:
    """Everything that plays: the student, who acts in its place, and how; without a direction, as
    the run's own rollout has it. The expert labels what they play, if there is one.
    """

    config: RunConfig
    student: LanguageModel
    sampler: Sampler
    direction: Direction | None
    expert: Expert | None = None

    @classmethod
    def of(cls, config: RunConfig, settings: CollectSettings) -> Players:
        """Whoever is to play.

        Raises:
            ValueError: the environment has no oracle, nobody could be told anything in time, or the
                rollout plays nothing.
        """
        config = config.fresh()
        if "oracle" in (settings.by, settings.label):
            _check_oracle(config)
        check_actor(config.student)
        student, direction = load_model(config.student), None
        if "teacher" in (settings.by, settings.label) or _acts(config, settings):
            config.teacher.prepare(student)
        if settings.by == "rollout":
            sampler = _prepared(config, student)
        else:
            cast: dict[Owner, Sampler] = {Owner.STUDENT: TransformersSampler(student)}
            if settings.by == "teacher":
                cast[Owner.TEACHER] = TransformersSampler(config.teacher.model)
            sampler, direction = Ensemble(cast), _direction(config, settings, student)
        return cls(config, student, sampler, direction, _expert(config, settings, student))

    def play(self, first: int, count: int) -> list[Trajectory]:
        """So many training tasks of the run from number `first` on, one episode each; or so many
        episodes of the step that begins with number `first`, each with all further attempts.
        """
        config = self.config
        if self.direction is None:
            step = first // config.rollout.episodes
            own = config.rollout_at(step)
            played = own.collect(config.env, self.student, self.sampler, config.seed, step)
            return [t for t in played if _first(t) < first + count]
        single = config.rollout.model_copy(update={"tasks": first + count, "group": 1})
        tasks: Sequence[Task] = single.schedule(config.seed, 0)[first:]
        directed = [replace(task, direction=self.direction) for task in tasks]
        return single.pool(config.env, self.student, config.seed).play(directed, self.sampler)


def _first(trajectory: Trajectory) -> int:
    """The number of an episode, or of the first attempt that it goes back to."""
    return trajectory.attempt.first if trajectory.attempt else trajectory.episode


def _acts(config: RunConfig, settings: CollectSettings) -> bool:
    """Whether the teacher has a part in the run's own rollout, and that is played."""
    return settings.by == "rollout" and config.rollout.needs_teacher


def _expert(config: RunConfig, settings: CollectSettings, student: LanguageModel) -> Expert | None:
    """Who labels what is played; the teacher is prepared by then."""
    if settings.label is None:
        return None
    if settings.label == "oracle":
        return OracleExpert(config.env.build(), student.template, student.stop_ids)
    for source in config.privilege:
        source.prepare(student.template)
        source.meet(student, config.teacher)
    return TeacherExpert(config, student.template, student.stop_ids)


def _prepared(config: RunConfig, student: LanguageModel) -> Sampler:
    """The student's sampler, for a rollout that knows who can act beside it."""
    rollout = config.rollout
    if rollout.replays:
        raise ValueError(
            f"collect by rollout: rollout: {rollout.kind} reads what was played, and plays "
            "nothing: name another rollout"
        )
    for source in config.privilege:
        source.prepare(student.template)
    teacher = config.teacher if rollout.needs_teacher else None
    if teacher is not None and rollout.consults:
        for source in config.privilege:
            source.meet(student, teacher)
    rollout.prepare(cast_of(config, student, teacher))
    return TransformersSampler(student)


def _direction(config: RunConfig, settings: CollectSettings, student: LanguageModel) -> Direction:
    if settings.by == "oracle":
        return Direction(script=OracleScript(), learnt=ANYONE)
    owner = Owner.TEACHER if settings.by == "teacher" else Owner.STUDENT
    teller = None if settings.by == "student" else _teller(config, settings, student)
    return Direction((Voice(owner, told=teller is not None),), teller=teller, learnt=ANYONE)


def _teller(config: RunConfig, settings: CollectSettings, student: LanguageModel) -> Teller | None:
    """What tells the sources' texts; None where none of them ever says anything."""
    if all(source.kind == "none" for source in config.privilege):
        if settings.by == "teacher":
            return None
        raise ValueError(
            "collect by told: no source of privilege tells anything; name one, such as "
            "privilege=ground_truth, or collect by student"
        )
    if not isinstance(config.view, Told):
        raise ValueError(
            f"collect by {settings.by}: view: {config.view.kind} puts what is told where an actor "
            "could not read it in time: use view=system or view=every_turn"
        )
    for source in config.privilege:
        source.prepare(student.template)
    return partial(Whisper, config.privilege, config.view)


def _check_oracle(config: RunConfig) -> None:
    env = config.env.build()
    _, info = env.reset(seed=0)
    env.close()
    if not info.get("oracle"):
        raise ValueError(
            f"collect by oracle: {config.env.id} names no next best action, info['oracle']; "
            "collect by teacher or told, or from a file of text"
        )
