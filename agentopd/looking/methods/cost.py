"""What an episode costs under a method, in tokens, beside what it costs under `opd`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from agentopd.base.rows.costs import Cost, Who
from agentopd.divergences.base import from_samples
from agentopd.privilege.base import NoPrivilege
from agentopd.running.collecting.settings import CollectSettings
from agentopd.running.config import RunConfig

_OPD = (
    Cost("student", "samples", "S"),
    Cost("teacher", "reads", "L"),
    Cost("student", "learns", "L"),
)
"""What one episode costs there."""
_KNOWN = "S: what the student says in an episode; L: the whole episode as a model reads it"


@dataclass(frozen=True)
class Bill:
    """What one model does of one kind: how much, in symbols, and how many times that of `opd`.

    Attributes:
        relative: empty where `opd` does nothing of the kind.
    """

    what: str
    tokens: str
    relative: str


def costs(config: RunConfig) -> list[Cost]:
    """What an episode costs, part by part; where schedules change it, in the first step."""
    mix = config.mix
    acted = config.rollout_at(0).costs
    learnt = [cost for cost in acted if cost.does == "learns"] or [Cost("student", "learns", "L")]
    found = [cost for cost in acted if cost.does != "learns"]
    if not found and not config.rollout.replays:
        found.append(Cost("student", "samples", "S"))
    if mix.distil_coefficient:
        judged = [replace(cost, who="teacher", does="reads") for cost in learnt]
        found += config.teacher.costs or judged
        told = any(not isinstance(source, NoPrivilege) for source in config.privilege)
        if told and config.view.tells_teacher:
            found.append(Cost("teacher", "reads", "P", where="P: what the teacher is told"))
    if mix.distil_coefficient or config.rollout.tells:
        found += [cost for source in config.privilege for cost in source.costs]
    found += [*config.unit.costs, *mix.costs]
    estimator = from_samples(config.divergence) if mix.distil_coefficient else None
    settled = estimator is not None and estimator.needs_step
    weighs = any(weight.needs_step for weight in config.weight)
    if settled or weighs or mix.scored_by in ("teacher", "student"):
        found.append(Cost("student", "reads", "L"))  # the survey before the step
    rl = mix.rl_channel
    aims = bool(mix.distil_coefficient) and config.divergence.needs_reference
    if aims or (rl is not None and rl.needs_reference):
        found.append(Cost("reference", "reads", "L"))
    found += [replace(cost, times=cost.times * config.learner.epochs) for cost in learnt]
    if config.gold is not None:
        found.append(Cost("student", "learns", "g L", where="g: gold episodes for each played one"))
    return found


def collected(settings: CollectSettings, config: RunConfig) -> list[Cost]:
    """What an episode costs that is collected before anything is learnt."""
    who: dict[str, Who] = {"teacher": "teacher", "student": "student", "told": "student"}
    found = [Cost(who[settings.by], "samples", "S")] if settings.by in who else []
    if settings.by == "rollout":
        found += config.rollout_at(0).costs or (Cost("student", "samples", "S"),)
    if settings.label == "teacher" and settings.by != "teacher":
        where = "S*: what the teacher says in all states of an episode that it did not act in"
        found.append(Cost("teacher", "samples", "S*", where=where))
    return found


def bills(found: Sequence[Cost]) -> Iterator[Bill]:
    """The costs summed up by who does what, those of `opd` too where nothing is left of them."""
    kinds = dict.fromkeys((cost.who, cost.does) for cost in (*_OPD, *found))
    for who, does in kinds:
        own = [cost for cost in found if (cost.who, cost.does) == (who, does)]
        base = next((x.of for x in _OPD if (x.who, x.does) == (who, does)), "")
        yield Bill(f"{who} {does}", _sum(own), _sum(own, base) if base else "")


def legend(found: Sequence[Cost]) -> list[str]:
    """What the symbols mean."""
    said = (symbol for cost in found if cost.where for symbol in cost.where.split("; "))
    return [_KNOWN, *dict.fromkeys(said)]


def changing(config: RunConfig) -> list[str]:
    """What of the costs is of the first step alone, as schedules move the rollout's numbers."""
    moved = {name: x for name, x in config.schedule.items() if name in config.rollout.tunable}
    return [
        f"of the first step: schedule.{name} multiplies rollout.{name} by {schedule.formula}"
        for name, schedule in moved.items()
    ]


def _sum(found: Sequence[Cost], over: str = "") -> str:
    """A sum of products, divided by a symbol."""
    total = dict[str, float]()
    for cost in found:
        total[cost.of] = total.get(cost.of, 0.0) + cost.times
    return " + ".join(_product(n, _divided(x, over)) for x, n in total.items() if n) or "0"


def _divided(of: str, over: str) -> str:
    symbols = of.split(" ")
    if not over:
        return of
    if over in symbols:
        symbols.remove(over)
        return " ".join(symbols)
    return f"{of}/{over}"


def _product(times: float, of: str) -> str:
    if not of:
        return f"{times:g}"
    return of if times == 1 else f"{times:g} {of}"
