"""Stores of demonstrations: who plays, what is kept as history, text, resuming, what is refused."""

from __future__ import annotations

import json
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import call

from agentopd.base.files import held_alone
from agentopd.base.stopping import Interrupted
from agentopd.base.types import Owner, Trajectory
from agentopd.environment.contract import actions
from agentopd.models.model import LanguageModel, ModelSettings, load_model
from agentopd.privilege.view import SystemView
from agentopd.privilege.whispered import Whisper
from agentopd.rollout.policies.base import Cast
from agentopd.rollout.policies.demonstrations import DemonstrationsRollout, check_readable
from agentopd.rollout.transformers_sampler import TransformersSampler
from agentopd.running.collecting.collect import collect
from agentopd.running.collecting.settings import CollectSettings
from agentopd.running.config import ConfigError, RunConfig
from agentopd.running.reading import parse_config
from agentopd.stored.demonstrations import read_demonstrations

ZOO = "zoo:sokoban-easy"


def _config(*overrides: str, path: str = ZOO) -> RunConfig:
    data: dict[str, Any] = {
        "threads": 1,
        "student": {"path": path},
        "env": {"id": "agentopd/Sokoban-v0", "options": {"prompt": "brief", "max_turns": 6}},
        "rollout": {"tasks": 8},
    }
    return parse_config(data, overrides)


def _collected(out: Path, config: RunConfig, **how: Any) -> list[Trajectory]:
    collect(config, CollectSettings.model_validate(how), out)
    return read_demonstrations(out)


@pytest.fixture(scope="module")
def student() -> LanguageModel:
    return load_model(ModelSettings(path=ZOO))


@pytest.fixture(scope="module")
def oracles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("oracle") / "demos"
    _collected(out, _config(), by="oracle", episodes=12)
    return out


def test_the_oracle_plays_its_own_next_action_and_nobody_sampled_it(oracles: Path) -> None:
    env = _config().env.build()
    for trajectory in read_demonstrations(oracles):
        _, info = env.reset(seed=trajectory.seed)
        for turn in trajectory.turns:
            best = actions(env, info["oracle"])[0]
            assert turn.action == f"<action>{best}</action>"
            *_, info = env.step(turn.action)
        answered = trajectory.owner != Owner.TEMPLATE
        assert set(trajectory.owner[answered]) == {Owner.DEMO}
        assert np.array_equal(trajectory.trainable, answered)
        assert np.isnan(trajectory.logprob).all()


def test_the_tasks_are_those_of_the_runs_own_training(oracles: Path) -> None:
    config = _config()
    trained = [task.seed for step in (0, 1) for task in config.rollout.schedule(config.seed, step)]
    assert [t.seed for t in read_demonstrations(oracles)] == trained[:12]


def test_the_student_plays_as_in_a_rollout(tmp_path: Path, student: LanguageModel) -> None:
    config = _config()
    found = _collected(tmp_path / "s", config, by="student", episodes=8)
    sampler = TransformersSampler(student)
    played = config.rollout.collect(config.env, student, sampler, config.seed, 0)
    assert [t.ids.tolist() for t in found] == [t.ids.tolist() for t in played]


def test_a_teachers_tokens_are_its_own_at_its_own_log_probabilities(tmp_path: Path) -> None:
    """Read again by the teacher, told nothing, they have what was stored."""
    teacher = "teacher={kind: external, source: {path: 'zoo:sokoban-expert'}}"
    config = _config(teacher, "privilege=none")
    found = _collected(tmp_path / "t", config, by="teacher", episodes=4)
    expert = load_model(ModelSettings(path="zoo:sokoban-expert"))
    for trajectory in found:
        own = trajectory.owner == Owner.TEACHER
        assert np.array_equal(own, trajectory.trainable)
        read = expert.module(input_ids=torch.from_numpy(trajectory.ids)[None]).logits[0]
        places, ids = own.nonzero()[0], trajectory.ids[own]
        logprob = read.log_softmax(-1)[places - 1, ids].detach().numpy()
        np.testing.assert_allclose(trajectory.logprob[own], logprob, atol=2e-5)


