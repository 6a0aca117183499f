"""What every rollout shares: its tasks, its limits, and how tokens are drawn."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import Field, PrivateAttr, ValidationError

from agentopd.base.parts import Part
from agentopd.base.types import Owner, Record, Trajectory
from agentopd.environment.contract import training_seed
from agentopd.environment.settings import EnvSettings
from agentopd.models.model import LanguageModel
from agentopd.parallel.processes import ALONE, Processes
from agentopd.rollout.acting.roles import STUDENTS, Adviser, Recall, Teller
from agentopd.rollout.kept import Shelf
from agentopd.rollout.opponents.rival import Mirror
from agentopd.rollout.pool import EpisodePool, Limits, Task
from agentopd.rollout.sampler import Sampler
from agentopd.signal.truncation import WHOLE, Truncation
from agentopd.teacher import Teacher


@dataclass(frozen=True)
class Cast:
    """Who can act beside the student, once all are there.

    Attributes:
        teacher: None where the method has none.
        teller: what may be told to whoever acts; None where the method's view puts it where no
            actor could read it in time.
        recall: puts an attempt in words for the next one; None where nobody does.
        adviser: has the sources of privilege speak of what was played; None where nobody does.
    """

    student: LanguageModel
    teacher: Teacher | None = None
    teller: Teller | None = None
    recall: Recall | None = None
    adviser: Adviser | None = None


class Conduct(Part):
    """What the rest of a method asks of a rollout: who acts, told what, and what that makes of the
    tokens that are learnt from.
    """

    replays: ClassVar[bool] = False
    """Whether episodes are read and not played: nothing is sampled in a step."""

    @property
    def actors(self) -> frozenset[Owner]:
        """Who writes turns."""
        return frozenset({Owner.STUDENT})

    @property
    def needs_teacher(self) -> bool:
        """Whether the teacher acts, writes with the student, or may write for it."""
        return self.consults or bool(self.actors & {Owner.TEACHER, Owner.MIXTURE})

    @property
    def learns(self) -> frozenset[Owner]:
        """The owners whose tokens are learnt from."""
        return STUDENTS

    @property
    def tells(self) -> bool:
        """Whether somebody who acts is told what the sources of privilege say."""
        return False

    @property
    def consults(self) -> bool:
        """Whether the sources of privilege, with the models that write for them, speak of episodes
        while a step is played, for whoever acts next.
        """
        return False

    @property
    def foreign(self) -> bool:
        """Whether tokens are learnt from that the student did not draw alone from the history that
        it learns under: then importance ratios are other than 1 from the start.
        """
        return False

    @property
    def records(self) -> frozenset[Record]:
        """What a step's episodes are to attempts, where tasks are attempted again."""
        return frozenset()

    @property
    def imitates(self) -> bool:
        """Whether tokens are learnt from that nobody sampled, beside those that somebody did."""
        return False

    @property
    def recomputes(self) -> bool:
        """Whether importance ratios begin at the student's own log-probabilities in the history
        that is learnt under, where a token was sampled under another.
        """
        return False

    def scalars(self) -> dict[str, float]:
        """Numbers about the step that was played last, by name, for its line of metrics."""
        return {}


