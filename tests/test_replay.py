"""A replay gives each token the coefficient that learning gave it, or would have given it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import SOKOBAN, call, problem

from agentopd.base.types import Lesson
from agentopd.learning.objective import Objective
from agentopd.learning.plan import Plan
from agentopd.looking.replay.compare import Replay, replay
from agentopd.mixes.base import Mix
from agentopd.mixes.channels import Channels
from agentopd.running.config import RunConfig
from agentopd.running.reading import load_method, method_names, parse_config
from agentopd.running.train import train
from agentopd.signal.evidence import Measured
from agentopd.signal.tokens import Tokens
from agentopd.stored.trajectories import load_trajectories


@dataclass
class Learnt:
    """A run's folder and, of its second step, the gradients that its learner's loss had."""

    folder: Path
    grads: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)


def watched_channels(learnt: Learnt, step: int) -> Any:
    """`Objective.channels` that notes each episode's gradients by what was measured."""
    plain = Objective.channels

    def channels(
        self: Objective,
        measured: Measured,
        tokens: Tokens,
        batch: Sequence[Lesson],
        plan: Plan,
    ) -> Channels:
        values = {"logprob": measured.student.logprob_N, "divergence": measured.divergence_N}

        def note(name: str, grad_N: torch.Tensor | None) -> None:
            if grad_N is None:
                return
            for number, lesson in enumerate(batch):
                own = learnt.grads.setdefault(lesson.trajectory.episode, {})
                grad = grad_N[tokens.lesson_N == number].clone()
                own[name] = own[name] + grad if name in own else grad

        for name, value_N in values.items():
            if plan.step == step and value_N is not None:
                value_N.register_hook(lambda grad_N, name=name: note(name, grad_N))
        return plain(self, measured, tokens, batch, plan)

    return channels


RUNS = {
    "reverse": ("save.scores_top_k=400",),
    "k1": ("divergence.support=sampled", "unit=turn", "weight=[{kind: gap_gate}]"),
    "step": ("weight=[{kind: gap_gate, renormalise: step}]", "save.scores_top_k=400"),
    "auxiliary": (
        "mix={kind: auxiliary, coefficient: 0.5, rl: {kind: reinforce}}",
        "unit={kind: turn, use: weight, normalise: sequence_mean}",
        "divergence={kind: jsd, support: {kind: student_top_k, k: 4}}",
        "rollout.group=2",
    ),
    "routed": ("mix={kind: routed, rl: {kind: reinforce}}", "rollout.group=2"),
    "fallback": ("mix=dead_group_fallback", "rollout.group=2"),
}


def small(tiny_model: Path, *overrides: str) -> RunConfig:
    data = {
        "steps": 2,
        "threads": 1,
        "student": {"path": str(tiny_model)},
        "env": {"id": SOKOBAN, "options": {"prompt": "brief", "max_turns": 2}},
        "rollout": {"kind": "student", "tasks": 4, "max_turn_tokens": 5},
        "learner": {"learning_rate": 0.05, "tokens_per_batch": 256},
        "evaluate": {"episodes": 1},
        "save": {"scores_top_k": 8, "checkpoint_every": 0},
    }
    return parse_config(data, overrides)


@pytest.fixture(scope="module")
def runs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Learnt]:
    found = {}
    for name, overrides in RUNS.items():
        found[name] = learnt = Learnt(tmp_path_factory.mktemp("replay") / name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Objective, "channels", watched_channels(learnt, step=1))
            train(small(tiny_model, *overrides), learnt.folder)
    return found


def by_episode(shown: Replay, folder: Path, value_N: torch.Tensor) -> dict[int, torch.Tensor]:
    """A replay's numbers by the number of the episode."""
    path = folder / "trajectories" / f"step-{shown.step:05d}.parquet"
    numbers = [t.episode for t in load_trajectories(path)]
    return {e: value_N[shown.tokens.lesson_N == i] for i, e in enumerate(numbers)}


