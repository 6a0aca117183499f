"""The signal that one arm gives to every token of a step.

The arm's own objective runs on the models' saved numbers, made leaves; its gradient by them is what
each token counts for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from agentopd.learning.objective import Objective
from agentopd.learning.plan import Plan
from agentopd.learning.survey import Survey
from agentopd.looking.replay.rows import Compared
from agentopd.running.config import RunConfig
from agentopd.signal.evidence import Measured
from agentopd.signal.schedules import History
from agentopd.signal.scores import Scored, join_scores
from agentopd.signal.tokens import Tokens

# N tokens of the step


@dataclass(frozen=True)
class Signal:
    """What the loss makes of each token.

    Attributes:
        by_logprob_N: the loss's gradient by the sampled token's log-probability, apart from the
            divergence: what a score-function loss multiplies the token's score by.
        by_entropy_N: its gradient by the student's entropy.
        by_divergence_N: its gradient by the token's divergence: how much the divergence counts.
        push_N: by how much a step of descent raises the sampled token's logit, the gradient's
            other sign: positive where the token is reinforced. The one number in which all forms
            of a loss can be compared.
        mass_N: the share of the student's probability that the divergence looked at; NaN where
            there is none.
        exact: whether the kept tokens were enough for the arm's divergence.
    """

    by_logprob_N: torch.Tensor
    by_entropy_N: torch.Tensor
    by_divergence_N: torch.Tensor
    push_N: torch.Tensor
    mass_N: torch.Tensor
    exact: bool = True


def signal_of(
    method: RunConfig,
    scored: Sequence[Scored],
    compared: Compared | None,
    step: int,
    history: History = (),
) -> Signal:
    """The signal of one arm, in the order of the episodes' trainable tokens.

    Args:
        scored: the step's episodes; a teacher's opinion of them is used where the method asks one.
        compared: what the method's divergence makes of the taught episodes' tokens; None where it
            is estimated from the sampled token, or no teacher is asked.
        history: what the steps before were like.

    Raises:
        ValueError: the method asks a reference model, of which nothing is known.
    """
    asked, rl = bool(method.mix.distil_coefficient), method.mix.rl_channel
    if rl and rl.needs_reference and any(one.measured.reference is None for one in scored):
        raise ValueError(
            "its mix looks at the student as it was before its first step, of which nothing was "
            "saved: ask it with --rescore"
        )
    taught = [one for one in scored if asked and one.taught]
    untaught = [_unasked(one) for one in scored if not (asked and one.taught)]
    # Lessons are saved without hidden states, by which routes know that there was an opinion.
    told = [replace(one.lesson, hidden_NH=torch.empty(0)) for one in taught]
    alone = [one.lesson for one in untaught]
    survey = _survey(taught, compared) if taught else None
    plan = Plan.of(method, told, alone, step, history, survey)
    learnt = Objective(method).learnt(plan)
    untaught = [one for one in untaught if one.lesson.trajectory.episode in learnt]
    everything = Tokens.of([one.lesson for one in scored], torch.device("cpu"))
    nothing_N = torch.zeros(len(everything))
    found = Signal(*(nothing_N.clone() for _ in range(4)), mass_N=nothing_N + torch.nan)
    if taught and learnt:
        _fill(found, _of_group(method, taught, compared, plan), everything, scored, taught)
    if untaught:
        _fill(found, _of_group(method, untaught, None, plan), everything, scored, untaught)
    return replace(found, exact=compared is None or compared.exact)


def _survey(taught: Sequence[Scored], compared: Compared | None) -> Survey:
    """What the models said of all taught episodes."""
    value_N = None if compared is None else compared.value_N
    measured = replace(join_scores(taught), divergence_N=value_N)
    return Survey.of([one.lesson for one in taught], measured)


def _of_group(
    method: RunConfig, group: Sequence[Scored], compared: Compared | None, plan: Plan
) -> Signal:
    """The signal of episodes that all have a teacher, or all have none."""
    lessons = [one.lesson for one in group]
    tokens = Tokens.of(lessons, torch.device("cpu"))
    measured = _with_leaves(join_scores(group), compared)
    own = measured.student
    leaves = [own.logprob_N, own.entropy_N]
    leaves += [] if measured.divergence_N is None else [measured.divergence_N]
    loss = sum(Objective(method).terms(measured, tokens, lessons, plan).values(), torch.zeros(()))
    grads = [torch.zeros_like(leaf) for leaf in leaves]
    if loss.requires_grad:
        grads = list(torch.autograd.grad(loss, leaves, materialize_grads=True))
    by_logprob_N, by_entropy_N = grads[:2]
    by_divergence_N = grads[2] if len(grads) > 2 else torch.zeros_like(by_logprob_N)
    logprob_N, entropy_N = own.logprob_N.detach(), own.entropy_N.detach()
    p_N = logprob_N.exp()
    by_logit_N = by_logprob_N * (1 - p_N) - by_entropy_N * p_N * (logprob_N + entropy_N)
    if compared is not None:
        by_logit_N = by_logit_N + by_divergence_N * compared.pull_N
    mass_N = torch.full_like(p_N, torch.nan) if compared is None else compared.mass_N
    return Signal(by_logprob_N, by_entropy_N, by_divergence_N, -by_logit_N, mass_N)


def _with_leaves(measured: Measured, compared: Compared | None) -> Measured:
    student = measured.student
    live = replace(
        student,
        logprob_N=student.logprob_N.clone().requires_grad_(),
        entropy_N=student.entropy_N.clone().requires_grad_(),
    )
    return replace(
        measured,
        student=live,
        divergence_N=None if compared is None else compared.value_N.clone().requires_grad_(),
        mass_N=None if compared is None else compared.mass_N,
    )


def _unasked(one: Scored) -> Scored:
    """An episode without a teacher's opinion, nor what only a comparison with it looks at."""
    student = replace(one.measured.student, rank_N=None)
    own = Measured(student=student, reference=one.measured.reference)
    return replace(one, lesson=replace(one.lesson, view=None), measured=own)


def _fill(
    found: Signal,
    own: Signal,
    tokens: Tokens,
    scored: Sequence[Scored],
    group: Sequence[Scored],
) -> None:
    """Put a group's numbers where its tokens stand among those of the whole step."""
    members = {one.lesson.trajectory.episode for one in group}
    member_L = torch.tensor([one.lesson.trajectory.episode in members for one in scored])
    where_N = member_L[tokens.lesson_N]
    for name in ("by_logprob_N", "by_entropy_N", "by_divergence_N", "push_N", "mass_N"):
        getattr(found, name)[where_N] = getattr(own, name)
