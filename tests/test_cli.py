"""`agentopd train`, `compare` and `report`; and that a mistake costs a line and nothing else."""

from __future__ import annotations

import io
import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import SOKOBAN, call, problem
from processes import until
from rich.console import Console
from typer.testing import Result

from agentopd.commands.acting import model_path
from agentopd.commands.progress import Status, run_progress, study_progress
from agentopd.commands.running import _change

COMMANDS = (
    "train",
    "compare",
    "eval",
    "play",
    "envs",
    "methods",
    "check-env",
    "report",
    "zoo",
    "verdicts",
)


def files(folder: Path) -> dict[str, bytes]:
    """Every file under `folder` with its content."""
    found = (p for p in folder.rglob("*") if p.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def steps_of(out: Path) -> list[int]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def write_config(folder: Path, model: Path, **changes: Any) -> Path:
    """A run of two short steps."""
    config = {
        "steps": 2,
        "threads": 1,
        "student": {"path": str(model)},
        "env": {"id": SOKOBAN, "options": {"prompt": "brief", "max_turns": 2}},
        "rollout": {"kind": "student", "tasks": 2, "max_turn_tokens": 4},
        "evaluate": {"episodes": 2},
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(config | changes))
    return path


@pytest.fixture
def config(tmp_path: Path, tiny_model: Path) -> Path:
    return write_config(tmp_path, tiny_model)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Path, Result]:
    """The folder of a run of two steps, and what the command printed."""
    folder = tmp_path_factory.mktemp("finished")
    path, out = write_config(folder, tiny_model), folder / "run"
    result = call("train", path, "--out", out)
    assert result.exit_code == 0, result.output
    return out, result


def test_the_command_is_there_before_torch_and_what_else_is_heavy() -> None:
    heavy = "{'torch', 'transformers', 'matplotlib'}"
    code = f"import sys, agentopd.cli; print(*{heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_without_words_it_prints_its_help() -> None:
    result = call()
    assert result.exit_code == 0
    assert all(command in result.stdout for command in COMMANDS)


def test_it_knows_its_version() -> None:
    assert call("--version").stdout.split()[0] == "agentopd"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = call(command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.stdout


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("env.id=agentopd/Sokobn-v0", "did you mean agentopd/Sokoban-v0?"),
        ("env.options.split=tset", "train, validation, test"),
        ("unit=turns", "did you mean 'turn'?"),
        ("privilege=skil_summary", "did you mean 'skill_summary'?"),
        ("student.path=nowhere/model", "no config.json. Give a local folder, or zoo:NAME"),
        ("student.path=zoo:sokoban-esay", "no embedded model is called 'zoo:sokoban-esay'"),
        ("learner.lerning_rate=1", "did you mean 'learning_rate'?"),
        ("lerner.clip=1", "did you mean 'learner'?"),
        ("steps=-1", "greater than or equal to 0, not -1"),
        ("rollout.tasks=-4", "greater than or equal to 1, not -4"),
        ("method=skil_sd", "did you mean 'skill_sd'?"),
        ("steps", "write key=value"),
        ("steps: 5", "write key=value"),
    ],
)
def test_a_bad_setting_is_told_in_a_line(
    override: str, told: str, config: Path, tmp_path: Path
) -> None:
    assert told in problem(call("train", config, override, "--out", tmp_path / "out"))


