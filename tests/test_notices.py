"""What changes nothing is said, and of nothing else: notices against the gradients of whole steps.

Each claim is held both ways: what is said to change nothing leaves the gradient as it is, and what
nothing is said of moves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from scenes import ENV, Scene, disturbed, scene_of, taught
from test_weights import SOME, VARIANTS

from agentopd.base.types import Trajectory
from agentopd.learning.idle.equals import equals
from agentopd.learning.idle.neighbours import Axis, Neighbourhood
from agentopd.running.config import ConfigError, RunConfig
from agentopd.running.reading import arm_config, load_config, parse_config
from agentopd.signal.aggregate import Normalise
from agentopd.teachers.copies import FrozenTeacher
from agentopd.units.base import Unit
from agentopd.units.spans import SpanIndex
from agentopd.weights.base import Weight, product
from agentopd.weights.place import DepthDecay, PhraseMask
from agentopd.weights.token import EntropyWeight, GapGate
from agentopd.weights.turn import StepSigmoid, TrustDecay

SAMPLED = "divergence.support=sampled"
CONFIGS = Path(__file__).parents[1] / "agentopd" / "configs"


def _rubric(more: str = "", criteria: str = "{name: tidy, fact: tidy, part: action}") -> str:
    return f"unit={{kind: rubric_span, criteria: [{criteria}]{more}}}"


def _config(*overrides: str) -> RunConfig:
    return parse_config(ENV | {"rollout": {"group": 4}}, overrides)


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    """Eight episodes of two tasks, and two of a third that are rewarded alike."""
    found = scene_of(tiny_model)
    dead: list[Trajectory] = [
        replace(t, episode=8 + n, task=7, turns=tuple(replace(u, reward=0.1) for u in t.turns[:2]))
        for n, t in enumerate((found.trajectories[0], found.trajectories[6]))
    ]
    trajectories = [*found.trajectories, *dead]
    return replace(found, trajectories=trajectories, lessons=taught(found.teacher, trajectories))


@pytest.fixture(scope="module")
def otherwise(scene: Scene) -> Scene:
    """The same episodes under a teacher of another opinion."""
    teacher = FrozenTeacher()
    teacher.prepare(disturbed(scene.student, 5))
    return replace(scene, teacher=teacher, lessons=taught(teacher, scene.trajectories))


def _gradient(scene: Scene, *overrides: str) -> torch.Tensor:
    return scene.gradient("rollout.group=4", *overrides)


def _equals(config: RunConfig) -> list[str]:
    """The notices of parts that are others exactly, which cost least to find."""
    return [finding.sentence for finding in equals(Neighbourhood(config))]


def _differ(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two gradients are of different methods; if not, they differ by roundings alone."""
    away = float((one - other).norm() / one.norm())
    assert away < 3e-6 or away > 1e-4, f"{away} is neither a rounding nor another method"
    return away > 1e-4


MIXES = {
    "distil": (),
    "rl": ("mix=rl",),
    "auxiliary": ("mix={kind: auxiliary, coefficient: 0.5}",),
    "additive": ("mix={kind: additive, coefficient: 0.5}", SAMPLED),
    "multiplicative": ("mix=multiplicative", "weight=gap_gate"),
    "multiplicative by the student": ("mix=multiplicative", "weight=cll"),
    "multiplicative by depth": ("mix=multiplicative", "weight={kind: kl_centroid, reach: 0.667}"),
    "multiplicative by turns": (
        "mix=multiplicative", "weight=cll", "unit={kind: decision_point, by: divergence, most: 1}",
    ),
    "multiplicative by disagreement": (
        "mix=multiplicative", "weight=cll", "unit={kind: turn, use: weight}",
    ),
    "trust_ratio": ("mix=trust_ratio",),
    "reward": ("mix=reward",),
    "reward of the unit": ("mix={kind: reward, score: unit}", _rubric()),
    "verdicts": ("mix=auxiliary", _rubric(", use: reward")),
    "routed": ("mix=routed",),
    "dead_group_fallback": ("mix=dead_group_fallback",),
}  # fmt: skip

CHANGES: dict[Axis, str] = {
    "teacher": "teacher=ema",
    "unit": "unit={kind: turn, use: weight}",
    "divergence": "divergence=jsd",
    "weight": "weight={kind: entropy, renormalise: off}",
    "schedule.distil": "schedule.distil={kind: constant, value: 0.3}",
    "schedule.rl": "schedule.rl={kind: constant, value: 0.3}",
    "schedule.strength": "schedule.strength={kind: constant, value: 0.3}",
}
OTHER_CHANGES = {
    ("multiplicative by disagreement", "unit"): "unit=token",
    ("additive", "divergence"): "divergence.estimator=reward_to_go",
    ("multiplicative by turns", "divergence"): "divergence=forward_kl",
    ("multiplicative by depth", "divergence"): SAMPLED,
    ("reward of the unit", "unit"): _rubric(criteria="{name: solved, fact: success}"),
    ("verdicts", "unit"): _rubric(", use: reward", "{name: solved, fact: success}"),
}
"""Where the mix would refuse the other, or where it is too small to choose another turn by."""
NOT_TRIED = {
    ("verdicts", "weight"): "weights of verdicts are refused",
    ("verdicts", "teacher"): "which episodes have a lesson, and maybe a judge, are the teacher's",
}
TRIED = [(mix, axis) for mix in MIXES for axis in CHANGES if (mix, axis) not in NOT_TRIED]


