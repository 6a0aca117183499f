"""Schedules by hand: jumps at boundaries, and phases that the training itself ends."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopd.divergences.targets import Veto
from agentopd.running.config import ConfigError
from agentopd.running.reading import parse_config
from agentopd.signal.schedules import History, Phase, Schedule, Step

ENV: dict[str, Any] = {"env": {"id": "agentopd/Sokoban-v0"}}


def _successes(*values: float | None) -> History:
    return [{"success": value, "turns": 3.0} for value in values]


def test_a_step_takes_its_value_from_the_boundary_on() -> None:
    schedule = Step(boundaries=(2, 5), values=(1.0, 0.5, 0.0))
    found = [schedule.factor(step) for step in range(7)]
    assert found == [1.0, 1.0, 0.5, 0.5, 0.5, 0.0, 0.0]


@pytest.mark.parametrize(
    ("schedule", "says"),
    [
        ("{kind: step, boundaries: [3], values: [1.0]}", "there are 1 values"),
        ("{kind: step, boundaries: [3], values: [1, 2, 3]}", "into 2 stretches, and there are 3"),
        ("{kind: step, boundaries: [5, 3], values: [1, 2, 3]}", "not steps after the first in"),
        ("{kind: step, boundaries: [3, 3], values: [1, 2, 3]}", "each once"),
        ("{kind: step, boundaries: [0], values: [1, 2]}", "all above 0"),
        ("{kind: step, boundaries: [], values: [1]}", "at least 1 item"),
        ("{kind: phase, metric: sucess}", "Input should be 'success', 'reward'"),
        ("{kind: phase, window: 0}", "greater than or equal to 1"),
    ],
)
def test_what_no_schedule_can_follow_is_refused(schedule: str, says: str) -> None:
    with pytest.raises(ConfigError, match=r"^schedule\.distil") as refused:
        parse_config(ENV, [f"schedule.distil={schedule}"])
    assert says in str(refused.value)


def _factors(schedule: Schedule, *values: float | None) -> list[float]:
    """The factor at each step, and at the one after the last."""
    past = _successes(*values)
    return [schedule.factor(step, past[:step]) for step in range(len(past) + 1)]


def test_a_phase_begins_at_the_step_after_the_threshold_was_reached() -> None:
    found = _factors(Phase(threshold=0.5), 0.2, 0.5, 0.1, 0.9)
    assert found == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_a_phase_may_return() -> None:
    found = _factors(Phase(threshold=0.5, returns=True, before=0.25, after=2.0), 0.2, 0.5, 0.1, 0.9)
    assert found == [0.25, 0.25, 2.0, 0.25, 2.0]


def test_a_phase_may_wait_below_its_threshold() -> None:
    found = _factors(Phase(threshold=0.3, when="below"), 0.9, 0.31, 0.3, 0.8)
    assert found == [1.0, 1.0, 1.0, 0.0, 0.0]


def test_patience_counts_steps_in_a_row() -> None:
    found = _factors(Phase(threshold=0.5, patience=2), 0.6, 0.4, 0.6, 0.7, 0.0)
    assert found == [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]


def test_the_window_averages_out_a_lucky_step() -> None:
    """Means of two: 0.5, 0.45, 0.5, 0.55; then 0.5, 0.65."""
    found = _factors(Phase(threshold=0.6, window=2), 0.1, 0.9, 0.0, 1.0, 0.1)
    assert found == [1.0] * 6
    assert _factors(Phase(threshold=0.6, window=2), 0.1, 0.9, 0.4) == [1.0, 1.0, 1.0, 0.0]


def test_steps_without_the_metric_are_left_out() -> None:
    found = _factors(Phase(threshold=0.5, patience=2), 0.6, None, 0.6, None)
    assert found == [1.0, 1.0, 1.0, 0.0, 0.0]
    assert Phase(metric="reward").factor(2, _successes(1.0, 1.0)) == 1.0


def test_what_aims_at_the_teacher_itself_has_no_target_to_schedule() -> None:
    with pytest.raises(ConfigError, match="schedule target multiplies the number in divergence"):
        parse_config(ENV, ["schedule.target={kind: constant, value: 0.5}"])


def test_a_step_has_the_divergence_that_its_schedule_left() -> None:
    target = "divergence.target={kind: veto, beta: 0.8}"
    plain = parse_config(ENV, [target])
    assert plain.divergence_at(7) is plain.divergence
    config = parse_config(ENV, [target, "schedule.target={kind: linear, steps: 4}"])
    found = [config.divergence_at(step).target for step in range(6)]
    betas = [x.beta if isinstance(x, Veto) else None for x in found]
    assert betas == pytest.approx([0.8, 0.6, 0.4, 0.2, None, None])
    phased = parse_config(ENV, [target, "schedule.target={kind: phase, after: 0.5}"])
    before, after = (phased.divergence_at(1, _successes(x)).target for x in (0.1, 0.9))
    assert (before, after) == (Veto(beta=0.8), Veto(beta=0.4))


@given(st.lists(st.floats(0, 1), max_size=12), st.integers(1, 3), st.integers(1, 3))
def test_a_phase_that_does_not_return_switches_at_most_once(
    values: list[float], window: int, patience: int
) -> None:
    found = _factors(Phase(threshold=0.5, window=window, patience=patience), *values)
    assert found == sorted(found, reverse=True)
    first = next((i for i, factor in enumerate(found) if factor == 0.0), None)
    assert first is None or first >= window + patience - 1
