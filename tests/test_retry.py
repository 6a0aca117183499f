"""Several attempts at a task: who attempts again, told what, and what is learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scenes import ENV
from scripted import random_model, toy_tokenizer
from test_hinted import Picky
from together import together

import agentopd.rollout.policies.retry  # noqa: F401  (its kind)
from agentopd.base.types import Attempt, EndReason, Owner, Trajectory
from agentopd.environment.contract import Info
from agentopd.environment.wrappers import EnvSettings
from agentopd.parallel.processes import ALONE, Processes
from agentopd.privilege.base import NoPrivilege, gather
from agentopd.privilege.peers import solved_peers
from agentopd.probes.rollout import rollout_probes
from agentopd.rollout.acting.roles import Piece
from agentopd.rollout.policies.base import Cast, Rollout
from agentopd.rollout.transformers_sampler import TransformersSampler
from agentopd.running.reading import parse_config
from agentopd.signal.groups import groups
from agentopd.signal.tokens import relearnt
from agentopd.stored.demonstrations import read_demonstrations
from agentopd.stored.trajectories import load_trajectories, save_trajectories

TOKENIZER = toy_tokenizer()
STUDENT = random_model(TOKENIZER, seed=1)
SIZES = {"tasks": 6, "group": 3, "max_turns": 2, "max_turn_tokens": 4, "max_context": 400}
ALL = ("first", "later", "reflections")


class Broken(Picky):
    """Raises at the second step."""

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        if self.turn:
            raise KeyError("door")
        return super().step(action)


class Words:
    """Recalls in the toy tokenizer's own words. It is a `Recall`."""

    def told(
        self, attempt: Trajectory, reflection: str, pieces: Sequence[Piece], tokens: int
    ) -> str:
        """The attempt's answers, and what was written of it."""
        said = "|".join(turn.action for turn in attempt.turns)
        return f"push {said}" + (f" wait {reflection}" if "reflection" in pieces else "")

    def asked(self, attempt: Trajectory, tokens: int) -> tuple[str, str]:
        """The attempt's answers alone."""
        return "why", "|".join(turn.action for turn in attempt.turns)

    def foretold(self, attempt: Trajectory, tokens: int) -> tuple[str, str, str]:
        """Of solved attempts nothing was said."""
        return *self.asked(attempt, tokens), "" if attempt.success else "left so"


def _collect(
    env: str = "Picky", step: int = 0, processes: Processes = ALONE, **written: Any
) -> list[Trajectory]:
    rollout = Rollout.model_validate({"kind": "retry", **SIZES, **written})
    rollout.prepare(Cast(STUDENT, recall=Words()))
    rollout.join(processes)
    settings = EnvSettings(id=f"{'test_hinted' if env == 'Picky' else 'test_retry'}:{env}")
    return rollout.collect(settings, STUDENT, TransformersSampler(STUDENT), seed=3, step=step)


def _of(found: Sequence[Trajectory], number: int, kind: str = "played") -> dict[int, Trajectory]:
    """Attempts of one number and kind, by the episode number of the first."""
    return {
        t.attempt.first: t
        for t in found
        if t.attempt and (t.attempt.number, t.attempt.kind) == (number, kind)
    }


def _text(trajectory: Trajectory, role: str) -> str:
    first = next(m for m in trajectory.messages if m.role == role)
    return STUDENT.template.decode(trajectory.ids[first.start : first.stop].tolist())


def _ends_with(trajectory: Trajectory, role: str, text: str) -> bool:
    """Whether the first message of a role ends with the tokens of a text."""
    first = next(m for m in trajectory.messages if m.role == role)
    ids = STUDENT.template.encode_content(text)
    return trajectory.ids[first.start : first.stop].tolist()[-len(ids) :] == ids


def _own_logprobs(t: Trajectory) -> np.ndarray:
    """(T,) the student's log-probabilities in the history that is kept, recomputed."""
    with torch.no_grad():
        logits_TV = STUDENT.logits(STUDENT.hidden(torch.from_numpy(t.ids)[None])[0])[:-1]
    own = torch.log_softmax(logits_TV, -1).gather(1, torch.from_numpy(t.ids)[1:, None])
    return np.concatenate([[np.nan], own.squeeze(1).numpy()])


def _bits(found: Sequence[Trajectory]) -> list[Any]:
    return [(t.episode, t.ids.tolist(), t.logprob.tobytes(), t.attempt) for t in found]


