"""What holds for every source of privileged information that has a kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scribes import TOY, Scribe, attempts, ready

import agentopd.running.kinds  # noqa: F401  (every source is known)
from agentopd.base.types import Briefed, Trajectory, View
from agentopd.models.chat import ChatTemplate
from agentopd.models.model import LanguageModel, ModelSettings, load_model
from agentopd.privilege.base import Source, gather
from agentopd.privilege.view import EveryTurnView, ReplaceView, SystemView
from agentopd.stored.trajectories import save_trajectories

TEMPLATE = ChatTemplate(TOY)
SECRET = "xyzzy"
"""Stands in all that only a teacher may know."""
REPLY = '{"episode": "xyzzy", "skill": "xyzzy", "vote": 1, "hint": "xyzzy is it"}\nTurn 1: xyzzy'
NEEDS: dict[str, dict[str, Any]] = {
    "text": {"text": f"Be {SECRET}."},
    "first": {"of": [{"kind": "peer_success"}, {"kind": "env_feedback"}]},
    "shuffled": {"of": {"kind": "ground_truth"}},
    "filler": {"of": {"kind": "ground_truth"}},
    "noted": {"of": {"kind": "ground_truth"}},
    "near_future": {"path": "demos"},
    "extracted_context": {"keep": "matching", "pattern": "B1"},
}
"""What a source cannot be made without, or has nothing to say."""
WRITTEN = ("reflection", "hint", "diagnosis", "analysis", "hindsight_hint", "skill_bank",
           "experience")  # fmt: skip
KINDS = sorted(s.kind for s in Source.members() if s.__module__.startswith("agentopd."))
SILENT_AT_FIRST = ("skill_bank", "experience")
"""Those that tell what was found in earlier steps."""


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> LanguageModel:
    return load_model(ModelSettings(path=str(tiny_model)))


@pytest.fixture
def make(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[str], tuple[Source, Scribe | None]]:
    """Makes a source by its kind, ready to be asked; who writes does so by script."""
    (tmp_path / "demos").mkdir()
    monkeypatch.chdir(tmp_path)
    save_trajectories(attempts(["up"], solved=[1]), tmp_path / "demos" / "step-00000.parquet")

    def made(kind: str) -> tuple[Source, Scribe | None]:
        settings = {"kind": kind, **NEEDS.get(kind, {})}
        if kind in WRITTEN:
            settings["writer"] = {"model": "student"}
        source = Source.model_validate(settings)
        if kind == "other_modality":
            return source, None
        return source, ready(source, model, REPLY, monkeypatch)

    return made


def _step(number: int = 0) -> list[Trajectory]:
    """Eight episodes of four tasks, half of the groups with one that was solved."""
    answers = [["up", "left"], ["down"], ["right", "up"], ["up"]] * 2
    played = attempts(
        *answers, solved=[1, 0, 0, 0] * 2, reference=f"{SECRET} up", guide=f"Go {SECRET}.",
        document=f"page {SECRET}",
    )  # fmt: skip
    return [
        replace(
            t,
            episode=8 * number + t.episode,
            task=4 * number + t.task,
            prompt={**t.prompt, "reference": f"{SECRET} {t.task}", "oracle": SECRET},
            turns=tuple(
                replace(k, info={**k.info, "feedback": f"{SECRET} {t.task} {k.index}"})
                for k in t.turns
            ),
        )
        for t in played
    ]


def _brief(source: Source, batch: list[Trajectory]) -> list[Briefed]:
    return gather([source], batch)


def test_there_are_sources() -> None:
    assert {"peer_success", "text", "experience", "extracted_context"} <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_students_ids_hold_no_secret_and_stay_where_they_are(kind: str, make: Any) -> None:
    source, _ = make(kind)
    batch = _step()
    before = [t.ids.copy() for t in batch]
    briefed = [b for n in range(2) for b in _brief(source, batch if not n else _step(1))]
    for view_builder in (SystemView(), EveryTurnView(), ReplaceView()):
        for view in view_builder.build(briefed, TEMPLATE):
            _check_map(view)
    for trajectory, ids in zip(batch, before, strict=True):
        np.testing.assert_array_equal(trajectory.ids, ids)
        assert SECRET not in TEMPLATE.decode(trajectory.ids.tolist())
    spoken = [b for b in briefed if b.available]
    assert bool(spoken) == (kind != "other_modality"), "which no teacher can be told"
    if kind in SILENT_AT_FIRST:
        assert not any(b.available for b in briefed[:8])


def _check_map(view: View) -> None:
    trajectory, kept = view.trajectory, view.position >= 0
    assert kept[trajectory.trainable].all()
    np.testing.assert_array_equal(view.ids[view.position[kept]], trajectory.ids[kept])
    assert (np.diff(view.position[kept]) > 0).all()


def _said(briefed: list[Briefed]) -> list[Any]:
    return [(b.available, b.privileges) for b in briefed]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_step_is_told_the_same(kind: str, make: Any) -> None:
    one, other = (_said(_brief(make(kind)[0], _step())) for _ in range(2))
    assert one == other


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_goes_on_from_what_it_has_saved(kind: str, make: Any) -> None:
    source, again = make(kind)[0], make(kind)[0]
    for number in range(2):
        _brief(source, _step(number))
    again.restore(json.loads(json.dumps(source.state())))
    for number in (2, 3):
        assert _said(_brief(again, _step(number))) == _said(_brief(source, _step(number)))
    assert json.dumps(again.state()) == json.dumps(source.state())


@pytest.mark.parametrize("kind", KINDS)
def test_turns_that_are_told_of_were_played(kind: str, make: Any) -> None:
    source, _ = make(kind)
    for number in range(2):
        for briefed in _brief(source, _step(number)):
            turns = range(len(briefed.trajectory.turns))
            assert all(p.turn is None or p.turn in turns for p in briefed.privileges)
            assert all(p.source and isinstance(p.text, str) for p in briefed.privileges)


@pytest.mark.parametrize("kind", KINDS)
def test_of_no_episodes_nothing_is_said(kind: str, make: Any) -> None:
    source, _ = make(kind)
    assert _brief(source, []) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_is_what_a_file_says_of_it(kind: str, make: Any) -> None:
    source, _ = make(kind)
    written = json.loads(json.dumps(source.model_dump(mode="json")))
    assert Source.model_validate(written).model_dump(mode="json") == written


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_writer_that_writes_rubbish_leaves_no_privilege(kind: str, make: Any) -> None:
    source, scribe = make(kind)
    scribe.says = lambda _: "\n"
    for number in range(2):
        assert not any(b.available for b in _brief(source, _step(number)))
    assert source.scalars()["unread"] == source.scalars()["asked"] > 0
