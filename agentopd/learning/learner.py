"""The learner: from one step's lessons to the student's update, in one pass or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from agentopd.base.types import Lesson, Trajectory
from agentopd.divergences.base import Divergence
from agentopd.divergences.linear import measure, opinion_of
from agentopd.divergences.question import Question
from agentopd.learning.method import Method
from agentopd.learning.objective import Objective
from agentopd.learning.optimizer import MasterAdamW, MasterAdamW8bit
from agentopd.learning.plan import Plan
from agentopd.learning.survey import Survey
from agentopd.mixes.base import Mix
from agentopd.mixes.gold import NONE, GoldEpisodes
from agentopd.mixes.terms.inferred import RewardPosterior
from agentopd.models.batching import together
from agentopd.models.head import Head
from agentopd.models.model import LanguageModel
from agentopd.models.passes import hidden_before
from agentopd.models.recompute import layers_of
from agentopd.parallel.episodes import own_episodes
from agentopd.parallel.processes import ALONE, Processes
from agentopd.probes.collector import Collector
from agentopd.probes.token import channel_ratios, combined
from agentopd.rollout.policies import Rollout, truncation_of
from agentopd.signal.evidence import Measured, check_measured
from agentopd.signal.payments import Payment
from agentopd.signal.scores import Scored, join_scores, split_scores
from agentopd.signal.tokens import Tokens, acted, foreign, relearnt
from agentopd.teacher import Teacher

# B sequences, T tokens of a sequence, N trainable tokens of a micro-batch, H hidden


@dataclass(frozen=True)
class Update:
    """What one step of learning was like; of several passes, the first.

    `skipped` tells why there was none: an empty string when there was. `scores` holds what the
    models said of each episode that was learnt from, before the step, where it is to be saved.
    `payments` holds the unit's verdicts, by episode number, where it gives any.
    """

    loss: float | None
    scalars: dict[str, float]
    probes: dict[str, Any]
    skipped: str = ""
    scores: Sequence[Scored] = ()
    payments: Mapping[int, Sequence[Payment]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Witness:
    """Who looks on at the first pass, in which the student is still the one that acted."""

    probes: Collector
    scored: list[Scored]


class Learner:
    """Holds the optimizer; `update` is the whole of learning.

    Attributes:
        history: what each step before was like, for schedules and baselines that look back; whoever
            records a step adds to it.
        reference: the student before its first step and before a checkpoint is loaded into it, or
            the model that the divergence's target names; None where nothing asks for it.
        moved: whether a step may have changed a weight; one without any gradient changes none.
        posterior: the reward that is inferred beside the student; None where none is.
    """

    def __init__(
        self,
        student: LanguageModel,
        teacher: Teacher,
        config: Method,
        processes: Processes = ALONE,
        posterior: RewardPosterior | None = None,
    ) -> None:
        self.student, self.teacher, self.method = student, teacher, config
        self.processes, self.posterior = processes, posterior
        self.objective, self.settings = Objective(config), config.learner
        self.history: list[Mapping[str, Any]] = []
        self.moved = False
        self.reference = _reference(config, student)
        config.unit.prepare(student, teacher)
        if self.settings.checkpoint_layers:
            layers_of(student.body)  # refuses a student that has none to recompute
        self.parameters = [p for p in student.module.parameters() if p.requires_grad]
        adamw = MasterAdamW8bit if self.settings.optimizer == "adamw_8bit" else MasterAdamW
        self.optimizer = adamw(
            self.parameters,
            lr=self.settings.learning_rate,
            betas=self.settings.betas,
            weight_decay=self.settings.weight_decay,
        )

    def update(
        self,
        trajectories: Sequence[Trajectory],
        lessons: Sequence[Lesson],
        step: int,
        gold: GoldEpisodes = NONE,
    ) -> Update:
        """Learn from a step's trajectories.

        Those without a lesson take part in the reinforcement-learning term alone; those that ended
        in an error, in none. Every process is given the whole step and the same plan of it, passes
        its own episodes, and makes the step of all.

        Args:
            gold: demonstrations whose likelihood is raised beside that.
        """
        own = own_episodes(self.processes, trajectories)
        rollout = self.method.rollout_at(step, self.history)
        if rollout.recomputes:
            trajectories, lessons = self._recomputed(trajectories, lessons, rollout, own)
        taught, untaught = self._apart(trajectories, lessons)
        probes = Collector(self.method.probe)
        probes.add_answers(
            [t for t in trajectories if t.episode in own],
            [x for x in lessons if x.trajectory.episode in own],
        )
        self.method.unit.learn([x.trajectory for x in (*taught, *untaught)])
        survey = None
        if asked := self.objective.surveyed(taught, untaught, step):
            divergence = self.method.divergence_at(step, self.history)
            survey = self._survey(asked, own, divergence, rollout)
        plan = Plan.of(self.method, taught, untaught, step, self.history, survey, trajectories)
        learnt = self.objective.learnt(plan)
        payments = plan.payments(self.method.unit, [*taught, *untaught])
        if not learnt and not gold.trajectories:
            found = probes.together(self.processes).result()
            return Update(None, {}, found, _nothing(self.method.mix), payments=payments)
        passed = [x for x in untaught if x.trajectory.episode in own & learnt]
        batches = self._batches(_among(own, taught)) + self._batches(passed) if learnt else []
        scored = list[Scored]()
        totals, skipped = self._pass(batches, plan, step, gold, _Witness(probes, scored))
        for _ in range(1, self.settings.epochs):
            if not skipped:
                again, skipped = self._pass(batches, plan, step, gold)
                totals["drift"] = again.get("sampler_gap", 0.0)
        seen = probes.together(self.processes)
        scalars = {
            **seen.means(),
            **totals,
            **channel_ratios(totals),
            "taught": len(taught) / len(trajectories),
            "learning_rate": self._rate(step),
        }
        scores = self.processes.gather(scored)
        return Update(totals["loss"], scalars, seen.result(), skipped, scores, payments)

    def _apart(
        self, trajectories: Sequence[Trajectory], lessons: Sequence[Lesson]
    ) -> tuple[list[Lesson], list[Lesson]]:
        """What of a step is learnt from with the teacher, and what without."""
        usable = lessons if self.method.mix.distil_coefficient else ()
        taught = [x for x in usable if x.taught and x.trajectory.learnable]
        episodes = {x.trajectory.episode for x in taught}
        chosen = self.method.mix.chosen([t for t in trajectories if t.learnable])
        others = [t for t in chosen if t.episode not in episodes and t.learnable]
        return taught, [Lesson(trajectory=t) for t in others]

    def _pass(
        self,
        batches: list[list[Lesson]],
        plan: Plan,
        step: int,
        gold: GoldEpisodes,
        witness: _Witness | None = None,
    ) -> tuple[dict[str, float], str]:
        """Learn from all micro-batches with one step of the optimizer; what it was like, and why it
        was skipped, if it was.
        """
        passed = (self._accumulate(batch, plan, witness) for batch in batches)
        own = combined([*passed, self._follow(gold, step)])
        totals = combined(self.processes.gather([own]))
        others = self.posterior.held if self.posterior else []
        self.processes.add_gradients([*self.optimizer.held, *others])
        norm = float(torch.nn.utils.clip_grad_norm_(self.optimizer.held, self.settings.clip))
        return totals | {"gradient_norm": norm}, self._apply(norm, step)

    def _batches(self, lessons: list[Lesson]) -> list[list[Lesson]]:
        segments = [[stop - start for start, stop in x.trajectory.segments] for x in lessons]
        batches = together(segments, self.settings.tokens_per_batch)
        return [[lessons[i] for i in batch] for batch in batches]

    @torch.no_grad()
    def _survey(
        self, asked: Sequence[Lesson], own: set[int], divergence: Divergence, rollout: Rollout
    ) -> Survey:
        """What the models say of these episodes, before anything is learnt of them."""
        said = list[Scored]()
        for batch in self._batches(_among(own, asked)):
            tokens = Tokens.of(batch, self.student.device)
            hidden_NH = self._hidden(self.student, batch)
            measured = self._measure(batch, hidden_NH, tokens, divergence, rollout)
            check_measured(measured, tokens, batch)
            said += split_scores(measured, tokens, batch, self.student.vocabulary)
        found = {one.lesson.trajectory.episode: one for one in self.processes.gather(said)}
        ordered = [found[x.trajectory.episode] for x in asked]
        return Survey.of([one.lesson for one in ordered], join_scores(ordered))

    @torch.no_grad()
    def _recomputed(
        self,
        trajectories: Sequence[Trajectory],
        lessons: Sequence[Lesson],
        rollout: Rollout,
        own: set[int],
    ) -> tuple[list[Trajectory], list[Lesson]]:
        """The same, with the student's log-probabilities where tokens were sampled by who was told
        more than stands in the history that is learnt under: ratios begin at 1 there.
        """
        told = [t for t in trajectories if t.told is not None and t.learnable]
        anew = list[Trajectory]()
        for batch in self._batches(_among(own, [Lesson(trajectory=t) for t in told])):
            tokens = Tokens.of(batch, self.student.device)
            head = self.student.head(self._hidden(self.student, batch))
            said = opinion_of(head, tokens.ids_N, rollout.temperature or 1.0)
            own_N = said.logprob_N.cpu().numpy()
            for number, trajectory in enumerate(x.trajectory for x in batch):
                mine_N = own_N[(tokens.lesson_N == number).cpu().numpy()]
                anew.append(relearnt(trajectory, mine_N))
        found = {t.episode: t for t in (*trajectories, *self.processes.gather(anew))}
        return list(found.values()), [
            replace(x, trajectory=found[x.trajectory.episode]) for x in lessons
        ]

    def _accumulate(
        self, batch: list[Lesson], plan: Plan, witness: _Witness | None
    ) -> dict[str, float]:
        """Add one micro-batch's gradient; returns its part of the step's numbers."""
        tokens = Tokens.of(batch, self.student.device)
        hidden_NH = self._hidden(self.student, batch)
        # Cut here: each term's backward pass ends at the hidden states, and only the sum goes on.
        leaf_NH = hidden_NH.detach().requires_grad_(hidden_NH.requires_grad)
        coefficient_N = self.objective.coefficients(tokens, batch, plan)
        most = self.method.save.scores_top_k
        keep = max(self.method.probe.keep, most) if witness else 0
        asked = plan.divergence, plan.rollout
        measured = self._measure(batch, leaf_NH, tokens, *asked, coefficient_N, keep)
        check_measured(measured, tokens, batch)
        channels = self.objective.channels(measured, tokens, batch, plan)
        if witness:
            witness.probes.add_tokens(measured, tokens, batch, channels.gates)
        if witness and most:
            scores = split_scores(measured, tokens, batch, self.student.vocabulary, most)
            witness.scored.extend(scores)
        terms, summands = self.method.mix.terms(channels), self.method.mix.summands(channels)
        if self.posterior:
            head, average_N = self.student.head(leaf_NH), plan.rl.factor(tokens)
            terms["inferred"] = self.posterior.term(head, tokens, average_N)
        norms = self._backward(terms, leaf_NH)
        # Summands are both channels in one term, whose norm is nobody's.
        several = _both_channels(self.method.mix) and not summands
        if leaf_NH.grad is not None:
            hidden_NH.backward(leaf_NH.grad)
        own_N, truncation = measured.student.logprob_N.detach(), truncation_of(plan.rollout)
        gap_N = truncation.unexplained(own_N, tokens.behaviour_N)
        gap_N = gap_N.masked_fill(foreign(batch, gap_N.device), 0.0)
        return {
            "loss": sum(term.item() for term in terms.values()),
            **({} if self.method.mix.imitation == "all" else {"sampler_gap": gap_N.max().item()}),
            **(norms if several else {}),
            **{f"advantage_{k}": v.norm().item() for k, v in summands.items()},
            **{f"loss_{k}": v.item() for k, v in terms.items()},
        }

    def _follow(self, gold: GoldEpisodes, step: int) -> dict[str, float]:
        """Add the gradient of the gold episodes' likelihood; returns its part of the loss."""
        lessons = [Lesson(trajectory=t) for t in gold.trajectories]
        average = self.method.average(lessons, step, self.history)
        found = 0.0
        own = self.processes.share(lessons, lambda x: x.trajectory.episode, _length)
        for batch in self._batches(own):
            tokens = Tokens.of(batch, self.student.device)
            hidden_NH = self._hidden(self.student, batch)
            question = Question(ids_N=tokens.ids_N, divergence=None)
            measured = measure(question, self.student.head(hidden_NH))
            check_measured(measured, tokens, batch)
            loss_N = -average.factor(tokens) * measured.student.logprob_N
            term = gold.coefficient * loss_N.sum()
            term.backward()
            found += term.item()
        return {"loss": found, "loss_gold": found} if lessons else {}

    def _hidden(self, model: LanguageModel, batch: Sequence[Lesson]) -> torch.Tensor:
        """(N, H) a model's hidden states before the trainable tokens, in the student's context."""
        trajectories, settings = [x.trajectory for x in batch], self.settings
        return hidden_before(
            model, trajectories, settings.tokens_per_batch, settings.checkpoint_layers
        )

    def _measure(
        self,
        batch: list[Lesson],
        hidden_NH: torch.Tensor,
        tokens: Tokens,
        divergence: Divergence,
        rollout: Rollout,
        coefficient_N: torch.Tensor | None = None,
        keep: int = 0,
    ) -> Measured:
        """What student and teacher say, both at the rollout's temperature; where tokens are made
        likelier, whoever drew them, at the model's own.
        """
        teacher = self.teacher.speaker(batch) if batch[0].taught else None
        question = Question(
            ids_N=tokens.ids_N,
            divergence=None if teacher is None or divergence.sampled else divergence,
            temperature=1.0 if self.method.mix.imitation == "all" else rollout.temperature or 1.0,
            acted_N=acted(batch, tokens.ids_N.device),
            keep=keep if teacher is not None and teacher.whole else 0,
            ranks=bool(self.method.save.scores_top_k)
            or any(weight.needs_ranks for weight in self.method.weight),
        )
        student, reference = self.student.head(hidden_NH), self._reference_head(batch)
        return measure(question, student, teacher, reference, coefficient_N)

    @torch.no_grad()
    def _reference_head(self, batch: list[Lesson]) -> Head | None:
        """The reference's, in the student's own context."""
        if self.reference is None:
            return None
        return self.reference.head(self._hidden(self.reference, batch))

    def _backward(self, terms: dict[str, torch.Tensor], leaf_NH: torch.Tensor) -> dict[str, float]:
        """Differentiate down to the last hidden states, whose gradient becomes that of the terms'
        sum; returns the norm there of each.
        """
        norms, total_NH = {}, torch.zeros_like(leaf_NH)
        for name, term in terms.items():
            leaf_NH.grad = None
            term.backward(retain_graph=len(terms) > 1)
            if leaf_NH.grad is not None:
                total_NH += leaf_NH.grad
                norms[f"hidden_gradient_{name}"] = leaf_NH.grad.norm().item()
        leaf_NH.grad = total_NH if leaf_NH.requires_grad else None
        return norms

    def _rate(self, step: int) -> float:
        warm = min((step + 1) / self.settings.warmup, 1.0) if self.settings.warmup else 1.0
        scheduled = self.method.factor("learning_rate", step, self.history)
        return self.settings.learning_rate * warm * scheduled

    def _apply(self, norm: float, step: int) -> str:
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(step)
        if np.isfinite(norm):
            self.moved = self.moved or norm > 0 or self.settings.weight_decay > 0
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.posterior:
            self.posterior.step(bool(np.isfinite(norm)))
        return "" if np.isfinite(norm) else "the gradient is not finite"


def _length(lesson: Lesson) -> int:
    return len(lesson.trajectory.ids)


def _among(own: set[int], lessons: Sequence[Lesson]) -> list[Lesson]:
    return [lesson for lesson in lessons if lesson.trajectory.episode in own]


def _reference(config: Method, student: LanguageModel) -> LanguageModel | None:
    if config.mix.distil_coefficient and config.divergence.needs_reference:
        return config.divergence.reference(student)
    rl = config.mix.rl_channel
    return student.snapshot() if rl is not None and rl.needs_reference else None


def _both_channels(mix: Mix) -> bool:
    """Whether the teacher and the rewards may both have a say in the loss."""
    return mix.distils and bool(mix.distil_coefficient) and mix.rl_channel is not None


def _nothing(mix: Mix) -> str:
    """Why a step has nothing to learn from."""
    if mix.imitation == "all":
        return f"mix: {mix.kind} keeps no token of the step"
    return "no teacher signal and no advantage"
