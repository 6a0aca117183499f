"""Several attempts at a task, of which the later ones are told of the earlier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal

from pydantic import Field, model_validator

from agentopd.base.rows.costs import Cost, Does
from agentopd.base.types import Attempt, EndReason, Owner, Record, Trajectory
from agentopd.environment.settings import EnvSettings
from agentopd.models.model import LanguageModel
from agentopd.rollout.acting.attempts import mark_of, numbered, rewarded, said
from agentopd.rollout.acting.earlier import Given, Place, Question, Questions, Told
from agentopd.rollout.acting.roles import STUDENTS, Direction, Piece, Recall, Voice
from agentopd.rollout.acting.scripts import Joined
from agentopd.rollout.episode import Task
from agentopd.rollout.policies.directed import Directed
from agentopd.rollout.sampler import Sampler

Learnt = Literal["first", "later", "reflections", "feedback", "joined"]
"""What is learnt from: attempts that are told nothing, told ones, what is written of either, what
is said of either, and an attempt with the next one after it."""


_OF_LATER = ("recalls", "memory", "place", "learn_under", "ratio")
"""Settings of attempts that are told something."""
_SYMBOLS = {
    "W": "W: what the student writes of an attempt",
    "Q": "Q: an attempt as it is quoted, and what is said of it",
}
"""Of costs; see `Cost.where`."""


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
            the environment's `feedback`, a `reflection` that the student writes of it, what the
            sources of `privilege` say of it, such as a teacher's message (RL2F 2602.16066), and the
            `phrase` with which the student goes on, as it was solved or not.
        memory: whether it is told of the `last` attempt, or of `all` before it.
        place: where that stands: behind the rules (`system`), or the first `observation`.
        quoted_tokens: the most that is quoted of an episode; its middle is cut.
        reflection_tokens: where a reflection is cut.
        disclosed: what the student knows of an attempt when it reflects on it, as the levels of
            privilege: reflection; one reflection each, of which the last one is told.
        learn: what is learnt from: `first` attempts, `later` ones, `reflections`. These are written
            where somebody is told them, or learns from them. `feedback`: the student is asked what
            will be said of an attempt that is followed by another, and learns the answer, which
            nobody sampled (RLTF-FM): what the sources of `privilege` say where that is recalled,
            what the environment says elsewhere. `joined`: an attempt and the next one are learnt in
            one history too, in which the student goes on from the one to the other with the phrase
            that `phrase` tells (SD-Zero 2604.12002). Both are for mix: retried or nll.
        learn_under: later attempts' history: `hint`, the one that was read; `plain`, as if nothing
            had been told; `both`, as two episodes with the same answers.
        ratio: where importance ratios under the plain history begin; see `rollout: hinted`.
    """

    attempts: int = Field(default=2, ge=1)
    stop: Literal["solved", "never"] = "solved"
    recalls: tuple[Piece, ...] = Field(default=("episode", "outcome", "feedback"), min_length=1)
    memory: Literal["last", "all"] = "last"
    place: Place = "system"
    quoted_tokens: int = Field(default=512, ge=16)
    reflection_tokens: int = Field(default=96, ge=8)
    disclosed: tuple[Annotated[int, Field(ge=0, le=4)], ...] = Field(default=(1,), min_length=1)
    learn: tuple[Learnt, ...] = Field(default=("first", "later"), min_length=1)
    learn_under: Literal["hint", "plain", "both"] = "hint"
    ratio: Literal["recomputed", "sampled"] = "recomputed"

    @model_validator(mode="after")
    def _goes_somewhere(self) -> RetryRollout:
        if [*self.disclosed] != sorted({*self.disclosed}):
            raise ValueError(
                f"rollout: retry with disclosed: {[*self.disclosed]} reflects at levels that do "
                "not rise: name each once, the lowest first, as in [0, 1, 2, 3]"
            )
        if self.attempts == 1 and "joined" in self.learn:
            raise ValueError(
                "rollout: retry with learn: [..., joined] learns an attempt with the next one "
                "after it, and attempts: 1 makes no next one: set attempts to 2 or more, or leave "
                "joined out"
            )
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
    def consults(self) -> bool:
        """See `Rollout.consults`."""
        return self.attempts > 1 and "privilege" in self.recalls

    @property
    def tells(self) -> bool:
        """See `Rollout.tells`."""
        return self.consults

    @property
    def costs(self) -> tuple[Cost, ...]:
        """See `Part.costs`: of a first attempt, with all that follows it."""
        written = float(max(len(self.disclosed), 1))
        learnt = {
            "first": Cost("student", "learns", "L"),
            "later": self._following("learns", "L", 1 + (self.learn_under == "both")),
            "reflections": self._following("learns", "Q", written),
            "feedback": self._following("learns", "Q"),
            "joined": self._following("learns", "L", 2),
        }
        again = [self._following("samples", "S")] if self.attempts > 1 else []
        reflections = [self._following("samples", "W", written)] if self.reflects else []
        first = Cost("student", "samples", "S")
        return (first, *again, *reflections, *(learnt[what] for what in self.learn))

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
        which = "the one before" if self.memory == "last" else "all before"
        return f"p, told from a second attempt on of {which}: {', '.join(self.recalls)}"

    @property
    def records(self) -> frozenset[Record]:
        """See `Rollout.records`."""
        kinds: dict[Record, bool] = {
            "played": True,
            "written": self.reflects,
            "untold": self.attempts > 1 and self.learn_under == "both",
            "foreseen": "feedback" in self.learn,
            "joined": self.attempts > 1 and "joined" in self.learn,
        }
        return frozenset(kind for kind, made in kinds.items() if made)

    @property
    def imitates(self) -> bool:
        """See `Rollout.imitates`."""
        return bool({"feedback", "joined"} & {*self.learn})

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
            found |= dict.fromkeys(_OF_LATER, "attempts above 1")
        elif self.learn_under == "hint":
            found["ratio"] = "learn_under: plain or both"
        if not self.reflects:
            asked = "reflection in recalls, or reflections in learn"
            found |= dict.fromkeys(("reflection_tokens", "disclosed"), asked)
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
            if not open_ or 1 < self.attempts == number + 1:
                break
            over = [t for t in found if t.acts and t.end is not EndReason.ERROR]
            written = self._written(company, open_, over) if self.reflects else []
            advice = self.adviser.of(open_, over) if self.consults else {}
            if "feedback" in self.learn:
                found += self._foreseen(company, open_, advice)
            if self.attempts == 1:
                return [*found, *written]
            told = self._told(open_, written, advice)
            retold = self._again(company, env, open_, told, tasks)
            last = [t for t in retold if t.acts]
            found += [*rewarded(written, last), *retold]
            if "joined" in self.learn:
                found += self._joined(company, env, open_, last)
        return found

    def _goes_on(self, trajectory: Trajectory) -> bool:
        """Whether something follows an attempt."""
        played = trajectory.end is not EndReason.ERROR
        return played and (self.stop == "never" or not trajectory.success)

    def _written(
        self, company: _Company, attempts: Sequence[Trajectory], over: Sequence[Trajectory]
    ) -> list[Trajectory]:
        """The student's reflections on each attempt, the one that knows least first."""
        asks = self._recall.asked
        asked = [
            Question(t, *asks(t, over, level, self.quoted_tokens), version=version)
            for t in attempts
            for version, level in enumerate(self.disclosed)
        ]
        direction = self._directed("reflections")
        return company.ask(asked, "written", lambda _: direction, self.reflection_tokens)

    def _foreseen(
        self, company: _Company, attempts: Sequence[Trajectory], advice: Mapping[int, str]
    ) -> list[Trajectory]:
        """What was said of each attempt, as the answer to being asked for it."""
        said_of = {
            t.episode: advice.get(t.episode, "") if self.consults else None for t in attempts
        }
        foretold, most = self._recall.foretold, self.quoted_tokens
        told = [Question(t, *foretold(t, said_of[t.episode], most)) for t in attempts]
        asked = [question for question in told if question.answer]
        encode = company.student.template.encode_content
        longest = max((len(encode(question.answer or "")) for question in asked), default=0)

        def given(question: Question) -> Direction:
            return Direction(script=Given(question.answer or ""), learnt={Owner.DEMO})

        return company.ask(asked, "foreseen", given, longest + 1)

    def _told(
        self,
        attempts: Sequence[Trajectory],
        written: Sequence[Trajectory],
        advice: Mapping[int, str],
    ) -> dict[int, str]:
        """What the next attempts are told, by the number of the first one."""
        last = {mark_of(t).first: said(t) for t in written}
        found = dict[int, str]()
        for own in attempts:
            before = mark_of(own)
            known: dict[Piece, str] = {
                "reflection": last.get(before.first, ""),
                "privilege": advice.get(own.episode, ""),
            }
            text = self._recall.told(own, known, self.recalls, self.quoted_tokens)
            earlier = before.told if self.memory == "all" else ""
            found[before.first] = "\n\n".join(filter(None, (earlier, text)))
        return found

    def _again(
        self,
        company: _Company,
        env: EnvSettings,
        attempts: Sequence[Trajectory],
        told: Mapping[int, str],
        tasks: Mapping[int, Task],
    ) -> list[Trajectory]:
        """The next attempts, each told of the one before."""
        marks, again = dict[int, Attempt](), list[Task]()
        for before in map(mark_of, attempts):
            text = told[before.first]
            mark = Attempt(number=before.number + 1, first=before.first, told=text)
            untold = replace(mark, kind="untold")
            marks |= {numbered(mark): mark, numbered(untold): untold}
            again.append(
                replace(
                    tasks[before.first],
                    episode=numbered(mark),
                    attempt=mark.number,
                    direction=self._directed("later", mark),
                )
            )
        played = company.play(env, again, self.max_turn_tokens)
        return [replace(t, attempt=marks[t.episode]) for t in played]

    def _joined(
        self,
        company: _Company,
        env: EnvSettings,
        before: Sequence[Trajectory],
        after: Sequence[Trajectory],
    ) -> list[Trajectory]:
        """Each attempt with the next one after it, as one episode, as far as its context holds."""
        first = {mark_of(t).first: t for t in before}
        scripts = dict[Attempt, Joined]()
        for own in (t for t in after if t.end is not EndReason.ERROR and t.turns):
            one, mark = first[mark_of(own).first], mark_of(own)
            phrase = company.student.template.encode_content(f"{self._recall.phrase(one)}\n")
            mark = Attempt(number=mark.number, first=mark.first, kind="joined")
            scripts[mark] = Joined(one, own, phrase)
        tasks = [
            Task(numbered(mark), script.task, script.seed, script.direction)
            for mark, script in scripts.items()
        ]
        tokens = max((script.longest for script in scripts.values()), default=1)
        turns = max((script.turns for script in scripts.values()), default=1)
        played = {t.episode: t for t in company.play(env, tasks, tokens, turns)}
        found = [(mark, played[numbered(mark)], script) for mark, script in scripts.items()]
        return [
            replace(t, attempt=mark)
            for mark, t, script in found
            if t.error or len(t.turns) == script.turns
        ]

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
            untold=numbered(replace(mark, kind="untold")) if both else None,
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

    def play(
        self, env: EnvSettings, tasks: Sequence[Task], tokens: int, turns: int | None = None
    ) -> list[Trajectory]:
        """The trajectories of these tasks, with answers of so many tokens, and so many turns."""
        most = self.rollout.max_turns if turns is None else turns
        rollout = self.rollout.model_copy(update={"max_turn_tokens": tokens, "max_turns": most})
        return rollout.play(env, self.student, self.sampler, self.seed, tasks)

    def ask(
        self,
        asked: Sequence[Question],
        kind: Literal["written", "foreseen"],
        direction: Callable[[Question], Direction],
        tokens: int,
    ) -> list[Trajectory]:
        """An episode of one turn each, in their order, which bears the marks of its attempt."""
        marks = [
            replace(mark_of(question.about), kind=kind, version=question.version)
            for question in asked
        ]
        tasks = [
            Task(numbered(mark), question.about.task, place, direction(question))
            for place, (mark, question) in enumerate(zip(marks, asked, strict=True))
        ]
        played = self.play(Questions(id="question", asked=tuple(asked)), tasks, tokens)
        return [
            replace(t, env=question.about.env, seed=question.about.seed, attempt=mark)
            for t, question, mark in zip(
                sorted(played, key=lambda t: t.seed), asked, marks, strict=True
            )
        ]
