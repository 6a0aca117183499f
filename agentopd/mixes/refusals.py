"""What a mix refuses of weights and units, because it would come to nothing.

Nobody has to declare it: parts are tried on a synthetic step. Of a part that cannot be tried there,
nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from agentopd.mixes.base import Mix
from agentopd.rollout.policies.base import Rollout
from agentopd.signal.evidence import Evidence, NotYetAsked, UntaughtEvidence
from agentopd.signal.synthetic import Shape, SyntheticStep
from agentopd.signal.tokens import Tokens, mean_by
from agentopd.units.base import Unit
from agentopd.units.rubric.stand_ins import without_models
from agentopd.units.spans import SpanIndex
from agentopd.weights.base import Weight
from agentopd.weights.weighed import weigh

# N tokens of a synthetic step

_NOTHING = 1e-6


def check_modulation(weights: Sequence[Weight], unit: Unit) -> None:
    """Whether weights, averaged over a unit's spans, say anything that the unit does not.

    Raises:
        ValueError: they cannot.
    """
    if not weights:
        raise ValueError(_all_one(", and there are none"))
    shape = Shape.to_show(unit, list(weights))
    evidence = SyntheticStep.of(shape).evidence()
    try:
        # A part that draws must not disturb the run's own luck.
        with torch.random.fork_rng(devices=[]):
            weighed = weigh(without_models(list(weights)), evidence)
            weight_N, raw = weighed.weight_N, list(weighed.gates.values())
            modulation_N = _modulation(without_models(unit), weight_N, evidence)
            alone_N = _modulation(without_models(unit), torch.ones_like(weight_N), evidence)
    except Exception:
        # Parts are foreign code, which may need more than there is here.
        return
    if not shape.enough or not _is_one(modulation_N - alone_N + 1):
        return
    if any(weight.mask and not _is_one(raw_N) for weight, raw_N in zip(weights, raw, strict=True)):
        # It may remove whole episodes, of which there is none here.
        return
    if _is_one(weight_N):
        if _is_one(alone_N):
            raise ValueError(_all_one(", all of which are 1"))
        # The unit tells tokens apart by itself.
        return
    over = next((x for x in ("turn", "episode") if _averages(weight_N, evidence.tokens, x)), "")
    averages = f"as set averages to 1 over each {over}, and" if over else "is set, and"
    raise ValueError(
        f"weight: {_kinds(weights)} {averages} unit: {_kind(unit)} takes the mean over each of its "
        "spans: under mix: multiplicative every mean would be 1, and the weight say nothing. Use a "
        "finer unit, such as token, or a weight that does not (renormalise: off; budget: none of "
        "step_sigmoid)"
    )


def check_advice(mix: Mix, weights: Sequence[Weight]) -> None:
    """Whether weights that ask for the reward's opinion of a token can hear one.

    Raises:
        ValueError: one of them cannot, and then does not hear the teacher either.
    """
    if not weights or _advised(mix):
        return
    evidence = SyntheticStep.of(Shape()).evidence()
    for weight in weights:
        if _needs_advantages(weight, evidence):
            raise ValueError(
                f"weight: {_kind(weight)} asks whether the teacher is of the reward's opinion, and "
                f"under mix: {_kind(mix)} no token that the teacher teaches has an advantage: its "
                "weights would be the same whatever the teacher says. Use mix: multiplicative or "
                "auxiliary, or another weight, such as gap_gate"
            )


def check_imitation(mix: Mix, weights: Sequence[Weight]) -> None:
    """Whether weights under a likelihood can be known without asking a teacher.

    Raises:
        ValueError: one of them cannot.
    """
    if mix.imitation != "all":
        return
    known = SyntheticStep.of(Shape()).evidence()
    said = UntaughtEvidence(known.student, known.tokens, known.lessons, 0)
    for weight in weights:
        try:
            with torch.random.fork_rng(devices=[]):
                without_models(weight).raw(said)
        except NotYetAsked:
            raise ValueError(
                f"weight: {_kind(weight)} looks at what the teacher says of a token, and "
                f"mix: {_kind(mix)} asks none: use weights of where a token stands or of what the "
                "student says of it, such as skip_first or likelihood_gate, or the mix's own power"
            ) from None


def check_replay(mix: Mix, weights: Sequence[Weight], rollout: Rollout, sampled: bool) -> None:
    """Whether a method knows what to do with what others have written, which is no sample of the
    student and has no ratio to it.

    Args:
        sampled: the method learns from tokens as samples of the student.

    Raises:
        ValueError: it does not.
    """
    given = rollout.replays or (rollout.imitates and mix.imitation == "none")
    if given and sampled:
        name = "mix" if mix.learns_from_samples else "divergence.support: sampled"
        raise ValueError(
            f"rollout: {rollout.kind} gives what others wrote, and {name} as it is set "
            f"(mix: {mix.kind}) learns from tokens as samples of the student, which these "
            "are not: use mix: nll, or mix: distil with divergence.support: full"
        )
    readers = [weight.kind for weight in weights if weight.reads_behaviour]
    if readers and (rollout.replays or rollout.imitates):
        raise ValueError(
            f"weight: {readers[0]} looks at the probability with which a token was drawn, and "
            f"rollout: {rollout.kind} gives tokens that nobody drew: leave the weight out"
        )


def _modulation(unit: Unit, weight_N: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    trajectories = [x.trajectory for x in evidence.lessons]
    unit.learn(trajectories)
    index = SpanIndex.of(evidence.lessons, [unit.spans(t) for t in trajectories], evidence.tokens)
    modulation_N = unit.modulation(weight_N.to(evidence.value_N), index, evidence)
    covered_N = index.covered(len(modulation_N))
    return torch.where(covered_N, modulation_N, torch.ones_like(modulation_N))


def _is_one(values_N: torch.Tensor) -> bool:
    return bool((values_N - 1).abs().max() <= _NOTHING)


def _averages(weight_N: torch.Tensor, tokens: Tokens, over: str) -> bool:
    """Whether weights average to 1 over each turn, or episode."""
    turns = tokens.turns
    at_N, count = (turns.at_N, len(turns)) if over == "turn" else (tokens.lesson_N, tokens.lessons)
    return _is_one(mean_by(weight_N, at_N, count))


def _advised(mix: Mix) -> bool:
    """Whether some token that the teacher teaches has an advantage."""
    if mix.rl_channel is None:
        return False
    lessons = SyntheticStep.of(Shape()).lessons
    trajectories = [x.trajectory for x in lessons]
    try:
        rewards = mix.rewards(trajectories, {t.episode: t.reward for t in trajectories})
        advantages, routes = mix.rl_channel.of(trajectories, rewards), mix.routes(lessons)
    except Exception:
        # See `check_modulation`.
        return True
    return any(
        advantages[x.trajectory.episode] and routes[x.trajectory.episode].distil
        for x in lessons
        if x.taught
    )


def _needs_advantages(weight: Weight, evidence: Evidence) -> bool:
    """Whether a weight looks at advantages, and where there are none hears no teacher."""
    advantage_N = evidence.advantage_N
    without = replace(evidence, advantage_N=torch.zeros_like(advantage_N))
    try:
        with torch.random.fork_rng(devices=[]):
            own = without_models(weight)
            heard = _differ(own, evidence, replace(evidence, advantage_N=-advantage_N))
            return heard and not _differ(own, without, replace(without, teacher=evidence.student))
    except Exception:
        # See `check_modulation`.
        return False


def _differ(weight: Weight, one: Evidence, other: Evidence) -> bool:
    """Whether two sights get different weights."""
    return not torch.equal(weight.raw(one), weight.raw(other))


def _all_one(how: str) -> str:
    return (
        f"mix: multiplicative multiplies advantages by the method's weights{how}: it would be mix: "
        "rl, paying for a teacher. Set a weight, for example weight: [gap_gate]"
    )


def _kinds(weights: Sequence[Weight]) -> str:
    return ", ".join(_kind(weight) for weight in weights)


def _kind(part: Unit | Weight | Mix) -> str:
    return part.kind or type(part).__name__