@pytest.mark.parametrize("step", [0, 2])
def test_first_attempts_are_the_students_own_episodes(step: int) -> None:
    """To the bit, and under the same numbers: told nothing, they are those of `student`."""
    plain, found = _collect(kind="student", step=step), _collect(step=step)
    firsts = _of(found, 0)
    assert list(firsts) == [t.episode for t in plain]
    assert _bits(plain) == _bits([replace(t, attempt=None) for t in firsts.values()])


@pytest.mark.parametrize("stop", ["solved", "never"])
def test_a_task_is_attempted_again_until_it_is_solved_or_always(stop: str) -> None:
    found = _collect(attempts=3, stop=stop)
    for number in (1, 2):
        before, after = _of(found, number - 1), _of(found, number)
        open_ = {n for n, t in before.items() if stop == "never" or not t.success}
        assert set(after) == open_ and len(open_) > 3
        for first, t in after.items():
            one = before[first]
            assert (t.task, t.seed, t.prompt) == (one.task, one.seed, one.prompt)
    if stop == "solved":
        assert any(t.success for t in _of(found, 0).values())


def test_all_numbers_differ() -> None:
    """Within a step, and from those of all other steps."""
    settings = {"attempts": 3, "learn": ALL, "learn_under": "both", "stop": "never"}
    one, other = _collect(**settings), _collect(step=1, **settings)
    numbers = [t.episode for t in (*one, *other)]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize(("place", "role"), [("system", "system"), ("observation", "user")])
def test_what_is_told_stands_in_the_prompt_and_is_noted(place: str, role: str) -> None:
    """The history that is kept is the one that was sampled under."""
    found = _collect(place=place)
    before = _of(found, 0)
    for first, t in _of(found, 1).items():
        said = "|".join(turn.action for turn in before[first].turns)
        assert t.attempt and t.attempt.told == f"push {said}"
        assert _ends_with(t, role, t.attempt.told) and t.told is None
        own = t.trainable
        assert own.any()
        np.testing.assert_allclose(t.logprob[own], _own_logprobs(t)[own], atol=1e-4)


def test_of_both_histories_one_holds_what_was_told_and_the_other_nothing() -> None:
    """The same answers with the same log-probabilities; tokens that were drawn count once."""
    found, hint = _collect(learn_under="both"), _collect(learn_under="hint")
    plain = _collect(learn_under="plain")
    read, untold = _of(found, 1), _of(found, 1, "untold")
    assert _bits(list(read.values())) == _bits(list(_of(hint, 1).values()))
    assert read.keys() == untold.keys() == _of(plain, 1).keys()
    firsts = _of(found, 0)
    for first, one in read.items():
        other = untold[first]
        assert _text(other, "system") == _text(firsts[first], "system") == "rules"
        np.testing.assert_array_equal(other.ids, _of(plain, 1)[first].ids)
        np.testing.assert_array_equal(other.told, other.trainable)
        np.testing.assert_array_equal(one.logprob[one.trainable], other.logprob[other.trainable])
        for mine, theirs in zip(one.turns, other.turns, strict=True):
            answer = one.ids[mine.start : mine.stop]
            np.testing.assert_array_equal(answer, other.ids[theirs.start : theirs.stop])
            assert mine.act - mine.start == theirs.act - theirs.start
        assert one.student_tokens > 0 == other.student_tokens


def test_untold_ratios_begin_at_the_plain_history() -> None:
    """What the learner puts in place of the log-probabilities that were sampled with."""
    for t in _of(_collect(learn_under="both"), 1, "untold").values():
        own = _own_logprobs(t)[t.trainable]
        np.testing.assert_allclose(relearnt(t, own).logprob[t.trainable], own)
        assert abs(t.logprob[t.trainable] - own).max() > 1e-3


def test_a_reflection_is_an_episode_of_the_students_own() -> None:
    """In a conversation of its own; told to the next attempt, whose reward it is paid."""
    found = _collect(recalls=["reflection"], learn=ALL, reflection_tokens=8)
    firsts, written, after = _of(found, 0), _of(found, 0, "written"), _of(found, 1)
    assert written.keys() == after.keys() == {n for n, t in firsts.items() if not t.success}
    assert {t.success for t in after.values()} == {True, False}
    for first, t in written.items():
        own, attempt = t.trainable, after[first].attempt
        assert _text(t, "system") == "why" and set(t.owner[own]) == {Owner.STUDENT}
        np.testing.assert_allclose(t.logprob[own], _own_logprobs(t)[own], atol=1e-4)
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
    found = _collect(learn=["first", "later", "feedback"])
    foreseen = _of(found, 0, "foreseen")
    assert foreseen.keys() == _of(found, 1).keys()
    for t in foreseen.values():
        said = t.ids[t.trainable].tolist()
        assert said == [*STUDENT.template.encode_content("left so"), STUDENT.template.closing]
        assert set(t.owner[t.trainable]) == {Owner.DEMO} and np.isnan(t.logprob).all()
        assert not t.acts and t.student_tokens == 0 and not t.error
    plain = _collect()
    assert _bits(plain) == _bits([t for t in found if t.acts])


