"""One method in the words of another: a mix, a unit, an estimator that equals a simpler one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from agentopd.base.parts import Settings
from agentopd.base.variations import Path, default_of, others, written
from agentopd.divergences.estimators import K1
from agentopd.learning.idle.neighbours import (
    Finding,
    Neighbourhood,
    OwnValues,
    name_of,
    of_kind,
    shown,
)
from agentopd.learning.method import Method
from agentopd.mixes.base import Mix
from agentopd.mixes.shared import RlOnly
from agentopd.units.base import Unit
from agentopd.units.rubric.stand_ins import without_models
from agentopd.units.spans import SpanIndex
from agentopd.units.stretches import TokenUnit, TurnUnit

# N tokens of a synthetic step

_AVERAGING = ("normalise", "budget")
_ON_SPANS = "unit: token on its spans alone"


def equals(near: Neighbourhood) -> Iterator[Finding]:
    """Each part of the method that is another one exactly, as the rest is set."""
    yield from _mix(near)
    yield from _unit(near)
    yield from _estimator(near)


def _mix(near: Neighbourhood) -> Iterator[Finding]:
    """A mix that asks a teacher, and learns from rewards alone."""
    mix = near.method.mix
    rl = mix.rl_channel
    if not mix.distil_coefficient or rl is None or not rl.kind:
        return
    alone = near.at(("mix",), RlOnly(rl=rl))
    if near.moves(alone) is False and alone is not None:
        how = _causes(near, ("mix",), mix)
        sentence = f"mix: {name_of(mix)}{how} is mix: rl, paying for a teacher"
        yield Finding(("mix",), sentence, [alone])


def _unit(near: Neighbourhood) -> Iterator[Finding]:
    """A unit that is a simpler one, or that takes means and gives them back."""
    unit, mix = near.method.unit, near.method.mix
    if type(unit) is TokenUnit or mix.scored_by == "unit" or not near.reads("unit"):
        return
    means = _takes_means(near)
    for name, simpler in _simpler(near, means):
        same = near.at(("unit",), simpler)
        if same is None or near.moves(same) is not False:
            continue
        sentence = (
            f"unit: {name_of(unit)}{_causes(near, ('unit',), unit)} is {name} exactly, as the rest "
            "is set"
        )
        if means and name in ("unit: token", _ON_SPANS, "its use: value", "its use: weight"):
            sentence = _of_losses(unit, name) if mix.distils else _of_weights(unit, name, mix)
        yield Finding(("unit",), sentence, [same])
        return


def _simpler(near: Neighbourhood, means: bool) -> Iterator[tuple[str, Unit | None]]:
    """What the unit might equal, by its name in a configuration."""
    unit = near.method.unit
    same: dict[str, Any] = {name: getattr(unit, name) for name in _AVERAGING}
    yield "unit: token", TokenUnit(**same)
    if type(unit) is not TurnUnit:
        yield "unit: turn", TurnUnit(**same)
    for field in written(unit):
        choices = others(unit, field)
        named = field not in _AVERAGING and all(isinstance(x, str) for x in choices)
        # Of a choice of which nothing is read it is said that nothing reads it.
        read = len(choices) == 1 or any(near.moves(near.at(("unit", field), x)) for x in choices)
        if named and choices and read:
            default = default_of(unit, field)
            yield (
                f"its {field}: {shown(default)}",
                of_kind(type(unit), **{**dict(unit), field: default}),
            )
    if means:
        yield _ON_SPANS, OwnValues.beside(unit)


def _of_losses(unit: Unit, name: str) -> str:
    return (
        f"unit: {name_of(unit)} credits the mean of a span's losses to each of its tokens, which "
        f"under normalise: {unit.normalise} gives each its own gradient back: it is {name} "
        "exactly. Set unit.reduce: sum, or divergence.support: sampled with an estimator of "
        "advantages such as k1, or unit: {kind: turn, use: weight}"
    )


def _of_weights(unit: Unit, name: str, mix: Mix) -> str:
    return (
        f"unit: {name_of(unit)} changes nothing under mix: {name_of(mix)}: all tokens of a span "
        f"have one weight, which is its own mean: it is {name} exactly"
    )


def _takes_means(near: Neighbourhood) -> bool:
    """Whether the unit gives tokens something else than their own value; not, where it cannot be
    tried.
    """
    evidence = near.laboratory.step.evidence()
    trajectories = [x.trajectory for x in evidence.lessons]
    try:
        with torch.random.fork_rng(devices=[]):
            unit = without_models(near.method.unit)
            unit.learn(trajectories)
            spans = [unit.spans(trajectory) for trajectory in trajectories]
            index = SpanIndex.of(evidence.lessons, spans, evidence.tokens)
            values_N, own = evidence.gap_N, OwnValues.beside(unit)
            made = unit.credit if near.method.mix.distils else unit.modulation
            found_N = made(values_N, index, evidence)
            own_N = own.credit(values_N, index, evidence)
    except Exception:
        # A part is foreign code; see `Trial`.
        return False
    return not torch.allclose(found_N, own_N)


def _estimator(near: Neighbourhood) -> Iterator[Finding]:
    """An estimator whose own rule does not count."""
    divergence, mix = near.method.divergence, near.method.mix
    estimator = divergence.estimator
    if estimator is None or type(estimator) is K1 or not near.reads("divergence"):
        return
    about: Path = ("divergence", "estimator")
    plain = of_kind(K1, **dict(estimator))
    same = near.at(about, plain)
    if same is None or near.moves(same) is not False:
        return
    kinds = [x.kind for x in Mix.members() if _apart_under(near, x, same)]
    if kinds:
        # One that is k1 under every mix is another way to write it, and means what it says.
        sentence = (
            f"divergence.estimator: {name_of(estimator)} is k1 under mix: {name_of(mix)}, where "
            "what sets it apart does not count. Set estimator: k1, or choose a mix where it does, "
            f"of {', '.join(kinds)}"
        )
        yield Finding(about, sentence, [same])


def _apart_under(near: Neighbourhood, kind: type[Mix], same: Method) -> bool:
    """Whether the method and what is the same here are two methods under another mix."""
    mix = of_kind(kind, **dict(near.method.mix))
    there = None if mix is None else near.under(mix)
    other = None if there is None else there.at(("divergence",), same.divergence)
    return there is not None and there.moves(other) is True


def _causes(near: Neighbourhood, path: Path, part: Settings) -> str:
    """The written keys of a part without which it would not be the same, as ` with KEY: VALUE`."""
    found = [
        f"{field}: {shown(getattr(part, field))}"
        for field in written(part)
        if field not in _AVERAGING and near.moves(near.at((*path, field), default_of(part, field)))
    ]
    return f" with {', '.join(found)}" if found else ""
