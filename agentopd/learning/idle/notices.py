"""Notices: what of a configuration changes nothing where it stands, and what to set instead.

Nothing here is a mistake, and nothing is refused: a sweep may pass through such a point, and an arm
of a study may leave alone what the others read. But nobody should take one method for two.

Parts declare nothing for this. The method is tried on synthetic steps beside its neighbours (see
`agentopd.learning.experiment`): each part beside others and beside what it might equal, each
written key at its default and at other values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from agentopd.base.parts import Part
from agentopd.base.variations import Path, alike, default_of, settings_in
from agentopd.divergences.kl import ReverseKL
from agentopd.divergences.support import SampledSupport
from agentopd.learning.idle.equals import equals
from agentopd.learning.idle.keys import unread_keys, waking
from agentopd.learning.idle.neighbours import (
    Axis,
    Finding,
    Neighbourhood,
    name_of,
    of_kind,
)
from agentopd.learning.method import Method
from agentopd.mixes.base import Mix
from agentopd.rollout.policies import truncation_of

_FIELDS: dict[Axis, tuple[str, ...]] = {
    "teacher": ("teacher", "privilege", "view"),
    "unit": ("unit",),
    "divergence": ("divergence",),
    "weight": ("weight",),
}
_CHANNELS: dict[str, Axis] = {
    "distil": "schedule.distil",
    "rl": "schedule.rl",
    "strength": "schedule.strength",
    "target": "divergence",
}


def notices_of(method: Method) -> list[str]:
    """A sentence on each setting that changes nothing; none of a method that means what it says."""
    return [finding.sentence for finding in findings_of(method)]


def truncation_notice(method: Method) -> list[str]:
    """That gradients are averages over tokens of which sampling leaves out the unlikely, if so."""
    truncation = truncation_of(method.rollout)
    if not truncation or not method.learns_from_samples:
        return []
    written = [f"top_p: {truncation.top_p}"] if truncation.top_p < 1 else []
    written += [f"top_k: {truncation.top_k}"] if truncation.top_k else []
    return [
        f"rollout.{', '.join(written)}: what is learnt from samples lacks the part of the tokens "
        "that are never sampled, which no importance ratio brings back; divergences of whole "
        "distributions (support: full) lack nothing"
    ]


def findings_of(method: Method) -> list[Finding]:
    """All that changes nothing, with what it was found by."""
    near = Neighbourhood(method)
    found = [*_unread_parts(near), *_silent_weights(near), *equals(near)]
    told = {finding.about[0] for finding in found}
    if not told & {"mix", *_FIELDS["teacher"]}:
        found += _unheard_teacher(near)
    found += unread_keys(near, [finding.about for finding in found])
    return [*found, *_declared(method)]


def _unread_parts(near: Neighbourhood) -> Iterator[Finding]:
    """The axes, and schedules, that have a value of their own and are not read."""
    method = near.method
    for axis, fields in _FIELDS.items():
        for name in fields:
            if not (_usual(method, name) or _serves_who_acts(method, name) or near.reads(axis)):
                yield _unread(near, (name,), f"{name}: {_kinds(getattr(method, name))}", axis)
    for channel, axis in _CHANNELS.items():
        if channel in method.schedule and not near.reads(axis):
            yield _unread(near, ("schedule", channel), f"schedule.{channel}", axis)


def _unread(near: Neighbourhood, about: Path, what: str, axis: Axis) -> Finding:
    mixes = [mix.kind for mix in Mix.members() if _read_under(near, mix, axis)]
    sentence = f"{what} changes nothing as the rest is set: leave it out"
    if mixes:
        sentence = (
            f"{what} changes nothing under mix: {name_of(near.method.mix)}, which does not read "
            f"it: leave it out, or choose a mix that does, of {', '.join(mixes)}"
        )
    elif reader := waking(near.method, ("unit",), lambda x: near.of(x).reads(axis)):
        sentence += f", or set unit.{reader}, with which it is read"
    return Finding(about, sentence, near.others(axis), whoever_teaches=axis == "teacher")


def _read_under(near: Neighbourhood, mix: type[Mix], axis: Axis) -> bool:
    """Whether the axis would be read under another mix."""
    made = None if mix is type(near.method.mix) else of_kind(mix, **dict(near.method.mix))
    there = None if made is None else near.under(made)
    return there is not None and there.reads(axis)


def _usual(method: Method, field: str) -> bool:
    """Whether a part is what stands there anyway, or says itself that it is not to be heard."""
    value = getattr(method, field)
    if field == "unit":
        # How it averages tokens is read by all mixes.
        return value.kind == "token"
    if field == "divergence" and alike(value, ReverseKL(support=SampledSupport())):
        # It spares a pass over the vocabulary, which nothing would read.
        return True
    if field == "privilege" and {source.kind for source in value} <= {"none"}:
        return True
    return alike(value, default_of(method, field))


def _serves_who_acts(method: Method, field: str) -> bool:
    """Whether the rollout has a use for it, whatever the loss reads: who acts is told something,
    or somebody beside the student acts or writes.
    """
    rollout = method.rollout
    told = rollout.tells and field in ("privilege", "view")
    return told or (rollout.needs_teacher and field == "teacher")


def _silent_weights(near: Neighbourhood) -> Iterator[Finding]:
    """Weights without which the method is the same."""
    weights = near.method.weight
    if not weights or not near.laboratory.enough or not near.reads("weight"):
        return
    for number, weight in enumerate(weights):
        without = near.at(("weight",), [*weights[:number], *weights[number + 1 :]])
        if without is not None and near.moves(without) is False:
            sentence = (
                f"weight.{number}: {name_of(weight)} as it is set counts every token alike: the "
                "method is the same without it"
            )
            yield Finding(("weight", number), sentence, [without])


def _unheard_teacher(near: Neighbourhood) -> Iterator[Finding]:
    """A teacher that is asked, and to whom nothing listens."""
    method = near.method
    if not method.mix.distil_coefficient or near.reads("teacher"):
        return
    sentence = f"mix: {name_of(method.mix)} asks a teacher, and nothing here looks at what it says"
    if near.reads("weight"):
        sentence = (
            f"mix: {name_of(method.mix)} asks a teacher, and neither weight: "
            f"{_kinds(method.weight)} nor unit: {name_of(method.unit)} looks at what it says"
        )
    sentence += ", so that another would change nothing. Set a weight that does, such as gap_gate"
    yield Finding(("mix",), sentence, whoever_teaches=True)


def _declared(method: Method) -> Iterator[Finding]:
    """What parts say themselves of fields that act beside the gradient."""
    for path, settings in settings_in(method):
        for field, reader in settings.unread().items():
            if not alike(getattr(settings, field), default_of(settings, field)):
                about = (*path, field)
                yield Finding(
                    about,
                    f"{'.'.join(map(str, about))} changes nothing as the rest is set: it is read "
                    f"with {reader}",
                )


def _kinds(value: Any) -> str:
    parts: Sequence[Part] = [value] if isinstance(value, Part) else value
    return ", ".join(map(name_of, parts))