@pytest.mark.parametrize(("mix", "axis"), TRIED)
def test_an_axis_moves_the_gradient_unless_it_is_said_not_to(
    scene: Scene, otherwise: Scene, mix: str, axis: Axis
) -> None:
    base, change = MIXES[mix], OTHER_CHANGES.get((mix, axis), CHANGES[axis])
    changed = (otherwise, base) if axis == "teacher" else (scene, (*base, change))
    moved = _differ(_gradient(scene, *base), _gradient(changed[0], *changed[1]))
    method = _config(*base, change)
    assert moved == Neighbourhood(method).reads(axis)
    notices = method.notices()
    told = [x for x in notices if x.startswith((f"{axis}: ", f"{axis} "))]
    of_mix = [x for x in notices if "asks a teacher" in x] if axis == "teacher" else []
    assert moved == (not told and not of_mix)


def test_what_stands_there_anyway_is_not_told() -> None:
    assert _config("mix=rl").notices() == []
    assert _config("mix=rl", "privilege=none", SAMPLED, "unit.normalise=turn_mean").notices() == []
    told = _config("mix=rl", "privilege=[none, ground_truth]", "view=every_turn").notices()
    whats = [notice.partition(" changes")[0] for notice in told]
    assert whats == ["privilege: none, ground_truth", "view: every_turn"]


def test_a_schedule_of_the_target_is_read_where_the_divergence_is() -> None:
    aimed = ("divergence.target=veto", "schedule.target={kind: linear, steps: 9}")
    assert _config(*aimed).notices() == []
    told = [x.partition(" changes")[0] for x in _config(*aimed, "mix=rl").notices()]
    assert told == ["divergence: reverse_kl", "schedule.target"]


LOSSES = ("divergence=jsd", "divergence={kind: reverse_kl, support: sampled, estimator: k2}")
KEEPING = {
    "{kind: turn, reduce: %s}": "{kind: token}",
    "{kind: turn, use: weight, reduce: %s}": "{kind: token}",
    "{kind: trajectory, reduce: %s}": "{kind: token}",
    "{kind: decision_point, most: 1, use: credit, reduce: %s}": "{kind: decision_point, most: 1}",
    "{kind: rubric_span, criteria: [{name: tidy, fact: tidy, part: action}], use: credit, "
    "reduce: %s}": _rubric().removeprefix("unit="),
}
"""A unit that may take means, and the one that leaves each token its own value."""


@pytest.mark.parametrize("normalise", get_args(Normalise))
@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize("unit", KEEPING)
def test_means_of_losses_are_said_to_be_the_tokens_own_where_they_are(
    scene: Scene, unit: str, reduce: str, normalise: str
) -> None:
    blend = ("schedule.blend={kind: constant, value: 0.5}",) if normalise == "blend" else ()
    found = f"unit={unit % reduce}", f"unit.normalise={normalise}", *blend
    own = f"unit={KEEPING[unit]}", f"unit.normalise={normalise}", *blend
    for divergence in (*LOSSES, SAMPLED):
        differ = _differ(_gradient(scene, *own, divergence), _gradient(scene, *found, divergence))
        told = [x for x in _equals(_config(*found, divergence)) if "its own gradient back" in x]
        assert differ == (not told), divergence


def test_means_over_a_part_of_the_turn_are_said_to_be_the_tokens_of_that_part() -> None:
    (told,) = _config("unit={kind: turn, part: reasoning}").notices()
    assert "it is unit: token on its spans alone exactly" in told
    assert "unit.reduce: sum" in told and "use: weight" in told


LOST = "{kind: rubric_span, criteria: [{name: lost, fact: lost}], use: %s}"
UNITS = {
    "token": "token",
    "turn": "token",
    "{kind: turn, use: weight}": "{kind: turn, use: weight}",
    "trajectory": "token",
    "{kind: decision_point, by: entropy, most: 1}": "{kind: decision_point, by: entropy, most: 1}",
    "{kind: decision_point, by: entropy, most: 1, use: credit}": (
        "{kind: decision_point, by: entropy, most: 1}"
    ),
    LOST % "credit": LOST % "weight",
}
"""A unit, and the same without means."""
WEIGHTS = [
    *([weight] for weight in VARIANTS if not isinstance(weight, PhraseMask)),
    [GapGate(), EntropyWeight()],
    [GapGate(), EntropyWeight(renormalise=False)],
    [StepSigmoid(), GapGate()],
    [DepthDecay(gamma=1.0), StepSigmoid()],
    [DepthDecay(), TrustDecay()],
]


