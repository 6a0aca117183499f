"""Rows that bound, window or weigh the log-ratio of a teacher: in other rows' words, or by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scenes import ENV, Scene, assert_same, scene_of, taught
from trajectories import evidence_of, lessons_of, opinion_of, played, tokens_of

from agentopd.divergences.bounds import Bounded, Windowed
from agentopd.divergences.targets import Floored
from agentopd.learning.method import AXES
from agentopd.mixes.channels import Channels, Reinforcement
from agentopd.mixes.routing import Routed
from agentopd.models.model import ModelSettings, load_model
from agentopd.running.config import RunConfig
from agentopd.running.reading import parse_config, stage_configs
from agentopd.running.stages.references import Left, resolved
from agentopd.signal.evidence import Measured, Opinion
from agentopd.teachers.copies import FrozenTeacher

GROUPED = ("rollout.tasks=2", "rollout.group=4")
SAMPLED = "divergence={kind: reverse_kl, support: sampled}"
ALL = -1e9
"""A floor that nothing is below."""


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


def _row(name: str, *changes: str) -> RunConfig:
    return parse_config(ENV, [f"method={name}", *changes])


def _axes(config: RunConfig, *without: str) -> dict[str, Any]:
    dumped = config.model_dump(mode="json")
    return {axis: dumped[axis] for axis in AXES if axis not in without}


def _last(name: str) -> RunConfig:
    """The last stage of a row in stages."""
    return stage_configs(_row(name))[-1][1]


def test_sdpo_tr_is_sdpo_with_another_teacher() -> None:
    assert _axes(_row("sdpo_tr"), "teacher") == _axes(_row("sdpo"), "teacher")


def test_revisit_opd_on_all_tokens_is_opd(scene: Scene) -> None:
    whole = ("rollout.top_p=1", f"divergence.support.k={scene.student.vocabulary}")
    revisit = scene.gradient("method=revisit_opd", *GROUPED, *whole)
    assert_same(revisit, scene.gradient("method=opd", *GROUPED))
    assert not torch.equal(revisit, scene.gradient("method=revisit_opd", *GROUPED))


@pytest.mark.parametrize("switch", [0, 1])
def test_reopold_that_leaves_nothing_out_is_opd_by_the_sampled_token(
    scene: Scene, switch: int
) -> None:
    """In either phase, and its floors and masks do something."""
    mask = f"weight=[{{kind: phased_mask, switch: {switch}, floor: %s, share: %s}}]"
    same = ("rollout.temperature=1", *GROUPED)
    opd = scene.gradient("method=opd", SAMPLED, *same)
    bare = (f"divergence.estimator.floor={ALL}", mask % (ALL, 1))
    assert_same(scene.gradient("method=reopold", *same, *bare), opd)
    held = scene.gradient("method=reopold", *same, mask % (-1.386, 0.5))
    assert (held - opd).norm() > 1e-2 * opd.norm()


def test_reopold_at_first_holds_ratios_at_its_floor_and_leaves_out_what_is_below() -> None:
    """lambda 0.2 is a floor of -1.386: of ratios of -3, -1 and 0.5 nats the first is held, and
    masked.
    """
    row, one, ratios = _row("reopold"), played([5, 6, 7]), [-3.0, -1.0, 0.5]
    student, teacher = (torch.zeros(3), torch.tensor(ratios))
    estimator, (mask,) = row.divergence.estimated_by, row.weight
    assert isinstance(estimator, Bounded)
    assert estimator.floor == pytest.approx(math.log(0.2 / 0.8))
    held_N = estimator.per_token(student, teacher, tokens_of(one))
    assert held_N.tolist() == pytest.approx([math.log(0.25), -1, 0.5])
    chances = [0.01 * math.exp(ratio) for ratio in ratios]
    seen = evidence_of(opinion_of([0.01] * 3), opinion_of(chances), one)
    assert mask.raw(seen).tolist() == [0, 1, 1]
    assert mask.of(seen).tolist() == pytest.approx([0, 1.5, 1.5])


def test_reopold_later_keeps_the_half_at_which_the_student_is_undecided() -> None:
    (mask,) = _row("reopold").weight
    student = opinion_of([0.5] * 4, entropies=[0.1, 0.9, 0.3, 0.7])
    seen = evidence_of(student, opinion_of([1e-9] * 4), played([5, 6], [7, 8]), step=8)
    assert mask.raw(seen).tolist() == [0, 1, 0, 1]


def test_scope_without_temperature_is_routed_without_weights(scene: Scene) -> None:
    weight = "{kind: teacher_perplexity, per: episode, relative_to: group, renormalise: off, "
    hot = ("mix.perplexity_temperature=1e9", f"weight=[{weight} temperature: 1e9}}]")
    cool = f"weight=[{weight} most: 1000}}]"
    same = ("rollout.temperature=1", *GROUPED)
    routed = "mix={kind: routed, success: likelihood, failure: distil}"
    plain = scene.gradient(SAMPLED, routed, *same)
    assert_same(scene.gradient("method=scope", *hot, *same), plain)
    assert (scene.gradient("method=scope", cool, *same) - plain).norm() > 1e-3 * plain.norm()


@pytest.mark.parametrize(
    ("prefers", "shares"), [("unsure", [0.538, 1.462]), ("sure", [1.462, 0.538])]
)
def test_scope_weighs_solved_episodes_by_what_the_student_was_sure_of(
    prefers: str, shares: list[float]
) -> None:
    """Mean log-probabilities of -1 and -2, at temperature 1, as the text and as the code has it."""
    mix = _row("scope", f"mix.prefers={prefers}").mix
    assert isinstance(mix, Routed)
    pair = [
        played([5, 6], infos=[{"success": True}], logprob=logprob, episode=n)
        for n, logprob in enumerate((-1.0, -2.0))
    ]
    routes = mix.routes(lessons_of(*pair))
    assert [routes[n].likelihood for n in (0, 1)] == pytest.approx(shares, abs=1e-3)


def test_scope_weighs_failed_episodes_by_what_the_teacher_finds_likely() -> None:
    (weight,) = _row("scope").weight
    pair = [played([5, 6], episode=n) for n in (0, 1)]
    teacher = opinion_of([math.exp(-1)] * 2 + [math.exp(-2)] * 2)
    seen = evidence_of(opinion_of([0.5] * 4), teacher, *pair)
    assert weight.of(seen).tolist() == pytest.approx([1.462, 1.462, 0.538, 0.538], abs=1e-3)


def test_rlad_without_its_teacher_is_grpo(scene: Scene) -> None:
    grpo = scene.gradient("mix={kind: rl, rl: {kind: grpo, clip: 0.2}}", *GROUPED)
    assert_same(scene.gradient("method=rlad", "mix.share=0", *GROUPED), grpo)
    assert (scene.gradient("method=rlad", *GROUPED) - grpo).norm() > 1e-3 * grpo.norm()


def test_rlad_learns_nothing_without_an_advantage(scene: Scene) -> None:
    failed = [x for x in scene.lessons if not x.trajectory.success]
    alone = [x.trajectory for x in failed]
    update, gradient, _ = scene.learn("method=rlad", *GROUPED, lessons=failed, trajectories=alone)
    assert gradient is None and update.skipped


@pytest.mark.parametrize(("clamp", "slope"), [(20.0, math.exp(5)), (5.0, 0.5 * math.exp(2.5))])
def test_rlad_holds_how_far_the_teacher_may_be_away(clamp: float, slope: float) -> None:
    """A token that the teacher likes less by 10 nats, of advantage -1, at alpha 0.5: the ratio is
    (p / q)^0.5, or (p / p_old)^0.5 times what the bound leaves; the first moves with all of p, the
    second with half of it.
    """
    mix, live_N = _row("rlad", f"mix.clamp={clamp}").mix, torch.tensor([-1.0], requires_grad=True)
    one_N, none_N, rule = torch.ones(1), torch.zeros(1), mix.rl_channel
    assert rule is not None
    channels = Channels(
        measured=Measured(
            student=Opinion(live_N, none_N, none_N),
            teacher=Opinion(torch.tensor([-11.0]), none_N, none_N),
        ),
        behaviour_N=torch.tensor([-1.0]),
        strength=1.0,
        distillation=None,
        reinforcement=Reinforcement(rule, -one_N, one_N, one_N, none_N, none_N.bool()),
    )
    mix.terms(channels)["rl"].backward()
    assert live_N.grad is not None
    assert live_N.grad.item() == pytest.approx(slope, rel=1e-5)


def test_eopd_of_a_sure_teacher_is_opd(scene: Scene) -> None:
    sure = scene.gradient("method=eopd", "divergence.threshold=100", "rollout.tasks=2")
    assert_same(sure, scene.gradient("method=opd", "rollout.tasks=2"))


def test_eopd_of_an_undecided_teacher_adds_the_forward_kl_on_its_likeliest_tokens(
    scene: Scene,
) -> None:
    small = "rollout.tasks=2"
    both = scene.gradient("method=eopd", "divergence.threshold=0", small)
    forward = "divergence={kind: forward_kl, support: {kind: teacher_top_k, k: 16, rest: raw}}"
    opd, added = (scene.gradient("method=opd", small, *x) for x in ((), (forward,)))
    assert_same(both, opd + added, within=1e-5)
    assert added.norm() > 1e-2 * opd.norm()


def test_resd_holds_the_teacher_at_a_fifth_of_the_student() -> None:
    target = _row("resd").divergence.target
    assert isinstance(target, Floored)
    p_NK, q_NK = torch.tensor([[0.2, 0.8]]).log(), torch.tensor([[0.01, 0.99]]).log()
    assert target.of(p_NK, q_NK, None).exp()[0].tolist() == pytest.approx([0.04, 0.99])


def test_resd_counts_rare_outcomes_more() -> None:
    """Of four episodes one is solved: 3/4 for it and 1/4 for the others, of mean 1."""
    (weight,) = _row("resd").weight
    four = [played([5], infos=[{"success": n == 0}], episode=n, task=n) for n in range(4)]
    said = opinion_of([0.5] * 4)
    assert weight.of(evidence_of(said, said, *four)).tolist() == pytest.approx([2, *[2 / 3] * 3])
    assert weight.of(evidence_of(said, said, *four[1:])).tolist()[:3] == [1, 1, 1]


def test_exopd_may_be_extrapolated_from_the_teachers_own_base(
    scene: Scene, tiny_model: Path
) -> None:
    """Of scale 0 it is the KL to that model; of scale 1 that to the teacher."""
    base, small = f"divergence.target.base={{path: {tiny_model}}}", "rollout.tasks=2"
    own = FrozenTeacher()
    own.prepare(load_model(ModelSettings(path=str(tiny_model))))
    anchored = replace(scene, teacher=own, lessons=taught(own, scene.trajectories))
    none = "schedule.target={kind: constant, value: 0}"
    found = scene.gradient("method=exopd", base, none, small)
    assert_same(found, anchored.gradient("method=opd", small))
    one = scene.gradient("method=exopd", base, "divergence.target.scale=1", small)
    assert_same(one, scene.gradient("method=opd", small))
    beyond = [scene.gradient("method=exopd", small, *x) for x in ([base], [])]
    assert not torch.equal(*beyond)


def test_a_second_reference_beside_that_base_is_refused() -> None:
    held = ("divergence.target.base={path: there}", "mix.kl_coefficient=0.1")
    with pytest.raises(ValueError, match="one reference is kept beside the student, not two"):
        _row("exopd", *held)


@pytest.mark.parametrize("row", ["mopd_mimo", "mopd_nemotron"])
def test_mopd_without_rewards_and_window_is_opd_by_the_sampled_token(
    scene: Scene, row: str
) -> None:
    wide = "mix.rl.window=[0, 1e9]" if row == "mopd_mimo" else "divergence.estimator.most=1e9"
    least = [] if row == "mopd_mimo" else ["divergence.estimator.least=0"]
    none = ["schedule.rl={kind: constant, value: 0}"] if row == "mopd_mimo" else []
    found = scene.gradient(f"method={row}", *GROUPED, wide, *least, *none)
    assert_same(found, scene.gradient("method=opd", SAMPLED, *GROUPED))


def test_mopd_leaves_out_what_student_and_sampler_see_too_differently() -> None:
    """Of ratios 0.4, 0.5, 1.5 and 2.1 the middle ones count, as they are and detached."""
    estimator = _row("mopd_nemotron").divergence.estimated_by
    rl = _row("mopd_mimo").mix.rl_channel
    assert isinstance(estimator, Windowed) and rl is not None
    before_N = torch.tensor([-1.0] * 4)
    for rule in (estimator.surrogate, rl.surrogate):
        live_N = (before_N + torch.tensor([0.4, 0.5 + 1e-6, 1.5, 2.1]).log()).requires_grad_()
        rule(live_N, before_N, torch.full((4,), 2.0)).sum().backward()
        assert live_N.grad is not None
        assert live_N.grad.tolist() == pytest.approx([0, -1, -3, 0], abs=1e-4)


def test_the_last_stage_of_vla_opd_is_opd_by_the_sampled_token() -> None:
    assert _axes(_last("vla_opd"), "rollout") == _axes(_row("tinker_opd"), "rollout")
    assert _last("vla_opd").rollout.group == 8


def test_the_last_stage_of_reopd_is_that_in_one_turn_of_the_teachers_episodes() -> None:
    last = _last("reopd")
    assert _axes(last, "rollout") == _axes(_row("tinker_opd"), "rollout")
    written = last.rollout.model_dump()
    assert (written["decay"], written["single"], written["path"]) == (0.6, True, "previous")


def test_sod_with_turns_alike_adds_the_sampled_log_ratio_to_grpo(scene: Scene) -> None:
    additive = "mix={kind: additive, coefficient: 1.0, rl: {kind: grpo}}"
    even = scene.gradient("method=sod", "weight=[]", *GROUPED)
    assert_same(even, scene.gradient(SAMPLED, additive, *GROUPED))
    (weight,) = _row("sod").weight
    said, turns = opinion_of([0.1] * 3), played([5], [6], [7])
    apart = opinion_of([0.1 * math.exp(d) for d in (0.1, 0.2, 0.4)])
    assert weight.of(evidence_of(said, apart, turns)).tolist() == pytest.approx(
        [1, 0.5, 0.25], abs=1e-4
    )


def test_the_cold_start_of_sod_is_seq_kd() -> None:
    cold = stage_configs(_row("sod"))[1][1]
    known = stage_configs(_row("seq_kd"))[1][1]
    assert _axes(cold, "rollout", "divergence") == _axes(known, "rollout", "divergence")


def test_mopd_glm5_ends_with_opd_from_what_the_student_was_after_each_stage() -> None:
    last = _last("mopd_glm5")
    assert _axes(last, "rollout", "teacher") == _axes(_row("tinker_opd"), "rollout", "teacher")
    assert last.rollout.group == 1
    left = Left("first")
    for leg, _ in stage_configs(_row("mopd_glm5"))[:-1]:
        left = left.trained(leg, f"{leg.name}'s", leg.folder)
    leg = stage_configs(_row("mopd_glm5"))[-1][0]
    teacher = resolved(last, leg, left).teacher.model_dump()
    paths = [x["source"]["path"] for x in (teacher["teachers"]["sokoban"], teacher["default"])]
    assert paths == ["reasoning's", "agentic's"]
