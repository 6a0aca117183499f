"""Controls: what each puts in the place of what, and what a run under it shows."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import play_one, toy_tokenizer
from trajectories import played

from agentopd.base.types import Privilege, Trajectory
from agentopd.models.chat import ChatTemplate
from agentopd.models.model import ModelSettings, load_model
from agentopd.privilege.base import NoPrivilege, Source
from agentopd.privilege.controls import Filler, Shuffled
from agentopd.privilege.environment import EnvFeedback, GroundTruth
from agentopd.privilege.view import SystemView
from agentopd.privilege.writing.skills import SkillSummary
from agentopd.running.config import ConfigError, RunConfig
from agentopd.running.reading import arm_config, parse_config
from agentopd.running.run import Run
from agentopd.teachers.copies import EmaTeacher, FrozenTeacher
from agentopd.weights.token import GapGate

ENV: dict[str, Any] = {"env": {"id": "agentopd/Sokoban-v0"}}
GRPO = ("mix=auxiliary", "rollout.group=4", "rollout.tasks=1")


class Dictated(Source):
    """Tells what it was given."""

    texts: tuple[str, ...]

    def whisper(
        self, trajectory: Trajectory, batch: Sequence[Trajectory]
    ) -> tuple[Privilege, ...] | None:
        """See `Source.whisper`."""
        return tuple(
            Privilege(source="dictated", text=text, turn=n) for n, text in enumerate(self.texts)
        )


def _problem(*overrides: str, **data: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(ENV | data, overrides)
    return str(caught.value)


def test_without_a_control_nothing_is_replaced() -> None:
    found = parse_config(ENV, ["privilege=[none, ground_truth]", "teacher=ema"])
    assert found.control is None
    assert found.privilege == [NoPrivilege(), GroundTruth()]
    assert found.teacher == EmaTeacher()


def test_controls_of_privilege_take_the_sources_place() -> None:
    told = "privilege=[ground_truth, none, {kind: skill_summary, memory: 5}]"
    skill = SkillSummary(memory=5)
    found = parse_config(ENV, ["control=shuffled_pi", told]).privilege
    assert found == [Shuffled(of=GroundTruth()), NoPrivilege(), Shuffled(of=skill)]
    found = parse_config(ENV, ["control=filler", told]).privilege
    assert found == [Filler(of=GroundTruth()), NoPrivilege(), Filler(of=skill)]
    assert parse_config(ENV, ["control=no_pi", told]).privilege == [NoPrivilege()]
    # The default source, too, which no key of the file names.
    assert parse_config(ENV, ["control=filler"]).privilege == [Filler(of=SkillSummary())]


@pytest.mark.parametrize(
    ("control", "does"),
    [
        ("no_pi", "takes away what the teacher is told"),
        ("shuffled_pi", "puts another text in the place"),
        ("filler", "puts another text in the place"),
    ],
)
def test_a_text_that_is_not_there_cannot_be_taken_away_or_replaced(control: str, does: str) -> None:
    for told in ("none", "[none, none]"):
        said = _problem(f"control={control}", f"privilege={told}")
        assert said.startswith(f"control: {control} {does}")
        assert "under this control the run would be the same" in said
    assert parse_config(ENV, [f"control={control}", "privilege=[none, reflection]"])


@pytest.mark.parametrize("kind", ["live", "lagged", "ema"])
def test_a_copy_of_the_student_is_frozen(kind: str) -> None:
    taught = f"teacher={{kind: {kind}, tokens_per_batch: 99}}"
    found = parse_config(ENV, ["control=frozen_teacher", taught]).teacher
    assert type(found) is FrozenTeacher
    assert found == FrozenTeacher(tokens_per_batch=99)


def test_a_frozen_teacher_is_not_frozen_again() -> None:
    said = _problem("control=frozen_teacher", "teacher={kind: frozen, tokens_per_batch: 99}")
    assert "does not follow it: under this control the run would be the same" in said


def test_another_model_is_not_frozen_as_a_copy() -> None:
    said = _problem("control=frozen_teacher", "teacher=external")
    assert said.startswith("control: frozen_teacher") and "no such copy" in said


def test_a_control_of_the_teacher_needs_one() -> None:
    said = _problem("control=zero_signal", "mix=rl", "rollout.group=2")
    assert "mix: rl asks none" in said


def test_a_mistyped_control_names_those_there_are() -> None:
    assert _problem("control=no_PI").startswith("control: Input should be 'no_pi', 'shuffled_pi'")


@pytest.mark.parametrize(
    "control", ["no_pi", "shuffled_pi", "filler", "frozen_teacher", "zero_signal"]
)
def test_a_controlled_configuration_is_read_as_it_was_written(control: str) -> None:
    overrides = [f"control={control}", "privilege=[ground_truth]", "teacher=live"]
    config = parse_config(ENV, overrides)
    written = config.model_dump(mode="json")
    assert written["control"] == control
    assert [source["kind"] for source in written["privilege"]] == ["ground_truth"]
    assert written["teacher"]["kind"] == "live"
    again = parse_config(yaml.safe_load(yaml.safe_dump(written)))
    assert again.model_dump(mode="json") == written
    assert config.fresh().model_dump(mode="json") == written
    copied = config.model_copy(update={"threads": 7})
    for read in (again, config.fresh(), copied, RunConfig.model_validate(config)):
        assert (read.privilege, read.teacher) == (config.privilege, config.teacher)


def test_a_control_goes_over_what_another_has_left() -> None:
    shuffled = parse_config(ENV, ["control=shuffled_pi", "privilege=ground_truth"])
    found = parse_config(shuffled.model_dump(mode="json"), ["control=filler"])
    assert found.privilege == [Filler(of=GroundTruth())]


def _arms(**data: Any) -> RunConfig:
    arms = {
        "plain": {},
        "no_pi": {"control": "no_pi"},
        "method": {"control": "filler", "method": "opsd", "privilege": "reflection"},
        "zero": {"control": "zero_signal"},
    }
    return parse_config(ENV | {"study": {"arms": arms}, "teacher": "live"} | data)


def test_arms_have_their_controls() -> None:
    assert arm_config(_arms(), "plain", 0).control is None
    assert arm_config(_arms(), "no_pi", 0).privilege == [NoPrivilege()]
    assert [s.kind for s in arm_config(_arms(), "method", 0).privilege] == ["filler"]
    zero = arm_config(_arms(), "zero", 0)
    assert (zero.control, zero.factor("distil", 3), zero.factor("rl", 3)) == ("zero_signal", 0, 1)
    assert zero.privilege == [SkillSummary()]


def test_a_control_of_the_study_holds_for_every_arm_without_one() -> None:
    study = _arms(control="frozen_teacher", privilege="ground_truth")
    plain, none = (arm_config(study, arm, 0) for arm in ("plain", "no_pi"))
    assert (plain.privilege, type(plain.teacher)) == ([GroundTruth()], FrozenTeacher)
    assert (none.privilege, none.teacher.kind) == ([NoPrivilege()], "live")
    assert arm_config(study, "method", 0).privilege[0].kind == "filler"


def test_an_arm_can_do_without_the_control_of_the_study() -> None:
    arms = {
        "free": {"control": None},
        "other": {"privilege": "reflection"},
        "none": {"privilege": "none"},
    }
    study = _arms(control="no_pi", study={"arms": arms})
    assert arm_config(study, "free", 0).privilege == [SkillSummary()]
    assert arm_config(study, "other", 0).privilege == [NoPrivilege()]
    with pytest.raises(ConfigError, match="arm none: control: no_pi takes away"):
        arm_config(study, "none", 0)


TEMPLATE = ChatTemplate(toy_tokenizer())
LETTERS = st.text("abcdefghijklmnopqrstuvwxyz .:\n#$@", min_size=1, max_size=80)


@settings(max_examples=25)
@given(st.lists(LETTERS, min_size=1, max_size=3), st.integers(0, 9))
def test_without_a_tokenizer_filler_has_as_many_words(texts: list[str], episode: int) -> None:
    trajectory = played([5], [6], [7], episode=episode)
    told = Filler(of=Dictated(texts=tuple(texts))).whisper(trajectory, [trajectory])
    assert told is not None
    for number, (privilege, text) in enumerate(zip(told, texts, strict=True)):
        words = privilege.text.split()
        assert len(words) == len(text.split())
        assert not set(words) & set(text.lower().split())
        assert (privilege.source, privilege.turn) == ("filler", number)


@settings(max_examples=25)
@given(text=LETTERS)
def test_filler_has_as_many_tokens(text: str) -> None:
    trajectory, filler = played([5]), Filler(of=Dictated(texts=(text,)))
    filler.prepare(TEMPLATE)
    told = filler.whisper(trajectory, [trajectory])
    assert told is not None
    assert len(TEMPLATE.encode_content(told[0].text)) == len(TEMPLATE.encode_content(text))


SKILL = "Skill: Push the boxes onto the goals. Solved 3 of 12. Mistakes: bump 4, deadlock 2."


@pytest.mark.parametrize("model", ["tiny", "zoo:sokoban-easy"])
def test_filler_takes_as_much_of_the_view(model: str, tiny_model: Path) -> None:
    path = str(tiny_model) if model == "tiny" else model
    template = ChatTemplate(load_model(ModelSettings(path=path)).tokenizer)
    trajectory = played([5])
    for text in (SKILL, "Solution: up up left", "Feedback: a wall", SKILL * 5):
        filler = Filler(of=Dictated(texts=(text,)))
        filler.prepare(template)
        told = filler.whisper(trajectory, [trajectory])
        assert told is not None
        assert not _words(told[0].text) & _words(text)
        sizes = {len(template.encode_content(f"\n\n{said}")) for said in (told[0].text, text)}
        assert len(sizes) == 1


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def test_filler_is_the_same_for_the_same_episode_and_differs_between_episodes() -> None:
    def told(source: Source, **about: int) -> tuple[Privilege, ...] | None:
        trajectory = replace(played([5]), **about)  # type: ignore[arg-type]
        return source.whisper(trajectory, [trajectory])

    one, other = (Filler(of=Dictated(texts=(SKILL,))) for _ in range(2))
    assert told(one, episode=3, seed=7) == told(other, episode=3, seed=7)
    assert told(one, episode=3, seed=7) != told(one, episode=4, seed=7)
    assert told(one, episode=3, seed=7) != told(one, episode=3, seed=8)


def test_where_there_is_nothing_to_tell_there_is_nothing_to_fill() -> None:
    trajectory = play_one(["B1"], ["up <|im_end|>"])
    assert Filler(of=GroundTruth()).whisper(trajectory, [trajectory]) is None
    assert Filler(of=NoPrivilege()).whisper(trajectory, [trajectory]) == ()


def test_filler_keeps_the_memory_of_what_it_stands_for() -> None:
    filler, skill = Filler(of=SkillSummary()), SkillSummary()
    batch = [played([5], infos=[{"success": True}])]
    for source in (filler, skill):
        source.learn(batch)
    assert filler.state() == skill.state() != {}
    restored = Filler(of=SkillSummary())
    restored.restore(json.loads(json.dumps(filler.state())))
    assert restored.of.whisper(batch[0], batch) == skill.whisper(batch[0], batch)


def _tasks(*references: str) -> list[Trajectory]:
    return [
        replace(played([5], episode=n, task=n), prompt={"reference": text})
        for n, text in enumerate(references)
    ]


def test_a_text_that_all_tasks_share_cannot_be_shuffled() -> None:
    with pytest.raises(ValueError, match="skill_summary tells every task of this step the same"):
        Shuffled(of=SkillSummary()).learn(_tasks("up", "down"))
    with pytest.raises(ValueError, match="control: filler or no_pi"):
        Shuffled(of=GroundTruth()).learn(_tasks("up", "up", "up"))


def test_one_other_text_is_enough_and_a_later_step_may_be_alike() -> None:
    shuffled = Shuffled(of=GroundTruth())
    shuffled.learn(_tasks("up", "up", "down"))
    shuffled.learn(_tasks("up", "up"))


def test_nothing_told_is_nothing_shared() -> None:
    shuffled = Shuffled(of=EnvFeedback())
    shuffled.learn([])
    shuffled.learn(_tasks("up"))
    shuffled.learn(_tasks("up", "down"))


def _run(tiny_model: Path, out: Path, *overrides: str) -> Run:
    data = ENV | {"student": {"path": str(tiny_model)}, "threads": 1, "steps": 2}
    data["env"] = {**ENV["env"], "options": {"prompt": "brief", "max_turns": 3}}
    plain = ("rollout.tasks=4", "evaluate.episodes=1", "probe.pi_effect_every=1")
    return Run(parse_config(data, [*plain, *overrides]), out, False, lambda _: None)


def _two_steps(run: Run) -> list[dict[str, Any]]:
    """The lines of metrics of two steps."""
    for step in range(2):
        trajectories = run.roll_out(step)
        lessons = run.ask_teacher(trajectories, step)
        run.record(step, trajectories, run.learn(trajectories, lessons, step))
    return [json.loads(line) for line in (run.out / "metrics.jsonl").read_text().splitlines()]


def _weights(run: Run) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in run.student.module.parameters()])


def test_a_teacher_that_is_told_nothing_has_nothing_to_teach(
    tiny_model: Path, tmp_path: Path
) -> None:
    run = _run(tiny_model, tmp_path / "run", "control=no_pi")
    before = _weights(run)
    lines = _two_steps(run)
    assert torch.equal(_weights(run), before)
    for line in lines:
        scalars = line["probes"]["scalars"]
        assert scalars["gradient_norm"] == 0.0
        assert scalars["divergence"] == scalars["pi_effect_size"] == 0.0
        assert scalars["overlap"] == 1.0
        assert abs(scalars["overlap_advantage"]) < 1e-9
    assert yaml.safe_load((run.out / "config.yaml").read_text())["control"] == "no_pi"


@pytest.mark.parametrize(
    "method",
    [(), ("unit=turn", "weight=gap_gate")],
    ids=["linear", "weighted"],
)
def test_without_a_signal_all_is_as_it_was_and_no_weight_moves(
    tiny_model: Path, tmp_path: Path, method: tuple[str, ...]
) -> None:
    plain, zero = (
        _run(tiny_model, tmp_path / name, *method, *control)
        for name, control in (("plain", ()), ("zero", ("control=zero_signal",)))
    )
    before = _weights(zero)
    lines, controlled = _two_steps(plain), _two_steps(zero)
    assert torch.equal(_weights(zero), before)
    assert not torch.equal(_weights(plain), before)
    for line in controlled:
        assert "skipped" not in line
        assert (line["loss"], line["probes"]["scalars"]["gradient_norm"]) == (0.0, 0.0)
    # Until the weights differ, everything but the loss is the same.
    first, other = lines[0], controlled[0]
    assert (other["train"], other["tokens"]) == (first["train"], first["tokens"])
    assert other["probes"]["by_turn"] == first["probes"]["by_turn"]
    assert other["probes"]["scalars"]["log_ratio"] > 0


def _rewarded(tiny_model: Path, out: Path, *overrides: str) -> torch.Tensor:
    """The weights after one step in which the episodes of a group have different rewards."""
    grouped = ("rollout.group=4", "rollout.tasks=1", "probe.enabled=false")
    run = _run(tiny_model, out, *grouped, *overrides)
    trajectories = [
        replace(t, turns=(replace(t.turns[0], reward=float(t.episode % 3)), *t.turns[1:]))
        for t in run.roll_out(0)
    ]
    run.learn(trajectories, run.ask_teacher(trajectories, 0), 0)
    return _weights(run)


def test_without_a_signal_a_mix_is_its_reinforcement_learning(
    tiny_model: Path, tmp_path: Path
) -> None:
    rewards = _rewarded(tiny_model, tmp_path / "rl", "mix=rl")
    sampled = "divergence={kind: reverse_kl, support: sampled}"
    for mix, *more in (
        ("additive", sampled),
        ("multiplicative", "weight=gap_gate"),
        ("trust_ratio",),
    ):
        method = (f"mix={mix}", *more, "control=zero_signal")
        silenced = _rewarded(tiny_model, tmp_path / mix, *method)
        # A full step of Adam is 3e-4; a rounding of a gradient near zero may be part of one.
        torch.testing.assert_close(silenced, rewards, rtol=0, atol=1e-5)
    heard = _rewarded(tiny_model, tmp_path / "heard", "mix=additive", "mix.coefficient=1", sampled)
    assert (heard - rewards).abs().max() > 1e-4


def test_probes_reach_the_metrics_and_change_nothing(tiny_model: Path, tmp_path: Path) -> None:
    method = (
        *GRPO, "privilege=ground_truth", "weight=[gap_gate, {kind: gap_gate, beta: 1.0}]"
    )  # fmt: skip
    watched = _run(tiny_model, tmp_path / "watched", *method)
    blind = _run(tiny_model, tmp_path / "blind", *method, "probe.enabled=false")
    assert watched.config.weight[1] == GapGate(beta=1.0)
    lines = _two_steps(watched)
    probes = lines[0]["probes"]
    assert {"overlap", "overlap_advantage", "entropy_gap", "mass", "pi_effect", "gate_gap_gate",
            "gate_gap_gate_2", "compression"} <= set(probes["scalars"])  # fmt: skip
    assert {"count", "leak", "repetition", "invalid", "cut"} <= set(probes["by_turn"])
    assert {"turns", "truncated", "log_ratio"} <= set(probes["by_success"]["unsolved"])
    assert 0 < probes["scalars"]["gate_gap_gate"] < 1
    assert len({len(values) for values in probes["by_turn"].values()}) == 1
    assert _two_steps(blind)[0]["probes"]["by_turn"] == {}
    torch.testing.assert_close(_weights(blind), _weights(watched), rtol=0, atol=0)


def test_the_effect_of_privilege_is_measured_against_the_same_teacher(
    tiny_model: Path, tmp_path: Path
) -> None:
    """By the teacher's own logits, of the student's context and of its own."""
    run = _run(tiny_model, tmp_path / "run", "privilege=ground_truth")
    with torch.no_grad():
        run.config.teacher.model.output.weight.mul_(20.0)
    trajectories = run.roll_out(0)
    lessons = run.ask_teacher(trajectories, 0)
    assert len(lessons) == 4
    for lesson in lessons:
        trajectory, untold_N = lesson.trajectory, lesson.untold_N
        assert untold_N is not None
        ids_1T = torch.from_numpy(trajectory.ids)[None]
        logits_TV = run.config.teacher.model.module(input_ids=ids_1T).logits[0]
        places = torch.from_numpy(trajectory.trainable.nonzero()[0])
        logprob_NV = torch.log_softmax(logits_TV[places - 1].float(), -1)
        expected_N = logprob_NV.gather(1, ids_1T[0, places][:, None])[:, 0]
        torch.testing.assert_close(untold_N, expected_N, rtol=1e-4, atol=1e-4)
    effect = run.learn(trajectories, lessons, 0).scalars["pi_effect_size"]
    assert effect > 1e-3


def test_a_skipped_step_is_written_with_null(tiny_model: Path, tmp_path: Path) -> None:
    run = _run(tiny_model, tmp_path / "run", "privilege=ground_truth")
    trajectories = run.roll_out(0)
    update = run.learn(trajectories, run.ask_teacher(trajectories, 0), 0)
    broken = replace(update, loss=float("inf"), scalars={"gradient_norm": float("nan")})
    run.record(0, trajectories, broken)
    text = (run.out / "metrics.jsonl").read_text()
    assert "NaN" not in text and "Infinity" not in text
    line = json.loads(text)
    assert (line["loss"], line["probes"]["scalars"]) == (None, {"gradient_norm": None})


def test_the_same_skill_for_all_ends_a_shuffled_run_at_its_first_step(
    tiny_model: Path, tmp_path: Path
) -> None:
    run = _run(tiny_model, tmp_path / "run", "control=shuffled_pi")
    trajectories = run.roll_out(0)
    with pytest.raises(ValueError, match="privilege: skill_summary tells every task"):
        run.ask_teacher(trajectories, 0)


def test_filler_says_as_much_to_the_teacher_and_nothing_of_the_task(
    tiny_model: Path, tmp_path: Path
) -> None:
    views = []
    for name, control in (("told", ()), ("filler", ("control=filler",))):
        run = _run(tiny_model, tmp_path / name, *control)
        trajectories = run.roll_out(0)
        views.append([x.view for x in run.ask_teacher(trajectories, 0) if x.view])
    told, filler = views
    assert [len(v.ids) for v in filler] == [len(v.ids) for v in told]
    builder = SystemView()
    for own, other in zip(told, filler, strict=True):
        (said,), (filled,) = (
            [text for _, text in builder.insertions(v.briefed)] for v in (own, other)
        )
        assert not _words(filled) & _words(said)