@pytest.mark.parametrize("name", RUNS)
def test_the_runs_own_arm_has_the_coefficients_that_it_learnt_with(
    runs: dict[str, Learnt], name: str
) -> None:
    learnt = runs[name]
    shown = replay(learnt.folder, {})
    assert (shown.step, list(shown.arms)) == (1, ["run"])
    assert learnt.grads
    for kind in ("logprob", "divergence"):
        found = by_episode(shown, learnt.folder, getattr(shown.arms["run"], f"by_{kind}_N"))
        for episode, own in found.items():
            expected = learnt.grads[episode].get(kind, torch.zeros_like(own))
            torch.testing.assert_close(own, expected, atol=0, rtol=1e-6)
    distilled = {"divergence"}
    kinds = {"reverse": distilled, "k1": {"logprob"}, "routed": distilled, "fallback": distilled}
    moved = {kind for own in learnt.grads.values() for kind, grad in own.items() if grad.any()}
    assert moved == kinds.get(name, moved)
    assert moved


def test_an_arm_is_what_the_run_would_have_learnt(runs: dict[str, Learnt]) -> None:
    """The run that estimates from sampled tokens played the same first step as the other one."""
    other = list(RUNS["k1"])
    found = replay(runs["reverse"].folder, {"k1": other, "same": ["unit=token"]}, step=0)
    expected = replay(runs["k1"].folder, {}, step=0).arms["run"]
    torch.testing.assert_close(found.arms["k1"].push_N, expected.push_N)
    assert torch.equal(found.arms["same"].push_N, found.arms["run"].push_N)
    assert not torch.equal(found.arms["k1"].push_N, found.arms["run"].push_N)


def test_scoring_anew_gives_what_was_saved(runs: dict[str, Learnt]) -> None:
    folder = runs["reverse"].folder
    saved = replay(folder, {}, step=0).arms["run"]
    arms = {"told": ["privilege=ground_truth"], "live": ["teacher=live"]}
    anew = replay(folder, arms, rescored=True)
    assert anew.step == 0
    assert anew.arms["run"].exact and saved.exact
    torch.testing.assert_close(anew.arms["run"].by_divergence_N, saved.by_divergence_N)
    torch.testing.assert_close(anew.arms["run"].push_N, saved.push_N, atol=1e-8, rtol=1e-3)
    assert torch.equal(anew.arms["live"].push_N, anew.arms["run"].push_N)
    assert not torch.allclose(anew.arms["told"].push_N, saved.push_N, atol=1e-8, rtol=1e-3)


def test_a_replay_follows_the_schedule_of_the_target(tiny_model: Path, tmp_path: Path) -> None:
    target = "divergence.target={kind: veto, beta: 0.8}"
    schedule = "schedule.target={kind: step, boundaries: [1], values: [0, 0.5]}"
    whole = ("save.scores_top_k=400", "save.checkpoint_every=0")
    train(small(tiny_model, target, schedule, *whole), tmp_path / "run")
    halved = ["divergence.target.beta=0.4", "schedule={}"]
    arms = {"halved": halved, "plain": ["divergence=reverse_kl", "schedule={}"]}
    for step, same, other in ((0, "plain", "halved"), (1, "halved", "plain")):
        for again in (False, True)[: 2 - step]:
            shown = replay(tmp_path / "run", arms, step, again).arms
            torch.testing.assert_close(shown["run"].push_N, shown[same].push_N)
            assert not torch.allclose(shown["run"].push_N, shown[other].push_N, rtol=1e-2)


def test_a_later_step_is_scored_anew_where_its_student_is_kept(
    tiny_model: Path, tmp_path: Path
) -> None:
    ema = ("teacher={kind: ema, rate: 0.5}", "save.scores_top_k=400")
    train(small(tiny_model, *ema, "steps=1"), tmp_path / "run")
    shutil.copytree(tmp_path / "run" / "checkpoints", tmp_path / "kept")
    (tmp_path / "run" / "summary.json").unlink()
    train(small(tiny_model, *ema), tmp_path / "run", resume=True)
    with pytest.raises(ValueError, match=r"the student of step 1 .* \(the checkpoint is of step 2"):
        replay(tmp_path / "run", {}, step=1, rescored=True)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    shutil.copytree(tmp_path / "kept", tmp_path / "run" / "checkpoints")
    saved, anew = (replay(tmp_path / "run", {}, 1, again).arms["run"] for again in (False, True))
    assert saved.push_N.abs().max() > 1e-5
    torch.testing.assert_close(anew.push_N, saved.push_N, atol=1e-7, rtol=1e-3)
    with pytest.raises(ValueError, match="a lagged teacher of step 1 is not kept"):
        replay(tmp_path / "run", {"a": ["teacher=lagged"]}, 1, rescored=True)


