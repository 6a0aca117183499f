"""SAGE: groups that fail whole play again under one hint after another, which say ever more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from retries import STUDENT, bits, own_logprobs, text
from scenes import ENV, Scene, run_of, scene_of
from scribes import Scribe, attempts, ready
from test_hinted import SIZES

import agentopd.rollout.policies.hinted  # noqa: F401  (its kind)
from agentopd.base.types import Trajectory
from agentopd.environment.settings import EnvSettings
from agentopd.models.model import ModelSettings, load_model
from agentopd.privilege.advice import Advice
from agentopd.privilege.base import Source
from agentopd.privilege.view import EveryTurnView, SystemView
from agentopd.rollout.acting.earlier import Place
from agentopd.rollout.policies.base import Cast, Rollout
from agentopd.rollout.transformers_sampler import TransformersSampler
from agentopd.running.reading import parse_config
from agentopd.signal.groups import groups

WORDS = ("left", "left left", "left left left")
RISING: dict[str, Any] = {"when": "group_failed", "rising": True}


@dataclass
class Ladder:
    """Says one word more with each source. It is an `Adviser`.

    `heard` holds which episodes each was asked about, and which groups were solved by then.
    """

    words: Sequence[str] = WORDS
    place: Place = "system"
    heard: list[tuple[int, set[int], set[int]]] = field(default_factory=list)

    @property
    def sources(self) -> int:
        """See `Adviser.sources`."""
        return len(self.words)

    def of(
        self, about: Sequence[Trajectory], batch: Sequence[Trajectory], source: int | None = None
    ) -> dict[int, str]:
        """See `Adviser.of`."""
        assert source is not None
        solved = {t.task for t in batch if t.success}
        self.heard.append((source, {t.episode for t in about}, solved))
        return {t.episode: self.words[source] for t in about if self.words[source]}


def _collect(adviser: Ladder | None = None, **written: Any) -> list[Trajectory]:
    rollout = Rollout.model_validate({"kind": "hinted", **SIZES, **written})
    rollout.prepare(Cast(STUDENT, adviser=adviser))
    settings = EnvSettings(id="test_hinted:Picky")
    return rollout.collect(settings, STUDENT, TransformersSampler(STUDENT), seed=3, step=0)


def _level(trajectory: Trajectory) -> int:
    """The source that spoke in its prompt, from 1; 0 if none did."""
    return text(trajectory, "system").count("left")


def _by_task(found: Sequence[Trajectory]) -> list[list[Trajectory]]:
    return [list(found[n : n + 3]) for n in range(0, len(found), 3)]


def test_a_group_rises_until_it_is_solved_and_no_further() -> None:
    """Solved groups are untouched, to the bit; the others are told as much as their last failure
    asked for, all of them alike.
    """
    ladder = Ladder()
    plain, found = _by_task(_collect(kind="student")), _by_task(_collect(ladder, **RISING))
    asked = [about for _, about, _ in ladder.heard]
    assert [source for source, _, _ in ladder.heard] == [0, 1, 2]
    assert asked[0] > asked[1] >= asked[2]
    levels = set[int]()
    for before, after in zip(plain, found, strict=True):
        (level,) = {_level(t) for t in after}
        levels.add(level)
        assert level == sum({t.episode for t in after} <= about for about in asked)
        if any(t.success for t in before):
            assert level == 0 and bits(before) == bits(after)
        elif level < 3:
            assert any(t.success for t in after)
    assert {0, 1} < levels
    for _, about, solved in ladder.heard:
        assert {n // 3 for n in about}.isdisjoint(solved)


def test_each_level_is_learnt_under_the_prompt_it_was_drawn_under() -> None:
    """With random numbers of its own: the same words again are another episode."""
    same = [_collect(Ladder(["left"] * n), **RISING) for n in (1, 2)]
    again = [
        (one, other)
        for one, other in zip(*same, strict=True)
        if one.ids.tolist() != other.ids.tolist()
    ]
    assert again
    for t in _collect(Ladder(), **RISING):
        own = t.trainable
        assert t.told is None
        np.testing.assert_allclose(t.logprob[own], own_logprobs(t)[own], atol=1e-4)


def test_one_of_each_group_may_stay_untold() -> None:
    for group in _by_task(_collect(Ladder(), **RISING, again="all_but_one")):
        untold, *told = [_level(t) for t in group]
        assert untold == 0 and len({*told}) == 1


def test_what_succeeds_under_a_hint_is_not_asked_again_in_its_own_group() -> None:
    """Learnt plain and apart (HDPO): the failures that stay are of a task that was solved."""
    ladder = Ladder()
    found = _collect(ladder, **RISING, keep="solved", learn_under="plain")
    told = [t for t in found if t.told is not None]
    assert told and all(t.success for t in told)
    assert all(len({t.told is None for t in group}) == 1 for group in groups(found))
    for (_, before, _), (_, about, _) in zip(ladder.heard, ladder.heard[1:], strict=False):
        solved = {t.episode // 3 for t in told if t.episode in before}
        assert about <= before and solved.isdisjoint({n // 3 for n in about} - solved)


@pytest.mark.parametrize("words", [(), ("", ""), ("", "left")])
def test_a_source_that_is_silent_changes_nothing(words: tuple[str, ...]) -> None:
    found, plain = _collect(Ladder(words), **RISING), _collect(kind="student")
    if any(words):
        assert {_level(t) for t in found} == {0, 1}
    else:
        assert bits(found) == bits(plain)


def test_under_another_view_it_stands_in_the_first_observation() -> None:
    told = [t for t in _collect(Ladder(place="observation"), **RISING) if _level(t) == 0]
    assert any("left" in text(t, "user") for t in told)
    sources: list[Source] = []
    assert Advice(sources, SystemView()).place == "system"
    assert Advice(sources, EveryTurnView()).place == "observation"


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


def test_where_no_group_fails_it_is_grpo_with_a_higher_clip(scene: Scene) -> None:
    found = scene.gradient("method=sage_hint", lessons=[])
    grpo = scene.gradient("method=grpo", "mix.rl.clip_high=0.28", lessons=[])
    assert found.equal(grpo)


def test_its_hints_are_the_students_who_knows_the_solution(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each level asks for more than the one below; one that gives the solution away is not told."""
    model = load_model(ModelSettings(path=str(tiny_model)))
    sources = parse_config(ENV, ["method=sage_hint"]).privilege
    failed, says = attempts(["up"], ["down"], reference="left wait"), ["so", "well", "left wait"]
    scribes = list[Scribe]()
    for source, said in zip(sources, says, strict=True):
        scribes.append(ready(source, model, said, monkeypatch))
    advice = Advice(sources, SystemView())
    heard = [advice.of(failed, failed, n) for n in range(advice.sources)]
    assert heard[:2] == [{t.episode: f"Hint: {x}" for t in failed} for x in says[:2]]
    assert heard[2] == {}
    asked = [scribe.asked for scribe in scribes]
    assert [len(x) for x in asked] == [1, 1, 1], "once for both episodes of the task"
    assert all("> left wait" in x for (x,) in asked) and len({x for (x,) in asked}) == 3
    assert ["first action" in x for (x,) in asked] == [False, False, True]


def test_in_a_run_each_levels_hints_are_counted(tiny_model: Path, tmp_path: Path) -> None:
    """The student is its own teacher here, and no copy of it is kept."""
    small = "rollout.tasks=2", "rollout.group=2", "rollout.max_turns=2", "evaluate.episodes=1"
    run = run_of(tiny_model, tmp_path / "run", "method=sage_hint", *small, "steps=1")
    step = run.roll_out(0)
    counts = [source.scalars()["asked"] for source in run.config.privilege]
    assert counts == sorted(counts, reverse=True) and counts[0] > 0
    assert run.config.teacher.model is run.student
    assert len(step) == 4 and run.ask_teacher(step, 0) == []
    run.close()
