"""Several attempts at a task, of which the later ones are told of the earlier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from agentopd.base.rows.costs import Cost, Does
from agentopd.base.types import Attempt, EndReason, Owner, Record, Trajectory
from agentopd.environment.contract import without_reasoning
from agentopd.environment.wrappers import EnvSettings
from agentopd.models.model import LanguageModel
from agentopd.rollout.acting.earlier import Given, Place, Question, Questions, Told
from agentopd.rollout.acting.roles import STUDENTS, Direction, Piece, Recall, Voice
from agentopd.rollout.episode import Task
from agentopd.rollout.policies.directed import Directed
from agentopd.rollout.sampler import Sampler

Learnt = Literal["first", "later", "reflections", "feedback"]
"""What is learnt from: attempts that are told nothing, told ones, what is written of either, and
what the environment says of either."""

_APART = 10**9
"""Parts the numbers of later attempts' episodes from those of all first ones of a run."""
_SYMBOLS = {
    "W": "W: what the student writes of an attempt",
    "Q": "Q: an attempt as it is quoted, and what is said of it",
}
"""Of costs; see `Cost.where`."""
_KINDS: tuple[Record, ...] = ("played", "written", "untold", "foreseen")


class RetryRollout(Directed, kind="retry"):
    """A task is attempted again under the same seed, and the student reads in its own prompt what
    became of the attempt before (ERL 2602.13949, RLTF 2602.02482).

    Each attempt is an episode of its own (`Trajectory.attempt`), and so is each reflection: one
    turn in a conversation of its own, whose reward is that of the attempt which was told it.
    Episodes are compared with the same attempts of their group. Evaluations are first attempts.

    Args:
        attempts: at a task, the first included. With 1 a reflection on it is all that follows.
        stop: `solved`: a task that was solved is not attempted again; `never`: it is.
        recalls: what the next attempt is told of the one before: the `episode`, its `outcome`,
            the environment's `feedback`, a `reflection` that the student writes of it.
        place: where that stands: behind the rules (`system`), or the first `observation`.
        quoted_tokens: the most that is quoted of an episode; its middle is cut.
        reflection_tokens: where a reflection is cut.
        learn: what is learnt from: `first` attempts, `later` ones, `reflections`. These are written
            where somebody is told them, or learns from them. `feedback`: the student is asked what
            will be said of an attempt that is followed by another, and learns the answer, which
            nobody sampled (RLTF-FM): for mix: retried or nll.
        learn_under: later attempts' history: `hint`, the one that was read; `plain`, as if nothing
            had been told; `both`, as two episodes with the same answers.
        ratio: where importance ratios under the plain history begin; see `rollout: hinted`.
    """

    attempts: int = Field(default=2, ge=1)
    stop: Literal["solved", "never"] = "solved"
    recalls: tuple[Piece, ...] = Field(default=("episode", "outcome", "feedback"), min_length=1)
    place: Place = "system"
    quoted_tokens: int = Field(default=512, ge=16)
    reflection_tokens: int = Field(default=96, ge=8)
    learn: tuple[Learnt, ...] = Field(default=("first", "later"), min_length=1)
    learn_under: Literal["hint", "plain", "both"] = "hint"
    ratio: Literal["recomputed", "sampled"] = "recomputed"

    @model_validator(mode="after")
    def _goes_somewhere(self) -> RetryRollout:
        if self.attempts == 1 and not {"reflections", "feedback"} & {*self.learn}:
            raise ValueError(
                "rollout: retry with attempts: 1 attempts nothing again, and learns from no "
                "reflection: set attempts to 2 or more, add reflections or feedback to "
                "rollout.learn, or use rollout: student"
            )
        return self

    @property
    def reflects(self) -> bool:
        """Whether the student writes reflections."""
        return "reflections" in self.learn or (self.attempts > 1 and "reflection" in self.recalls)

    @property
    def costs(self) -> tuple[Cost, ...]:
        """See `Part.costs`: of a first attempt, with all that follows it."""
        learnt = {
            "first": Cost("student", "learns", "L"),
            "later": self._following("learns", "L", 1 + (self.learn_under == "both")),
            "reflections": self._following("learns", "Q"),
            "feedback": self._following("learns", "Q"),
        }
        again = [self._following("samples", "S")] if self.attempts > 1 else []
        written = [self._following("samples", "W")] if self.reflects else []
        first = Cost("student", "samples", "S")
        return (first, *again, *written, *(learnt[what] for what in self.learn))

    def _following(self, does: Does, of: str, times: float = 1.0) -> Cost:
        """What the student does for each attempt, or question, that follows another attempt."""
        where = _SYMBOLS.get(of, "")
        if self.stop == "never":
            return Cost("student", does, of, times * max(self.attempts - 1, 1), where)
        few = "n: how many attempts at a task are followed by something, on average"
        return Cost("student", does, f"n {of}", times, "; ".join(filter(None, (few, where))))

    @property
    def formula(self) -> str:
        """See `Part.formula`."""
        return f"p, told from a second attempt on of the one before: {', '.join(self.recalls)}"

    @property
    def records(self) -> frozenset[Record]:
        """See `Rollout.records`."""
        kinds: dict[Record, bool] = {
            "played": True,
            "written": self.reflects,
            "untold": self.attempts > 1 and self.learn_under == "both",
            "foreseen": self.imitates,
        }
        return frozenset(kind for kind, made in kinds.items() if made)

    @property
    def imitates(self) -> bool:
        """See `Rollout.imitates`."""
        return "feedback" in self.learn

    @property
    def foreign(self) -> bool:
        """See `Rollout.foreign`."""
        return self.attempts > 1 and self.learn_under != "hint" and "later" in self.learn

    @property
    def recomputes(self) -> bool:
        """See `Rollout.recomputes`."""
        return self.foreign and self.ratio == "recomputed"

    def unread(self) -> dict[str, str]:
        """See `Settings.unread`."""
        found = super().unread()
        if self.attempts == 1:
            found |= dict.fromkeys(("recalls", "place", "learn_under", "ratio"), "attempts above 1")
        elif self.learn_under == "hint":
            found["ratio"] = "learn_under: plain or both"
        if not self.reflects:
            found["reflection_tokens"] = "reflection in recalls, or reflections in learn"
        return found

    def direction(self, task: Task, seed: int, step: int) -> Direction:
        """See `Directed.direction`: a first attempt is told nothing."""
        return self._directed("first")

    def collect(
        self, env: EnvSettings, student: LanguageModel, sampler: Sampler, seed: int, step: int
    ) -> list[Trajectory]:
        """See `Rollout.collect`; each attempt stands behind all of the attempts before it."""
        company = _Company(self, student, sampler, seed)
        tasks = {task.episode: task for task in self.schedule(seed, step)}
        firsts = super().collect(env, student, sampler, seed, step)
        last = [replace(t, attempt=Attempt(number=0, first=t.episode)) for t in firsts]
        found = list(last)
        for number in range(self.attempts):
            open_ = [t for t in last if self._goes_on(t)]
            over = number + 1 == self.attempts and self.attempts > 1
            if over or not open_:
                break
            written = self._written(company, open_) if self.reflects else {}
            if self.imitates:
                found += self._foreseen(company, open_)
            if self.attempts == 1:
                return [*found, *written.values()]
            retold = self._again(company, env, open_, written, tasks)
            last = [t for t in retold if t.acts]
            found += [*_rewarded(written, last), *retold]
        return found

    def _goes_on(self, trajectory: Trajectory) -> bool:
        """Whether something follows an attempt."""
        played = trajectory.end is not EndReason.ERROR
        return played and (self.stop == "never" or not trajectory.success)

    def _written(self, company: _Company, attempts: Sequence[Trajectory]) -> dict[int, Trajectory]:
        """The student's reflection on each attempt, by the number of its first one."""
        asked = [Question(t, *self._recall.asked(t, self.quoted_tokens)) for t in attempts]
        direction = self._directed("reflections")
        found = company.ask(asked, "written", lambda _: direction, self.reflection_tokens)
        return {_mark(t).first: t for t in found}

    def _foreseen(self, company: _Company, attempts: Sequence[Trajectory]) -> list[Trajectory]:
        """What was said of each attempt, as the answer to being asked for it."""
        told = [Question(t, *self._recall.foretold(t, self.quoted_tokens)) for t in attempts]
        asked = [question for question in told if question.answer]
        encode = company.student.template.encode_content
        longest = max((len(encode(question.answer or "")) for question in asked), default=0)

        def given(question: Question) -> Direction:
            return Direction(script=Given(question.answer or ""), learnt={Owner.DEMO})

        return company.ask(asked, "foreseen", given, longest + 1)

    def _again(
        self,
        company: _Company,
        env: EnvSettings,
        attempts: Sequence[Trajectory],
        written: Mapping[int, Trajectory],
        tasks: Mapping[int, Task],
    ) -> list[Trajectory]:
        """The next attempts, each told of the one before."""
        marks, again = dict[int, Attempt](), list[Task]()
        for own in attempts:
            before = _mark(own)
            text = self._recall.told(
                own, _said(written.get(before.first)), self.recalls, self.quoted_tokens
            )
            mark = Attempt(number=before.number + 1, first=before.first, told=text)
            untold = replace(mark, kind="untold")
            marks |= {_numbered(mark): mark, _numbered(untold): untold}
            again.append(
                replace(
                    tasks[before.first],
                    episode=_numbered(mark),
                    attempt=mark.number,
                    direction=self._directed("later", mark),
                )
            )
        played = company.play(env, again, self.max_turn_tokens)
        return [replace(t, attempt=marks[t.episode]) for t in played]

    def _directed(self, what: Learnt, mark: Attempt | None = None) -> Direction:
        """How an episode is acted that is learnt from or not, and may be told something."""
        learnt = STUDENTS if what in self.learn else frozenset()
        if mark is None or not mark.told:
            return Direction(learnt=learnt)
        both = self.learn_under == "both"
        return Direction(
            voices=(Voice(told=True),),
            teller=partial(Told, mark.told, self.place),
            told_history=self.learn_under == "hint",
            untold=_numbered(replace(mark, kind="untold")) if both else None,
            learnt=learnt,
        )

    @property
    def _recall(self) -> Recall:
        assert self.cast.recall is not None, "whoever prepares a retry says who recalls"
        return self.cast.recall