TOLD = "privilege=[ground_truth]"


@pytest.fixture(scope="module")
def shown_the_solution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a student of whom there is an expert; two groups of two."""
    out = tmp_path_factory.mktemp("rows") / "run"
    model = Path("zoo:sokoban-easy")
    rollout = ("rollout.tasks=2", "rollout.group=2", "rollout.max_turn_tokens=8")
    train(small(model, TOLD, *rollout, "steps=1"), out)
    return out


REWARDED = ("multiplicative", "trust_ratio", "hinted_distilled", "retried", "turn_reward")
"""Mixes in which nothing is learnt of one attempt, not hinted, that no reward sets apart."""


@pytest.mark.parametrize("name", method_names())
def test_every_method_is_an_arm_of_the_episodes_that_were_played(
    shown_the_solution: Path, name: str
) -> None:
    """Without its rollout. Saved numbers are enough where nothing else was to be asked."""
    row = load_method(name)
    arms = {"row": [f"method={name}"]}
    if "stages" in row:
        with pytest.raises(ValueError, match=r"^arm row: (stages cannot|another privilege)"):
            replay(shown_the_solution, arms)
        return
    if row.get("view", {}).get("tells") == "actor":  # these episodes lack the record it would read
        with pytest.raises(ValueError, match=r"^arm row: view.tells: actor has the teacher read"):
            replay(shown_the_solution, arms)
        return
    needs = {"gates": "mix: consensus learns where told episodes agree", "x_kd": "inferred_reward"}
    if name in needs:
        with pytest.raises(ValueError, match=rf"^arm row: {needs[name]}"):
            replay(shown_the_solution, arms, rescored=True)
        return
    told = {"privilege": [{"kind": "ground_truth"}], "view": {"kind": "system"}}
    told["teacher"] = {"kind": "frozen"}
    mix = Mix.model_validate(row["mix"])
    heard = bool(mix.distil_coefficient)
    asked = heard and any(row.get(axis, own) != own for axis, own in told.items())
    if asked:
        with pytest.raises(ValueError, match=r"^arm row: another (privilege|view|teacher) says"):
            replay(shown_the_solution, arms)
    found = replay(shown_the_solution, arms, rescored=asked).arms["row"]
    assert found.push_N.isfinite().all()
    # No episode was solved, none was hinted or a later attempt, and nobody can read what this
    # model writes.
    rewarded = not heard or mix.kind in REWARDED
    silent = name in ("srpo", "opid", "seed", "openclaw_rl")
    assert bool(found.push_N.any()) is not (rewarded or silent)


def test_a_row_on_saved_episodes_is_its_settings_one_by_one(shown_the_solution: Path) -> None:
    row = [f"{axis}={json.dumps(own)}" for axis, own in load_method("opsd").items()]
    arms = {"row": ["method=opsd"], "by hand": [x for x in row if not x.startswith("rollout=")]}
    found = replay(shown_the_solution, arms).arms
    assert torch.equal(found["row"].push_N, found["by hand"].push_N)
    assert not torch.equal(found["row"].push_N, found["run"].push_N)
    done = call("replay", shown_the_solution, "--set", "method=opsd")
    assert "method=opsd: without the row's rollout; the episodes are the run's own" in done.stdout
    words = ("--set", "method=opsd", "--set", "rollout.tasks=3")
    assert "rollout cannot be replayed" in problem(call("replay", shown_the_solution, *words))


JUDGED = "{kind: rubric_span, criteria: [{name: a, text: tidy, verifier: {kind: model}}]}"


@pytest.fixture
def run(runs: dict[str, Learnt]) -> Path:
    return runs["k1"].folder


def test_the_command_shows_arms_and_writes_them(run: Path, tmp_path: Path) -> None:
    done = call(
        "replay", run, "--set", "unit=token", "--set", "weight=[]", "--arm",
        "forward divergence=forward_kl", "--step", "0", "--json", tmp_path / "a.json", "--plot",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    for text in ("step 0", "unit=token weight=[]", "forward", "turn 2", "solved", "correlation"):
        assert text in done.stdout
    assert "forward: not all of the vocabulary was kept" in done.stdout
    (notice,) = done.stderr.splitlines()
    assert notice.startswith("warning: arm forward: unit: turn credits the mean")
    found = json.loads((tmp_path / "a.json").read_text())
    assert [arm["notices"] for arm in found["arms"].values()] == [
        [], [], [notice.removeprefix("warning: arm forward: ")],
    ]  # fmt: skip
    assert list(found["arms"]) == ["run", "unit=token weight=[]", "forward"]
    assert sum(found["arms"]["forward"]["share_by_turn"]) == pytest.approx(1)
    assert (run / "replay" / "step-00000.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--step", "7"], "has saved no step 7; there are: 0, 1"),
        (["--set", "unit=turns"], "no unit is called 'turns'; did you mean 'turn'?"),
        (["--set", "rollout.tasks=2"], "rollout cannot be replayed"),
        (["--set", "privilege=none"], "another privilege says something else"),
        (["--set", "teacher=live"], "ask it with --rescore"),
        (["--set", "control=no_pi"], "another privilege says something else"),
        (["--set", "unit"], "'unit' is not an override"),
        (["--arm", "unit=turn"], "needs a name and overrides"),
        (["--arm", "alone"], "needs a name and overrides"),
        (["--arm", ""], "needs a name and overrides"),
        (["--arm", "a unit=turn", "--arm", "a unit=token"], "two arms are called 'a'"),
        (["--arm", "run unit=turn"], "an arm cannot be called 'run'"),
        (["--set", "divergence={kind: jsd, support: teacher_top_k}"], "the run kept the 8"),
        (["--rescore", "--step", "1"], "the student of step 1 is not kept"),
        (
            ["--set", f"unit={JUDGED}", "--set", "weight=[]"],
            "its unit asks a model; let it with --rescore",
        ),
        (
            ["--set", "mix={kind: auxiliary, rl: {kind: reinforce, kl_coefficient: 0.1}}"],
            "of which nothing was saved: ask it with --rescore",
        ),
        (["--set", "divergence={kind: reverse_kl, target: extrapolate}"], "a third model"),
    ],
)
def test_what_cannot_be_replayed_is_told_in_a_line(run: Path, words: list[str], line: str) -> None:
    assert line in problem(call("replay", run, *words))


def test_a_folder_that_does_not_hold_it_is_told_in_a_line(
    run: Path, tiny_model: Path, tmp_path: Path
) -> None:
    assert "is no run's folder" in problem(call("replay", tmp_path))
    bare = tmp_path / "bare"
    shutil.copytree(run, bare)
    shutil.rmtree(bare / "scores")
    assert "save.scores_top_k=16" in problem(call("replay", bare))
    assert call("replay", bare, "--rescore").exit_code == 0
    shutil.rmtree(bare / "trajectories")
    assert "holds no trajectories" in problem(call("replay", bare))
    shutil.copytree(run, tmp_path / "study" / "arms" / "a" / "seed-0")
    assert "arms/a/seed-0" in problem(call("replay", tmp_path / "study"))


def test_a_run_without_a_teacher_has_none_to_replay(tiny_model: Path, tmp_path: Path) -> None:
    method = ("mix={kind: rl, rl: {kind: reinforce}}", "steps=1", "rollout.group=2")
    train(small(tiny_model, *method), tmp_path / "run")
    assert "taught nothing" in problem(call("replay", tmp_path / "run"))