def test_every_bad_setting_of_a_file_has_a_line_of_its_own(
    tmp_path: Path, tiny_model: Path
) -> None:
    path = write_config(tmp_path, tiny_model, steps=-1, unit="turns")
    result = call("train", path, "--out", tmp_path / "out")
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert sorted(line.split(":")[:2] for line in lines) == [
        ["error", " steps"],
        ["error", " unit"],
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- steps: 2\n- seed: 1\n", "holds list, not a mapping of settings"),
        ("steps: [2\n", "is not YAML"),
        ("", "holds NoneType, not a mapping"),
        ("steps: 2\n", "env"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_config_of_the_wrong_shape_is_told_in_a_line(
    text: str | None, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "odd.yaml"
    if text is not None:
        path.write_text(text)
    assert told in problem(call("train", path, "--out", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_another_run_is_left_as_it_is(
    config: Path, finished: tuple[Path, Result]
) -> None:
    out, _ = finished
    before = files(out)
    assert "choose another --out" in problem(call("train", config, "--out", out))
    other = problem(call("train", config, "unit=rubric_span", "--out", out, "--resume"))
    assert "other settings of unit" in other
    assert files(out) == before


@pytest.mark.parametrize("command", ["train", "compare"])
def test_there_is_nothing_to_resume_in_an_empty_place(
    command: str, tmp_path: Path, tiny_model: Path
) -> None:
    path = write_config(tmp_path, tiny_model, study={"arms": {"rubric": {"unit": "rubric_span"}}})
    result = call(command, path, "--out", tmp_path / "none", "--resume")
    assert "leave out --resume to start one" in problem(result)
    assert not (tmp_path / "none").exists()


def test_a_config_without_arms_cannot_be_compared(config: Path, tmp_path: Path) -> None:
    told = problem(call("compare", config, "--out", tmp_path / "out"))
    assert "has no study" in told


def test_the_traceback_of_a_mistake_is_shown_to_who_asks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        call("--traceback", "train", tmp_path / "none.yaml")


def test_a_defect_is_no_mistake_and_keeps_its_traceback(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("agentopd.running.train.train", fail)
    with pytest.raises(ZeroDivisionError):
        call("train", config, "--out", tmp_path / "out")


def test_training_ends_with_what_it_changed_and_a_report(finished: tuple[Path, Result]) -> None:
    out, result = finished
    assert steps_of(out) == [-1, 0, 1]
    assert "step 2/2" in result.stdout
    *_, change, report = result.stdout.splitlines()
    assert change == "success of 2 test tasks: 0 % -> 0 % (95 % interval 0–66 %)"
    assert report == f"the report: {out / 'report.html'}"
    assert (out / "report.html").is_file()


TURN_IS_TOKEN = "unit: turn credits the mean of a span's losses"


def test_what_changes_nothing_is_told_before_and_kept(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = call("train", config, "unit=turn", "unit.budget=3", "steps=1", "--out", out)
    assert result.exit_code == 0, result.output
    lines = [
        line
        for line in result.stderr.splitlines()
        if "changes nothing" in line or TURN_IS_TOKEN in line
    ]
    assert result.stderr.splitlines()[:2] == lines  # what follows is of a random model's answers
    assert [line.partition(" ")[0] for line in lines] == ["warning:", "warning:"]
    assert TURN_IS_TOKEN in lines[0] and "unit.budget changes nothing" in lines[1]
    kept = json.loads((out / "summary.json").read_text())["notices"]
    assert [f"warning: {notice}" for notice in kept] == lines
    page = (out / "report.html").read_text()
    assert "unit.budget changes nothing" in page and "it is unit: token exactly" in page


def test_steps_without_an_update_are_told_with_their_reasons() -> None:
    summary = {"success_before": 0.1, "success_after": 0.4, "evaluation": {}, "steps": 15}
    assert _change(summary | {"skipped": {}}) == "success: 10 % -> 40 %"
    assert _change(summary | {"skipped": {"none to learn": 3, "not finite": 1}}).splitlines() == [
        "success: 10 % -> 40 %",
        "3 of 15 steps were skipped: none to learn",
        "1 of 15 steps were skipped: not finite",
    ]


def test_a_finished_run_can_be_made_longer(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert call("train", config, "--out", out).exit_code == 0
    result = call("train", config, "steps=3", "--out", out, "--resume")
    assert result.exit_code == 0, result.output
    assert steps_of(out) == [-1, 0, 1, 2]
    assert "step 3/3" in result.stdout and "step 2/3" not in result.stdout


def test_runs_are_named_after_their_config(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("train", config.name, "steps=1").exit_code == 0
    assert (tmp_path / "runs" / "small" / "report.html").is_file()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_finished_by_the_printed_command(
    config: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "a run"
    words = ["train", str(config), "steps=100000", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "agentopd", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        metrics = out / "metrics.jsonl"
        until(lambda: metrics.is_file() and metrics.read_text().count("\n") > 2, process)
        process.send_signal(number)
        _, told = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, told
    done = json.loads((out / "checkpoints/latest/progress.json").read_text())["step"]
    said, command = told.splitlines()[-2:]  # behind what is wrong with a random model
    assert said == f"stopped after {done} steps; to go on:"
    name, *again = shlex.split(command)
    assert name == "agentopd"
    result = call(*again, f"steps={done + 1}")
    assert result.exit_code == 0, result.output
    assert steps_of(out) == list(range(-1, done + 1))
    assert json.loads((out / "summary.json").read_text())["steps"] == done + 1


def test_ctrl_c_before_the_first_step_says_so(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("agentopd.running.train.train", interrupt)
    result = call("train", config, "--out", tmp_path / "out")
    assert result.exit_code == 130
    assert result.stderr == "stopped before anything was written\n"


ARM = {
    "success_before": 0.1, "success_after": 0.4, "interval": [0.3, 0.5], "episodes": 640,
    "student_tokens": 12_345, "teacher_tokens": 0, "seconds": {"total": 61.2}, "dead_groups": None,
    "seeds": [0, 1],
}  # fmt: skip


def line_of(step: int, test: float | None = None) -> dict[str, Any]:
    """A line of metrics after `step` steps of two episodes."""
    line: dict[str, Any] = {"step": step - 1, "episodes": 2 * step, "seconds": 3.0 * step}
    line |= {"train": {"success": 0.25}, "loss": 0.5} if step else {}
    return line if test is None else line | {"evaluation": {"success": test}}


@pytest.fixture
def study(tmp_path: Path, tiny_model: Path) -> Path:
    arms = {"one": {"unit": "turn"}, "[two]": {"steps": 1}}
    return write_config(tmp_path, tiny_model, study={"arms": arms, "seeds": [0, 1]})


def test_a_comparison_ends_in_a_table_of_its_arms(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compare(
        config: Any, out: Path, resume: bool, workers: int, watch: Any, engine: Any
    ) -> dict[str, Any]:
        assert (resume, workers, engine.kind) == (False, 3, "local")
        watch("one", 1, line_of(2, test=0.75))
        watch("[two]", 0, line_of(1))
        return {"arms": {"one": ARM, "[two]": ARM | {"dead_groups": 0.25}}}

    monkeypatch.setattr("agentopd.running.studies.study.compare", compare)
    monkeypatch.setattr("agentopd.looking.report.write_report", lambda out: out / "report.html")
    out = tmp_path / "out"
    result = call("compare", study, "--out", out, "--workers", "3")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "one seed 1  step 2/2  train  25 %  loss   0.5000  test  75 %  3.0 s/step"
    assert lines[1] == "[two] seed 0  step 1/1  train  25 %  loss   0.5000  3.0 s/step"
    rows = [" ".join(line.split()) for line in lines if line.startswith((" one", " [two]"))]
    assert rows == [
        "one 10 % 40 % 30–50 % 640 12,345 0 61 –",
        "[two] 10 % 40 % 30–50 % 640 12,345 0 61 25 %",
    ]
    assert "The two arms are not distinguishable" in result.stdout
    (notice,) = result.stderr.splitlines()
    assert notice.startswith(f"warning: arm one: {TURN_IS_TOKEN}")
    assert f"the report: {out / 'report.html'}" in lines
    assert f"the numbers: {out / 'summary.json'}" in lines


def test_an_interrupted_comparison_tells_how_to_go_on(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agentopd.base.stopping import Interrupted

    def compare(*_: Any, **__: Any) -> None:
        raise Interrupted(3)

    monkeypatch.setattr("agentopd.running.studies.study.compare", compare)
    words = ["compare", str(study), "unit={kind: turn}", "--out", str(tmp_path / "out")]
    result = call(*words, "--workers", "1")
    assert result.exit_code == 130
    again = ["resume", str(tmp_path / "out"), "--workers", "1"]
    assert shlex.split(result.stderr.splitlines()[-1])[1:] == again


def test_a_terminal_is_shown_a_bar_with_the_last_numbers() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with run_progress(2, 2, console) as watch:
        watch(line_of(0, test=0.5))
        watch(line_of(1))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "1/2" in shown
    assert "train  25 %  loss   0.5000  test  50 %  3.0 s/step" in shown


def test_tokens_a_second_are_the_last_steps_and_the_rest_takes_what_the_others_took() -> None:
    status = Status(2_002, 2)
    status.take(line_of(1) | {"tokens": {"student": 900}, "stages": {"rollout": 9.0}})
    spent = {"rollout": 1.0, "learner": 2.0, "evaluate": 50.0}
    status.take(line_of(2) | {"tokens": {"student": 3_600, "teacher": 9}, "stages": spent})
    assert str(status) == "train  25 %  loss   0.5000  1,200 tokens/s  3.0 s/step  1:40:00 left"
    status.take(line_of(2_002))
    assert status.left == ""


def test_success_of_steps_that_others_played_is_not_the_students() -> None:
    status, spent = Status(3, 2), {"rollout": 1.0}
    status.take(line_of(1) | {"tokens": {"student": 5}, "stages": spent})
    assert str(status).startswith("train  25 %  loss")
    status.take(line_of(2) | {"tokens": {"student": 0}, "stages": spent})
    assert str(status).startswith("loss")


def test_a_study_shows_a_bar_for_each_run_under_way_and_one_for_all() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    runs = {("one", 0): Status(2, 2), ("one", 1): Status(2, 2)}
    with study_progress(runs, console) as watch:
        watch("one", 0, line_of(1))
        watch("one", 0, line_of(2, test=0.5))
        watch("one", 1, line_of(1))
    assert isinstance(console.file, io.StringIO)
    last = console.file.getvalue().rpartition("all runs")[2]
    assert "3/4" in last and "1 of 2 runs are done" in last
    assert "one seed 1" in last and "one seed 0" not in last


def test_eval_of_a_runs_folder_means_its_last_checkpoint(finished: tuple[Path, Result]) -> None:
    out, _ = finished
    assert model_path(str(out)) == str(out / "checkpoints" / "latest" / "student")
    result = call(
        "eval", out, "--env", SOKOBAN, "--episodes", "2", "--max-turns", "1",
        "--max-turn-tokens", "2",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "0 %" in result.stdout and str(out)[:20] in result.stdout


def test_a_report_is_written_again(finished: tuple[Path, Result], tmp_path: Path) -> None:
    out, _ = finished
    (out / "report.html").unlink()
    assert call("report", out).stdout == f"the report: {out / 'report.html'}\n"
    assert (out / "report.html").is_file()
    assert "nothing to report" in problem(call("report", tmp_path))
