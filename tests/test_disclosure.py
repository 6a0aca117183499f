"""RA-OPD B: reflections that know ever more are learnt; the one that knows most is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from retries import ALL, bits, collect, of, text
from scenes import ENV, run_of
from scribes import attempts, ready

from agentopd.base.types import Attempt, Trajectory
from agentopd.environment.contract import without_reasoning
from agentopd.learning.method import AXES
from agentopd.models.model import ModelSettings, load_model
from agentopd.privilege.base import gather
from agentopd.privilege.writing.earlier import Recollection
from agentopd.privilege.writing.hindsight import Diagnosis, Reflection
from agentopd.privilege.writing.model_writer import ModelWriter
from agentopd.rollout.policies.base import Rollout
from agentopd.running.reading import parse_config
from agentopd.running.run import Run
from agentopd.signal.groups import groups

ONE: dict[str, Any] = {"attempts": 1, "learn": ["first", "reflections"]}
RISING: dict[str, Any] = {**ONE, "disclosed": [0, 1, 2, 3]}


def _written(found: list[Trajectory]) -> dict[int, list[Trajectory]]:
    """The reflections on each first attempt, in their order."""
    known: dict[int, list[Trajectory]] = {}
    for t in found:
        if t.attempt and t.attempt.kind == "written":
            known.setdefault(t.attempt.first, []).append(t)
    return known


def test_each_failure_is_reflected_on_at_every_level() -> None:
    """Each in a conversation of its own, compared with those of its level; all numbers differ."""
    found = collect(**RISING)
    written = _written(found)
    assert set(written) == {n for n, t in of(found, 0).items() if not t.success}
    for own in written.values():
        assert [t.attempt.version for t in own if t.attempt] == [0, 1, 2, 3]
        asked = [text(t, "user").split("|")[0] for t in own]
        assert [x.split(" ")[0] for x in asked if " " in x][:1] == ["up"]
        assert len(set(asked)) == 4 and all(t.trainable.any() for t in own)
    assert len({t.episode for t in found}) == len(found)
    for group in groups([t for own in written.values() for t in own]):
        assert len({t.attempt and t.attempt.version for t in group}) == 1


def test_one_level_is_what_it_was() -> None:
    """RA-OPD A's, under the same numbers, and so with the same random ones."""
    assert bits(collect(**ONE, disclosed=[1])) == bits(collect(**ONE))


def test_the_next_attempt_is_told_the_last_reflection_and_pays_all() -> None:
    found = collect(learn=ALL, recalls=["reflection"], disclosed=[0, 2], reflection_tokens=8)
    after = of(found, 1)
    for first, own in _written(found).items():
        told = after[first].attempt
        said = without_reasoning(own[1].turns[0].action).strip()
        assert told and told.told.endswith(f" wait {said}")
        assert {t.reward for t in own} == {after[first].reward}


def test_levels_that_do_not_rise_are_refused() -> None:
    with pytest.raises(ValueError, match="at levels that do not rise"):
        Rollout.model_validate({"kind": "retry", "disclosed": [1, 0]})


def test_a_level_discloses_what_it_may_and_no_more(tiny_model: Path) -> None:
    failed, peer = attempts(["up"], ["down"], solved=[0, 1], reference="right")
    recall = Recollection(load_model(ModelSettings(path=str(tiny_model))).template)
    known = ("> up", "not solved", "The best action", "A solution:\n> right", "did:\n> down")
    for level in range(5):
        _, asked = recall.asked(failed, [failed, peer], level, 400)
        assert [x in asked for x in known] == [n <= level for n in range(5)]


def test_what_is_said_of_an_attempt_is_told_of_its_other_records_too(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what is about turns that another record does not have."""
    model = load_model(ModelSettings(path=str(tiny_model)))
    for source, expected in ((Reflection(writer=ModelWriter()), 1), (Diagnosis(), 0)):
        ready(source, model, "Turn 1: so", monkeypatch)
        (played,) = attempts(["up", "left"])
        own = _record(played, "played", played.episode)
        other = _record(played, "written", 77)
        strange = _record(played, "written", 78, first=5)
        briefed = gather([source], [own, other, strange])
        assert briefed[0].privileges and len(briefed[1].privileges) == expected
        assert not briefed[2].available


def _record(t: Trajectory, kind: str, episode: int, first: int | None = None) -> Trajectory:
    number = t.episode if first is None else first
    mark = Attempt(number=0, first=number, kind=kind)  # type: ignore[arg-type]
    return replace(t, episode=episode, attempt=mark)


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    small = "rollout.tasks=1", "rollout.group=2", "rollout.max_turns=2", "evaluate.episodes=1"
    return run_of(tiny_model, tmp_path_factory.mktemp("b") / "run", "method=ra_opd_b", *small)


def test_the_teacher_is_told_the_last_reflection_and_judges_all_but_that(run: Run) -> None:
    """In each record's own conversation; no token of the last one is learnt from."""
    step = run.roll_out(0)
    lessons = run.ask_teacher(step, 0)
    firsts = {t.episode: t for t in step if t.acts}
    assert len(step) == 5 * len(firsts) and all(x.taught for x in lessons)
    told = {x.trajectory.episode: x.view.briefed.privileges for x in lessons if x.view}
    for lesson in lessons:
        t, view = lesson.trajectory, lesson.view
        assert t.attempt and view
        (last,) = told[t.episode]
        assert last.source == "reflection" and told[t.attempt.first] == (last,)
        learnt = view.ids[view.position[t.trainable]]
        np.testing.assert_array_equal(learnt, t.ids[t.trainable])
        inserted = np.delete(view.ids, view.position)
        assert len(inserted) == len(view.ids) - len(t.ids) > 0
    assert run.learn(step, lessons, 0).scalars["gradient_norm"] > 0


def test_of_one_level_and_told_nothing_it_is_variant_a_told_nothing() -> None:
    changes = ("rollout.disclosed=[1]", "rollout.group=1", "rollout.tasks=8", "privilege=[none]")
    ours = parse_config(ENV, ["method=ra_opd_b", *changes])
    theirs = parse_config(ENV, ["method=ra_opd_a", "rollout.tasks=8", "privilege=[none]"])
    one, other = (x.model_dump(mode="json", include={*AXES}) for x in (ours, theirs))
    assert one == other
