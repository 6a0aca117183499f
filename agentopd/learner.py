"""The learner: one optimizer step on the student from one step's lessons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from agentopd.batching import by_length, padded
from agentopd.model import LanguageModel
from agentopd.probes import Collector, token_probes
from agentopd.signal.advantages import policy_gradient
from agentopd.signal.aggregate import Aggregator
from agentopd.signal.tokens import Tokens
from agentopd.signal.units import Span, SpanIndex
from agentopd.teacher import Teacher
from agentopd.types import EndReason, Lesson, Trajectory

if TYPE_CHECKING:
    from agentopd.config import RunConfig

# B sequences, T tokens of a sequence, N trainable tokens of a micro-batch, H hidden, V vocabulary


@dataclass(frozen=True)
class Update:
    """What one optimizer step was like.

    `skipped` tells why there was none: an empty string when there was.
    """

    loss: float | None
    scalars: dict[str, float]
    probes: dict[str, Any]
    skipped: str = ""


@dataclass(frozen=True)
class _Plan:
    """What of a step must be known before its first micro-batch: counts, advantages, spans."""

    advantages: dict[int, float]
    distil: Aggregator
    rl: Aggregator
    spans: dict[int, list[Span]]
    balance: float
    step: int


class Learner:
    """Holds the optimizer; `update` is the whole of learning."""

    def __init__(self, student: LanguageModel, teacher: Teacher, config: RunConfig) -> None:
        self.student, self.teacher, self.method = student, teacher, config
        self.settings = config.learner
        self.parameters = [p for p in student.module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=self.settings.learning_rate,
            betas=self.settings.betas,
            weight_decay=self.settings.weight_decay,
        )

    def update(
        self, trajectories: Sequence[Trajectory], lessons: Sequence[Lesson], step: int
    ) -> Update:
        """Learn from a step's trajectories.

        Those without a lesson take part in the reinforcement-learning term alone; those that ended
        in an error, in none.
        """
        usable = lessons if self.method.mix.distil_coefficient else ()
        taught = [x for x in usable if x.hidden_NH is not None and _learnable(x.trajectory)]
        episodes = {x.trajectory.episode for x in taught}
        untaught = [
            Lesson(trajectory=t)
            for t in trajectories
            if t.episode not in episodes and _learnable(t)
        ]
        plan = self._plan(taught, untaught, step)
        if not taught and not any(plan.advantages.values()):
            return Update(None, {}, Collector().result(), "no teacher signal and no advantage")
        batches = self._batches(taught) + (self._batches(untaught) if plan.advantages else [])
        probes, totals = Collector(), dict[str, float]()
        for batch in batches:
            for name, value in self._accumulate(batch, plan, probes).items():
                totals[name] = _combined(name, totals.get(name, 0.0), value)
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip))
        skipped = self._apply(norm, step)
        scalars = {**totals, "gradient_norm": norm, "learning_rate": self._rate(step)}
        return Update(totals["loss"], scalars, probes.result(), skipped)

    def _plan(self, taught: list[Lesson], untaught: list[Lesson], step: int) -> _Plan:
        unit, rl = self.method.unit, self.method.mix.rl_channel
        everyone = taught + untaught
        spans = {x.trajectory.episode: unit.spans(x.trajectory) for x in taught}
        return _Plan(
            advantages=rl.of([x.trajectory for x in everyone]) if rl else {},
            distil=Aggregator.of(taught, unit.normalise, unit.budget),
            rl=Aggregator.of(everyone, unit.normalise, unit.budget),
            spans=spans,
            balance=unit.balance(list(spans.values())),
            step=step,
        )

    def _batches(self, lessons: list[Lesson]) -> list[list[Lesson]]:
        lengths = [len(x.trajectory.ids) for x in lessons]
        return [
            [lessons[i] for i in batch]
            for batch in by_length(lengths, self.settings.tokens_per_batch)
        ]

    def _accumulate(self, batch: list[Lesson], plan: _Plan, probes: Collector) -> dict[str, float]:
        """Add one micro-batch's gradient; returns its part of the step's numbers."""
        tokens = Tokens.of(batch, self.student.device)
        hidden_NH = self._hidden(batch)
        student_NV = self._tempered(self.student.logits(hidden_NH))
        logprob_N = student_NV.gather(1, tokens.ids_N[:, None]).squeeze(1)
        terms: dict[str, torch.Tensor] = {}
        if batch[0].hidden_NH is not None:
            teacher_NV = self._teacher_logprobs(batch)
            probes.add(token_probes(student_NV, teacher_NV, tokens), tokens, batch)
            factor = self.method.mix.distil_coefficient * self.method.factor("distil", plan.step)
            terms["distil"] = factor * self._distil(
                student_NV, teacher_NV, logprob_N, tokens, batch, plan
            )
        if plan.advantages:
            terms["rl"] = self.method.factor("rl", plan.step) * self._reinforce(
                logprob_N, tokens, batch, plan
            )
        both = bool(plan.distil.tokens and plan.advantages)
        norms = self._channel_norms(terms, hidden_NH) if both else {}
        loss = torch.stack(list(terms.values())).sum()
        loss.backward()
        gap = (logprob_N.detach() - tokens.behaviour_N).abs().max().item()
        return {
            "loss": loss.item(),
            "sampler_gap": gap,
            **norms,
            **{f"loss_{k}": v.item() for k, v in terms.items()},
        }

    def _distil(
        self,
        student_NV: torch.Tensor,
        teacher_NV: torch.Tensor,
        logprob_N: torch.Tensor,
        tokens: Tokens,
        batch: list[Lesson],
        plan: _Plan,
    ) -> torch.Tensor:
        """The distillation term: divergence by token, weighted, credited by unit, averaged."""
        unit, divergence = self.method.unit, self.method.divergence
        index = SpanIndex.of(batch, [plan.spans[x.trajectory.episode] for x in batch], tokens)
        value_N = divergence.per_token(student_NV, teacher_NV, tokens.ids_N)
        for weight in self.method.weight:
            value_N = value_N * weight.of(student_NV, teacher_NV, tokens)
        credit_N = unit.credit(value_N, index) * plan.balance
        if unit.returns(divergence) == "advantage":
            credit_N = policy_gradient(logprob_N, tokens.behaviour_N, credit_N, clip=None)
        return (plan.distil.factor(tokens) * credit_N).sum()

    def _reinforce(
        self, logprob_N: torch.Tensor, tokens: Tokens, batch: list[Lesson], plan: _Plan
    ) -> torch.Tensor:
        """The RL term: every token of an episode carries the episode's advantage."""
        rl = self.method.mix.rl_channel
        assert rl is not None
        episode_L = torch.tensor(
            [plan.advantages[x.trajectory.episode] for x in batch], device=logprob_N.device
        )
        loss_N = policy_gradient(logprob_N, tokens.behaviour_N, episode_L[tokens.lesson_N], rl.clip)
        return (plan.rl.factor(tokens) * loss_N).sum()

    def _hidden(self, batch: list[Lesson]) -> torch.Tensor:
        """The student's last hidden states (N, H) before each trainable token."""
        pieces = [
            (x.trajectory, start, stop) for x in batch for start, stop in x.trajectory.segments
        ]
        sequences = [t.ids[start:stop] for t, start, stop in pieces]
        hidden_BTH = self.student.hidden(padded(sequences, self.student.device))
        before = [t.trainable[start:stop].nonzero()[0] - 1 for t, start, stop in pieces]
        row_N = np.repeat(np.arange(len(pieces)), [len(b) for b in before])
        return hidden_BTH[torch.from_numpy(row_N), torch.from_numpy(np.concatenate(before))]

    def _teacher_logprobs(self, batch: list[Lesson]) -> torch.Tensor:
        hidden_NH = torch.cat([x.hidden_NH for x in batch if x.hidden_NH is not None])
        return self._tempered(self.teacher.logits(hidden_NH)).to(self.student.device)

    def _tempered(self, logits_NV: torch.Tensor) -> torch.Tensor:
        """Log-probabilities at the rollout's temperature, at which both sides are compared."""
        return torch.log_softmax(logits_NV / (self.method.rollout.temperature or 1.0), dim=-1)

    def _channel_norms(
        self, terms: dict[str, torch.Tensor], hidden_NH: torch.Tensor
    ) -> dict[str, float]:
        """Each channel's gradient norm at the last hidden states, where it is cheap."""
        grads = {
            k: torch.autograd.grad(v, hidden_NH, retain_graph=True)[0] for k, v in terms.items()
        }
        return {f"hidden_gradient_{k}": g.norm().item() for k, g in grads.items()}

    def _rate(self, step: int) -> float:
        warm = min((step + 1) / self.settings.warmup, 1.0) if self.settings.warmup else 1.0
        return self.settings.learning_rate * warm * self.method.factor("learning_rate", step)

    def _apply(self, norm: float, step: int) -> str:
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(step)
        if np.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return "" if np.isfinite(norm) else "the gradient is not finite"


def _combined(name: str, total: float, value: float) -> float:
    """A step's number from those of its micro-batches, however the step was cut into them."""
    if name == "sampler_gap":
        return max(total, value)
    return math.hypot(total, value) if name.startswith("hidden_gradient") else total + value


def _learnable(trajectory: Trajectory) -> bool:
    return trajectory.end is not EndReason.ERROR and bool(trajectory.trainable.any())