def _modulations(unit: Unit, weights: Sequence[Weight]) -> torch.Tensor:
    """What the random episodes' advantages are multiplied by, end to end."""
    found = []
    for evidence in SOME[:3]:
        factors = [(weight, weight.raw(evidence).detach()) for weight in weights]
        weight_N = product(factors, evidence.tokens).to(evidence.value_N)
        spans = [unit.spans(lesson.trajectory) for lesson in evidence.lessons]
        index = SpanIndex.of(evidence.lessons, spans, evidence.tokens)
        found.append(unit.modulation(weight_N, index, evidence))
    return torch.cat(found)


def _same(one_N: torch.Tensor, other_N: torch.Tensor) -> bool:
    return bool((one_N - other_N).abs().max() < 1e-5)


@pytest.mark.parametrize("written", UNITS)
def test_a_weight_that_a_unit_averages_away_is_refused_and_a_mean_of_nothing_told(
    written: str,
) -> None:
    """A mask may leave all that is here as it is: of it only what is refused or told must hold."""
    unit, own = (_config(f"unit={x}").unit for x in (written, UNITS[written]))
    for weights in WEIGHTS:
        overrides = ENV | {
            "rollout": {"group": 4}, "mix": "multiplicative", "unit": unit.model_dump(),
            "weight": [weight.model_dump() for weight in weights],
        }  # fmt: skip
        masks = any(weight.mask for weight in weights)
        found_N = _modulations(unit, weights)
        void = _same(found_N, _modulations(unit, ()))
        try:
            notices = _equals(parse_config(overrides))
        except ConfigError as error:
            assert "averages to 1 over each" in str(error) and void, weights
            continue
        assert masks or not void, weights
        told = any("is its own mean" in notice for notice in notices)
        same = unit != own and _same(found_N, _modulations(own, weights))
        assert told <= same <= (told or masks), weights


FIELDS = [
    ((), "unit.budget=7", "unit.normalise=fixed"),
    ((), "unit.reduce=sum", "unit=trajectory"),
    (("unit={kind: decision_point, most: 1}",), "unit.reduce=sum", "unit.use=credit"),
    ((_rubric(),), "unit.reduce=sum", "unit.use=credit"),
    ((_rubric(", use: reward"),), "unit.floor=0.9", "unit.use=weight"),
    (("divergence.kind=entropy_switched",), "divergence.width=0.5", "divergence.reading=blended"),
    (("mix=rl", "mix.rl.kind=grpo"), "mix.rl.epsilon=0.5", "mix.rl.std=false"),
    (("mix=rl",), "mix.rl.kl_estimator=rho_k3", "mix.rl.kl_coefficient=0.5"),
    (("mix={kind: rl, rl: reinforce}",), "mix.rl.decay=0.5", "mix.rl.baseline=running"),
    (("mix={kind: reward, score: unit}", _rubric()), "mix.reduce=sum", "mix.score=teacher"),
]
"""A method, a field that it does not read, and what it is read with; of epsilon, not read with."""


@pytest.mark.parametrize(("method", "field", "reader"), FIELDS, ids=lambda x: str(x))
def test_a_field_is_said_to_be_unread_where_it_is(
    scene: Scene, method: tuple[str, ...], field: str, reader: str
) -> None:
    idle, awake = (method, (*method, reader))
    if "epsilon" in field:
        idle, awake = awake, idle
    for base, unread in ((idle, True), (awake, False)):
        told = [x for x in _config(*base, field).notices() if "as the rest is set" in x]
        assert bool(told) == unread
        if unread:
            assert told[0].startswith(field.partition("=")[0])
            assert not _differ(_gradient(scene, *base), _gradient(scene, *base, field))
        elif not ("rl.decay" in field or "kl_estimator" in field):
            # A first step has no past, nor has its student left the first one.
            assert _differ(_gradient(scene, *base), _gradient(scene, *base, field))


ADD = "{kind: function, function: 'operator:add'}"


