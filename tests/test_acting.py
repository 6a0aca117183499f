"""Who acts: every token has its owner, and the log-probability of whoever drew it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scripted import random_model, toy_tokenizer

import agentopd.rollout.policies.mixed  # noqa: F401  (its kinds)
from agentopd.base.types import Owner, Trajectory
from agentopd.environment.contract import Info, TextEnv
from agentopd.environment.settings import EnvSettings
from agentopd.models.model import LanguageModel
from agentopd.privilege.environment import GroundTruth
from agentopd.privilege.view import EveryTurnView, SystemView
from agentopd.privilege.whispered import Whisper, Whispered
from agentopd.rollout.acting.ensemble import Ensemble
from agentopd.rollout.policies.base import Cast, Rollout
from agentopd.rollout.policies.student import StudentRollout
from agentopd.rollout.policies.truncated import TruncatedRollout
from agentopd.rollout.pool import Task
from agentopd.rollout.transformers_sampler import TransformersSampler
from agentopd.teacher import Teacher

TOKENIZER = toy_tokenizer()
STUDENT = random_model(TOKENIZER, seed=1)
TEACHER = random_model(TOKENIZER, seed=2)
SIZES = {"tasks": 6, "group": 2, "max_turns": 3, "max_turn_tokens": 5, "max_context": 400}


class Secret(TextEnv):
    """Three turns of one word; a solution that no student is shown."""

    system_prompt = "rules"

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.turn = 0
        self.said = f"B{1 + (seed or 0) % 4}"
        return self.said, {"task_id": str(seed), "reference": "wait wait", "success": False}

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        self.turn += 1
        even = sum(map(ord, action)) % 2 == 0
        return self.said, float(even), self.turn == 3, False, {"success": even}


ENV = EnvSettings(id="test_acting:Secret")


class Fixed(Teacher, kind="fixed_for_acting"):
    """Another model that never moves."""

    def prepare(self, student: LanguageModel) -> None:
        self._model = TEACHER


def _teacher() -> Teacher:
    teacher = Fixed()
    teacher.prepare(STUDENT)
    return teacher


def _collect(written: dict[str, Any], view: Any = None, step: int = 0) -> list[Trajectory]:
    """One step of a rollout; whoever is told is told the solution."""
    rollout = Rollout.model_validate({**SIZES, **written})
    told = view or SystemView()
    cast = Cast(STUDENT, _teacher(), lambda: Whisper((GroundTruth(),), told))
    rollout.prepare(cast)
    return rollout.collect(ENV, STUDENT, TransformersSampler(STUDENT), seed=3, step=step)


def _says(model: LanguageModel, trajectory: Trajectory, temperature: float = 1.0) -> torch.Tensor:
    """(T, V) log-probabilities of each token by the tokens in front of it, recomputed."""
    with torch.no_grad():
        hidden_TH = model.hidden(torch.from_numpy(trajectory.ids)[None])[0]
        logits_TV = model.logits(hidden_TH)[:-1] / temperature
    first_1V = torch.full((1, logits_TV.shape[1]), torch.nan)
    return torch.cat([first_1V, torch.log_softmax(logits_TV, -1)])


def _of_ids(says_TV: torch.Tensor, trajectory: Trajectory) -> np.ndarray:
    ids_T1 = torch.from_numpy(trajectory.ids)[:, None]
    return says_TV.gather(1, ids_T1).squeeze(1).numpy()


def _same(some: Sequence[Trajectory], others: Sequence[Trajectory]) -> None:
    """Equal in every token, owner and bit."""
    assert len(some) == len(others) > 0
    for one, other in zip(some, others, strict=True):
        for name in ("ids", "owner", "trainable", "logprob"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert (one.turns, one.end, one.episode) == (other.turns, other.end, other.episode)


@pytest.mark.parametrize("per", ["turn", "episode", "batch"])
def test_each_token_has_the_probability_of_its_owner(per: str) -> None:
    """Recomputed by plain forward passes of the one and of the other model."""
    played = [t for step in range(4) for t in _collect({"kind": "mixed", "per": per}, step=step)]
    owners = set[int]()
    for t in played:
        student_T, teacher_T = (_of_ids(_says(m, t), t) for m in (STUDENT, TEACHER))
        expected = np.where(t.owner == Owner.TEACHER, teacher_T, student_T)
        spoken = t.owner != Owner.TEMPLATE
        np.testing.assert_allclose(t.logprob[spoken], expected[spoken], atol=1e-4)
        assert np.isnan(t.logprob[~spoken]).all()
        np.testing.assert_array_equal(t.trainable, t.owner == Owner.STUDENT)
        owners |= set(t.owner[spoken].tolist())
    assert owners == {Owner.STUDENT, Owner.TEACHER}


def _turn_owners(trajectory: Trajectory) -> list[int]:
    found = [set(trajectory.owner[u.start : u.stop].tolist()) for u in trajectory.turns]
    assert all(len(owners) == 1 for owners in found)
    return [owners.pop() for owners in found]


def test_a_coin_falls_once_for_what_it_is_thrown_for() -> None:
    by_turn, by_episode = (
        [_turn_owners(t) for t in _collect({"kind": "mixed", "per": per})]
        for per in ("turn", "episode")
    )
    assert any(len(set(owners)) == 2 for owners in by_turn)
    assert all(len(set(owners)) == 1 for owners in by_episode)
    assert len({owners[0] for owners in by_episode}) == 2
    batches = [
        {o for t in _collect({"kind": "mixed", "per": "batch"}, step=n) for o in _turn_owners(t)}
        for n in range(6)
    ]
    assert all(len(owners) == 1 for owners in batches)
    assert len(set.union(*batches)) == 2


def test_the_coin_falls_as_often_as_it_is_to() -> None:
    sizes = {"tasks": 60, "group": 1, "max_turn_tokens": 1}
    played = _collect({"kind": "mixed", "share": 0.25, **sizes})
    owners = [owner for t in played for owner in _turn_owners(t)]
    often = owners.count(Owner.TEACHER) / len(owners)
    assert len(owners) == 180 and abs(often - 0.25) < 0.1


@pytest.mark.parametrize(("temperature", "share"), [(1.0, 0.3), (0.6, 0.7)])
def test_a_mixtures_tokens_have_the_mixtures_probability(temperature: float, share: float) -> None:
    """(1 - share) p + share q, in probability space."""
    settings = {"per": "token", "share": share, "temperature": temperature}
    for t in _collect({"kind": "mixed", **settings}):
        p_T, q_T = (np.exp(_of_ids(_says(m, t, temperature), t)) for m in (STUDENT, TEACHER))
        spoken = t.owner != Owner.TEMPLATE
        assert set(t.owner[spoken].tolist()) == {Owner.MIXTURE}
        mixed_T = (1 - share) * p_T + share * q_T
        np.testing.assert_allclose(np.exp(t.logprob[spoken]), mixed_T[spoken], rtol=2e-3)
        np.testing.assert_array_equal(t.trainable, spoken)
        ratio_T = p_T[spoken] / np.exp(t.logprob[spoken])
        assert ratio_T.max() <= 1 / (1 - share) + 1e-3


def test_where_a_mixture_is_the_teachers_alone_it_says_what_the_teacher_says() -> None:
    """With the same random numbers; so its tokens do not only have the right probabilities."""
    mixed = _collect({"kind": "mixed", "per": "token", "share": 1.0})
    acted = _collect({"kind": "acted"})
    for one, other in zip(mixed, acted, strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)


@pytest.mark.parametrize("per", ["turn", "episode", "batch", "token"])
def test_without_a_share_it_is_the_students_rollout(per: str) -> None:
    """GKD with lambda 1, Guided-OPD with beta 0, MiniLLM with a 0: `rollout: student`, bit for
    bit.
    """
    plain = _collect({"kind": "student"})
    _same(_collect({"kind": "mixed", "per": per, "share": 0.0}), plain)
    with_teacher = _collect({"kind": "mixed", "per": per, "share": 0.95})
    assert any(
        len(a.ids) != len(b.ids) or (a.ids != b.ids).any()
        for a, b in zip(with_teacher, plain, strict=True)
    )


@pytest.mark.parametrize("view", [SystemView(), EveryTurnView()], ids=["system", "every_turn"])
def test_a_told_teachers_episodes_are_kept_as_if_it_had_been_told_nothing(view: Any) -> None:
    """It says what it says in an environment that whispers, and none of that is in the history."""
    found = _collect({"kind": "acted", "told": True}, view)
    env = Whispered(id=ENV.id, sources=(GroundTruth(),), view=view)
    alone = StudentRollout(**SIZES)
    expected = alone.collect(env, TEACHER, TransformersSampler(TEACHER), seed=3, step=0)
    wait = TOKENIZER.convert_tokens_to_ids("wait")
    for one, other in zip(found, expected, strict=True):
        spoken, theirs = one.owner == Owner.TEACHER, other.owner == Owner.STUDENT
        np.testing.assert_array_equal(one.ids[spoken], other.ids[theirs])
        np.testing.assert_allclose(one.logprob[spoken], other.logprob[theirs], atol=1e-5)
        assert one.told is not None
        np.testing.assert_array_equal(one.told, spoken)
        assert wait in other.ids[~theirs] and wait not in one.ids[~spoken]


def test_only_the_told_are_told() -> None:
    """The student's turns are drawn from the history that is kept."""
    played = _collect({"kind": "mixed", "told": True, "learn": ["student", "teacher"]})
    for t in played:
        own = t.owner == Owner.STUDENT
        assert t.told is None or not t.told[own].any()
        np.testing.assert_allclose(t.logprob[own], _of_ids(_says(STUDENT, t), t)[own], atol=1e-4)
        np.testing.assert_array_equal(t.trainable, t.owner != Owner.TEMPLATE)
    assert any(t.told is not None for t in played)


