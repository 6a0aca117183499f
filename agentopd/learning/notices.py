"""Notices: what of a configuration changes nothing where it stands, and what to set instead.

Nothing here is a mistake, and nothing is refused: a sweep may pass through such a point, and an arm
of a study may leave alone what the others read. But nobody should take one method for two. Parts
say what they read (`Mix.reads`, `Settings.unread`, ...); here that is held against what is set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agentopd.base.parts import Part, Settings
from agentopd.divergences.estimators import K1
from agentopd.divergences.kl import ReverseKL
from agentopd.divergences.support import SampledSupport
from agentopd.learning.method import Method
from agentopd.mixes.base import Mix, Read
from agentopd.mixes.modulating import Multiplicative, TrustRatio
from agentopd.mixes.shared import Additive
from agentopd.signal.aggregate import even_over
from agentopd.signal.evidence import Looked
from agentopd.signal.tokens import spans_all
from agentopd.units.decisions import DecisionPointUnit
from agentopd.units.rubric.unit import RubricSpanUnit

_FIELDS: dict[Read, tuple[str, ...]] = {
    "teacher": ("teacher", "privilege", "view"),
    "unit": ("unit",),
    "divergence": ("divergence",),
    "weight": ("weight",),
}
_CHANNELS: dict[str, Read] = {
    "distil": "schedule.distil",
    "rl": "schedule.rl",
    "strength": "schedule.strength",
    "target": "divergence",
}


def notices_of(method: Method) -> list[str]:
    """A sentence on each setting that changes nothing; none of a method that means what it says."""
    return [
        *_unread_parts(method),
        *_unread_fields(method),
        *_silent_weights(method),
        *_means_of_losses(method),
        *_of_decisions(method),
        *_of_verdicts(method),
        *_of_estimators(method),
        *_of_modulation(method),
    ]


def reads_of(method: Method) -> set[Read]:
    """What enters the method's loss: through its mix, or a unit or a weight that the mix reads."""
    found, unit = set(method.mix.reads), method.unit
    asked = [unit.looks_at] if "unit" in found else []
    asked += [weight.looks_at for weight in method.weight] if "weight" in found else []
    seen = frozenset[Looked]().union(*asked)
    # Of a sampled divergence, the estimator's rule for the importance ratio counts in any case.
    if not (unit.credits_values or method.divergence.sampled):
        found.discard("divergence")
    if "divergence" in seen:
        found.add("divergence")
    if asked and not ("divergence" in found or "teacher" in seen):
        found.discard("teacher")
    return found


def _unread_parts(method: Method) -> Iterator[str]:
    """The axes, and schedules, that have a value of their own and are not read."""
    read = reads_of(method)
    for axis, fields in _FIELDS.items():
        for field in fields:
            if axis not in read and not _usual(method, field):
                yield _unread(f"{field}: {_kinds(getattr(method, field))}", axis, method)
    for channel, axis in _CHANNELS.items():
        if axis not in read and channel in method.schedule:
            yield _unread(f"schedule.{channel}", axis, method)


def _unread(what: str, read: Read, method: Method) -> str:
    if read in method.mix.reads:
        return (
            f"{what} changes nothing: unit: {method.unit.kind} with use: reward pays verdicts in "
            "the place of its values; set unit.use to weight or credit, or leave it out"
        )
    others = [mix.kind for mix in Mix.members() if read in mix.model_construct().reads]
    return (
        f"{what} changes nothing under mix: {method.mix.kind}, which does not read it: leave it "
        f"out, or choose a mix that does, of {', '.join(others)}"
    )


def _usual(method: Method, field: str) -> bool:
    """Whether a part is what stands there anyway, or says itself that it is not to be heard."""
    value = getattr(method, field)
    written = _written(value)
    if field == "unit":
        # How it averages tokens is read by all mixes.
        return value.kind == "token"
    if field == "divergence" and written == _written(ReverseKL(support=SampledSupport())):
        # It spares a pass over the vocabulary, which nothing would read.
        return True
    if field == "privilege" and {source.kind for source in value} <= {"none"}:
        return True
    default = type(method).model_fields[field].get_default(call_default_factory=True)
    return written == _written(default)


def _unread_fields(method: Method) -> Iterator[str]:
    """Fields of parts that the part's other fields leave unread."""
    for name in type(method).model_fields:
        for path, part in _settings_in(name, getattr(method, name)):
            for field, reader in part.unread().items():
                default = type(part).model_fields[field].get_default(call_default_factory=True)
                if getattr(part, field) != default:
                    yield (
                        f"{path}.{field} changes nothing as the rest is set: it is read with "
                        f"{reader} only"
                    )


def _silent_weights(method: Method) -> Iterator[str]:
    for number, weight in enumerate(method.weight):
        if weight.says_nothing and weight.renormalise != "step":
            yield (
                f"weight.{number}: {weight.kind} as it is set counts every token alike: the method "
                "is the same without it"
            )


