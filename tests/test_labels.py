"""An expert's answers in the states that others visit, and stores that grow by them."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import call, problem

from agentopd.base.stopping import Interrupted
from agentopd.base.types import Owner, Trajectory
from agentopd.environment.contract import actions
from agentopd.models.model import LanguageModel, ModelSettings, load_model
from agentopd.running.collecting.collect import collect
from agentopd.running.collecting.labels import Expert, State
from agentopd.running.collecting.settings import CollectSettings
from agentopd.running.config import ConfigError, RunConfig
from agentopd.running.reading import parse_config
from agentopd.running.train import train
from agentopd.stored.demonstrations import read_demonstrations

EXPERT = "teacher={kind: external, source: {path: 'zoo:sokoban-expert'}}"


def _config(*overrides: str) -> RunConfig:
    data: dict[str, Any] = {
        "threads": 1,
        "student": {"path": "zoo:sokoban-easy"},
        "env": {"id": "agentopd/Sokoban-v0", "options": {"prompt": "brief", "max_turns": 3}},
        "rollout": {"tasks": 3, "max_turns": 3},
        "privilege": "none",
    }
    return parse_config(data, [EXPERT, *overrides])


def _collected(out: Path, config: RunConfig, **how: Any) -> list[Trajectory]:
    collect(config, CollectSettings.model_validate(how), out)
    return read_demonstrations(out)


def _record(out: Path) -> dict[str, Any]:
    return json.loads((out / "collection.json").read_text())


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> list[Trajectory]:
    out = tmp_path_factory.mktemp("played") / "store"
    return _collected(out, _config(), by="student", episodes=6)


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("labelled") / "store"
    _collected(out, _config(), by="student", label="teacher", episodes=6)
    return out


def test_there_is_a_record_of_every_visited_state_and_no_other(
    episodes: list[Trajectory], labels: Path
) -> None:
    states = [(t, turn) for t in episodes for turn in t.turns]
    records = read_demonstrations(labels)
    assert len(records) == len(states) > len(episodes)
    for record, (episode, turn) in zip(records, states, strict=True):
        assert record.ids[: turn.start].tolist() == episode.ids[: turn.start].tolist()
        assert record.turns[:-1] == episode.turns[: turn.index]
        assert record.turns[-1].observation == turn.observation
        assert set(record.owner[: turn.start]) == {Owner.TEMPLATE}
        assert set(record.owner[turn.start :]) == {Owner.TEACHER}
        assert np.array_equal(record.trainable, record.owner == Owner.TEACHER)
        assert record.turns[-1].stop == len(record.ids) == record.segments[-1][1]
        assert record.student_tokens == 0


def test_a_teachers_label_is_its_likeliest_answer_there(labels: Path) -> None:
    expert = load_model(ModelSettings(path="zoo:sokoban-expert"))
    for record in read_demonstrations(labels):
        read = expert.module(input_ids=torch.from_numpy(record.ids)[None]).logits[0]
        places = record.trainable.nonzero()[0]
        best = read[places - 1].argmax(-1)
        assert best.tolist() == record.ids[places].tolist()
        logprob = read.log_softmax(-1)[places - 1, best].detach().numpy()
        np.testing.assert_allclose(record.logprob[places], logprob, atol=2e-5)
    found = _record(labels)
    assert found["teacher_tokens"] == found["tokens"] > 0


def test_the_oracles_label_is_its_best_action_in_that_state(
    episodes: list[Trajectory], tmp_path: Path
) -> None:
    """Where it knows one: from a state that cannot be solved any more it names none."""
    records = iter(_collected(tmp_path / "o", _config(), by="student", label="oracle", episodes=6))
    env, lost = _config().env.build(), 0
    for episode in episodes:
        _, info = env.reset(seed=episode.seed)
        for turn in episode.turns:
            if plan := actions(env, info.get("oracle", "")):
                record = next(records)
                assert record.turns[-1].action == f"<action>{plan[0]}</action>"
                assert set(record.owner[record.trainable]) == {Owner.DEMO}
            lost += not plan
            *_, info = env.step(turn.action)
    assert next(records, None) is None
    assert lost, "every state could be solved"


def test_a_told_teacher_labels_by_what_it_is_told(tmp_path: Path, labels: Path) -> None:
    """And what it is told stands in no record."""
    told = _config("privilege=oracle_next", "view=every_turn", "teacher=frozen")
    found = _collected(tmp_path / "told", told, by="student", label="teacher", episodes=3)
    for record, other in zip(found, read_demonstrations(labels), strict=False):
        start = record.turns[-1].start
        assert record.ids[:start].tolist() == other.ids[:start].tolist()
    untold = _collected(
        tmp_path / "untold", _config("teacher=frozen"), by="student", label="teacher", episodes=3
    )
    best = [record.turns[-1].action for record in found]
    assert best != [record.turns[-1].action for record in untold]


class _Silent(Expert):
    """The teacher, which nobody may ask."""

    owner = Owner.TEACHER

    def answers(self, states: Sequence[State]) -> list[Any]:
        """See `Expert.answers`."""
        assert not states
        return []


def test_where_the_expert_acted_its_answer_is_what_it_said(
    episodes: list[Trajectory], student: LanguageModel
) -> None:
    theirs = [
        replace(t, owner=np.where(t.trainable, Owner.TEACHER, t.owner).astype(np.uint8))
        for t in episodes
    ]
    records = _Silent(student.template, student.stop_ids).label(theirs)
    said = [r.ids[r.trainable].tolist() for r in records]
    assert said == [t.ids[u.start : u.stop].tolist() for t in theirs for u in t.turns]
    assert [r.turns[-1] for r in records] == [u for t in theirs for u in t.turns]
    drawn = np.concatenate([r.logprob[r.trainable] for r in records])
    assert np.array_equal(drawn, np.concatenate([t.logprob[t.trainable] for t in theirs]))


@pytest.fixture(scope="module")
def student() -> LanguageModel:
    return load_model(ModelSettings(path="zoo:sokoban-easy"))


def test_a_store_grows_by_what_comes_behind_it(labels: Path, tmp_path: Path) -> None:
    how = {"by": "student", "label": "teacher", "episodes": 3, "onto": str(labels)}
    whole = _collected(tmp_path / "grown", _config(), **how)
    before = read_demonstrations(labels)
    assert [t.ids.tolist() for t in whole[: len(before)]] == [t.ids.tolist() for t in before]
    config = _config()
    behind = [task.seed for task in config.rollout.schedule(config.seed, 2)]
    assert list(dict.fromkeys(t.seed for t in whole[len(before) :])) == behind
    record = _record(tmp_path / "grown")
    assert record["earlier"] == len(before)
    assert record["earlier"] + record["kept"] == len(whole)
    again = _collected(tmp_path / "more", config, **how | {"onto": str(tmp_path / "grown")})
    assert _record(tmp_path / "more")["earlier"] == len(whole) < len(again)


def test_schedules_of_whoever_acts_count_on_in_a_store_that_grows(tmp_path: Path) -> None:
    """The expert acts in the first store, and the student in the second."""
    law = "schedule.share={kind: step, boundaries: [1], values: [1.0, 0.0]}"
    config = _config("rollout={kind: mixed, per: turn, share: 1.0, tasks: 3, max_turns: 3}", law)
    how: dict[str, Any] = {"by": "rollout", "episodes": 3}
    acted = _collected(tmp_path / "a", config, **how, label="teacher")
    assert _record(tmp_path / "a")["teacher_tokens"] == sum(int(t.trainable.sum()) for t in acted)
    both = _collected(tmp_path / "b", config, **how, onto=str(tmp_path / "a"))
    behind = both[len(acted) :]
    assert len(behind) == 3
    assert {int(x) for t in behind for x in t.owner} == {Owner.TEMPLATE, Owner.STUDENT}


def test_a_growing_store_that_was_interrupted_holds_the_same(labels: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    how = CollectSettings(by="student", label="oracle", episodes=6, onto=str(labels))
    collect(_config(), how, tmp_path / "whole")
    with pytest.raises(Interrupted):
        collect(_config(), how, tmp_path / "stopped", lambda _: stop.set(), stop)
    collect(_config(), how, tmp_path / "stopped")
    names = sorted(p.name for p in (tmp_path / "whole").glob("*.parquet"))
    assert names[0].startswith("earlier-") and names[-1] == "episodes-00001.parquet"
    for name in names:
        one, other = ((tmp_path / x / name).read_bytes() for x in ("whole", "stopped"))
        assert one == other


def test_a_store_of_an_older_version_goes_on(labels: Path, tmp_path: Path) -> None:
    """Its record lacks what has been added to settings since."""
    how = CollectSettings(by="student", episodes=3)
    collect(_config(), how, tmp_path / "old")
    record = _record(tmp_path / "old")
    for key in ("label", "onto"):
        del record["settings"]["collect"][key]
    del record["settings"]["rollout"]["slots"]
    (tmp_path / "old" / "collection.json").write_text(json.dumps(record))
    assert collect(_config(), how, tmp_path / "old")["done"]
    with pytest.raises(ConfigError, match="begun with other settings of rollout"):
        collect(_config("rollout.slots=3"), how, tmp_path / "old")


def test_what_is_no_finished_store_cannot_grow(tmp_path: Path) -> None:
    how = CollectSettings(by="oracle", episodes=3, onto=str(tmp_path))
    with pytest.raises(ValueError, match="is no finished store to go on from"):
        collect(_config(), how, tmp_path / "new")


def test_the_command_labels_and_adds(labels: Path, tmp_path: Path) -> None:
    small = ("rollout.tasks=2", "rollout.max_turns=2", "threads=1", "--episodes", "2")
    how = ("--by", "student", "--label", "oracle", "--onto", labels, "--out", tmp_path / "d")
    said = call("collect", "quickstart", *small, *how)
    assert said.exit_code == 0, said.stderr
    before, found = read_demonstrations(labels), read_demonstrations(tmp_path / "d")
    assert f"behind {len(before)} earlier ones" in said.stdout
    assert len(found) > len(before)
    assert "--label: Input should be 'oracle' or 'teacher'" in problem(
        call("collect", "quickstart", "--label", "nobody")
    )


def test_a_text_that_is_read_has_no_states_to_answer_in() -> None:
    with pytest.raises(ValueError, match="jsonl is read as it is"):
        CollectSettings(by="traces.jsonl", label="oracle")


def test_a_stage_whose_store_refers_to_nothing_is_refused(tmp_path: Path) -> None:
    stages = "{a: {collect: {by: oracle, episodes: 3, onto: 'stage:b'}}, c: {mix: nll}}"
    with pytest.raises(ConfigError, match="stage 1-a: stage:b refers to nothing"):
        train(_config(f"stages={stages}", "teacher=frozen"), tmp_path / "run")
