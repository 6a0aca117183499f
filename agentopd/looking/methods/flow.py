"""The way of a method's data in words: each part says what it does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agentopd.base.parts import Part
from agentopd.mixes.base import Mix
from agentopd.privilege.base import NoPrivilege, Source
from agentopd.running.config import RunConfig
from agentopd.running.stages.settings import Leg
from agentopd.teacher import Teacher


def flow(config: RunConfig) -> Iterator[tuple[str, str]]:
    """What happens in a step, in order: a heading and a sentence each."""
    asks = bool(config.mix.distil_coefficient)
    yield "acts", f"{named(config.rollout)}; {_episodes(config)}"
    if asks or config.rollout.tells:
        whom = [
            *(["the teacher"] if asks and config.view.tells_teacher else []),
            *(["whoever acts"] if config.rollout.tells else []),
        ]
        for source in config.privilege:
            yield f"told to {' and '.join(whom)}", f"{named(source)}{_writer(source)}"
        if any(not isinstance(source, NoPrivilege) for source in config.privilege):
            yield "told where", named(config.view)
    yield "scores", named(config.teacher) if asks else "no teacher is asked"
    if asks and config.mix.distils:
        yield "credited", named(config.unit)
    for weight in config.weight:
        yield "weighed", named(weight)
    yield "learnt", f"{named(config.mix)}{_rewards(config.mix)}"
    yield "follows", _follows(config.teacher, asks or config.rollout.needs_teacher)


def legs_in_words(legs: Sequence[tuple[Leg, RunConfig]]) -> Iterator[tuple[str, RunConfig, Leg]]:
    """Each stage once: its places among all stages, by `legs`, its configuration, and itself."""
    seen: dict[int, list[tuple[Leg, RunConfig]]] = {}
    for leg, config in legs:
        seen.setdefault(id(leg.stage), []).append((leg, config))
    for same in seen.values():
        leg, config = same[0]
        places = ", ".join(str(leg.number) for leg, _ in same)
        yield f"stage {places} of {len(legs)}: {leg.name}", config, leg


def collected(leg: Leg, config: RunConfig) -> Iterator[tuple[str, str]]:
    """What happens in a stage that collects."""
    settings = leg.stage.collect
    assert settings is not None
    player = named(config.rollout) if settings.by == "rollout" else settings.player
    yield "acts", f"{player}; {settings.episodes} episodes"
    kept = settings.keep.model_dump(exclude_defaults=True)
    yield "keeps", ", ".join(f"{key}: {value}" for key, value in kept.items()) or "all of them"
    if settings.label:
        yield "labels", f"the {settings.label} answers in every state of what is kept"
    if settings.onto:
        yield "joins", f"the store {settings.onto}"


def named(part: Part) -> str:
    """A part by its kind, and in its own words."""
    said = type(part).remark()
    return f"{part.kind or type(part).__name__}: {said}" if said else part.kind


def _episodes(config: RunConfig) -> str:
    rollout = config.rollout
    each = f" {rollout.group} times each" if rollout.group > 1 else ""
    return f"{rollout.tasks} tasks a step{each}"


def _writer(source: Source) -> str:
    who = dict.fromkeys(cost.who for cost in source.costs)
    return f" (written by the {', '.join(who)})" if who else ""


def _rewards(mix: Mix) -> str:
    return (
        f"; {named(mix.rl_channel)}" if mix.rl_channel is not None and mix.rl_channel.kind else ""
    )


def _follows(teacher: Teacher, there: bool) -> str:
    first = "the sampler takes the student's new weights"
    if not there:
        return first
    if teacher.is_student:
        return f"{first}; the teacher moves with them"
    if not teacher.follows:
        return f"{first}; the teacher stays as it is"
    return f"{first}; the teacher follows: {teacher.formula}"
