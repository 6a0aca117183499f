"""Rows in which stores grow, are chosen, continued and written anew: in the words of rows they must
equal, or by hand.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scenes import Scene, assert_same, axes_of, row_of, run_of, scene_of, stages_of
from scribes import ready

from agentopd.base.types import Owner
from agentopd.models.template import ChatTemplate
from agentopd.privilege.base import Source, gather
from agentopd.privilege.texts import First
from agentopd.privilege.writing.experience import Experience
from agentopd.running.collecting.labels import Expert
from agentopd.stored.trajectories import save_trajectories


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


class _Acted(Expert):
    """The teacher, where it has acted in every state."""

    owner = Owner.TEACHER

    def answers(self, states: Any) -> list[Any]:
        """See `Expert.answers`."""
        assert not states
        return []


def test_dagger_whose_expert_acts_throughout_is_sft_on_its_episodes(scene: Scene) -> None:
    """SeqKD: states with their answers teach what the episodes do."""
    theirs = [
        replace(t, owner=np.where(t.trainable, Owner.TEACHER, t.owner).astype(np.uint8))
        for t in scene.trajectories
    ]
    student = scene.student
    records = _Acted(ChatTemplate(student.tokenizer), student.stop_ids).label(theirs)
    states = [replace(t, episode=n) for n, t in enumerate(records)]
    assert len(states) == sum(len(t.turns) for t in theirs) > len(theirs)
    mixes = (stages_of("dagger")["2-fit"].mix, stages_of("seq_kd")["2-sft"].mix)
    one, other = (
        scene.gradient(f"mix={mix.model_dump_json()}", lessons=[], trajectories=episodes)
        for mix, episodes in zip(mixes, (states, theirs), strict=True)
    )
    assert_same(one, other)


def test_dagger_labels_what_the_student_visits_from_the_second_round_on() -> None:
    collects = [leg.stage.collect for leg in row_of("dagger").legs if not leg.trains]
    first, *rounds = [x for x in collects if x is not None]
    assert (first.by, first.label, first.onto) == ("teacher", "teacher", None)
    assert {(x.by, x.label, x.onto) for x in rounds} == {("student", "teacher", "previous")}
    fits = stages_of("dagger")
    assert (
        axes_of(fits["4-refit"]) == axes_of(fits["2-fit"]) == axes_of(stages_of("seq_kd")["2-sft"])
    )


MINILLM = "3-minillm"
BARE = (
    "stages.minillm.gold=null", "rollout.share=0", "divergence.plus=null",
    "stages.minillm.learner.epochs=1",
)  # fmt: skip


def test_minillm_of_single_steps_from_the_student_alone_is_opd(scene: Scene) -> None:
    bare = stages_of("minillm", *BARE)[MINILLM]
    assert axes_of(bare, "rollout") == axes_of(row_of("opd"), "rollout")
    assert bare.learner == row_of("opd").learner
    small = ("teacher=frozen", "rollout.tasks=2")
    one = scene.gradient("method=minillm", "stages={}", *BARE[1:3], *small)
    assert torch.equal(one, scene.gradient("method=opd", *small))


def test_minillm_has_both_terms_beside_its_corpus() -> None:
    config = stages_of("minillm")[MINILLM]
    assert config.divergence.plus is not None
    assert config.divergence.plus.model_dump() == {
        "kind": "reward_to_go", "discount": 0.95, "per": "remaining_length", "most": 50.0,
        "whiten": True, "clip": 0.2,
    }  # fmt: skip
    assert config.gold is not None
    assert (config.gold.path, config.learner.epochs) == ("stage:collect", 4)
    assert axes_of(stages_of("minillm")["2-sft"], "divergence") == axes_of(
        stages_of("seq_kd")["2-sft"], "divergence"
    )


def test_oel_without_lessons_is_its_own_first_self_and_teaches_nothing(
    tiny_model: Path, tmp_path: Path
) -> None:
    run = run_of(tiny_model, tmp_path / "run", "method=oel", "stages={}", "privilege=none")
    trajectories = run.roll_out(0)
    lessons = run.ask_teacher(trajectories, 0)
    assert any(x.hidden_NH is not None for x in lessons)
    assert run.learn(trajectories, lessons, 0).loss == pytest.approx(0.0, abs=1e-6)


def test_oel_learns_in_its_own_episodes_without_a_step_of_the_environment() -> None:
    rounds = stages_of("oel")
    assert [x.split("-")[1] for x in rounds] == ["deploy", "consolidate"] * 3
    learnt = rounds["2-consolidate"]
    rollout: Any = learnt.rollout
    assert (rollout.kind, rollout.path, rollout.single) == ("prefix", "previous", True)
    assert axes_of(learnt, "rollout", "privilege") == axes_of(
        row_of("opcd"), "rollout", "privilege"
    )
    (source,) = learnt.privilege
    assert isinstance(source, First)
    assert isinstance(source.of[0], Experience)
    assert source.of[0].path == "previous"


def test_lessons_of_a_store_are_drawn_once_and_told_as_they_were_after_some_reading(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six episodes, two at a time: three readings, the later ones with what was written before."""
    episodes = [replace(t, prompt={"skill": "push"}) for t in scene.trajectories[:6]]
    save_trajectories(episodes, tmp_path / "step-00000.parquet")
    source, written = Experience(path=str(tmp_path), episodes=2, added=1), iter("ABCDEF")
    scribe = ready(source, scene.student, lambda _: next(written), monkeypatch)
    heard = {text for _ in range(2) for text in _heard(source, episodes)}
    assert len(scribe.asked) == 6
    memories = [["A", "B"], ["A", "B", "C", "D"], ["A", "B", "C", "D", "E", "F"]]
    expected = {"Experience:\n" + "\n".join(f"- {x}" for x in lines) for lines in memories}
    assert heard <= expected and len(heard) > 1
    again = Experience(path=str(tmp_path), episodes=2, added=1)
    silent = ready(again, scene.student, "Z", monkeypatch)
    again.restore(source.state())
    assert _heard(again, episodes) == _heard(source, episodes)
    assert not silent.asked