@dataclass(frozen=True)
class _Company:
    """Who plays the attempts of one step."""

    rollout: RetryRollout
    student: LanguageModel
    sampler: Sampler
    seed: int

    def play(self, env: EnvSettings, tasks: Sequence[Task], tokens: int) -> list[Trajectory]:
        """The trajectories of these tasks, with answers of so many tokens."""
        rollout = self.rollout.model_copy(update={"max_turn_tokens": tokens})
        return rollout.play(env, self.student, self.sampler, self.seed, tasks)

    def ask(
        self,
        asked: Sequence[Question],
        kind: Literal["written", "foreseen"],
        direction: Callable[[Question], Direction],
        tokens: int,
    ) -> list[Trajectory]:
        """An episode of one turn each, in their order, which bears the marks of its attempt."""
        marks = [replace(_mark(question.about), kind=kind) for question in asked]
        tasks = [
            Task(_numbered(mark), question.about.task, place, direction(question))
            for place, (mark, question) in enumerate(zip(marks, asked, strict=True))
        ]
        played = self.play(Questions(id="question", asked=tuple(asked)), tasks, tokens)
        return [
            replace(t, env=question.about.env, seed=question.about.seed, attempt=mark)
            for t, question, mark in zip(
                sorted(played, key=lambda t: t.seed), asked, marks, strict=True
            )
        ]


def _numbered(mark: Attempt) -> int:
    """An attempt's episode number, which no other episode of the run has."""
    return mark.first + (len(_KINDS) * mark.number + _KINDS.index(mark.kind)) * _APART


def _mark(trajectory: Trajectory) -> Attempt:
    assert trajectory.attempt is not None
    return trajectory.attempt


def _said(written: Trajectory | None) -> str:
    """What a reflection says; empty if there is none."""
    if written is None or not written.turns:
        return ""
    return without_reasoning(written.turns[0].action).strip()


def _rewarded(
    written: Mapping[int, Trajectory], attempts: Sequence[Trajectory]
) -> list[Trajectory]:
    """Reflections with the rewards of the attempts that were told them; nothing is learnt from one
    whose attempt could not be played.
    """
    found = []
    rewards = {_mark(t).first: t.reward for t in attempts if t.end is not EndReason.ERROR}
    for first, text in written.items():
        if first not in rewards or not text.turns:
            text = replace(text, trainable=np.zeros_like(text.trainable))
        else:
            turns = (replace(text.turns[0], reward=rewards[first]),)
            text = replace(text, turns=turns)
        found.append(text)
    return found