@pytest.mark.parametrize(
    "written",
    [
        {"kind": "acted", "told": True},
        {"kind": "mixed", "per": "turn", "told": True},
        {"kind": "mixed", "per": "token", "told": True, "top_k": 9},
        {"kind": "truncated", "tokens": 7},
    ],
    ids=lambda written: f"{written['kind']}-{written.get('per', '')}",
)
def test_a_step_repeats_itself_whatever_the_slots(written: dict[str, Any]) -> None:
    first = _collect(written)
    _same(first, _collect(written))
    few = _collect({**written, "slots": 3})
    assert [t.ids.tolist() for t in few] == [t.ids.tolist() for t in first]


def test_evaluations_are_the_students_alone() -> None:
    """Told nothing, and not stopped early."""
    for written in ({"kind": "mixed", "share": 1.0}, {"kind": "truncated", "turns": 1}):
        rollout = Rollout.model_validate({**SIZES, **written})
        rollout.prepare(Cast(STUDENT, _teacher()))
        pool = rollout.pool(ENV, STUDENT, 7)
        played = pool.play([Task(0, 0, 1), Task(1, 1, 2)], TransformersSampler(STUDENT))
        assert [len(t.turns) for t in played] == [3, 3]
        assert all(set(t.owner.tolist()) == {Owner.TEMPLATE, Owner.STUDENT} for t in played)