def _means_of_losses(method: Method) -> Iterator[str]:
    """Spreading the mean of losses over the tokens that it is made of gives each its own back."""
    unit = method.unit
    loss = "divergence" in method.mix.reads and unit.returns(method.divergence) == "loss"
    spread = loss and unit.reduce == "mean" and spans_all(even_over(unit.normalise), unit.within)
    if spread and unit.without_means:
        yield (
            f"unit: {unit.kind} credits the mean of a span's losses to each of its tokens, which "
            f"under normalise: {unit.normalise} gives each its own gradient back: it is "
            f"{unit.without_means} exactly. Set unit.reduce: sum, or divergence.support: sampled "
            "with an estimator of advantages such as k1, or unit: {kind: turn, use: weight}"
        )


def _settings_in(path: str, value: Any) -> Iterator[tuple[str, Settings]]:
    """All settings at or below a place, with theirs."""
    if isinstance(value, Settings):
        yield path, value
        below: Iterator[tuple[Any, Any]] = iter(value)
    elif isinstance(value, Mapping):
        below = iter(value.items())
    elif isinstance(value, Sequence) and not isinstance(value, str):
        below = iter(enumerate(value))
    else:
        return
    for name, inner in below:
        yield from _settings_in(f"{path}.{name}", inner)


def _written(value: Any) -> Any:
    """A part, or a list of them, as a configuration writes it; whatever it has lived through."""
    if isinstance(value, Settings):
        return value.model_dump(mode="json")
    return [_written(one) for one in value]


def _kinds(value: Any) -> str:
    parts: Sequence[Part] = [value] if isinstance(value, Part) else value
    return ", ".join(part.kind or type(part).__name__ for part in parts)


def _of_decisions(method: Method) -> Iterator[str]:
    unit = method.unit
    if not isinstance(unit, DecisionPointUnit) or "unit" not in method.mix.reads:
        return
    everywhere = unit.share == 1 and unit.most is None and unit.threshold is None
    if everywhere or unit.floor == 1:
        how = "share: 1 chooses every turn" if everywhere else "floor: 1 counts all turns alike"
        same = "unit: turn" if unit.use == "credit" else "unit: token"
        yield f"unit: decision_point with {how}: it is {same} exactly. Set a smaller one"


def _of_verdicts(method: Method) -> Iterator[str]:
    unit, mix = method.unit, method.mix
    if not isinstance(unit, RubricSpanUnit):
        return
    if mix.scored_by == "unit" and (unit.use, unit.floor) != ("weight", 0.25):
        yield (
            "unit.use and unit.floor change nothing under mix: reward with score: unit, which "
            "takes the share of the criteria that an episode meets. Leave them out"
        )
    elif unit.use == "reward" and "unit" not in mix.reads:
        yield (
            f"no verdict is paid under mix: {mix.kind}. mix: additive adds what unit.use: reward "
            "pays to the rewards' advantages, mix: distil learns from it alone, and mix: {kind: "
            "reward, score: unit} makes advantages of whole episodes' scores"
        )


def _of_estimators(method: Method) -> Iterator[str]:
    estimator = method.divergence.estimated_by
    if isinstance(method.mix, Additive) and isinstance(estimator, K1) and type(estimator) is not K1:
        yield (
            f"divergence.estimator: {estimator.kind} is k1 under mix: additive, which bounds the "
            "sum by mix.rl.clip in the place of the estimator's own rule. Use mix: auxiliary for "
            "that, or estimator: k1"
        )


def _of_modulation(method: Method) -> Iterator[str]:
    mix, unit = method.mix, method.unit
    if isinstance(mix, TrustRatio) and not mix.share:
        yield "mix: trust_ratio with share: 0 is mix: rl, paying for a teacher"
    if not isinstance(mix, Multiplicative):
        return
    telling = [weight for weight in method.weight if not weight.says_nothing]
    kinds = ", ".join(weight.kind for weight in telling)
    if not mix.strength:
        yield "mix: multiplicative with strength: 0 is mix: rl, paying for a teacher"
    if not frozenset().union(unit.looks_at, *(weight.looks_at for weight in telling)):
        yield (
            f"mix: multiplicative asks a teacher, and neither weight: {kinds} nor unit: "
            f"{unit.kind} looks at what it says, so that another would change nothing. Set a "
            "weight that does, such as gap_gate"
        )
    if not unit.without_means:
        return
    if unit.reduce != "mean":
        yield (
            f"unit.reduce: {unit.reduce} changes nothing under mix: multiplicative, which takes "
            "the mean of a span's weights. Leave it out"
        )
    if all(spans_all(weight.shared_by, unit.within) for weight in telling):
        yield (
            f"unit: {unit.kind} changes nothing under mix: multiplicative: {kinds} gives all "
            f"tokens of each {unit.within} one weight, which is its own mean: it is "
            f"{unit.without_means} exactly"
        )
