"""A method: a value on each axis, and how it is learnt from.

Everything that one step of learning depends on stands here; where and how long is the run's affair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from agentopd.base.parts import Settings
from agentopd.base.types import Lesson
from agentopd.divergences.base import Divergence, from_samples
from agentopd.divergences.estimators import K1
from agentopd.divergences.kl import ReverseKL
from agentopd.learning.controls import ControlName, controlled_sources, controlled_teacher
from agentopd.mixes.base import Mix
from agentopd.mixes.modulating import Multiplicative
from agentopd.mixes.refusals import check_advice, check_imitation, check_modulation, check_replay
from agentopd.mixes.scored import Scoring
from agentopd.mixes.shared import DistilOnly
from agentopd.privilege.base import Source
from agentopd.privilege.view import SystemView, ViewBuilder
from agentopd.privilege.whispered import Told
from agentopd.privilege.writing.skills import SkillSummary
from agentopd.probes.settings import ProbeSettings
from agentopd.rollout.policies import Rollout, StudentRollout, truncation_of
from agentopd.signal.aggregate import Aggregator, check_blend, check_shares
from agentopd.signal.beside import Beside
from agentopd.signal.schedules import History, Schedule
from agentopd.teacher import Teacher
from agentopd.units.base import Unit
from agentopd.units.stretches import TokenUnit
from agentopd.weights.base import Weight
from agentopd.weights.token import TruncatedRatio

AXES = (
    "rollout",
    "privilege",
    "view",
    "teacher",
    "unit",
    "divergence",
    "weight",
    "mix",
    "schedule",
)

Played = Literal["temperature", "top_p", "top_k", "turns", "tokens", "share", "left"]
"""Numbers of a rollout that a schedule can be attached to: those of its `tunable`."""
PLAYED: tuple[Played, ...] = get_args(Played)
Channel = Literal["distil", "rl", "strength", "target", "blend", "learning_rate", Played]
"""What a schedule can be attached to: a channel's term, a mix's `strength`, the number in the
divergence's target (veto's `beta`, extrapolate's `scale`), the share of turns in `unit.normalise:
blend`, the learning rate, and the rollout's numbers."""


class LearnerSettings(Settings):
    """The optimizer, and how much is learnt at once.

    Args:
        optimizer: `adamw`, or `adamw_8bit`, whose moments take 2 bytes a weight instead of 8.
        clip: the gradient's norm is clipped to this.
        epochs: passes over a step's episodes, each with an optimizer step of its own. From the
            second on the student is no longer the one that acted: importance ratios make up for it,
            and PPO's clip has something to clip. The teacher is asked once.
        warmup: steps over which the learning rate grows from nothing.
        tokens_per_batch: tokens of one micro-batch, padding included; it bounds memory, not the
            result. A single sequence may be longer.
        checkpoint_layers: keep the inputs of the student's layers alone for the backward pass,
            which computes what is in them again: a fraction of the memory, up to a third more time.
    """

    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    learning_rate: float = Field(default=3e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup: int = Field(default=0, ge=0)
    clip: float = Field(default=1.0, gt=0)
    epochs: int = Field(default=1, ge=1)
    tokens_per_batch: int = Field(default=4_096, ge=64)
    checkpoint_layers: bool = False


class SaveSettings(Settings):
    """What is kept: a checkpoint, and a step's trajectories, every so many steps; 0 for none.

    Args:
        scores_top_k: with a step's trajectories, what the models said of each token is kept for
            `agentopd replay`: their log-probabilities at the student's and at the teacher's so many
            likeliest tokens, 32 bytes a token for each of them; 0 keeps nothing.
    """

    checkpoint_every: int = Field(default=10, ge=0)
    trajectories_every: int = Field(default=1, ge=0)
    scores_top_k: int = Field(default=0, ge=0)

    def unread(self) -> dict[str, str]:
        """See `Settings.unread`."""
        return {} if self.trajectories_every else {"scores_top_k": "trajectories_every above 0"}

    def keeps(self, step: int) -> bool:
        """Whether a step's trajectories are kept."""
        return bool(self.trajectories_every) and step % self.trajectories_every == 0


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str | Mapping) else value


def _skill() -> list[Source]:
    return [SkillSummary()]


def _frozen() -> Teacher:
    return Teacher.model_validate("frozen")


class Method(Settings):
    """A row over the axes, with the settings of the learner that follows it.

    `control` is one of `agentopd.learning.controls`. `privilege` and `teacher` are as it makes
    them; what it takes the place of is kept for the file, which says what was written.

    Raises:
        ValueError: two of its parts make no mathematical sense together.
    """

    method: str | None = None
    rollout: SerializeAsAny[Rollout] = StudentRollout()
    control: ControlName | None = None
    privilege: Annotated[list[SerializeAsAny[Source]], BeforeValidator(_listed)] = Field(
        default_factory=_skill, validate_default=True
    )
    view: SerializeAsAny[ViewBuilder] = SystemView()
    teacher: SerializeAsAny[Teacher] = Field(default_factory=_frozen)
    unit: SerializeAsAny[Unit] = TokenUnit()
    divergence: SerializeAsAny[Divergence] = ReverseKL()
    weight: Annotated[list[SerializeAsAny[Weight]], BeforeValidator(_listed)] = Field(
        default_factory=list
    )
    mix: SerializeAsAny[Mix] = DistilOnly()
    schedule: dict[Channel, SerializeAsAny[Schedule]] = Field(default_factory=dict)
    learner: LearnerSettings = LearnerSettings()
    save: SaveSettings = SaveSettings()
    probe: ProbeSettings = ProbeSettings()
    _written: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def beside(self) -> Beside:
        """What each part may ask of the others."""
        mix, unit, divergence, weights = self.mix, self.unit, self.divergence, self.weight
        estimator = divergence.estimated_by
        return Beside(
            mix=mix.kind or type(mix).__name__,
            unit=unit.kind or type(unit).__name__,
            divergence=divergence.kind or type(divergence).__name__,
            weights=tuple(w.kind or type(w).__name__ for w in weights),
            asks_teacher=bool(mix.distil_coefficient),
            told=bool(self.privilege),
            sampled=from_samples(divergence) is not None,
            estimator=estimator.kind if estimator else "",
            credits=unit.returns(divergence),
            scores_episodes=isinstance(unit, Scoring),
            temperature=self.rollout.temperature,
            group=self.rollout.group,
            teacher_local=self.teacher.local,
            teacher_top=divergence.support.teacher_top,
            looks_further=self._looking_further(),
            watched=self.probe.enabled,
            plainly_told=self.rollout.tells and self.rollout.foreign,
            both_histories="untold" in self.rollout.records,
            recomputes=self.rollout.recomputes,
            teacher_told=self.view.tells_teacher,
        )

    def _looking_further(self) -> tuple[str, ...]:
        """See `Beside.looks_further`."""
        found = [f"weight: {weight.kind}" for weight in self.weight if weight.looks_further]
        if self.divergence.looks_further:
            found.append(f"divergence: {self.divergence.kind}")
        if self.save.scores_top_k:
            found.append("save.scores_top_k")
        return tuple(found)

    def factor(self, name: Channel, step: int, history: History = ()) -> float:
        """What the schedule multiplies `name` by at a step, after the steps of the history."""
        if name in ("distil", "strength") and self.control == "zero_signal":
            return 0.0
        return self.schedule[name].factor(step, history) if name in self.schedule else 1.0

    def divergence_at(self, step: int, history: History = ()) -> Divergence:
        """The divergence with its target as the schedule has it at a step, after the steps of the
        history.
        """
        if "target" not in self.schedule:
            return self.divergence
        return self.divergence.aimed(self.factor("target", step, history))

    def rollout_at(self, step: int, history: History = ()) -> Rollout:
        """The rollout with its numbers as their schedules have them at a step, after the steps of
        the history.
        """
        factors = dict[str, float]()
        for name in PLAYED:
            if name in self.schedule:
                factors[name] = self.factor(name, step, history)
        return self.rollout.tuned(factors)

    def average(self, lessons: Sequence[Lesson], step: int, history: History = ()) -> Aggregator:
        """How tokens of these lessons are averaged at a step, after the steps of the history."""
        unit = self.unit
        share = self.factor("blend", step, history)
        return Aggregator.of(lessons, unit.normalise, unit.budget, share)

    @model_validator(mode="after")
    def _makes_sense(self) -> Method:
        self._take_control()
        self.rollout.tuned({x: 1.0 for x in PLAYED if x in self.schedule})
        self._check_actors()
        if "target" in self.schedule:
            self.divergence.aimed(1.0)
        check_replay(self.mix, self.weight, self.rollout, self.learns_from_samples)
        check_blend(self.unit.normalise, "blend" in self.schedule)
        for name, schedule in self.schedule.items():
            schedule.check(name, self.beside)
        self.mix.check(self.beside)
        if self.mix.distil_coefficient:
            self.teacher.check(self.beside)
        self._check_truncation(self.rollout)
        self._check_ratio()
        self._check_reference()
        check_advice(self.mix, self.weight)
        check_imitation(self.mix, self.weight)
        if isinstance(self.mix, Multiplicative):
            check_modulation(self.weight, self.unit)
        self.unit.check(self.beside)
        for source in self.privilege if self.mix.distil_coefficient else ():
            source.check(self.beside)
        if self.learner.epochs > 1 and self.teacher.is_student and self.mix.distil_coefficient:
            raise ValueError(
                f"learner.epochs: {self.learner.epochs} moves the student several times a step, "
                f"and teacher: {self.teacher.kind} is that student, which is asked once a step: "
                "use teacher: frozen, ema, {kind: lagged, every: 1}, or epochs: 1"
            )
        return self

    @property
    def learns_from_samples(self) -> bool:
        """Whether gradients are averages over the tokens that were sampled."""
        distils = bool(self.mix.distil_coefficient) and self.mix.distils
        sampled = from_samples(self.divergence) is not None
        return self.mix.learns_from_samples or (distils and sampled)

    def check_schedules(self, steps: int) -> None:
        """What the schedules of the rollout and of the average come to in a run of so many steps.

        Raises:
            ValueError: a number leaves its bounds, or what is learnt then makes no sense.
        """
        if "blend" in self.schedule:
            check_shares(*self.schedule["blend"].bounds(steps))
        for name in PLAYED:
            if name in self.schedule:
                for factor in self.schedule[name].bounds(steps):
                    tuned = self.rollout.tuned({name: factor})
                    if self.rollout.temperature and not tuned.temperature:
                        raise ValueError(
                            "schedule.temperature takes rollout.temperature to 0, at which tokens "
                            "are no samples any more: let it end above"
                        )
                    self._check_truncation(tuned)

    def _check_actors(self) -> None:
        """Whoever is told must be there to be told, and in time."""
        if self.rollout.tells and not isinstance(self.view, Told):
            raise ValueError(
                f"rollout: {self.rollout.kind} has somebody act who is told what the teacher would "
                f"be, and view: {self.view.kind} puts it where an actor could not read it in time: "
                "use view: system or every_turn"
            )
        estimator, rollout = from_samples(self.divergence), self.rollout
        asks, kept = bool(self.mix.distil_coefficient), "untold" in rollout.records
        if asks and not (self.view.tells_teacher or kept):
            raise ValueError(
                f"view.tells: actor has the teacher read a second record of each episode, without "
                f"what the student was told, and rollout: {rollout.kind} as it is set keeps none: "
                "use rollout: {kind: hinted, learn_under: both}, or leave view.tells out"
            )
        distils = bool(self.mix.distil_coefficient) and self.mix.distils
        drawn_by_others = rollout.foreign and not rollout.recomputes
        if distils and drawn_by_others and estimator and not estimator.corrects:
            raise ValueError(
                f"divergence.estimator: {estimator.kind} as it is set takes every token for one "
                f"that the student has drawn from what it learns under, and rollout: "
                f"{rollout.kind} has others draw some: without an importance ratio their average "
                "is not the student's. Use estimator: k1, rho_k3 or truncated, or support: full"
            )
        if self.rollout.tells and not self.privilege:
            raise ValueError(
                f"rollout: {self.rollout.kind} has somebody act who is told something, and no "
                "source of privilege tells anything: name one, such as ground_truth"
            )

    def _check_truncation(self, rollout: Rollout) -> None:
        """An importance ratio begins at the share of probability that sampling keeps: where that
        lies outside of a clip's bounds, tokens with a negative advantage are never learnt from.
        """
        truncation, estimator = truncation_of(rollout), from_samples(self.divergence)
        if not truncation or not self.learns_from_samples:
            return
        rl, clips = self.mix.rl_channel, dict[str, float]()
        if rl is not None and rl.kind and rl.window is None:
            clips["mix.rl.clip"] = rl.clip
        if estimator is not None and estimator.clipped_at is not None:
            where = "divergence.plus" if self.divergence.plus else "divergence.estimator"
            clips[f"{where}.clip"] = estimator.clipped_at
        for name, clip in clips.items():
            if truncation.least < 1 - clip:
                raise ValueError(
                    f"rollout.top_p: {truncation.top_p}, top_k: {truncation.top_k} and {name}: "
                    f"{clip}: importance ratios begin at the share of the student's probability "
                    f"that is sampled from, which may be as little as {truncation.least:g}, and "
                    f"below {1 - clip:g} the clip leaves out all tokens of negative advantage. "
                    f"Without top_k, set top_p to {1 - clip:g} or more; or {name}: 1, which clips "
                    "nothing below"
                )
        if isinstance(estimator, K1) and estimator.stale:
            raise ValueError(
                "divergence.estimator.stale takes what tokens were sampled with for the student's "
                "own log-probability, and under rollout.top_p or top_k that is another "
                "distribution: leave stale out"
            )

    def _check_ratio(self) -> None:
        """A token is weighed by its importance ratio once."""
        if from_samples(self.divergence) and any(
            isinstance(x, TruncatedRatio) for x in self.weight
        ):
            raise ValueError(
                "weight: truncated_ratio, and the divergence's estimator of the sampled token has "
                "the same ratio in it: leave the weight out, and to cap the ratio set "
                "divergence.estimator=truncated"
            )

    def _check_reference(self) -> None:
        """Both channels that compare with a reference compare with the same one."""
        rl = self.mix.rl_channel
        if self.divergence.own_reference and rl is not None and rl.needs_reference:
            raise ValueError(
                "divergence.target.base names a reference of its own, and a kl_coefficient of the "
                "mix holds the student to what it was before its first step: one reference is kept "
                "beside the student, not two. Leave one of the two out"
            )

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return handler(self.model_copy(update=self._written))

    def _take_control(self) -> None:
        """Let the control's parts take the place of others, once."""
        if self.control is None or self._written:
            return
        if not self.mix.distil_coefficient:
            raise ValueError(
                f"control: {self.control} is about what a teacher says, and mix: {self.mix.kind} "
                "asks none: under this control the run would be the same. Leave it out"
            )
        controlled = {
            "privilege": controlled_sources(self.control, self.privilege),
            "teacher": controlled_teacher(self.control, self.teacher),
        }
        self._written = {name: getattr(self, name) for name in controlled}
        # The fields are frozen for everyone else.
        vars(self).update(controlled)