def _heard(source: Source, episodes: list[Any]) -> list[str]:
    return [p.text for briefed in gather([source], episodes) for p in briefed.privileges]


def test_dasd_with_one_stage_and_all_of_a_store_is_seq_kd() -> None:
    whole = stages_of("dasd", "stages.second.rollout.keep.divergent=null")
    assert axes_of(whole["4-second"]) == axes_of(stages_of("seq_kd")["2-sft"])
    chosen: Any = stages_of("dasd")["4-second"].rollout
    assert chosen.keep.divergent == 0.5


def test_dasd_begins_cool_and_its_teacher_goes_on_from_the_student() -> None:
    stages = stages_of("dasd")
    cool, hot, continued = (stages[x].rollout for x in ("1-cool", "3-hot", "6-continued"))
    assert (cool.temperature, hot.temperature) == (0.6, 1.0)
    assert (continued.actors, continued.learns) == ({Owner.TEACHER}, {Owner.TEACHER})
    assert axes_of(stages["7-third"]) == axes_of(stages_of("seq_kd")["2-sft"])


def _power(scene: Scene, power: str) -> torch.Tensor:
    return scene.gradient(f"mix={{kind: nll, power: {power}}}", lessons=[])


def test_ddt_of_power_zero_is_sft_and_of_power_one_by_ones_own_probability(scene: Scene) -> None:
    """Both bounds at one number make the law that number."""
    laws = ("{least: 0, most: 1.0e-30}", "{least: 1, most: 1}")
    for power, law in zip(("0", "1"), laws, strict=True):
        assert_same(_power(scene, law), _power(scene, power))
    own = _power(scene, "{beta: 1.0, least: 0.1, most: 2.0}")
    assert not torch.allclose(own, _power(scene, "1"), rtol=1e-2)


def test_ddt_is_star_in_one_round_whose_failures_are_written_by_both_selves() -> None:
    star, ddt = (stages_of(name) for name in ("star", "ddt"))
    blended = ddt["1-collect"].rollout
    assert blended.model_dump() | {"blend": None} == star["1-collect"].rollout.model_dump()
    assert axes_of(ddt["1-collect"], "rollout", "mix") == axes_of(
        star["1-collect"], "rollout", "mix"
    )
    assert axes_of(ddt["2-sft"], "mix") == axes_of(star["2-sft"], "mix")
