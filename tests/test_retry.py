"""Several attempts at a task: who attempts again, told what, and what is learnt from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from retries import ALL, STUDENT, bits, collect, ends_with, of, own_logprobs, text
from scenes import ENV
from test_hinted import Picky
from together import together

from agentopd.base.types import Attempt, EndReason, Owner
from agentopd.environment.contract import Info
from agentopd.parallel.processes import Processes
from agentopd.privilege.base import NoPrivilege, gather
from agentopd.privilege.peers import solved_peers
from agentopd.probes.rollout import rollout_probes
from agentopd.rollout.policies.base import Rollout
from agentopd.running.reading import parse_config
from agentopd.signal.groups import groups
from agentopd.signal.tokens import relearnt
from agentopd.stored.demonstrations import read_demonstrations
from agentopd.stored.trajectories import load_trajectories, save_trajectories


class Broken(Picky):
    """Raises at the second step."""

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        if self.turn:
            raise KeyError("door")
        return super().step(action)


@pytest.mark.parametrize("step", [0, 2])
def test_first_attempts_are_the_students_own_episodes(step: int) -> None:
    """To the bit, and under the same numbers: told nothing, they are those of `student`."""
    plain, found = collect(kind="student", step=step), collect(step=step)
    firsts = of(found, 0)
    assert list(firsts) == [t.episode for t in plain]
    assert bits(plain) == bits([replace(t, attempt=None) for t in firsts.values()])


@pytest.mark.parametrize("stop", ["solved", "never"])
def test_a_task_is_attempted_again_until_it_is_solved_or_always(stop: str) -> None:
    found = collect(attempts=3, stop=stop)
    for number in (1, 2):
        before, after = of(found, number - 1), of(found, number)
        open_ = {n for n, t in before.items() if stop == "never" or not t.success}
        assert set(after) == open_ and len(open_) > 3
        for first, t in after.items():
            one = before[first]
            assert (t.task, t.seed, t.prompt) == (one.task, one.seed, one.prompt)
    if stop == "solved":
        assert any(t.success for t in of(found, 0).values())


def test_all_numbers_differ() -> None:
    """Within a step, and from those of all other steps."""
    settings = {"attempts": 3, "learn": ALL, "learn_under": "both", "stop": "never"}
    one, other = collect(**settings), collect(step=1, **settings)
    numbers = [t.episode for t in (*one, *other)]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize(("place", "role"), [("system", "system"), ("observation", "user")])
def test_what_is_told_stands_in_the_prompt_and_is_noted(place: str, role: str) -> None:
    """The history that is kept is the one that was sampled under."""
    found = collect(place=place)
    before = of(found, 0)
    for first, t in of(found, 1).items():
        said = "|".join(turn.action for turn in before[first].turns)
        assert t.attempt and t.attempt.told == f"push {said}"
        assert ends_with(t, role, t.attempt.told) and t.told is None
        own = t.trainable
        assert own.any()
        np.testing.assert_allclose(t.logprob[own], own_logprobs(t)[own], atol=1e-4)


def test_of_both_histories_one_holds_what_was_told_and_the_other_nothing() -> None:
    """The same answers with the same log-probabilities; tokens that were drawn count once."""
    found, hint = collect(learn_under="both"), collect(learn_under="hint")
    plain = collect(learn_under="plain")
    read, untold = of(found, 1), of(found, 1, "untold")
    assert bits(list(read.values())) == bits(list(of(hint, 1).values()))
    assert read.keys() == untold.keys() == of(plain, 1).keys()
    firsts = of(found, 0)
    for first, one in read.items():
        other = untold[first]
        assert text(other, "system") == text(firsts[first], "system") == "rules"
        np.testing.assert_array_equal(other.ids, of(plain, 1)[first].ids)
        np.testing.assert_array_equal(other.told, other.trainable)
        np.testing.assert_array_equal(one.logprob[one.trainable], other.logprob[other.trainable])
        for mine, theirs in zip(one.turns, other.turns, strict=True):
            answer = one.ids[mine.start : mine.stop]
            np.testing.assert_array_equal(answer, other.ids[theirs.start : theirs.stop])
            assert mine.act - mine.start == theirs.act - theirs.start
        assert one.student_tokens > 0 == other.student_tokens


def test_untold_ratios_begin_at_the_plain_history() -> None:
    """What the learner puts in place of the log-probabilities that were sampled with."""
    for t in of(collect(learn_under="both"), 1, "untold").values():
        own = own_logprobs(t)[t.trainable]
        np.testing.assert_allclose(relearnt(t, own).logprob[t.trainable], own)
        assert abs(t.logprob[t.trainable] - own).max() > 1e-3


def test_a_reflection_is_an_episode_of_the_students_own() -> None:
    """In a conversation of its own; told to the next attempt, whose reward it is paid."""
    found = collect(recalls=["reflection"], learn=ALL, reflection_tokens=8)
    firsts, written, after = of(found, 0), of(found, 0, "written"), of(found, 1)
    assert written.keys() == after.keys() == {n for n, t in firsts.items() if not t.success}
    assert {t.success for t in after.values()} == {True, False}
    for first, t in written.items():
        own, attempt = t.trainable, after[first].attempt
        assert text(t, "system") == "why" and set(t.owner[own]) == {Owner.STUDENT}
        np.testing.assert_allclose(t.logprob[own], own_logprobs(t)[own], atol=1e-4)
        assert len(t.turns) == 1 and own.sum() <= 8 and t.reward == after[first].reward
        said = t.turns[0].action.split("<think>")[0].strip()  # thoughts are told to nobody
        assert attempt and attempt.told.endswith(f" wait {said}")
        assert (t.task, t.seed, t.env) == (
            firsts[first].task,
            firsts[first].seed,
            firsts[first].env,
        )
        assert not t.success and t.prompt == firsts[first].prompt


def test_what_was_said_of_an_attempt_is_an_answer_that_nobody_sampled() -> None:
    """Asked as for a reflection, of failed attempts that are followed by another."""
    found = collect(learn=["first", "later", "feedback"])
    foreseen = of(found, 0, "foreseen")
    assert foreseen.keys() == of(found, 1).keys()
    for t in foreseen.values():
        said = t.ids[t.trainable].tolist()
        assert said == [*STUDENT.template.encode_content("left so"), STUDENT.template.closing]
        assert set(t.owner[t.trainable]) == {Owner.DEMO} and np.isnan(t.logprob).all()
        assert not t.acts and t.student_tokens == 0 and not t.error
    plain = collect()
    assert bits(plain) == bits([t for t in found if t.acts])


def test_what_nobody_sampled_is_refused_where_samples_are_learnt_from() -> None:
    learns = "rollout={kind: retry, learn: [first, later, feedback], group: 2}"
    parse_config(ENV, [learns, "mix=retried"])
    with pytest.raises(ValueError, match="gives what others wrote"):
        parse_config(ENV, [learns, "mix=rl"])


def test_with_one_attempt_a_reflection_is_all_that_follows() -> None:
    found = collect(attempts=1, learn=["first", "reflections"])
    failed = {n for n, t in of(found, 0).items() if not t.success}
    assert set(of(found, 0, "written")) == failed and not of(found, 1)


@pytest.mark.parametrize("learn", [["first"], ["later"], ["reflections"], list(ALL)])
def test_what_is_learnt_from_changes_nothing_that_is_played(learn: list[str]) -> None:
    settings = {"recalls": ["reflection"], "learn_under": "both"}
    found, whole = collect(learn=learn, **settings), collect(learn=ALL, **settings)
    assert bits(found) == bits(whole)
    for t in found:
        assert t.attempt
        name = (
            "reflections" if t.attempt.kind == "written" else ("first", "later")[t.attempt.number]
        )
        assert t.trainable.any() == (name in learn)


def test_attempts_are_compared_with_the_same_attempts_of_their_group() -> None:
    found = collect(learn=ALL, learn_under="both", stop="never")
    for group in groups(found):
        assert len({(t.task, t.attempt and (t.attempt.number, t.attempt.kind)) for t in group}) == 1
    assert len(groups(found)) == 6 * 4


def test_the_steps_numbers_are_of_what_was_played() -> None:
    found = collect(learn=ALL, learn_under="both")
    played = [*of(found, 0).values(), *of(found, 1).values()]
    assert len(played) < len(found)
    assert rollout_probes(found) == rollout_probes(played)
    assert gather([NoPrivilege()], found)[-1].available


def test_no_record_of_an_attempt_has_that_attempt_for_a_peer() -> None:
    found = collect(learn=ALL, learn_under="both", stop="never", recalls=["reflection"])
    for t in found:
        assert t.attempt
        own = (t.attempt.first, t.attempt.number)
        peers = list(solved_peers(t, [x for x in found if x.acts]))
        assert own not in [(p.attempt.first, p.attempt.number) for p in peers if p.attempt]


def test_an_attempt_that_failed_to_be_played_is_not_attempted_again() -> None:
    found = collect("test_retry:Broken", learn=ALL)
    assert len(found) == 18 and all(t.end is EndReason.ERROR for t in found)


def _play(processes: Processes, settings: dict[str, Any]) -> list[Any]:
    return bits(collect(processes=processes, **settings))


def test_two_processes_play_what_one_does() -> None:
    """The attempts at a task bear its number, by which a step's learning is shared out."""
    settings = {"learn": ALL, "learn_under": "both", "recalls": ["episode", "reflection"]}
    one, alone = together(_play, settings), collect(**settings)
    assert one[0] == one[1]
    assert [x[:2] for x in one[0]] == [x[:2] for x in bits(alone)]
    tasks = {t.attempt.first: t.task for t in alone if t.attempt and not t.attempt.number}
    assert all(t.attempt and t.task == tasks[t.attempt.first] for t in alone)


def test_which_attempt_it_is_survives_the_disk(tmp_path: Path) -> None:
    """And of all records demonstrations are those that were played."""
    found = collect(learn=ALL, learn_under="both")
    save_trajectories(found, tmp_path / "step.parquet")
    assert [t.attempt for t in load_trajectories(tmp_path / "step.parquet")] == [
        t.attempt for t in found
    ]
    assert all(t.acts for t in read_demonstrations(tmp_path))
    assert isinstance(found[0].attempt, Attempt)


def test_nothing_to_do_is_refused() -> None:
    with pytest.raises(ValueError, match="attempts nothing again"):
        Rollout.model_validate({"kind": "retry", "attempts": 1})
