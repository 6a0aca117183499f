"""One run, alive: its parts, its folder, and what each stage of a step does."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from agentopd.base.types import Lesson, Trajectory
from agentopd.learning.forecast import forecast, memory_room
from agentopd.learning.learner import Learner, Update
from agentopd.mixes.gold import NONE
from agentopd.models.adapters import refuse_unmoved
from agentopd.models.model import load_model
from agentopd.parallel.episodes import known_elsewhere, own_episodes
from agentopd.parallel.processes import ALONE, Processes, by_the_first
from agentopd.privilege.base import gather, scalars_of
from agentopd.privilege.view import most_inserted
from agentopd.probes.showcase import describe_episode
from agentopd.probes.untold import with_untold
from agentopd.rollout.engine import Following
from agentopd.rollout.failures import (
    EveryEpisodeFailed,
    most_frequent,
    refuse_failures,
)
from agentopd.rollout.kept import Shelf
from agentopd.rollout.opponents.rival import rival_of
from agentopd.rollout.policies.base import Rollout
from agentopd.rollout.sampler import SamplerFailed
from agentopd.running.cast import cast_of
from agentopd.running.checkpoint import (
    Progress,
    check_start,
    latest,
    load_progress,
    restore_weights,
    save_checkpoint,
    tensors_beside,
)
from agentopd.running.clock import Clock
from agentopd.running.config import RunConfig, thread_count
from agentopd.running.evaluate import measure
from agentopd.running.folder import (
    METRICS,
    check_environments,
    check_folder,
    ended,
    past_lines,
)
from agentopd.running.records import Records, Watch, step_line
from agentopd.serving.http import ServerError
from agentopd.signal.schedules import looked_back_at

_FREE = ("steps", "threads", "sampler")
"""What may be given anew to a run that goes on."""


class Run:
    """The parts of one run, alive, and its folder."""

    def __init__(
        self,
        config: RunConfig,
        out: Path,
        resume: bool,
        watch: Watch,
        processes: Processes = ALONE,
    ) -> None:
        self.processes = processes
        torch.set_num_threads(thread_count(config.threads, processes.local))
        torch.manual_seed(config.seed)
        self.config, self.out = config.fresh(), out
        self.records = Records(self.config, out, watch, processes)
        self.clock, self.step = Clock(), 0
        self.room, self.unheard = 0, 0
        self.success_before: float | None = None
        self.untrained: dict[str, Any] | None = None
        self.evaluation: dict[str, Any] | None = None
        self.skipped, self.errors = Counter[str](), Counter[str]()
        check_folder(self.config, out, resume, "run", free=_FREE)
        declared = check_environments(self.config)
        self.summarise = declared.summarise
        self.config.sampler.join(processes)
        self.config.sampler.check(self.config.student)
        processes.check_device(self.config.student.device)
        self.student = load_model(self.config.student)
        self.template = self.student.template
        for source in self.config.privilege:
            source.prepare(self.template)
        self.taught = bool(self.config.mix.distil_coefficient)
        self.taking_part = self.taught or self.config.rollout.needs_teacher
        if self.taking_part:
            self.config.teacher.prepare(self.student)
            for source in self.config.privilege:
                source.meet(self.student, self.config.teacher)
        self.gold = self.config.gold.store(self.student) if self.config.gold else []
        refuse_unmoved(self.student.name, self.student.module)
        self.rival = rival_of(declared.opponent, self.config.env, self.student)
        self.config.rollout.join(processes)
        inferred = self.config.inferred_reward
        posterior = inferred.posterior(self.student) if inferred else None
        self.learner = Learner(self.student, self.config.teacher, self.config, processes, posterior)
        beside = {"inferred": posterior, "rival": self.rival}
        self._beside = {name: model for name, model in beside.items() if model}
        self._start = self.student.digest() if self._needs_start() else ""
        teacher = self.config.teacher if self.taking_part else None
        self.config.rollout.prepare(cast_of(self.config, self.student, teacher))
        self.memory = forecast(self.learner)
        alike = self.student.device.type == "cpu"  # a GPU is one process's own
        self.memory.check(memory_room(self.student.device), processes.local if alike else 1)
        self.shelf = Shelf()
        self.config.rollout.reuse(self.shelf)
        with ExitStack() as opened:  # whatever fails from here on, the sampler is closed
            opened.callback(self.shelf.close)
            context = self.config.rollout.max_context
            sampler = opened.enter_context(self.config.sampler.open(self.student, context))
            self.sampler = Following(sampler, self.student)
            self._restore(latest(out / "checkpoints"))
            processes.check_alike("the student", self.student.digest)
            self.records.open()
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Let go of the sampler, and of environments that were kept."""
        self._opened.close()

    def begin(self, untrained: dict[str, Any] | None = None) -> None:
        """Measure the student before its first step, unless that was done before.

        Args:
            untrained: what the measurement would give, where it is known.
        """
        if self.success_before is None:
            self.untrained = self.evaluation = untrained or self._measure()
            self.success_before = self.evaluation["success"]
            self.clock.since_last_line()
            self.records.line(
                {"step": -1, "episodes": 0, "seconds": 0.0, "evaluation": self.evaluation},
                memory=self.memory.record(),
            )

    def roll_out(self, step: int) -> list[Trajectory]:
        """The student plays the step's tasks.

        Raises:
            EveryEpisodeFailed, SamplerFailed: none could be played; the steps before are saved.
        """
        config = self.config
        rollout = self._roomy(config.rollout_at(step, self.learner.history))
        for source in config.privilege:
            source.begin()
        try:
            with self.clock.stage("rollout"):
                trajectories = rollout.collect(
                    config.env, self.student, self.sampler.current(), config.seed, step
                )
            refuse_failures(trajectories, f"of step {step + 1} ({self.out})")
        except (EveryEpisodeFailed, SamplerFailed):
            if self.step:
                self.save()
            raise
        if rollout.replays:
            return trajectories
        student, teacher = rollout.spent
        self.clock.student_tokens += student + sum(t.student_tokens for t in trajectories)
        self.clock.teacher_tokens += teacher + sum(t.acted_tokens for t in trajectories)
        return trajectories

    def ask_teacher(self, trajectories: list[Trajectory], step: int) -> list[Lesson]:
        """The teacher is briefed and scores the student's tokens; no lessons if none is asked.

        Raises:
            ServerError: a served teacher is gone for good; the steps before are saved.
        """
        if not self.taught:
            return []
        known = [source.state() for source in self.config.privilege]
        try:
            return self._lessons(trajectories, step)
        except ServerError as error:
            for source, state in zip(self.config.privilege, known, strict=True):
                source.restore(state)  # the step will be played again
            if self.step:
                self.save()
            raise ServerError(f"step {step + 1} ({self.out}): {error}") from error

    def _lessons(self, trajectories: list[Trajectory], step: int) -> list[Lesson]:
        own = own_episodes(self.processes, trajectories)
        with self.clock.stage("privilege"):
            briefed = gather(self.config.privilege, trajectories, begun=True)
            here = [one for one in briefed if one.trajectory.episode in own]
            views = self.config.view.build(here, self.template)
        with self.clock.stage("teacher"):
            with self.processes.united(ServerError):
                asked = self.config.teacher.score(views)
                if self.config.probe.pi_effect_due(step, self.config.steps):
                    teacher, view = self.config.teacher, self.config.view
                    asked = with_untold(asked, teacher, view, self.template, self._temperature())
            lessons = self.processes.gather(asked, known_elsewhere)
        views = [lesson.view for lesson in lessons if lesson.view is not None]
        self.room = max(self.room, most_inserted(views))
        self.unheard = sum(not x.taught for x in lessons)
        self.clock.teacher_tokens += sum(len(view.ids) for view in views)
        if step == 0:
            self._show(asked)
        return lessons

    def learn(self, trajectories: list[Trajectory], lessons: list[Lesson], step: int) -> Update:
        """One optimizer step. The teacher follows now, the sampler before it is next asked: should
        it be gone by then, the step is whole, and can be saved.
        """
        with self.clock.stage("learner"):
            gold, seed = self.config.gold, self.config.seed
            beside = gold.beside(trajectories, self.gold, seed, step) if gold else NONE
            update = self.learner.update(trajectories, lessons, step, beside)
        self.sampler.moved()
        if self.taking_part:
            self.config.teacher.sync(self.student, step)
        if self.rival:
            self.rival.sync(self.student, step)
        self.step = step + 1
        return update

    def record(self, step: int, trajectories: list[Trajectory], update: Update) -> None:
        """Write the step's line, its trajectories and, when due, a checkpoint and an evaluation.

        Raises:
            SamplerFailed: the evaluation that is due could not be played; all else is saved.
        """
        save, every = self.config.save, self.config.evaluate.every
        due = self.step == self.config.steps or bool(every and self.step % every == 0)
        self.evaluation, failed = None, None
        try:
            self.evaluation = self._measure() if due else None
        except SamplerFailed as error:
            failed = error
        line = step_line(
            self.config,
            trajectories,
            update,
            self.clock,
            done=self.step,
            unheard=self.unheard,
            beside=self._numbers(),
            started=self.shelf.scalars(self.processes),
            evaluation=self.evaluation,
        )
        self.records.line(line)
        self.errors.update(line.get("failed", {}))
        self.learner.history.append(looked_back_at(line))
        if update.skipped:
            self.skipped[update.skipped] += 1
        if save.keeps(step):
            self.records.step(step, trajectories, update)
        if failed or (save.checkpoint_every and self.step % save.checkpoint_every == 0):
            self.save()
        if failed:
            raise failed

    @by_the_first
    def save(self) -> None:
        """Write a checkpoint."""
        progress = Progress(
            step=self.step,
            seconds=self.clock.seconds,
            student_tokens=self.clock.student_tokens,
            teacher_tokens=self.clock.teacher_tokens,
            stages=self.clock.stages,
            sources=[source.state() for source in self.config.privilege],
            success_before=self.success_before,
            unit=self.config.unit.state(),
            room=self.room,
            start=self._start,
        )
        teacher = self.config.teacher.tensors() if self.taking_part else {}
        beside = {name: model.tensors() for name, model in self._beside.items()}
        beside["unit"] = self.config.unit.tensors()
        folder, optimizer = self.out / "checkpoints", self.learner.optimizer
        save_checkpoint(folder, self.student, optimizer, teacher, progress, beside)

    def finish(self) -> dict[str, Any]:
        """Save the end of the run and its summary; a run that had ended before stays as it was."""
        if (before := ended(self.out, self.step)) is not None:
            return before
        if self.evaluation is None:  # a run that died in between, or is now to end earlier
            self.evaluation = self._measure()
        self.save()
        after = self.evaluation
        summary = {
            "run": True,
            "success_before": self.success_before,
            "success_after": after["success"],
            "evaluation": after,
            "episodes": self.step * self.config.rollout.episodes,
            "steps": self.step,
            "skipped": dict(self.skipped),
            "errors": most_frequent(self.errors),
            "student_tokens": self.clock.student_tokens,
            "teacher_tokens": self.clock.teacher_tokens,
            "seconds": {**self.clock.stages, "total": self.clock.seconds},
            "notices": self.config.notices(),
        }
        self.records.summary(summary)
        return summary

    def _needs_start(self) -> bool:
        """Whether the run stands on what it started from, and does not save it."""
        frozen = self.taking_part and self.config.teacher.is_start
        return bool(self.student.base) or frozen or self.learner.reference is not None

    def _temperature(self) -> float:
        """At which this step's tokens are drawn, and the models compared."""
        return self.config.rollout_at(self.step, self.learner.history).temperature or 1.0

    def _roomy(self, rollout: Rollout) -> Rollout:
        """The rollout, whose contexts leave room for the longest text that the teacher was told in
        the steps before: a context that fills all positions has none, and then no lesson either.
        """
        if not self.taught:
            return rollout
        positions = min(self.student.positions, self.config.teacher.positions)
        most = min(rollout.max_context, max(positions - self.room, positions / 2))
        return rollout.model_copy(update={"max_context": int(most)})

    @by_the_first
    def _show(self, lessons: list[Lesson]) -> None:
        """Keep one episode for people to look at, as the teacher sees it before any learning."""
        teacher, unit = self.config.teacher, self.config.unit.kind
        temperature = self._temperature()
        self.records.episode(describe_episode(self.student, teacher, lessons, unit, temperature))

    def _measure(self) -> dict[str, Any]:
        """Success on the held-out tasks, as the student is now."""
        if self.untrained is not None and not self.learner.moved:
            return self.untrained
        where = f"after {self.step} steps ({self.out})"
        with self.clock.stage("evaluate"):
            sampler = self.sampler.current()
            return measure(self.config, self.student, sampler, self.summarise, where)

    def _numbers(self) -> dict[str, float]:
        """What the parts say of a step."""
        config = self.config
        heard = self.taught or config.rollout.consults
        told = scalars_of(config.privilege) if heard else {}
        parts = config.unit.scalars() | config.rollout.scalars()
        return {**parts, **self.sampler.numbers, **told}

    def _restore(self, checkpoint: Path | None) -> None:
        """Go on from a checkpoint; without one, start over from the first step."""
        if checkpoint is None:
            self.records.begin_again()
            return
        progress = load_progress(checkpoint)
        check_start(progress, self._start, self.config.student.path)
        past = past_lines(self.out / METRICS, progress.step)
        teacher = restore_weights(checkpoint, self.student, self.learner.optimizer)
        if teacher:
            self.config.teacher.restore(teacher)
        for name, model in self._beside.items():
            model.restore(tensors_beside(checkpoint, name, self.student))
        for source, state in zip(self.config.privilege, progress.sources, strict=True):
            source.restore(state)
        self.config.unit.restore(progress.unit)
        if unit := tensors_beside(checkpoint, "unit", self.student):
            self.config.unit.load(unit)
        self.sampler.moved()
        self.step, self.room = progress.step, progress.room
        self.success_before = progress.success_before
        # What was learnt before is not known to have been nothing.
        self.learner.moved = self.step > 0
        self.clock = Clock(progress.stages, progress.student_tokens, progress.teacher_tokens)
        self.clock.since_last_line()
        self.records.begin_again(past)
        self.learner.history += [looked_back_at(line) for line in past if line["step"] >= 0]
        self.skipped.update(line["skipped"] for line in past if "skipped" in line)
        for line in past:
            self.errors.update(line.get("failed", {}))