@pytest.mark.parametrize(
    ("overrides", "told", "awake"),
    [
        (
            ["weight={kind: cll, most: 3}"],
            "weight.0.most",
            ["weight={kind: cll, most: 3, form: exp}"],
        ),
        (
            ["weight={kind: label_confidence, weak: 0.1, rules: []}"],
            "weight.0.weak",
            ["weight={kind: label_confidence, weak: 0.1, rules: [{fact: tidy, label: weak}]}"],
        ),
        (
            [_rubric(f", judge: {ADD}")],
            "unit.judge",
            [_rubric(f", judge: {ADD}", "{name: a}")],
        ),
        (
            [_rubric("", f"{{name: a, want: 3, verifier: {ADD}}}")],
            "unit.criteria.0.want",
            [_rubric("", "{name: a, want: 3, fact: moves}")],
        ),
        (
            ["save={scores_top_k: 9, trajectories_every: 0}"],
            "save.scores_top_k",
            ["save.scores_top_k=9"],
        ),
        (["probe={enabled: false, top: 3}"], "probe.top", ["probe.top=3"]),
    ],
)
def test_fields_beside_the_gradient_are_said_to_be_unread(
    overrides: list[str], told: str, awake: list[str]
) -> None:
    assert [x.partition(" ")[0] for x in _config(*overrides).notices()] == [told]
    assert _config(*awake).notices() == []


@pytest.mark.parametrize(
    ("overrides", "same", "says"),
    [
        (
            ["mix={kind: multiplicative, strength: 0}", "weight=gap_gate"],
            ["mix=rl"],
            "with strength: 0 is mix: rl, paying for a teacher",
        ),
        (["mix={kind: trust_ratio, share: 0}"], ["mix=rl"], "share: 0 is mix: rl, paying for"),
        (
            ["mix=additive", SAMPLED, "divergence.estimator={kind: truncated, cap: 0.5}"],
            ["mix=additive", SAMPLED],
            "divergence.estimator: truncated is k1 under mix: additive",
        ),
        (
            ["mix=multiplicative", "weight=gap_gate", "unit={kind: turn, reduce: sum}"],
            ["mix=multiplicative", "weight=gap_gate", "unit=turn"],
            "unit.reduce changes nothing as the rest is set",
        ),
        (
            ["weight=[entropy, {kind: depth_decay, gamma: 1}]"],
            ["weight=entropy"],
            "weight.1: depth_decay as it is set counts every token alike",
        ),
        (
            ["unit={kind: decision_point, floor: 1}"],
            ["unit=token"],
            "unit: decision_point with floor: 1 is unit: token exactly",
        ),
        (
            ["unit={kind: decision_point, share: 1, use: credit}", SAMPLED],
            ["unit=turn", SAMPLED],
            "unit: decision_point with share: 1, use: credit is unit: turn exactly",
        ),
        (
            ["mix={kind: reward, score: unit}", _rubric(", use: credit, floor: 0.5")],
            ["mix={kind: reward, score: unit}", _rubric()],
            "unit.floor changes nothing as the rest is set",
        ),
        (
            ["mix=rl", _rubric(", use: reward")],
            ["mix=rl"],
            "unit: rubric_span changes nothing under mix: rl, which does not read it",
        ),
    ],
)
def test_what_is_said_to_be_another_method_is(
    scene: Scene, overrides: list[str], same: list[str], says: str
) -> None:
    assert not _differ(_gradient(scene, *overrides), _gradient(scene, *same))
    assert [says in notice for notice in _config(*overrides).notices()].count(True) == 1
    assert not any(says in notice for notice in _config(*same).notices())


@pytest.mark.parametrize(
    "overrides",
    [
        ["mix=multiplicative", "weight=gap_gate", "mix.strength=0.1"],
        ["mix={kind: trust_ratio, share: 0.1}"],
        ["mix=additive", SAMPLED, "divergence.estimator=importance", "divergence.kind=forward_kl"],
        ["mix=auxiliary", SAMPLED, "divergence.estimator=truncated"],
        ["mix=multiplicative", "weight=gap_gate", "unit={kind: turn, use: weight, reduce: sum}"],
        ["unit={kind: decision_point, share: 1, most: 2}"],
        ["unit={kind: decision_point, share: 1, threshold: 0.1}"],
        ["mix={kind: reward, score: unit}", _rubric()],
        [_rubric(", use: reward")],
        [_rubric(", use: reward"), SAMPLED, "divergence.estimator=clipped"],
    ],
)
def test_what_means_what_it_says_has_no_notice(overrides: list[str]) -> None:
    assert _config(*overrides).notices() == []


def test_every_configuration_here_means_what_it_says() -> None:
    for path in sorted(CONFIGS.rglob("*.yaml")):
        if path.parent.name == "scale":  # accelerate's own
            continue
        if path.parent.name == "methods":
            arms = [load_config(CONFIGS / "quickstart.yaml", [f"method={path.stem}"])]
        else:
            run = load_config(path)
            names = run.study.arms if run.study else ()
            arms = [run, *(arm_config(run, arm, seed=0) for arm in names)]
        for arm in arms:
            # that a row changes what the quickstart says is no fault of either
            idle = [said for said in arm.notices() if not said.startswith("method: ")]
            assert idle == [], path
