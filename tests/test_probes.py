"""Probes: values of tokens, answers and episodes by hand; means by turn and by success."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trajectories import lessons_of, played, tokens_of

from agentopd.base.types import Briefed, EndReason, Privilege, Trajectory, View
from agentopd.divergences.kl import ReverseKL
from agentopd.divergences.linear import measure
from agentopd.divergences.question import Question
from agentopd.models.head import Head
from agentopd.models.phrases import inserted_phrases, phrases
from agentopd.probes.answers import answer_probes, episode_probes
from agentopd.probes.collector import Collector, jsonable
from agentopd.probes.rollout import env_metrics, rollout_probes
from agentopd.probes.settings import ProbeSettings
from agentopd.probes.token import channel_ratios, overlap, overlap_advantage, token_probes
from agentopd.running.evaluate import score
from agentopd.signal.evidence import Kept, Measured, Opinion

# N tokens, V vocabulary, K kept tokens

SOLVED = played([10, 11], [12], infos=[{}, {"success": True}], episode=0)
LOST = played([13], [14, 15], [16], infos=[{}, {}, {"success": False}], episode=1)
HALF = math.log(2)


def _head(probabilities: Sequence[Sequence[float]]) -> Head:
    """A model that gives these probabilities: its hidden states pick rows of its output layer."""
    logits_NV = torch.tensor(probabilities).log()
    return Head(torch.eye(len(logits_NV)), logits_NV.T.contiguous())


def _kept(student: Sequence[float], teacher: Sequence[float], top: int) -> Kept:
    """The `top` likeliest tokens of each model, of one token."""
    p_V, q_V = torch.tensor(student), torch.tensor(teacher)
    ids_K = torch.cat([p_V.topk(top).indices, q_V.topk(top).indices])
    return Kept(ids_K[None], p_V.log()[None, ids_K], q_V.log()[None, ids_K])


def test_token_probes_by_hand() -> None:
    student = _head([[0.5, 0.3, 0.2], [0.25, 0.5, 0.25]])
    teacher = _head([[0.25, 0.25, 0.5], [0.25, 0.5, 0.25]])
    question = Question(torch.tensor([0, 1]), ReverseKL(), keep=2)
    found = token_probes(measure(question, student, teacher), lessons_of(played([0, 1])), top=2)
    divergence = 0.5 * HALF + 0.3 * math.log(1.2) + 0.2 * math.log(0.4)
    entropy = -(0.5 * math.log(0.5) + 0.3 * math.log(0.3) + 0.2 * math.log(0.2))
    assert {name: value_N.tolist()[0] for name, value_N in found.items()} == pytest.approx(
        {
            "divergence": divergence,
            "mass": 1.0,
            "log_ratio": HALF,
            "student_entropy": entropy,
            "teacher_entropy": 1.5 * HALF,
            "entropy_gap": 1.5 * HALF - entropy,
            # The student's two likeliest are 0 and 1, the teacher's 2 and either of the others.
            "overlap": 0.5,
            # One shared token has all the mass in both, renormalised.
            "overlap_advantage": 0.0,
        },
        rel=1e-5,
        abs=1e-7,
    )
    agreed = {n: value_N.tolist()[1] for n, value_N in found.items() if "entropy" not in n}
    assert agreed.pop("overlap") == agreed.pop("mass") == pytest.approx(1.0)
    assert set(agreed.values()) == {0.0}
    assert not any(value_N.requires_grad for value_N in found.values())


def test_a_sampled_method_has_no_divergence_to_probe() -> None:
    measured = measure(Question(torch.tensor([0]), None), _head([[0.5, 0.5]]), _head([[0.2, 0.8]]))
    found = token_probes(measured, lessons_of(played([0])))
    assert set(found) == {"log_ratio", "student_entropy", "teacher_entropy", "entropy_gap"}


def test_overlap_is_the_share_of_the_likeliest_that_both_name() -> None:
    falling = torch.arange(32, 0, -1.0) / 528
    for shift, share in ((0, 1.0), (4, 0.75), (16, 0.0)):
        kept = _kept(falling.tolist(), falling.roll(shift).tolist(), 16)
        assert overlap(kept, 16).tolist() == [share]
    # Of more that were kept, the first are taken: tokens 0 and 1 against 4 and 5.
    assert overlap(_kept(falling.tolist(), falling.roll(4).tolist(), 16), 2).tolist() == [0.0]
    assert overlap(_kept(falling.tolist(), falling.tolist(), 16), 99).tolist() == [1.0]


def test_the_overlap_advantage_by_hand() -> None:
    # Shared by both first threes: tokens 1 and 2; there p = (.3, .2) / .5 and q = (.2, .6) / .8.
    kept = _kept([0.4, 0.3, 0.2, 0.1], [0.05, 0.2, 0.6, 0.15], 3)
    expected = (0.6 * math.log(0.25 / 0.6) + 0.4 * math.log(0.75 / 0.4)) / 2
    assert expected < 0
    assert overlap_advantage(kept, 3).tolist() == pytest.approx([expected])


def test_what_shares_nothing_has_no_overlap_advantage() -> None:
    kept = _kept([0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4], 2)
    assert overlap_advantage(kept, 2).isnan().tolist() == [True]
    other = _kept([0.6, 0.3, 0.1], [0.2, 0.7, 0.1], 2)
    both = Kept(
        torch.cat([kept.ids_NK, other.ids_NK]),
        torch.cat([kept.student_NK, other.student_NK]),
        torch.cat([kept.teacher_NK, other.teacher_NK]),
    )
    missing, known = overlap_advantage(both, 2).tolist()
    assert math.isnan(missing) and known < 0


probabilities = st.lists(st.floats(0.01, 1), min_size=6, max_size=6)


@given(probabilities, probabilities, st.integers(1, 6))
def test_the_overlap_advantage_is_never_positive(p: list[float], q: list[float], top: int) -> None:
    value = overlap_advantage(_kept(p, q, top), top).item()
    assert math.isnan(value) or value <= 1e-9
    assert abs(overlap_advantage(_kept(p, p, top), top).item()) < 1e-9


def test_the_effect_of_privilege_is_told_less_untold() -> None:
    told_N = torch.tensor([-1.0, -2.0, -0.5])
    opinion = Opinion(told_N, torch.zeros(3), told_N)
    asked, other = lessons_of(played([1, 2]), played([3], episode=1))
    lessons = [replace(asked, untold_N=torch.tensor([-1.5, -1.0])), other]
    found = token_probes(Measured(opinion, opinion), lessons)
    assert found["pi_effect"][:2].tolist() == [0.5, -1.0]
    assert found["pi_effect_size"][:2].tolist() == [0.5, 1.0]
    assert found["pi_effect"][2:].isnan().all()
    assert "pi_effect" not in token_probes(Measured(opinion, opinion), [asked, other])


def _view(trajectory: Trajectory, *insertions: tuple[int, list[int]]) -> View:
    """The teacher's context with ids inserted before places of the student's."""
    ids, position = [], []
    for place, token in enumerate(trajectory.ids.tolist()):
        ids += [i for at, inserted in insertions if at == place for i in inserted]
        position.append(len(ids))
        ids.append(token)
    return View(
        briefed=Briefed(trajectory=trajectory, privileges=()),
        ids=np.array(ids),
        position=np.array(position),
        segments=((0, len(ids)),),
    )


def test_a_leak_repeats_what_only_the_teacher_was_shown() -> None:
    # ids: 1 1 5 6 7 | 1 1 5 6 7 8 | 1 1 6 7 8
    trajectory = played([5, 6, 7], [5, 6, 7, 8], [6, 7, 8])
    view = _view(trajectory, (1, [5, 6, 7, 8]))
    assert inserted_phrases(view, 3) == {(5, 6, 7), (6, 7, 8)}
    # The second answer repeats 5 6 7, which by then it had said, and 6 7 8, which it had not; the
    # third only what it had said.
    assert answer_probes(trajectory, view, 3)["leak"] == [1, 1, 0]
    assert answer_probes(trajectory, view, 4)["leak"] == [0, 1, 0]
    assert all(math.isnan(v) for v in answer_probes(trajectory, view, 5)["leak"])
    assert all(math.isnan(v) for v in answer_probes(trajectory, None, 3)["leak"])
    assert all(math.isnan(v) for v in answer_probes(trajectory, _view(trajectory), 3)["leak"])


def test_what_was_written_by_one_who_read_the_answers_is_no_leak() -> None:
    trajectory = played([5, 6, 7, 8])
    view = _view(trajectory, (1, [5, 6, 7]))
    quoting = Privilege(source="reflection", text="", quotes=True)
    for told, leak in (((), [1.0]), ((quoting,), [math.nan])):
        shown = replace(view, briefed=replace(view.briefed, privileges=told))
        np.testing.assert_array_equal(answer_probes(trajectory, shown, 3)["leak"], leak)


def test_what_the_student_could_read_itself_is_no_leak() -> None:
    trajectory = played([9], [5, 6, 7])
    assert answer_probes(trajectory, _view(trajectory, (1, [5, 6, 7])), 3)["leak"] == [0, 1]
    known = played([9], [5, 6, 7], observed=4)
    shown = known.ids.copy()
    shown[:3] = (5, 6, 7)
    known = replace(known, ids=shown)
    assert answer_probes(known, _view(known, (4, [5, 6, 7])), 3)["leak"] == [0, 0]


def test_no_secret_runs_across_the_bounds_of_an_insertion() -> None:
    trajectory = played([5, 6, 7])
    view = _view(trajectory, (0, [5, 6]), (1, [7, 8]), (3, [9]))
    assert inserted_phrases(view, 2) == {(5, 6), (7, 8)}
    assert inserted_phrases(view, 1) == {(5,), (6,), (7,), (8,), (9,)}


def test_repetition_is_the_share_of_phrases_that_stood_there_before() -> None:
    # 5 6 | 6 5 | 5 6 | 6 5: four phrases, two of them for the second time
    trajectory = played([5, 6, 5, 6, 5], [5, 6, 7], [5], [5, 5, 5, 5, 5])
    assert phrases([5, 6, 5, 6, 5], 2) == [(5, 6), (6, 5), (5, 6), (6, 5)]
    found = answer_probes(trajectory, None, 2)["repetition"]
    assert found[:2] == [0.5, 0.0]
    assert math.isnan(found[2])
    assert found[3] == 0.75


def test_answers_that_cannot_be_read_or_were_cut_are_marked() -> None:
    trajectory = played([5], [6], infos=[{"action_valid": False}, {}])
    cut = replace(trajectory.turns[1], cut=True)
    trajectory = replace(trajectory, turns=(trajectory.turns[0], cut))
    found = answer_probes(trajectory, None, 2)
    assert (found["invalid"], found["cut"]) == ([1, 0], [0, 1])


def test_episodes_are_measured_by_their_turns_ends_and_compression() -> None:
    def spoken(text: str, end: EndReason = EndReason.TERMINATED) -> Trajectory:
        trajectory = played([5], [6], end=end)
        turns = tuple(replace(turn, action=text) for turn in trajectory.turns)
        return replace(trajectory, turns=turns)

    circles, plain = spoken("again and " * 200), spoken("go")
    assert episode_probes(circles)["compression"][0] > 10
    assert episode_probes(plain)["compression"][0] < 1
    assert math.isnan(episode_probes(played())["compression"][0])
    assert episode_probes(plain)["turns"] == [2]
    ends = {EndReason.TURN_LIMIT: 1, EndReason.TRUNCATED: 1, EndReason.CONTEXT_LIMIT: 1}
    ends |= {EndReason.TOKEN_LIMIT: 1, EndReason.TERMINATED: 0, EndReason.ERROR: 0}
    assert {end: episode_probes(spoken("go", end))["truncated"][0] for end in EndReason} == ends


def test_the_ratio_of_the_channels_gradients() -> None:
    norms = {"hidden_gradient_distil": 1.0, "hidden_gradient_rl": 4.0}
    assert channel_ratios(norms) == {"gradient_ratio": 0.25}
    assert channel_ratios({"hidden_gradient_rl": 4.0}) == {"gradient_ratio": 0.0}
    assert channel_ratios({"hidden_gradient_distil": 1.0, "hidden_gradient_rl": 0.0}) == {}
    assert channel_ratios({}) == {}


def test_the_ratio_of_the_channels_parts_of_one_advantage() -> None:
    norms = {"advantage_distil": 1.0, "advantage_rl": 4.0}
    assert channel_ratios(norms) == {"advantage_ratio": 0.25}
    assert channel_ratios({"advantage_rl": 4.0}) == {"advantage_ratio": 0.0}
    assert channel_ratios({"advantage_distil": 1.0, "advantage_rl": 0.0}) == {}


def _numbered(*batches: tuple[Trajectory, ...]) -> Collector:
    """A probe that is 1, 2, 3, ... over the tokens of all batches."""
    collector, seen = Collector(), 0.0
    for batch in batches:
        tokens = tokens_of(*batch)
        solved_N = torch.tensor([t.success for t in batch])[tokens.lesson_N]
        value_N = torch.arange(1.0, len(tokens) + 1) + seen
        collector.add({"number": value_N}, solved_N, tokens.turn_N)
        seen += len(tokens)
    return collector


def test_means_by_turn_and_by_success() -> None:
    # SOLVED holds 1 2 | 3, LOST 4 | 5 6 | 7
    collector = _numbered((SOLVED, LOST))
    found = collector.result()
    assert found["by_turn"] == {
        "count": [3, 3, 1],
        "number": pytest.approx([7 / 3, 14 / 3, 7.0]),
    }
    assert found["by_success"] == {"solved": {"number": 2.0}, "unsolved": {"number": 5.5}}
    assert collector.means() == {"number": 4.0}


def test_means_do_not_depend_on_the_micro_batches() -> None:
    assert _numbered((SOLVED,), (LOST,)).result() == _numbered((SOLVED, LOST)).result()


def test_a_group_without_a_value_has_no_mean() -> None:
    assert _numbered((LOST,)).result()["by_success"]["solved"] == {"number": None}


def test_what_is_missing_counts_nowhere_and_what_is_infinite_has_no_mean() -> None:
    collector = Collector()
    nan, inf = math.nan, math.inf
    collector.add(
        {"some": torch.tensor([1.0, nan, nan]), "none": torch.full((3,), nan),
         "wild": torch.tensor([1.0, inf, 2.0])},
        torch.tensor([True, True, False]),
        torch.tensor([0, 0, 2]),
    )  # fmt: skip
    found = collector.result()
    assert found["by_turn"] == {
        "count": [2, 0, 1], "some": [1.0, None, None], "wild": [None, None, 2.0],
    }  # fmt: skip
    assert found["by_success"]["solved"] == {"some": 1.0, "wild": None}
    assert found["by_success"]["unsolved"] == {"some": None, "wild": 2.0}
    assert collector.means() == {"some": 1.0}
    json.dumps(found, allow_nan=False)


def test_without_a_teacher_answers_alone_are_probed() -> None:
    assert Collector().result() == {"by_turn": {}, "by_success": {}}
    collector = Collector()
    collector.add_answers([SOLVED, LOST], [])
    collector.add_answers([], [])
    found = collector.result()
    assert found["by_turn"] == {
        "count": [2, 2, 1], "invalid": [0, 0, 0], "cut": [0, 0, 0],
    }  # fmt: skip
    assert found["by_success"]["unsolved"]["turns"] == 3
    assert collector.means() == {"compression": pytest.approx(0.1, abs=0.1)}


def test_probes_that_are_off_see_nothing() -> None:
    collector = Collector(ProbeSettings(enabled=False))
    collector.add_answers([SOLVED], [])
    opinion = Opinion(*torch.zeros(3, 3))
    collector.add_tokens(Measured(opinion, opinion), tokens_of(SOLVED), lessons_of(SOLVED))
    assert collector.result() == {"by_turn": {}, "by_success": {}}
    assert ProbeSettings(enabled=False).keep == 0
    assert not ProbeSettings(enabled=False).pi_effect_due(0, 5)


def test_weights_are_probed_before_they_are_rescaled() -> None:
    collector, opinion = Collector(), Opinion(*torch.zeros(3, 3))
    tokens, gates = tokens_of(SOLVED), {"gap_gate": torch.tensor([0.5, 0.1, 0.2])}
    collector.add_tokens(Measured(opinion, opinion), tokens, lessons_of(SOLVED), gates)
    assert collector.result()["by_turn"]["gate_gap_gate"] == pytest.approx([0.3, 0.2])
    collector.add_tokens(Measured(opinion), tokens, lessons_of(SOLVED), gates)
    assert collector.result()["by_turn"]["count"] == [2, 1]


def test_the_teacher_is_asked_without_privilege_now_and_then() -> None:
    settings = ProbeSettings(pi_effect_every=10)
    assert [s for s in range(25) if settings.pi_effect_due(s, 25)] == [0, 10, 20, 24]
    assert not any(ProbeSettings(pi_effect_every=0).pi_effect_due(s, 9) for s in range(9))


def test_rollout_probes_are_shares_of_episodes_and_of_turns() -> None:
    clumsy = played(
        [10],
        [11],
        infos=[{"action_valid": False}, {}],
        rewards=[0.0, 0.5],
        end=EndReason.TURN_LIMIT,
    )
    clumsy = replace(clumsy, turns=(clumsy.turns[0], replace(clumsy.turns[1], cut=True)))
    failed = played([12], end=EndReason.ERROR)
    found = rollout_probes([SOLVED, LOST, clumsy, failed])
    assert found == {
        "success": 0.25,
        "reward": 0.125,
        "turns": 2.0,
        "invalid": 1 / 8,
        "cut": 1 / 8,
        "truncated": 0.25,
        "errors": 0.25,
        "new_segments": 0.0,
    }


def test_an_environments_own_numbers_are_means_over_the_episodes_that_tell_them() -> None:
    told = [
        [{"metrics": {"calls": 9.0}}, {"metrics": {"calls": 2, "score": 0.5, "odd": "x"}}],
        [{"metrics": {"calls": 5.0, "score": math.nan}}],
        [{"metrics": {"score": 1.5, "far": math.inf}}],
        [{"metrics": "none"}],
        [{"metrics": {"score": 7.0}}, {}],
    ]
    episodes = [played(*([10] for _ in infos), infos=infos) for infos in told]
    found = {"env/calls": 3.5, "env/score": 1.0}
    assert env_metrics([*episodes, played()]) == found
    assert found.items() <= rollout_probes(episodes).items()


def test_an_evaluation_is_summarised_by_task() -> None:
    def episode(task_id: str, success: bool) -> Trajectory:
        made = played([10], infos=[{"success": success, "metrics": {"score": float(success)}}])
        return replace(made, prompt={"task_id": task_id})

    def summarise(solved: Mapping[str, Sequence[bool]]) -> dict[str, float]:
        assert solved == {"a": [True, False], "b": [True]}
        return {"both": 0.5}

    episodes = [episode("a", True), episode("b", True), episode("a", False)]
    found = score(episodes, summarise)
    assert (found["env/both"], found["env/score"]) == (0.5, 2 / 3)
    assert "env/both" not in score(episodes)
    assert "env/both" not in score([played([10])], summarise), "nobody knows its task"


def test_rollout_probes_of_no_episodes_are_zero() -> None:
    assert set(rollout_probes([]).values()) == {0.0}


def test_json_has_no_form_for_what_is_not_finite() -> None:
    line: dict[str, Any] = {"a": [1.5, math.nan, (math.inf, "x")], "b": {"c": -math.inf, "d": None}}
    assert jsonable(line) == {"a": [1.5, None, [None, "x"]], "b": {"c": None, "d": None}}