class Rollout(Conduct, family="rollout"):
    """How trajectories are collected: `collect`, and the rest is there to be used.

    A rollout of your own plays a step's episodes; here the first steps play fewer tasks:

        class Warming(Rollout, kind="warming"):
            steps: int = Field(default=10, ge=1)

            def collect(
                self,
                env: EnvSettings,
                student: LanguageModel,
                sampler: Sampler,
                seed: int,
                step: int,
            ) -> list[Trajectory]:
                share = min((step + 1) / self.steps, 1.0)
                tasks = self.schedule(seed, step)[: max(self.group, round(share * self.episodes))]
                return self.pool(env, student, seed).play(tasks, sampler)

    Args:
        tasks: different tasks in a step.
        group: episodes of each task; a group shares the environment's seed.
        slots: episodes in play at once.
        temperature: of sampling; 0 takes the likeliest token.
        top_p, top_k: what may be sampled at all, of the tempered distribution: of the `top_k`
            likeliest tokens (0 for all) the fewest that hold a share of `top_p` (1 for all).
        max_turns, max_turn_tokens, max_context: where an episode is cut, beside the environment's
            own limits.
        env_seconds: wall-clock seconds after which one call of an environment that blocks (its
            `metadata["blocking"]` is true) costs its episode.
    """

    tunable: ClassVar[tuple[str, ...]] = ("temperature", "top_p", "top_k")
    """The numbers that a schedule may multiply."""

    tasks: int = Field(default=32, ge=1)
    group: int = Field(default=1, ge=1)
    slots: int = Field(default=64, ge=1)
    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    max_turns: int = Field(default=64, ge=1)
    max_turn_tokens: int = Field(default=16, ge=1)
    max_context: int = Field(default=2048, ge=8)
    env_seconds: float = Field(default=Limits.env_seconds, gt=0)

    _processes: Processes = PrivateAttr(default=ALONE)
    _shelf: Shelf | None = PrivateAttr(default=None)

    @abstractmethod
    def collect(
        self, env: EnvSettings, student: LanguageModel, sampler: Sampler, seed: int, step: int
    ) -> list[Trajectory]:
        """The trajectories of one step, in order."""

    def join(self, processes: Processes) -> None:
        """Play together with other processes from now on: each plays its share of a pool's tasks,
        and all have all trajectories.
        """
        self._processes = processes

    def reuse(self, shelf: Shelf) -> Self:
        """Play, from now on, in reusable environments that `shelf` keeps from pool to pool; whoever
        gives it closes it. Returns this rollout.
        """
        self._shelf = shelf
        return self

    @property
    def processes(self) -> Processes:
        """Who play together."""
        return self._processes

    def prepare(self, cast: Cast) -> None:
        """Learn, before the first step, who can act beside the student."""

    @property
    def spent(self) -> tuple[int, int]:
        """How many tokens student and teacher have sampled in the last `collect` beside those of
        the trajectories that it has given.
        """
        return 0, 0

    def tuned(self, factors: Mapping[str, float]) -> Self:
        """The same with numbers multiplied, each by its factor; those that count are rounded.

        Raises:
            ValueError: a number leaves its bounds, or is none that a schedule may multiply.
        """
        found = dict[str, float]()
        for name, factor in factors.items():
            value = getattr(self, name, None)
            if name not in self.tunable or value is None:
                known = ", ".join(n for n in self.tunable if getattr(self, n) is not None)
                raise ValueError(
                    f"schedule.{name}: rollout: {self.kind} has no number of that name; it has "
                    f"{known}"
                )
            found[name] = round(value * factor) if isinstance(value, int) else value * factor
            self._check_tuned(name, found[name])
        return self.model_copy(update=found)

    def _check_tuned(self, name: str, value: float) -> None:
        try:
            type(self).model_validate({**dict(self), name: value})
        except ValueError as error:
            raise ValueError(
                f"schedule.{name} takes rollout.{name} from {getattr(self, name)} to {value:g}: "
                f"{_reason(error)}"
            ) from error

    def unread(self) -> dict[str, str]:
        """See `Settings.unread`."""
        cold = {"top_p": "temperature above 0", "top_k": "temperature above 0"}
        return {} if self.temperature else cold

    @property
    def episodes(self) -> int:
        """Episodes in a step."""
        return self.tasks * self.group

    def schedule(self, seed: int, step: int) -> list[Task]:
        """The tasks of a step: new ones each step, the same for every method under one seed, and
        none of an evaluation's.
        """
        first = step * self.episodes
        return [
            Task(
                first + i,
                step * self.tasks + i // self.group,
                training_seed(seed, step * self.tasks + i // self.group),
            )
            for i in range(self.episodes)
        ]

    def pool(
        self, env: EnvSettings, student: LanguageModel, seed: int, **options: Any
    ) -> EpisodePool:
        """The pool that plays with these limits; no context outgrows the student's positions."""
        context = int(min(self.max_context, student.positions))
        if env.host is None:
            env = env.model_copy()
            env.face(Mirror(student))
        return EpisodePool(
            env_id=env.id,
            make_env=lambda: env.bare(**options),
            template=student.template,
            stop_ids=student.stop_ids,
            limits=Limits(self.max_turns, self.max_turn_tokens, context, self.env_seconds),
            slots=self.slots,
            temperature=self.temperature,
            seed=seed,
            truncation=truncation_of(self),
            processes=self._processes,
            key=(env.id, {**env.options, **options}),
            around=env.around,
            shelf=self._shelf,
        )


def _reason(error: ValueError) -> str:
    """What a validation says, in one line."""
    if isinstance(error, ValidationError):
        return "; ".join(str(e["msg"]) for e in error.errors())
    return str(error)


def truncation_of(rollout: Rollout) -> Truncation:
    """What of the student's distribution is never sampled; nothing at temperature 0."""
    return Truncation(rollout.top_p, rollout.top_k) if rollout.temperature else WHOLE
