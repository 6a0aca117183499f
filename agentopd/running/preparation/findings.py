"""What the measurements mean for a training, in words, with the key to change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from agentopd.running.config import RunConfig
from agentopd.running.preparation.report import Prepared

_CUT = 0.05
_UNREADABLE = 0.2
_ALMOST_ALL = 0.95
_HEARD = 0.1
"""Nats below which being told changes nothing that could teach."""
_CLEAR = 0.3
"""Nats from which a gain of so few answers is no chance."""
_DISARMED = 0.3
"""The share of the first turn's gain below which later turns' is lost."""
_FAST = 5e-5
"""The learning rate above which models of this kind collapsed."""
_LONG = 3_600.0


@dataclass(frozen=True)
class Finding:
    """One thing found: an `error` makes training pointless, a `warning` wastes some of it, a `note`
    informs. `change` is the key to set, `key=value`, or empty.
    """

    level: Literal["error", "warning", "note"]
    said: str
    change: str = ""


Findings = Iterator[Finding]


def findings(found: Prepared, config: RunConfig) -> list[Finding]:
    """What is wrong, errors first, notes last."""
    levels = ("error", "warning", "note")
    checks = (_chat, _answers, _success, _privileges, _habits, _settings, _cost)
    all_found = [finding for check in checks for finding in check(found, config)]
    return sorted(all_found, key=lambda finding: levels.index(finding.level))


def _chat(found: Prepared, config: RunConfig) -> Findings:
    form = found.chat
    if not form.plain.exact:
        yield Finding(
            "error",
            f"a conversation has other ids than the chat template's: {form.plain.difference}",
        )
    if form.plain.segments > 1:
        yield Finding(
            "warning",
            "every turn starts a new segment, so the whole history is read again each turn: "
            f"{form.plain.difference}",
        )
    elif form.thinking.segments > 1:
        off = "student.template_options.enable_thinking=false, if the template reads it"
        yield Finding(
            "note",
            "an answer with a thought starts a new segment, and the history is read again: "
            f"{form.thinking.difference}",
            off,
        )
    if not form.system:
        yield Finding("note", "there is no system message: rules stand in the first user message")


def _answers(found: Prepared, config: RunConfig) -> Findings:
    alone, limit = found.alone, config.rollout.max_turn_tokens
    if alone.cut >= _ALMOST_ALL:
        stops = " and ".join(found.chat.stops)
        yield Finding(
            "error",
            f"nearly all answers are cut after {limit} tokens: the model does not end them by "
            f"{stops} in time",
            f"rollout.max_turn_tokens={4 * limit}",
        )
    elif alone.cut > _CUT:
        yield Finding(
            "warning",
            f"{_percent(alone.cut)} of the answers are cut after {limit} tokens",
            f"rollout.max_turn_tokens={2 * limit}",
        )
    elif 8 * alone.usual_tokens < limit:
        yield Finding(
            "note",
            f"95 % of the answers have at most {alone.usual_tokens} tokens, and {limit} are "
            "kept free for each in the context",
            f"rollout.max_turn_tokens={max(16, 2 * alone.usual_tokens)}",
        )
    if alone.invalid > _UNREADABLE:
        yield _unreadable(found, config)
    if outgrown := alone.ends.get("context_limit", 0):
        yield Finding(
            "warning",
            f"{outgrown} of {alone.episodes} episodes ended because the context was full",
            f"rollout.max_context={2 * config.rollout.max_context}",
        )


def _unreadable(found: Prepared, config: RunConfig) -> Finding:
    """That answers hold no action; told something they may, and then their form can be taught."""
    said = f"{_percent(found.alone.invalid)} of the answers hold no action: see the examples above"
    acted = [(told.behaviour.invalid, told.source) for told in found.told if told.behaviour]
    least, source = min(acted, default=(1.0, ""))
    if found.fewshot is not None or found.alone.invalid < _ALMOST_ALL or least > 0.5:
        level = "error" if found.alone.invalid >= _ALMOST_ALL else "warning"
        return Finding(level, said, found.fewshot or "")
    reaches = config.divergence.kind != "reverse_kl"
    return Finding(
        "warning",
        f"{said}; told {source}, {_percent(1 - least)} of them do, so the form can be taught with "
        "the rest, by a divergence that pulls at what the student never says",
        "" if reaches else "divergence=forward_kl",
    )


def _success(found: Prepared, config: RunConfig) -> Findings:
    alone = found.alone
    if alone.interval[0] > 0.9:
        share = _percent(alone.success)
        yield Finding("note", f"the student solves {share} untrained: little is left to learn")
    if config.mix.distil_coefficient or alone.success > 0:
        return
    yield Finding(
        "warning",
        f"no episode of {alone.episodes} is solved, and rewards alone are to teach: most groups "
        "will hold no difference",
        "mix=auxiliary",
    )


def _privileges(found: Prepared, config: RunConfig) -> Findings:
    shifts = [shift for told in found.told for shift in told.shifts]
    if not shifts:
        yield Finding(
            "note",
            "the environment has no oracle here, so what the model makes of what it is told is "
            "measured by its success alone",
        )
    elif (best := max(shifts, key=lambda shift: shift.gain)).gain < _HEARD:
        yield Finding(
            "error",
            "whatever it is told, the best action becomes no likelier (at most by "
            f"{best.gain:.2f} nats): as its own teacher this model has nothing to teach",
            "teacher={kind: external, source: {path: A LARGER MODEL OF ITS FAMILY}}",
        )
    else:
        yield from _chosen(found, config)
        yield from _disarmed(found)


def _chosen(found: Prepared, config: RunConfig) -> Findings:
    """Whether the run's own privilege is among those that are heard best."""
    shifts = [shift for told in found.told for shift in told.shifts]
    best = max(shifts, key=lambda shift: shift.gain)
    own = [
        shift
        for shift in shifts
        if shift.view == config.view.kind and shift.source in [s.kind for s in config.privilege]
    ]
    heard = max((shift.gain for shift in own), default=0.0)
    if heard < best.gain / 2 and config.mix.distil_coefficient:
        told = ", ".join(source.kind for source in config.privilege) or "nothing"
        yield Finding(
            "warning",
            f"the teacher is told {told} in the view {config.view.kind}, which moves the best "
            f"action by {heard:+.2f} nats; {best.source} in the view {best.view} moves it by "
            f"{best.gain:+.2f}",
            f"privilege={best.source} view={best.view}",
        )


