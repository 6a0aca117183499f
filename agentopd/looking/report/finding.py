"""What the numbers allow to be said, in a sentence."""

from __future__ import annotations

from agentopd.looking.report.shape import Arm, Interval, Summary

UNKNOWN = "\u2013"
"""What a table shows for a number that nobody measured."""


def percent(value: float | None) -> str:
    """A share as a whole percentage; a dash where it is unknown."""
    return UNKNOWN if value is None else f"{100 * value:.0f} %"


def span(interval: Interval | None) -> str:
    """An interval of shares in percent, as `30-43 %` with an en dash; empty where it is unknown."""
    return "" if interval is None else f"{100 * interval[0]:.0f}\u2013{100 * interval[1]:.0f} %"


def overlap(one: Interval, other: Interval) -> bool:
    """Whether two closed intervals share a point."""
    return one[0] <= other[1] and other[0] <= one[1]


def finding(summary: Summary) -> str:
    """One sentence on success after the training, which claims no more than the intervals carry.

    Arms whose 95 % intervals share a point are called not distinguishable; so are before and after.
    """
    measured = {n: a for n, a in summary.arms.items() if a.success_after is not None}
    if not measured:
        return "Nothing was evaluated after the training, so there is no finding yet."
    ranked = sorted(measured, key=lambda n: measured[n].success_after or 0.0, reverse=True)
    if len(ranked) == 1:
        return _change(ranked[0], measured[ranked[0]])
    best, others = measured[ranked[0]], ranked[1:]
    lead = f"Highest is {ranked[0]}, which solves {_result(best)} of the test episodes"
    if any(arm.interval is None for arm in measured.values()):
        return f"{lead}; some arms have no interval, so the difference may be chance."
    close = [n for n in others if overlap(_interval(best), _interval(measured[n]))]
    clear = [n for n in others if n not in close]
    if not close:
        runner = f"{others[0]} with {_result(measured[others[0]])}"
        after = "the next is" if len(others) > 1 else "above"
        return f"{lead}, {after} {runner}; the intervals do not overlap."
    if not clear:
        count = "The two arms" if len(ranked) == 2 else f"The {len(ranked)} arms"
        many = "the intervals overlap" if len(ranked) == 2 else "the highest overlaps every other"
        extent = ", ".join(f"{n} {_result(measured[n])}" for n in ranked)
        return f"{count} are not distinguishable by their success ({extent}): {many}."
    rest = f"it is above {_listed(clear)}"
    return f"{lead}, but it is not distinguishable from {_listed(close)}; {rest}."


def speed(summary: Summary) -> str:
    """How many training episodes each arm needed for half of the test tasks; empty if none did."""
    needed = {name: arm.episodes_to_half for name, arm in summary.arms.items()}
    reached = sorted((n, name) for name, n in needed.items() if n is not None)
    if len(needed) < 2 or not reached:
        return ""
    told = _listed([f"{name} {episodes:.0f}" for episodes, name in reached])
    rest = [name for name, episodes in needed.items() if episodes is None]
    never = f" Not every seed of {_listed(rest)} got there." if rest else ""
    return f"Training episodes until half of the test tasks are solved: {told}.{never}"


def caveat(summary: Summary) -> str:
    """What a reader must know beside the finding: before the training, and how far seeds differ."""
    notes = [_start(summary)] if len(summary.arms) > 1 else []
    worse = [n for n, arm in summary.arms.items() if _moved(arm) is False]
    if len(summary.arms) > 1 and worse:
        notes.append(f"Not distinguishable from the student before its training: {_listed(worse)}.")
    if len(summary.arms) == 1 and any(_moved(arm) is None for arm in summary.arms.values()):
        notes.append("Without an evaluation at both ends, the effect of the training is unknown.")
    notes += [_crossed(summary), _habitual(summary)]
    if any(len(arm.seeds) == 1 for arm in summary.arms.values()):
        notes.append("With one training seed, how much of this is the seed's luck is not known.")
    return " ".join(filter(None, notes))


def _start(summary: Summary) -> str:
    known = [a.success_before for a in summary.arms.values() if a.success_before is not None]
    if not known:
        return ""
    low, high = percent(min(known)), percent(max(known))
    return f"Before its training the student solves {low if low == high else f'{low} to {high}'}."


def _change(name: str, arm: Arm) -> str:
    if arm.success_before is None:
        return f"{name} solves {_result(arm)} of the test episodes after its training."
    moved = f"from {percent(arm.success_before)} to {_result(arm)}"
    if arm.interval is None:
        return f"Success of {name} went {moved}; without an interval, that may be chance."
    if not _moved(arm):
        return f"Success of {name} went {moved}, which is not distinguishable from no change."
    rose = "raised" if (arm.success_after or 0.0) > arm.success_before else "lowered"
    return f"Training {rose} the success of {name} {moved}, beyond the intervals."


def _moved(arm: Arm) -> bool | None:
    """Whether success after the training is distinguishable from before; None when unknown."""
    if arm.before is None or arm.interval is None:
        return None
    return not overlap(arm.before, arm.interval)


def _crossed(summary: Summary) -> str:
    """A warning where pooled intervals part two arms that single seeds do not."""
    arms = {n: a for n, a in summary.arms.items() if a.interval and a.runs[1:]}
    if len(arms) < 2:
        return ""
    best = max(arms, key=lambda n: arms[n].success_after or 0.0)
    floor = min(_seeds(arms[best]), default=1.0)
    mixed = [
        n
        for n, arm in arms.items()
        if n != best
        and not overlap(_interval(arms[best]), _interval(arm))
        and max(_seeds(arm), default=0.0) >= floor
    ]
    if not mixed:
        return ""
    return f"The weakest seed of {best} does no better than the strongest of {_listed(mixed)}."


def _habitual(summary: Summary) -> str:
    """A warning of arms that solve no more than a habit that reads nothing."""
    habit = summary.habit
    if habit is None:
        return ""
    close = [
        n for n, a in summary.arms.items() if a.interval and a.interval[0] <= habit.interval[1]
    ]
    if not close:
        return ""
    best = f"{habit.name}, {percent(habit.success)}"
    return f"Not above what a habit solves that reads nothing ({best}): {_listed(close)}."


def _seeds(arm: Arm) -> list[float]:
    return [run.success_after for run in arm.runs if run.success_after is not None]


def _interval(arm: Arm) -> Interval:
    assert arm.interval is not None, "arms without an interval are not compared"
    return arm.interval


def _result(arm: Arm) -> str:
    extent = f" ({span(arm.interval)})" if arm.interval else ""
    return f"{percent(arm.success_after)}{extent}"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
