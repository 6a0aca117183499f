"""A rubric's verdicts are saved with a step's episodes, each with the tokens it paid, and shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from command_line import call, problem
from scenes import Scene, scene_of
from scripted import ScriptedAuthor
from trajectories import credited, played

from agentopd.looking.replay.saved import SavedStep
from agentopd.looking.verdicts import Judged, Verdicts, read_verdicts
from agentopd.models.chat import ChatTemplate
from agentopd.models.model import ModelSettings, load_model, load_tokenizer
from agentopd.running.config import RunConfig
from agentopd.running.reading import parse_config
from agentopd.running.train import train
from agentopd.signal.payments import Payment
from agentopd.stored.trajectories import load_payments, load_trajectories, save_trajectories
from agentopd.teachers.copies import FrozenTeacher
from agentopd.units.rubric import rubricator
from agentopd.units.rubric.judges import Case, ModelVerifier
from agentopd.units.rubric.unit import RubricSpanUnit

SPOKEN, SHORT = "Is a word spoken?", "Is the word short?"
REPLY = f"My rubric:\nspoken | {SPOKEN} | 2 | every answer\nbrief | {SHORT} | 3 | last answer"


def _config(model: Path, steps: int, *overrides: str) -> RunConfig:
    data: dict[str, Any] = {
        "steps": steps,
        "threads": 1,
        "student": {"path": str(model)},
        "env": {"id": "scripted:Letters"},
        "rollout": {"tasks": 4, "group": 2, "max_turn_tokens": 5},
        "unit": {
            "kind": "rubric_span",
            "use": "reward",
            "criteria": [{"name": "even", "fact": "even", "weight": 0.5}],
            "judge": {"kind": "model", "model": "student"},
            "induce": {
                "kind": "model",
                "model": "student",
                "every": 2,
                "shown": 1,
                "reply_tokens": 150,
                "difference": None,
            },
        },
        "evaluate": {"episodes": 1},
    }
    return parse_config(data, overrides)


def _train(model: Path, out: Path, steps: int, *overrides: str, resume: bool = False) -> Path:
    """A run whose writer replies by script."""
    author = ScriptedAuthor(load_model(ModelSettings(path=str(model))), [REPLY])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rubricator, "TransformersSampler", lambda _: author)
        train(_config(model, steps, *overrides), out, resume)
    return out


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _train(tiny_model, tmp_path_factory.mktemp("verdicts") / "run", 2)


def _file(run: Path, step: int) -> Path:
    return run / "trajectories" / f"step-{step:05d}.parquet"


def test_a_run_saves_each_verdict_with_the_tokens_it_paid(run: Path, tiny_model: Path) -> None:
    """Of the first step, whose judge is the student as it was: asked again, one at a time."""
    student, judge = load_model(ModelSettings(path=str(tiny_model))), ModelVerifier()
    teacher = FrozenTeacher()
    teacher.prepare(student)
    judge.prepare(student, teacher)
    payments = load_payments(_file(run, 0))
    for trajectory in load_trajectories(_file(run, 0)):
        own = {(p.criterion, p.turn): p for p in payments.pop(trajectory.episode)}
        for turn in trajectory.turns:
            last = turn is trajectory.turns[-1]
            even = float(turn.info["facts"]["even"])
            asked = [("even", "even", 0.5, even)]
            for name, text, weight in (("spoken", SPOKEN, 2.0), ("brief", SHORT, 3.0)):
                (verdict,) = judge.verdicts([Case(trajectory, turn, text, "turn")])
                assert verdict is not None and 0 < verdict < 1
                asked += [(name, text, weight, verdict)] if last or name == "spoken" else []
            for name, text, weight, verdict in asked:
                found = own.pop((name, turn.index))
                assert (found.text, found.weight) == (text, weight)
                assert (found.start, found.stop) == (turn.start, turn.stop)
                assert found.verdict == pytest.approx(verdict, abs=1e-5)
                assert found.paid == pytest.approx(weight * (2 * verdict - 1), abs=1e-4)
        assert not own
    assert not payments


def test_what_was_saved_adds_up_to_what_each_token_was_credited_with(run: Path) -> None:
    trajectories, payments = load_trajectories(_file(run, 1)), load_payments(_file(run, 1))
    unit = RubricSpanUnit.model_validate(
        {"use": "reward", "criteria": [{"name": "even", "fact": "even", "weight": 0.5}]}
    )
    for trajectory in trajectories:
        own = [p for p in payments[trajectory.episode] if p.criterion == "even"]
        carried = [
            sum(p.paid for p in own if p.start <= t < p.stop)
            for t in trajectory.trainable.nonzero()[0].tolist()
        ]
        assert carried == credited(unit, [0.0] * len(carried), trajectory)
        assert any(carried)


def test_what_became_of_a_models_lines_stands_in_the_metrics(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    scalars = [line["probes"]["scalars"] for line in lines if line["step"] >= 0]
    assert len(scalars) == 2
    for found in scalars:
        assert found["induced_criteria"] == 2
        assert found["induced_malformed"] == 1
        assert found["induced_quoted"] == found["induced_duplicate"] == 0


def test_a_run_whose_rubric_a_model_writes_goes_on_as_if_it_had_never_stopped(
    tiny_model: Path, tmp_path: Path
) -> None:
    whole = _train(tiny_model, tmp_path / "whole", 4)
    halves = _train(tiny_model, tmp_path / "halves", 2)
    _train(tiny_model, halves, 4, resume=True)
    states = [
        json.loads((out / "checkpoints" / "latest" / "progress.json").read_text())["unit"]
        for out in (whole, halves)
    ]
    assert states[0] == states[1]
    assert states[0]["steps"] == 4 and states[0]["last"]["reply"] == REPLY
    for step in (2, 3):
        assert load_payments(_file(whole, step)) == load_payments(_file(halves, step)) != {}
    weights = Path("checkpoints", "latest", "student", "model.safetensors")
    assert (whole / weights).read_bytes() == (halves / weights).read_bytes()


@pytest.fixture(scope="module")
def scene(tiny_model: Path) -> Scene:
    return scene_of(tiny_model)


RUBRIC = "unit={kind: rubric_span, criteria: [{name: tidy, fact: tidy}]}"


def test_where_no_teacher_counts_verdicts_pay_nothing(scene: Scene) -> None:
    """The first four episodes have lessons, the others a reward alone."""
    mix = "mix={kind: auxiliary, coefficient: 0.5}"
    told = [x for x in scene.lessons if x.trajectory.episode < 4]
    update, *_ = scene.learn(RUBRIC, mix, "rollout.group=4", lessons=told)
    assert sorted(update.payments) == list(range(8))
    for trajectory in scene.trajectories:
        for payment, turn in zip(
            update.payments[trajectory.episode], trajectory.turns, strict=True
        ):
            tidy = float(turn.info["facts"]["tidy"])
            assert payment.verdict == tidy
            assert payment.paid == (1 - tidy if trajectory.episode < 4 else 0)
    silent = "schedule={distil: {kind: constant, value: 0}}"
    update, *_ = scene.learn(RUBRIC, mix, "rollout.group=4", silent)
    assert {p.paid for own in update.payments.values() for p in own} == {0.0}
    scored = ("mix={kind: reward, score: unit}", "rollout.group=4")
    update, *_ = scene.learn(RUBRIC, *scored, lessons=[])
    assert {p.paid for own in update.payments.values() for p in own} == {0.0}
    assert {p.verdict for own in update.payments.values() for p in own} == {0.0, 1.0}


def test_a_routed_episode_is_paid_by_its_channel(scene: Scene) -> None:
    """Solved episodes learn from their reward alone, so verdicts on them pay nothing."""
    update, *_ = scene.learn(RUBRIC, "mix=routed", "rollout.group=4")
    paid = {e: sum(p.paid for p in own) for e, own in update.payments.items()}
    assert all((paid[t.episode] == 0) == t.success for t in scene.trajectories)


def test_a_step_that_taught_nothing_still_has_its_verdicts(scene: Scene) -> None:
    update, *_ = scene.learn(RUBRIC, lessons=[])
    assert update.skipped and len(update.payments) == 8


def test_a_unit_that_judges_nothing_leaves_the_file_as_it_was(scene: Scene, tmp_path: Path) -> None:
    update, *_ = scene.learn("unit=turn")
    assert update.payments == {}
    save_trajectories(scene.trajectories, tmp_path / "a", update.payments)
    assert "payments" not in pq.read_schema(tmp_path / "a").names
    assert load_payments(tmp_path / "a") == {}


def test_verdicts_come_back_as_they_were(tmp_path: Path) -> None:
    episodes = [played([5, 6], episode=n) for n in (3, 4)]
    own = [
        Payment(
            criterion="a",
            text='"quoted"\nünï',
            weight=0.1,
            turn=0,
            verdict=1 / 3,
            start=2,
            stop=4,
            paid=-1e-17,
        ),
        Payment(
            criterion="b", text="b", weight=2.0, turn=0, verdict=1.0, start=2, stop=2, paid=0.0
        ),
    ]
    save_trajectories(episodes, tmp_path / "a", {4: own})
    assert load_payments(tmp_path / "a") == {3: [], 4: own}
    assert [t.episode for t in load_trajectories(tmp_path / "a")] == [3, 4]
    with pytest.raises(ValueError, match="there is no trajectory file"):
        load_payments(tmp_path / "b")


def _paid(criterion: str, turn: int, verdict: float, paid: float, weight: float = 2.0) -> Payment:
    return Payment(
        criterion=criterion,
        text=f"Is it {criterion}?",
        weight=weight,
        turn=turn,
        verdict=verdict,
        start=2,
        stop=4,
        paid=paid,
    )


def test_a_criterion_over_a_step_is_the_mean_of_its_verdicts(tmp_path: Path) -> None:
    won, lost = {"success": True}, {"success": False}
    episodes = [
        played([5, 6], [5, 6], infos=[lost, won], episode=0),
        played([5, 6], infos=[lost], episode=1),
        played([5, 6], infos=[lost], episode=2),
    ]
    payments = {
        0: [_paid("tidy", 0, 1.0, 0.0), _paid("tidy", 1, 0.5, 1.0), _paid("kind", 1, 0.25, 3.0)],
        1: [_paid("tidy", 0, 0.25, 1.5)],
        2: [_paid("tidy", 0, 0.0, 2.0)],
    }
    saved = SavedStep(tmp_path, parse_config({"env": {"id": "scripted:Letters"}}), 0, episodes, [])
    verdicts = Verdicts(saved, payments)
    assert verdicts.criteria() == [
        Judged("tidy", "Is it tidy?", 2.0, turns=4, solved=0.75, failed=0.125, paid=1.125),
        Judged("kind", "Is it kind?", 2.0, turns=1, solved=0.25, failed=None, paid=3.0),
    ]
    assert verdicts.episode(None) is episodes[1], "the first that failed"
    assert verdicts.episode(0) is episodes[0]


def test_the_command_shows_each_verdict_and_the_text_it_paid(run: Path, tiny_model: Path) -> None:
    template = ChatTemplate(load_tokenizer(ModelSettings(path=str(tiny_model))))
    result = call("verdicts", run)
    assert result.exit_code == 0, result.output
    assert "step 1, 8 episodes judged" in result.stdout
    rows = ["".join(line.split()) for line in result.stdout.splitlines()]
    for one in read_verdicts(run, None).criteria():
        asks = "" if one.text == one.criterion else one.text
        start = "".join(f"{one.criterion}{asks}{one.weight:g}{one.turns}".split())
        assert any(row.startswith(start) and row.endswith(f"{one.paid:.2f}") for row in rows)
    failed = next(t for t in load_trajectories(_file(run, 1)) if not t.success)
    assert f"episode {failed.episode}, {failed.prompt['task_id']}" in result.stdout
    own = load_payments(_file(run, 1))[failed.episode]
    assert {p.verdict for p in own if p.criterion == "even"} <= {0.0, 1.0}
    for p in own:
        says = {0.0: "not met", 1.0: "met"}.get(p.verdict, f"{100 * p.verdict:.0f} % met")
        text = template.decode(failed.ids[p.start : p.stop].tolist()).replace("\n", "↵")
        tokens = f"{p.start}-{p.stop - 1}"
        row = f"{says}{p.criterion}{p.weight:g}{p.paid:.2f}{tokens}{text}"
        assert rows.count("".join(row.split())) == 1


def test_the_command_shows_the_episode_and_the_step_that_are_named(run: Path) -> None:
    result = call("verdicts", run, "--step", "0", "--episode", "5")
    assert "step 0," in result.stdout and "episode 5," in result.stdout
    told = problem(call("verdicts", run, "--step", "0", "--episode", "9"))
    assert told == "step 0 has no verdicts on an episode 9; its episodes are numbered from 0 to 7"
    assert "has saved no step 7" in problem(call("verdicts", run, "--step", "7"))


def test_a_run_without_a_rubric_has_no_verdicts_to_show(tiny_model: Path, tmp_path: Path) -> None:
    _train(tiny_model, tmp_path / "run", 1, "unit=token")
    told = problem(call("verdicts", tmp_path / "run"))
    assert "holds no verdicts: its unit, token, judged nothing in it" in told