def test_what_the_student_is_told_is_in_no_history(tmp_path: Path, student: LanguageModel) -> None:
    config = _config("privilege=ground_truth", "view=system")
    told = _collected(tmp_path / "told", config, by="told", episodes=16, keep={"success": True})
    env = config.env.build()
    for trajectory in told:
        assert trajectory.success
        assert set(trajectory.owner[trajectory.trainable]) == {Owner.STUDENT}
        assert trajectory.told is not None
        assert np.array_equal(trajectory.told, trajectory.trainable)
        _, info = env.reset(seed=trajectory.seed)
        text = student.template.decode(trajectory.ids[~trajectory.trainable].tolist())
        assert info["reference"] not in text


LINES = [
    {"turns": [{"observation": "a", "answer": "<action>up</action>"}], "success": True},
    {
        "system": "rules",
        "reward": 2,
        "turns": [
            {"observation": "b", "answer": "<think>so</think><action>up</action>"},
            {"observation": "c <|end|>", "answer": "<action>left</action>"},
        ],
    },
]


def _text(path: Path, *lines: Any) -> Path:
    path.write_text("".join(f"{x if isinstance(x, str) else json.dumps(x)}\n" for x in lines))
    return path


def test_text_is_encoded_as_the_template_would(tmp_path: Path, student: LanguageModel) -> None:
    source = _text(tmp_path / "traces.jsonl", LINES[0], "", LINES[1])
    one, two = _collected(tmp_path / "demos", _config(), by=str(source))
    assert (one.success, two.success, two.reward) == (True, False, 2.0)
    template = student.template
    messages = template.messages("rules", "b")
    for role, content in (
        ("assistant", LINES[1]["turns"][0]["answer"]),  # type: ignore[index]
        ("user", "c <|end|>"),
    ):
        messages.append({"role": role, "content": content})
    shown = template.encoded(template.pieces(messages)).ids
    last = two.turns[-1]
    assert two.ids[: last.start].tolist() == shown
    assert [turn.action for turn in two.turns] == [x["answer"] for x in LINES[1]["turns"]]  # type: ignore[index]
    assert last.action == "<action>left</action>"
    assert set(two.owner[two.trainable]) == {Owner.DEMO}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "line 2 is not JSON"),
        ({"turns": []}, "line 2 is no episode: turns"),
        ({"turns": [{"observation": "a"}]}, "line 2 is no episode: turns.0.answer"),
        ({"turns": LINES[0]["turns"], "sucess": True}, "line 2 is no episode: sucess"),
        (
            {"turns": [{"observation": "\ud800", "answer": "x"}]},
            "line 2, turn 1: .*the observation",
        ),
        ({"turns": [{"observation": "up " * 9000, "answer": "x"}]}, "line 2 is longer than"),
    ],
)
def test_a_line_that_is_no_episode_is_named(tmp_path: Path, line: Any, told: str) -> None:
    source = _text(tmp_path / "traces.jsonl", LINES[0], line)
    with pytest.raises(ValueError, match=told) as refusal:
        _collected(tmp_path / "demos", _config(), by=str(source))
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "demos" / "collection.json").exists()


def test_an_interrupted_store_goes_on_and_holds_the_same(oracles: Path, tmp_path: Path) -> None:
    stop, how = threading.Event(), CollectSettings(by="oracle", episodes=12)
    with pytest.raises(Interrupted):
        collect(_config(), how, tmp_path / "d", lambda _: stop.set(), stop)
    assert len(list((tmp_path / "d").glob("*.parquet"))) == 1
    collect(_config(), how, tmp_path / "d")
    for name in ("episodes-00000.parquet", "episodes-00001.parquet"):
        assert (tmp_path / "d" / name).read_bytes() == (oracles / name).read_bytes()


def test_two_processes_do_not_write_to_one_store(tmp_path: Path) -> None:
    with held_alone(tmp_path), pytest.raises(ValueError, match="another process is at work"):
        collect(_config(), CollectSettings(by="oracle", episodes=4), tmp_path)
    assert not any(tmp_path.iterdir())


