"""Parts of one's own declare nothing, and what of them changes nothing is told all the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, PrivateAttr
from scenes import ENV, Scene, disturbed, scene_of, taught

from agentopd.base.types import Trajectory
from agentopd.divergences.base import Divergence, Row
from agentopd.divergences.logprobs import kl
from agentopd.learning.idle.notices import findings_of, notices_of
from agentopd.learning.learner import Learner
from agentopd.learning.method import Method
from agentopd.mixes.channels import Channels
from agentopd.mixes.shared import Auxiliary, RlOnly
from agentopd.running.reading import ConfigError, parse_config
from agentopd.signal.evidence import Evidence
from agentopd.teachers.copies import FrozenTeacher
from agentopd.units.base import Unit
from agentopd.units.spans import Span
from agentopd.weights.base import Renormalise, Weight


class Ends(Unit):
    """The first, or the last, turn of an episode; `share` counts where `soft`."""

    which: str = "first"
    soft: bool = False
    share: float = Field(default=0.5, ge=0, le=1)

    def spans(self, trajectory: Trajectory) -> list[Span]:
        chosen = trajectory.turns[0] if self.which == "first" else trajectory.turns[-1]
        return [
            Span(t.start, t.stop, "end", 1.0 if t is chosen else self.share)
            for t in trajectory.turns
            if t is chosen or self.soft
        ]


class Pairs(Unit):
    """Two turns together."""

    def spans(self, trajectory: Trajectory) -> list[Span]:
        turns = trajectory.turns
        pairs = [turns[i : i + 2] for i in range(0, len(turns), 2)]
        return [Span(pair[0].start, pair[-1].stop, "pair") for pair in pairs]


class Slope(Weight):
    """Falls with the turn, or rises; `floor` holds the falling."""

    renormalise: Renormalise = False
    rising: bool = False
    steep: float = Field(default=1.0, ge=0)
    floor: float = Field(default=0.1, ge=0)

    def raw(self, evidence: Evidence) -> torch.Tensor:
        depth_N = evidence.tokens.turn_N.double()
        if self.rising:
            return 1 + self.steep * depth_N
        return (1 - self.steep * depth_N / 3).clamp(min=min(self.floor, 1.0))


class Opposed(Weight):
    """Where the reward is of another opinion than the teacher."""

    renormalise: Renormalise = False

    def raw(self, evidence: Evidence) -> torch.Tensor:
        return 1.5 - 0.5 * torch.sign(evidence.advantage_N * evidence.gap_N)


class Bounded(Divergence):
    """The reverse KL, up to `most` if `bounded`."""

    additive = False
    bounded: bool = False
    most: float = Field(default=2.0, gt=0)

    def value(self, p_NK: torch.Tensor, q_NK: torch.Tensor, row: Row) -> torch.Tensor:
        value_N = kl(p_NK, q_NK)
        return self.most * torch.tanh(value_N / self.most) if self.bounded else value_N


class Lopsided(Auxiliary):
    """`tilt` moves weight between the channels, unless it is `level`."""

    level: bool = False
    tilt: float = Field(default=0.3, ge=0, le=1)

    def terms(self, channels: Channels) -> dict[str, torch.Tensor]:
        found = super().terms(channels)
        tilt = 0.0 if self.level else self.tilt
        return {k: v * (1 - tilt if k == "rl" else 1 + tilt) for k, v in found.items()}


class Deaf(RlOnly):
    """Asks a teacher and does not listen."""

    distils = False

    @property
    def distil_coefficient(self) -> float:
        return 1.0

    def terms(self, channels: Channels) -> dict[str, torch.Tensor]:
        return {"rl": channels.reinforce()}


class Asking(Unit):
    """Cannot be tried without a model."""

    key: int = 3

    def spans(self, trajectory: Trajectory) -> list[Span]:
        raise RuntimeError("there is no model here")


def _method(*overrides: str, **parts: Any) -> Method:
    config = parse_config(ENV | {"rollout": {"group": 4}}, overrides)
    fields = {name: getattr(config, name) for name in Method.model_fields}
    return Method.model_validate(fields | parts)


SAMPLED = "divergence.support=sampled"


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"unit": Ends(share=0.2, reduce="sum")}, "unit.share changes nothing as the rest is set"),
        ({"weight": [Slope(rising=True, floor=0.4)]}, "weight.0.floor changes nothing"),
        ({"divergence": Bounded(most=5.0)}, "divergence.most changes nothing"),
        ({"mix": Lopsided(level=True, tilt=0.9)}, "mix.tilt changes nothing"),
    ],
)
def test_an_idle_key_of_ones_own_part_is_told_with_what_wakes_it(
    parts: Mapping[str, Any], told: str
) -> None:
    (found,) = notices_of(_method(**parts))
    assert found.startswith(told)
    reader = {"unit": "soft: true", "weight": "rising: false", "divergence": "bounded: true"}
    assert found.endswith(f"it is read with {reader.get(next(iter(parts)), 'level: false')}")


@pytest.mark.parametrize(
    "parts",
    [
        {"unit": Ends(soft=True, share=0.2, reduce="sum")},
        {"weight": [Slope(floor=0.4)]},
        {"weight": [Slope(rising=True, steep=2.0)]},
        {"divergence": Bounded(bounded=True, most=5.0)},
        {"mix": Lopsided(tilt=0.9)},
        {"unit": Pairs(reduce="sum")},
    ],
)
def test_of_a_key_that_acts_nothing_is_told(parts: Mapping[str, Any]) -> None:
    assert notices_of(_method(**parts)) == []


def test_what_ones_own_part_equals_is_told() -> None:
    (pairs,) = notices_of(_method(unit=Pairs()))
    assert "it is unit: token exactly" in pairs and "Set unit.reduce: sum" in pairs
    (slope,) = notices_of(_method(weight=[Slope(rising=True, steep=0.0)]))
    assert "counts every token alike" in slope
    (deaf,) = notices_of(_method(mix=Deaf()))
    assert deaf == "mix: Deaf is mix: rl, paying for a teacher"
    assert notices_of(_method(SAMPLED, unit=Pairs())) == []


def test_a_weight_that_needs_advantages_is_refused_where_there_are_none() -> None:
    with pytest.raises(ValueError, match="weight: Opposed asks whether the teacher is of the rewa"):
        _method(weight=[Opposed()])
    assert notices_of(_method("mix=auxiliary", weight=[Opposed()])) == []


def test_a_weight_that_a_unit_of_ones_own_averages_away_is_refused() -> None:
    class Whole(Unit):
        def spans(self, trajectory: Trajectory) -> list[Span]:
            return [Span(0, len(trajectory.ids), "whole")]

    method = _method("mix=multiplicative", "weight=gap_gate")
    with pytest.raises(ValueError, match="unit: Whole takes the mean over each of its spans"):
        Method.model_validate({**dict(method), "unit": Whole()})


def test_of_a_part_that_cannot_be_tried_nothing_is_told() -> None:
    assert notices_of(_method(unit=Asking(key=7))) == []


def test_to_be_asked_for_notices_leaves_a_part_as_it_was() -> None:
    class Living(Unit):
        _lived: int = PrivateAttr(default=0)

        def spans(self, trajectory: Trajectory) -> list[Span]:
            torch.rand(1)
            return [Span(0, len(trajectory.ids), "whole")]

        def learn(self, trajectories: Sequence[Trajectory]) -> None:
            self._lived += len(trajectories)

    unit, luck = Living(), torch.random.get_rng_state()
    assert notices_of(_method(unit=unit))
    assert not unit._lived
    assert torch.equal(torch.random.get_rng_state(), luck)


PARTS: dict[str, list[str]] = {
    "mix": [
        "distil", "{kind: distil, kl_coefficient: 0.2}", "rl", "{kind: rl, rl: rloo}",
        "{kind: auxiliary, coefficient: 0.5}", "{kind: additive, coefficient: 0.5}",
        "multiplicative", "{kind: multiplicative, strength: 0}", "trust_ratio",
        "{kind: trust_ratio, share: 0}", "reward", "routed", "dead_group_fallback",
        "{kind: rl, rl: {kind: grpo, std: false, epsilon: 0.1}}",
    ],
    "unit": [
        "token", "{kind: token, reduce: sum, budget: 9}", "turn", "{kind: turn, use: weight}",
        "{kind: turn, reduce: sum, normalise: turn_mean}", "{kind: trajectory, budget: 5}",
        "{kind: turn, part: action}", "{kind: decision_point, by: entropy, most: 1}",
        "{kind: decision_point, most: 1, use: credit}", "{kind: decision_point, floor: 1}",
        "{kind: rubric_span, criteria: [{name: tidy, fact: tidy}], use: credit}",
        "{kind: rubric_span, criteria: [{name: tidy, fact: tidy}], use: reward, floor: 0.9}",
    ],
    "divergence": [
        "reverse_kl", "jsd", "{kind: entropy_switched, width: 0.3}",
        "{kind: reverse_kl, support: sampled}", "{kind: forward_kl, target: veto}",
        "{kind: reverse_kl, support: sampled, estimator: {kind: truncated, cap: 0.5}}",
    ],
    "weight": [
        "[]", "gap_gate", "{kind: entropy, renormalise: off}", "{kind: cll, most: 3}",
        "[{kind: depth_decay, gamma: 1}, gap_gate]", "depth_decay", "step_sigmoid",
        "{kind: skip_first, tokens: 0}",
    ],
    "schedule.distil": ["{kind: constant, value: 0.5}"],
    "schedule.strength": ["{kind: constant, value: 0.5}"],
}  # fmt: skip
ANY = st.fixed_dictionaries(
    {axis: st.sampled_from(values) for axis, values in PARTS.items() if "." not in axis},
    optional={axis: st.sampled_from(values) for axis, values in PARTS.items() if "." in axis},
)


@pytest.fixture(scope="module")
def scene(tiny_model: Any) -> Scene:
    return scene_of(tiny_model)


def _gradient(scene: Scene, method: Method) -> torch.Tensor | None:
    """The gradient of one step by all weights; None if there is nothing to learn."""
    twin = scene.student.frozen_copy()
    twin.module.requires_grad_(True)
    learner = Learner(twin, scene.teacher, method)
    seen: list[torch.Tensor] = []

    def keep(*_: Any) -> None:
        grads = [p.grad for p in twin.module.parameters() if p.grad is not None]
        seen.append(torch.cat([grad.flatten() for grad in grads]))

    learner.optimizer.register_step_pre_hook(keep)
    learner.update(scene.trajectories, scene.lessons, step=0)
    return seen[0] if seen else None


@settings(max_examples=25, deadline=None, derandomize=True)
@given(chosen=ANY)
def test_every_notice_is_true_of_a_whole_step(scene: Scene, chosen: dict[str, str]) -> None:
    """Of methods drawn over all axes: what is said to be the same has the gradient of a model's
    real weights, under another teacher too where that is said.
    """
    try:
        method = _method("learner.clip=1e9", *(f"{k}={v}" for k, v in chosen.items()))
    except ConfigError:
        return
    findings = findings_of(method)
    found = _gradient(scene, method) if findings else None
    if found is None:
        return
    for finding in findings:
        for neighbour in finding.same:
            _assert_same(found, _gradient(scene, neighbour), finding.sentence)
        if finding.whoever_teaches:
            teacher = FrozenTeacher()
            teacher.prepare(disturbed(scene.student, 5))
            lessons = taught(teacher, scene.trajectories)
            other = Scene(scene.student, teacher, scene.trajectories, lessons)
            _assert_same(found, _gradient(other, method), finding.sentence)


def _assert_same(found: torch.Tensor, other: torch.Tensor | None, sentence: str) -> None:
    assert other is not None, sentence
    assert float((found - other).norm() / found.norm()) < 1e-5, sentence