def test_what_nobody_sampled_is_refused_where_samples_are_learnt_from() -> None:
    learns = "rollout={kind: retry, learn: [first, later, feedback], group: 2}"
    parse_config(ENV, [learns, "mix=retried"])
    with pytest.raises(ValueError, match="gives what others wrote"):
        parse_config(ENV, [learns, "mix=rl"])


def test_with_one_attempt_a_reflection_is_all_that_follows() -> None:
    found = _collect(attempts=1, learn=["first", "reflections"])
    failed = {n for n, t in _of(found, 0).items() if not t.success}
    assert set(_of(found, 0, "written")) == failed and not _of(found, 1)


@pytest.mark.parametrize("learn", [["first"], ["later"], ["reflections"], list(ALL)])
def test_what_is_learnt_from_changes_nothing_that_is_played(learn: list[str]) -> None:
    settings = {"recalls": ["reflection"], "learn_under": "both"}
    found, whole = _collect(learn=learn, **settings), _collect(learn=ALL, **settings)
    assert _bits(found) == _bits(whole)
    for t in found:
        assert t.attempt
        name = (
            "reflections" if t.attempt.kind == "written" else ("first", "later")[t.attempt.number]
        )
        assert t.trainable.any() == (name in learn)


def test_attempts_are_compared_with_the_same_attempts_of_their_group() -> None:
    found = _collect(learn=ALL, learn_under="both", stop="never")
    for group in groups(found):
        assert len({(t.task, t.attempt and (t.attempt.number, t.attempt.kind)) for t in group}) == 1
    assert len(groups(found)) == 6 * 4


def test_the_steps_numbers_are_of_what_was_played() -> None:
    found = _collect(learn=ALL, learn_under="both")
    played = [*_of(found, 0).values(), *_of(found, 1).values()]
    assert len(played) < len(found)
    assert rollout_probes(found) == rollout_probes(played)
    assert gather([NoPrivilege()], found)[-1].available


def test_no_record_of_an_attempt_has_that_attempt_for_a_peer() -> None:
    found = _collect(learn=ALL, learn_under="both", stop="never", recalls=["reflection"])
    for t in found:
        assert t.attempt
        own = (t.attempt.first, t.attempt.number)
        peers = list(solved_peers(t, [x for x in found if x.acts]))
        assert own not in [(p.attempt.first, p.attempt.number) for p in peers if p.attempt]


def test_an_attempt_that_failed_to_be_played_is_not_attempted_again() -> None:
    found = _collect("Broken", learn=ALL)
    assert len(found) == 18 and all(t.end is EndReason.ERROR for t in found)


def _play(processes: Processes, settings: dict[str, Any]) -> list[Any]:
    return _bits(_collect(processes=processes, **settings))


def test_two_processes_play_what_one_does() -> None:
    """The attempts at a task bear its number, by which a step's learning is shared out."""
    settings = {"learn": ALL, "learn_under": "both", "recalls": ["episode", "reflection"]}
    one, alone = together(_play, settings), _collect(**settings)
    assert one[0] == one[1]
    assert [x[:2] for x in one[0]] == [x[:2] for x in _bits(alone)]
    tasks = {t.attempt.first: t.task for t in alone if t.attempt and not t.attempt.number}
    assert all(t.attempt and t.task == tasks[t.attempt.first] for t in alone)


def test_which_attempt_it_is_survives_the_disk(tmp_path: Path) -> None:
    """And of all records demonstrations are those that were played."""
    found = _collect(learn=ALL, learn_under="both")
    save_trajectories(found, tmp_path / "step.parquet")
    assert [t.attempt for t in load_trajectories(tmp_path / "step.parquet")] == [
        t.attempt for t in found
    ]
    assert all(t.acts for t in read_demonstrations(tmp_path))
    assert isinstance(found[0].attempt, Attempt)


def test_nothing_to_do_is_refused() -> None:
    with pytest.raises(ValueError, match="attempts nothing again"):
        Rollout.model_validate({"kind": "retry", "attempts": 1})