def _disarmed(found: Prepared) -> Findings:
    for told in found.told:
        for shift in told.shifts:
            if shift.first is None or shift.later is None or shift.first < _CLEAR:
                continue
            if shift.later < _DISARMED * shift.first:
                yield Finding(
                    "warning",
                    f"{shift.source} ({shift.view}) moves the best action by {shift.first:+.2f} "
                    f"nats at the first turn and by {shift.later:+.2f} behind the model's own "
                    "answers: its mistakes disarm what it is told, and late turns teach little",
                )


def _habits(found: Prepared, config: RunConfig) -> Findings:
    best = max(found.habits, key=lambda habit: habit.success, default=None)
    if best is None or not best.success or found.alone.interval[0] > best.interval[1]:
        return
    yield Finding(
        "note",
        f"a habit scores {_percent(best.success)} ({best.name}): no skill is shown up to there",
    )


def _settings(found: Prepared, config: RunConfig) -> Findings:
    if found.large and config.learner.learning_rate > _FAST:
        yield Finding(
            "warning",
            f"a learning rate of {config.learner.learning_rate:g} is high for a model of this "
            "size: at such rates some collapsed to one word; watch the share of readable answers",
            "learner.learning_rate=1e-5",
        )


def _cost(found: Prepared, config: RunConfig) -> Findings:
    cost = found.cost
    if cost is None:
        return
    if cost.learner is None:
        yield Finding("note", "the small step had nothing to learn from: its time is not known")
    elif cost.run is not None and cost.run > _LONG:
        yield Finding(
            "warning",
            f"{config.steps} steps will take about {cost.run / 3600:.1f} hours here",
            f"rollout.tasks={max(1, config.rollout.tasks // 4)}",
        )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
