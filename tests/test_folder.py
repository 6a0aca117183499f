"""Run folders: what was refused blocks nothing, what is damaged is named, nothing is lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import SOKOBAN, call, problem

from agentopd.base import files
from agentopd.base.files import UNFINISHED, append_line, write_whole
from agentopd.base.written import find_config, read_mapping
from agentopd.running import folder
from agentopd.running.config import ConfigError, RunConfig
from agentopd.running.folder import METRICS, check_folder, open_folder, past_lines
from agentopd.running.reading import parse_config
from agentopd.running.train import train


def small(model: Path, *overrides: str) -> RunConfig:
    return parse_config(
        {
            "steps": 2,
            "threads": 1,
            "student": {"path": str(model)},
            "env": {"id": SOKOBAN, "options": {"prompt": "brief", "max_turns": 2}},
            "rollout": {"kind": "student", "tasks": 2, "max_turn_tokens": 4},
            "evaluate": {"episodes": 2},
            "save": {"checkpoint_every": 1},
        },
        overrides,
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The folder of a run of two steps."""
    out = tmp_path_factory.mktemp("done") / "run"
    train(small(tiny_model), out)
    return out


def test_options_of_the_evaluation_are_checked_before_anything_is_written(
    tiny_model: Path, tmp_path: Path
) -> None:
    config = small(tiny_model, "evaluate.options.spilt=test")
    with pytest.raises(ConfigError, match=r"evaluate\.options: .*no option 'spilt'"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_start_that_came_to_nothing_may_be_made_again(tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    open_folder(small(tiny_model), out)
    (out / f"config.yaml{UNFINISHED}").write_text("half")
    (out / METRICS).write_text('{"step": -1')
    train(small(tiny_model, "steps=1"), out)
    assert json.loads((out / "summary.json").read_text())["steps"] == 1


@pytest.mark.parametrize(("before", "kind"), [("run", "study"), ("study", "run")])
def test_a_kill_at_the_start_leaves_no_other_kind_to_resume(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: folder.Kind,
    kind: folder.Kind,
) -> None:
    """Whatever was there before, a configuration lies beside what tells its kind."""
    out = tmp_path / "out"
    open_folder(small(tiny_model, "steps=7"), out, before)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying, pytest.raises(KeyboardInterrupt):
        dying.setattr(folder, "write_whole", killed)
        open_folder(small(tiny_model), out, kind)
    assert not (out / "config.yaml").exists()
    open_folder(small(tiny_model), out, kind)
    assert folder.kind_of(out) == kind


def test_a_file_of_somebody_elses_is_never_overwritten(tiny_model: Path, tmp_path: Path) -> None:
    for name, text in (("config.yaml", "env: {id: x}\n"), ("notes.txt", "")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text(text)
        with pytest.raises(ConfigError, match="holds something already"):
            check_folder(small(tiny_model), folder, resume=False, kind="run")


def test_a_folder_goes_on_without_a_word_said_again(done: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(done, out)
    result = call("resume", out, "steps=3")
    assert result.exit_code == 0, result.output
    lines = (out / METRICS).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [-1, 0, 1, 2]
    refused = call("resume", out, "unit=turn")
    assert refused.exit_code == 2
    assert "other settings of unit" in refused.stderr.splitlines()[-1]


def test_what_ended_before_its_first_checkpoint_says_that_it_starts_over(
    done: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(done, out)
    shutil.rmtree(out / "checkpoints")
    (out / "summary.json").unlink()
    result = call("resume", out)
    assert result.exit_code == 0, result.output
    assert "holds no checkpoint" in result.stderr and "starts over at step 1" in result.stderr


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def nul(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def latin(path: Path) -> None:
    path.write_bytes("name: Zoë\n".encode("latin-1"))


LAST = "trajectories/step-00001.parquet"
DAMAGED = [
    ("config.yaml", cut),
    ("config.yaml", empty),
    ("config.yaml", nul),
    ("config.yaml", latin),
    (METRICS, empty),
    (METRICS, nul),
    ("checkpoints/latest/progress.json", cut),
    ("checkpoints/latest/progress.json", empty),
    ("checkpoints/latest/optimizer.safetensors", cut),
    ("checkpoints/latest/teacher.safetensors", nul),
    ("checkpoints/latest/student/model.safetensors", cut),
    ("checkpoints/latest/student/model.safetensors", empty),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGED)
def test_a_damaged_file_is_named_in_one_line(
    done: Path, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(done, out)
    damage(out / name)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    result = call("resume", out, "steps=3")
    assert result.exit_code == 2, result.output
    *_, line = result.stderr.splitlines()
    assert str(out / name) in line
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("damage", [cut, empty, nul])
@pytest.mark.parametrize("command", ["replay", "eval", "verdicts", "report"])
def test_no_command_is_silent_about_a_damaged_file(
    done: Path, tmp_path: Path, command: str, damage: Callable[[Path], None]
) -> None:
    name = {"eval": "config.yaml", "report": "summary.json", "verdicts": LAST}.get(
        command, "trajectories/step-00000.parquet"
    )
    out = tmp_path / "run"
    shutil.copytree(done, out)
    damage(out / name)
    words = ("--rescore", "--set", "unit=turn") if command == "replay" else ()
    assert str(out / name) in problem(call(command, out, *words))


def line(step: int) -> str:
    said = dict.fromkeys(("episodes", "seconds", "loss", "train", "probes", "stages", "tokens"))
    return json.dumps({"step": step, **said}) + "\n"


def test_what_follows_the_checkpoint_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / METRICS
    path.write_text("".join(map(line, (-1, 0, 1, 2))) + '{"step": 3, "lo')
    assert [one["step"] for one in past_lines(path, 2)] == [-1, 0, 1]


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ((-1, 0), "ends at step 1, and the run goes on from a checkpoint after step 3"),
        ((-1, 0, 2), "has step 3 where 2 follows"),
        ((), "ends at step 0"),
    ],
)
def test_a_run_never_goes_on_with_fewer_lines_than_steps(
    tmp_path: Path, steps: tuple[int, ...], says: str
) -> None:
    path = tmp_path / METRICS
    path.write_text("".join(map(line, steps)))
    with pytest.raises(ConfigError, match=says):
        past_lines(path, 3)
    with pytest.raises(ConfigError, match="is not there"):
        past_lines(tmp_path / "none", 3)
    path.write_text(line(-1) + "{}\n" + line(1))
    with pytest.raises(ConfigError, match="line 2 is damaged"):
        past_lines(path, 3)


def test_a_full_disk_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_whole(path, "old")

    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(ValueError, match=r"a\.json cannot be written \(No space left on device\)"):
        write_whole(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == "old"
    with pytest.raises(ValueError, match="cannot be written"):
        append_line(tmp_path, "a folder is no file")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\na: 2\n", "the key 'a' stands there twice"),
        ("a: &x [*x]\n", "is not YAML|too large"),
        ("a: [b\n", "is not YAML"),
        ("a: !!python/object:os.system {}\n", "is not YAML"),
        ("- 1\n", "holds list"),
        ("a: 2026-99-99\n", "is not YAML"),
        ("".join(f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 9)}]\n" if i else "k0: &k0 [1]\n"
                 for i in range(9)), "too large once its aliases"),
        ("m0: &m0 {a: 1}\n" + "".join(f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 9)}]}}\n"
                                      for i in range(1, 9)), "merged keys are too many"),
        (f"a: {':'.join(['59'] * 20_000)}\n", "the number is too large"),
        ("#" * 1_000_001, "larger than 1,000,000 bytes"),
    ],
)  # fmt: skip
def test_what_is_no_configuration_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        read_mapping(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_byte_order_mark_and_merged_keys_are_read(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("\ufeffbase: &b {x: 1}\nother: {<<: *b, x: 2}\n", encoding="utf-8")
    assert read_mapping(path) == {"base": {"x": 1}, "other": {"x": 2}}


def test_configurations_are_found_by_name_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for named in ("quickstart", "studies/desk", "configs/studies/desk.yaml"):
        assert find_config(named).is_file()
    (tmp_path / "quickstart").write_text("steps: 1\n")
    assert find_config("quickstart") == Path("quickstart")
    with pytest.raises(ConfigError, match="did you mean 'studies/desk'"):
        find_config("studies/dsk")
    with pytest.raises(ConfigError, match="cannot be read"):
        find_config("../pyproject")


@pytest.mark.parametrize(
    "override",
    ["seed=18446744073709551616", "threads=100000", "steps=1e30", "rollout.temperature=1e999",
     "learner.clip=.inf", "learner.learning_rate=.nan"],
)  # fmt: skip
def test_a_number_out_of_range_is_named_by_its_key(override: str) -> None:
    with pytest.raises(ConfigError, match=f"^{override.partition('=')[0]}: "):
        parse_config({"env": {"id": SOKOBAN}}, [override])


def test_a_run_writes_its_study_last(tiny_model: Path) -> None:
    """So that a file that was cut off is known by what it lacks."""
    assert list(small(tiny_model).model_dump(mode="json"))[-1] == "study"


@pytest.mark.parametrize(
    "words", [("train", "studies/dsk"), ("compare", "x.yaml"), ("resume", "x")]
)
def test_what_is_not_there_is_told_before_torch_is_loaded(words: tuple[str, str]) -> None:
    code = f"""
import sys
from agentopd.cli import app
try:
    app({[*words]!r})
except SystemExit as stopped:
    print(stopped.code, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]
    assert len(done.stderr.splitlines()) == 1 and "cannot be read" in done.stderr