@pytest.mark.parametrize(("turns", "played"), [(1, 1), (2, 2), (3, 3), (9, 3)])
def test_truncated_episodes_end_after_their_turns(turns: int, played: int) -> None:
    """TCOD, front to back: once as many turns are allowed as are played, it is `opd`."""
    found = _collect({"kind": "truncated", "turns": turns})
    assert [len(t.turns) for t in found] == [played] * len(found)
    if turns >= 3:
        _same(found, _collect({"kind": "student"}))


def test_truncated_episodes_have_no_more_tokens_than_they_may() -> None:
    """Fast-OPD: what is played is the beginning of the whole episode; with room, all of it."""
    whole = _collect({"kind": "student"})
    longest = max(t.student_tokens for t in whole)
    _same(_collect({"kind": "truncated", "tokens": longest + 1}), whole)
    for short, full in zip(_collect({"kind": "truncated", "tokens": 7}), whole, strict=True):
        assert short.student_tokens == min(7, full.student_tokens)
        said = full.ids[full.trainable][: short.student_tokens]
        np.testing.assert_array_equal(short.ids[short.trainable], said)
        assert (short.end == "token_limit") == (full.student_tokens > 7)


def test_a_truncated_rollout_needs_something_to_stop_after() -> None:
    with pytest.raises(ValueError, match=r"neither is given: set rollout\.turns"):
        TruncatedRollout()


def test_an_ensemble_forgets_with_all_its_members() -> None:
    """So that no conversation that was broken off is answered later."""
    members = {
        o: TransformersSampler(m) for o, m in ((Owner.STUDENT, STUDENT), (Owner.TEACHER, TEACHER))
    }
    ensemble = Ensemble(members)
    rollout = Rollout.model_validate({**SIZES, "kind": "mixed"})
    rollout.prepare(Cast(STUDENT, _teacher()))
    pool = rollout.pool(ENV, STUDENT, 7)
    pool.play([Task(0, 0, 1)], ensemble)
    assert ensemble.ready() == []
    assert all(not sampler._known for sampler in members.values())