def test_the_command_tells_its_counts_once(tmp_path: Path) -> None:
    words = ("collect", "quickstart", "rollout.tasks=2", "--by", "oracle", "--episodes", "3")
    first, again = (call(*words, "--out", tmp_path / "demos").stdout for _ in range(2))
    assert [line.partition(" episodes")[0] for line in first.splitlines()[:-1]] == ["2", "3"]
    assert again.splitlines() == first.splitlines()[1:]


def test_a_folder_of_something_else_is_left_alone(oracles: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="begun with other settings of collect"):
        collect(_config(), CollectSettings(by="oracle", episodes=13), oracles)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds something already"):
        collect(_config(), CollectSettings(), tmp_path)


def test_nothing_kept_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none is kept"):
        _collected(tmp_path / "d", _config(), by="oracle", episodes=2, keep={"reward": 1e6})


def test_demonstrations_of_another_tokenizer_are_refused(oracles: Path, tiny_model: Path) -> None:
    other = load_model(ModelSettings(path=str(tiny_model)))
    with pytest.raises(ValueError, match="is of another tokenizer than") as refusal:
        check_readable(read_demonstrations(oracles), other, "demos")
    assert "\n" not in str(refusal.value)


def test_each_pass_over_a_store_shows_all_of_it_in_another_order(
    oracles: Path, student: LanguageModel
) -> None:
    rollout = DemonstrationsRollout(path=str(oracles), tasks=4)
    rollout.prepare(Cast(student=student))
    config, sampler = _config(), None
    steps = [rollout.collect(config.env, student, sampler, 5, step) for step in range(6)]  # type: ignore[arg-type]
    seeds = [[t.seed for t in step] for step in steps]
    first, second = ([x for step in seeds[a : a + 3] for x in step] for a in (0, 3))
    assert sorted(first) == sorted(second) == sorted(t.seed for t in read_demonstrations(oracles))
    assert first != second
    assert [t.episode for step in steps for t in step] == list(range(24))


@pytest.mark.parametrize("made", ["nothing", "empty"])
def test_a_folder_without_demonstrations_is_told(tmp_path: Path, made: str) -> None:
    if made == "empty":
        (tmp_path / "d").mkdir()
    with pytest.raises(ValueError, match="holds no demonstrations"):
        read_demonstrations(tmp_path / "d")


def test_the_runs_own_rollout_plays_as_in_its_steps(tmp_path: Path, student: LanguageModel) -> None:
    """Groups and hints as in a run, step after step, and no word of the hint in what is kept."""
    hinted = "{kind: hinted, when: group_failed, keep: solved, learn_under: plain, "
    config = _config(
        f"rollout={hinted} tasks: 3, group: 2, max_turns: 6}}", "privilege=ground_truth"
    )
    found = _collected(tmp_path / "demos", config, by="rollout", episodes=10)
    assert [t.episode for t in found] == list(range(10))
    rollout = config.fresh().rollout
    teller = partial(Whisper, config.privilege, SystemView())
    rollout.prepare(Cast(student, teller=teller))
    step = rollout.collect(config.env, student, TransformersSampler(student), config.seed, 1)
    for one, other in zip(found[6:], step[:4], strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
    told = [t for t in found if t.told is not None]
    assert told and all(t.success for t in told)
    said = [student.template.decode(t.ids.tolist()) for t in found]
    assert not any("Solution" in text for text in said)


def test_what_is_attempted_again_is_collected_with_what_it_was_told(tmp_path: Path) -> None:
    config = _config("rollout={kind: retry, stop: never, tasks: 1, group: 2, max_turns: 2}")
    found = _collected(tmp_path / "demos", config, by="rollout", episodes=3)
    marks = [t.attempt for t in found if t.attempt is not None]
    assert [(mark.first, mark.number) for mark in marks] == [
        (0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (2, 1),
    ]  # fmt: skip
    assert [bool(mark.told) for mark in marks] == [mark.number > 0 for mark in marks]


def test_a_rollout_that_plays_nothing_cannot_be_collected(oracles: Path, tmp_path: Path) -> None:
    config = _config(f"rollout={{kind: demonstrations, path: {oracles}}}", "mix=nll")
    with pytest.raises(ValueError, match="reads what was played, and plays nothing"):
        _collected(tmp_path / "demos", config, by="rollout", episodes=8)
