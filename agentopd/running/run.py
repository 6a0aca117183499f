"""One run, alive: its parts, its folder, and what each stage of a step does."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from agentopd.base.files import append_line, write_whole
from agentopd.base.trackers import Trackers
from agentopd.base.types import Lesson, Trajectory
from agentopd.learning.forecast import forecast, memory_room
from agentopd.learning.learner import Learner, Update
from agentopd.mixes.gold import NONE, GoldEpisodes
from agentopd.models.model import LanguageModel, load_model
from agentopd.privilege.sources import gather, missing_keys
from agentopd.privilege.view import most_inserted
from agentopd.privilege.whispered import Told, Whisper
from agentopd.probes.collector import jsonable
from agentopd.probes.rollout import rollout_probes
from agentopd.probes.showcase import describe_episode
from agentopd.probes.untold import with_untold
from agentopd.rollout.failures import (
    EveryEpisodeFailed,
    failures,
    mixed_groups,
    most_frequent,
    refuse_failures,
    unopened,
)
from agentopd.rollout.policies.base import Cast, Rollout
from agentopd.rollout.transformers_sampler import TransformersSampler, check_actor
from agentopd.running.checkpoint import (
    Progress,
    check_start,
    latest,
    load_progress,
    restore_weights,
    save_checkpoint,
)
from agentopd.running.clock import Clock
from agentopd.running.config import RunConfig, thread_count
from agentopd.running.evaluate import measure
from agentopd.running.folder import (
    METRICS,
    SUMMARY,
    check_environments,
    check_folder,
    ended,
    forget_lines,
    open_folder,
    past_lines,
)
from agentopd.signal.groups import dead_groups
from agentopd.stored.scores import save_scores
from agentopd.stored.trajectories import save_trajectories

_GAP = 1e-3
"""Nats between sampler and learner that are no rounding."""
Watch = Callable[[dict[str, Any]], None]


class Run:
    """The parts of one run, alive, and its folder."""

    def __init__(self, config: RunConfig, out: Path, resume: bool, watch: Watch) -> None:
        torch.set_num_threads(thread_count(config.threads))
        torch.manual_seed(config.seed)
        self.config, self.out, self.watch = config.fresh(), out, watch
        self.clock, self.step = Clock(), 0
        self.room, self.unheard = 0, 0
        self.success_before: float | None = None
        self.untrained: dict[str, Any] | None = None
        self.evaluation: dict[str, Any] | None = None
        self.skipped = Counter[str]()
        self.errors = Counter[str]()
        self._told: tuple[dict[str, float], dict[str, int]] = ({}, {})
        check_folder(self.config, out, resume, "run", free=("steps", "threads"))
        self.summarise = check_environments(self.config)
        check_actor(self.config.student)
        self.student = load_model(self.config.student)
        self.template = self.student.template
        self.sampler = TransformersSampler(self.student)
        for source in self.config.privilege:
            source.prepare(self.template)
        self.taught = bool(self.config.mix.distil_coefficient)
        self.taking_part = self.taught or self.config.rollout.needs_teacher
        if self.taking_part:
            self.config.teacher.prepare(self.student)
        self.gold = self.config.gold.store(self.student) if self.config.gold else []
        _refuse_unmoved(self.student)
        self.learner = Learner(self.student, self.config.teacher, self.config)
        self._start = self.student.digest() if self._needs_start() else ""
        self.config.rollout.prepare(self._cast())
        self.memory = forecast(self.learner)
        self.memory.check(memory_room(self.student.device))
        self._restore(latest(out / "checkpoints"))
        # Opened only now: a mistyped option leaves no folder behind, a damaged file all as it is.
        open_folder(self.config, out)
        self.trackers = Trackers()

    def tracked(self) -> Trackers:
        """The trackers of this run, open to the end of the `with` block."""
        settings = self.config.model_dump(mode="json", exclude={"study"})
        self.trackers = Trackers.start(self.config.track, self.out, settings)
        return self.trackers

    def begin(self, untrained: dict[str, Any] | None = None) -> None:
        """Measure the student before its first step, unless that was done before.

        Args:
            untrained: what the measurement would give, where it is known.
        """
        if self.success_before is None:
            self.untrained = self.evaluation = untrained or self._measure()
            self.success_before = self.evaluation["success"]
            self._since_last_line()
            self._write_line(
                {"step": -1, "episodes": 0, "seconds": 0.0, "evaluation": self.evaluation},
                memory=self.memory.record(),
            )

    def roll_out(self, step: int) -> list[Trajectory]:
        """The student plays the step's tasks.

        Raises:
            EveryEpisodeFailed: none could be played; the steps before are saved.
        """
        config = self.config
        rollout = config.rollout_at(step, self.learner.history)
        with self.clock.stage("rollout"):
            trajectories = self._roomy(rollout).collect(
                config.env, self.student, self.sampler, config.seed, step
            )
        try:
            refuse_failures(trajectories, f"of step {step + 1} ({self.out})")
        except EveryEpisodeFailed:
            if self.step:
                self.save()
            raise
        if rollout.replays:
            return trajectories
        self.clock.student_tokens += sum(t.student_tokens for t in trajectories)
        self.clock.teacher_tokens += sum(t.acted_tokens for t in trajectories)
        return trajectories

    def ask_teacher(self, trajectories: list[Trajectory], step: int) -> list[Lesson]:
        """The teacher is briefed and scores the student's tokens; no lessons if none is asked."""
        if not self.taught:
            return []
        with self.clock.stage("privilege"):
            briefed = gather(self.config.privilege, trajectories)
            views = self.config.view.build(briefed, self.template)
        with self.clock.stage("teacher"):
            lessons = self.config.teacher.score(views)
            self.room = max(self.room, most_inserted(views))
            self.unheard = sum(x.hidden_NH is None for x in lessons)
            if self.config.probe.pi_effect_due(step, self.config.steps):
                lessons = self._with_untold(lessons)
        self.clock.teacher_tokens += sum(len(view.ids) for view in views)
        if step == 0:
            self._show(lessons)
        return lessons

    def learn(self, trajectories: list[Trajectory], lessons: list[Lesson], step: int) -> Update:
        """One optimizer step; sampler and teacher follow."""
        with self.clock.stage("learner"):
            update = self.learner.update(
                trajectories, lessons, step, self._gold(trajectories, step)
            )
        self.sampler.sync(self.student)
        if self.taking_part:
            self.config.teacher.sync(self.student, step)
        self.step = step + 1
        return update

    def record(self, step: int, trajectories: list[Trajectory], update: Update) -> None:
        """Write the step's line, its trajectories and, when due, a checkpoint and an evaluation."""
        save, every = self.config.save, self.config.evaluate.every
        due = self.step == self.config.steps or bool(every and self.step % every == 0)
        self.evaluation = self._measure() if due else None
        line = self._line(step, trajectories, update)
        self._write_line(line)
        self.errors.update(line.get("failed", {}))
        self.learner.history.append(line["train"])
        if update.skipped:
            self.skipped[update.skipped] += 1
        if save.keeps(step):
            name = f"step-{step:05d}.parquet"
            save_trajectories(trajectories, self.out / "trajectories" / name, update.payments)
            if save.scores_top_k:
                save_scores(update.scores, self.out / "scores" / name)
        if save.checkpoint_every and self.step % save.checkpoint_every == 0:
            self.save()

    def save(self) -> None:
        """Write a checkpoint."""
        progress = Progress(
            step=self.step,
            seconds=self._spent(),
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
        save_checkpoint(
            self.out / "checkpoints", self.student, self.learner.optimizer, teacher, progress
        )

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
            "seconds": {**self.clock.stages, "total": self._spent()},
            "notices": self.config.notices(),
        }
        write_whole(self.out / SUMMARY, json.dumps(summary, indent=2) + "\n")
        return summary

    def _gold(self, trajectories: list[Trajectory], step: int) -> GoldEpisodes:
        """Those that stand beside a step's episodes."""
        gold, seed = self.config.gold, self.config.seed
        return gold.beside(trajectories, self.gold, seed, step) if gold else NONE

    def _needs_start(self) -> bool:
        """Whether the run stands on what it started from, and does not save it."""
        frozen = self.taking_part and self.config.teacher.is_start
        return bool(self.student.base) or frozen or self.learner.reference is not None

    def _cast(self) -> Cast:
        """Who can act beside the student, and what they can be told."""
        config = self.config
        teacher = config.teacher if self.taking_part else None
        view = config.view
        teller = partial(Whisper, config.privilege, view) if isinstance(view, Told) else None
        return Cast(student=self.student, teacher=teacher, teller=teller)

    def _temperature(self) -> float:
        """At which this step's tokens are drawn, and the models compared."""
        return self.config.rollout_at(self.step, self.learner.history).temperature or 1.0

    def _roomy(self, rollout: Rollout) -> Rollout:
        """The rollout, whose contexts leave room for the longest text that the teacher was told in
        the steps before: a context that fills all positions has none, and then no lesson either.
        """
        if not self.taught:
            return rollout
        positions = min(self.student.positions, self.config.teacher.model.positions)
        most = min(rollout.max_context, max(positions - self.room, positions / 2))
        return rollout.model_copy(update={"max_context": int(most)})

    def _with_untold(self, lessons: list[Lesson]) -> list[Lesson]:
        """The lessons with what the teacher would say if it were told nothing."""
        teacher, view = self.config.teacher, self.config.view
        temperature = self._temperature()
        return with_untold(lessons, teacher, view, self.template, temperature)

    def _show(self, lessons: list[Lesson]) -> None:
        """Keep one episode for people to look at, as the teacher sees it before any learning."""
        teacher, unit = self.config.teacher, self.config.unit.kind
        temperature = self._temperature()
        described = describe_episode(self.student, teacher, lessons, unit, temperature)
        if described is not None:
            write_whole(self.out / "episode.json", json.dumps(described, indent=1) + "\n")

    def _since_last_line(self) -> tuple[dict[str, float], dict[str, int]]:
        """Seconds by stage and tokens spent since the last line of metrics."""
        clock = self.clock
        stages = dict(clock.stages)
        tokens = {"student": clock.student_tokens, "teacher": clock.teacher_tokens}
        spent = {k: v - self._told[0].get(k, 0.0) for k, v in stages.items()}
        used = {k: v - self._told[1].get(k, 0) for k, v in tokens.items()}
        self._told = (stages, tokens)
        return spent, used

    def _measure(self) -> dict[str, Any]:
        """Success on the held-out tasks, as the student is now."""
        if self.untrained is not None and not self.learner.moved:
            return self.untrained
        where = f"after {self.step} steps ({self.out})"
        with self.clock.stage("evaluate"):
            return measure(self.config, self.student, self.sampler, self.summarise, where)

    def _spent(self) -> float:
        return sum(self.clock.stages.values())

    def _line(self, step: int, trajectories: list[Trajectory], update: Update) -> dict[str, Any]:
        stages, tokens = self._since_last_line()
        line: dict[str, Any] = {
            "step": step,
            "episodes": self.step * self.config.rollout.episodes,
            "seconds": self._spent() - self.clock.stages["evaluate"],
            "train": {**rollout_probes(trajectories), "dead_groups": dead_groups(trajectories)},
            "loss": update.loss,
            "probes": {
                **update.probes,
                "scalars": {**update.scalars, **self.config.unit.scalars()},
            },
            "stages": stages,
            "tokens": tokens,
        }
        if update.skipped:
            line["skipped"] = update.skipped
        if failed := failures(trajectories):
            line |= {"failed": failed, "unopened": unopened(trajectories)}
        if self.taught and self.unheard:
            line["unheard"] = self.unheard
        first = self._first_look(trajectories) if step == 0 else []
        if warnings := [*first, *self._disagreement(update)]:
            line["warnings"] = warnings
        return line | {"evaluation": self.evaluation} if self.evaluation else line

    def _first_look(self, trajectories: list[Trajectory]) -> list[str]:
        """What the first step shows to be wrong with the whole run."""
        untold = missing_keys(self.config.privilege, trajectories) if self.taught else []
        return [warning for warning in (mixed_groups(trajectories), *untold) if warning]

    def _disagreement(self, update: Update) -> list[str]:
        """That sampler and learner are two models, where only rounding should be between them."""
        gap = update.scalars.get("sampler_gap", 0.0)
        if self.config.student.dtype != "float32" or gap < _GAP:
            return []
        return [
            f"sampler and learner differ by {gap:.2g} nats in a token's log-probability, in "
            "float32: what is learnt from is not what acted. Please report the model's architecture"
        ]

    def _write_line(self, line: dict[str, Any], **said: Any) -> None:
        """Keep a line of metrics; what is said with it is this machine's affair, and not kept."""
        line = jsonable(line)
        append_line(self.out / METRICS, json.dumps(line, allow_nan=False))
        self.trackers.log(line)
        self.watch({**line, **said})

    def _restore(self, checkpoint: Path | None) -> None:
        """Go on from a checkpoint; without one, start over from the first step."""
        if checkpoint is None:
            forget_lines(self.out)
            return
        progress = load_progress(checkpoint)
        check_start(progress, self._start, self.config.student.path)
        past = past_lines(self.out / METRICS, progress.step)
        teacher = restore_weights(checkpoint, self.student, self.learner.optimizer)
        if teacher:
            self.config.teacher.restore(teacher)
        for source, state in zip(self.config.privilege, progress.sources, strict=True):
            source.restore(state)
        self.config.unit.restore(progress.unit)
        self.sampler.sync(self.student)
        self.step, self.success_before = progress.step, progress.success_before
        self.room = progress.room
        # What was learnt before is not known to have been nothing.
        self.learner.moved = self.step > 0
        self.clock = Clock(progress.stages, progress.student_tokens, progress.teacher_tokens)
        self._since_last_line()
        write_whole(self.out / METRICS, "".join(f"{json.dumps(line)}\n" for line in past))
        self.learner.history += [line["train"] for line in past if line["step"] >= 0]
        self.skipped.update(line["skipped"] for line in past if "skipped" in line)
        for line in past:
            self.errors.update(line.get("failed", {}))


def _refuse_unmoved(student: LanguageModel) -> None:
    if not any(weight.requires_grad for weight in student.module.parameters()):
        raise ValueError(
            f"{student.name} is an adapter, and nothing of it would learn: go on with it, "
            "student.lora={} with its own rank, alpha and targets, or merge it into its base first"
        )
