"""Damaged run folders: whatever a disk or another version has made of a file, a line says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from command_line import call, problem
from safetensors.torch import load_file, save_file
from test_folder import small

from agentopd.base.files import held_alone
from agentopd.looking.report import write_report
from agentopd.running.checkpoint import check_files
from agentopd.running.folder import METRICS, ended
from agentopd.running.studies.study import _pass_on, compare
from agentopd.running.train import train
from agentopd.stored.trajectories import load_trajectories

pytestmark = pytest.mark.usefixtures("warm_workers")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The folder of a run of two steps."""
    out = tmp_path_factory.mktemp("done") / "run"
    train(small(tiny_model, "privilege=skill_summary", "teacher=ema"), out)
    return out


@pytest.fixture
def out(done: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(done, tmp_path / "run"))


def rot(path: Path) -> None:
    """A third in the middle is NUL, as after a crash whose blocks were never written."""
    data = path.read_bytes()
    third = len(data) // 3
    path.write_bytes(data[:third] + bytes(third) + data[2 * third :])


def without_a_tensor(path: Path) -> None:
    tensors = load_file(path)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors or {"x": torch.zeros(1)}, path)


def gone(path: Path) -> None:
    path.unlink()


CHECKPOINT = "checkpoints/latest"
RESUMED = ("optimizer.safetensors", "teacher.safetensors", "student/model.safetensors")
PLAYED = ("student/tokenizer.json", "student/chat_template.jinja", "student/generation_config.json")


@pytest.mark.parametrize("damage", [rot, without_a_tensor, gone])
@pytest.mark.parametrize("name", RESUMED)
def test_a_checkpoint_knows_its_files(out: Path, name: str, damage: Callable[[Path], None]) -> None:
    """A whole file's header and length may be right, and its numbers not."""
    path = out / CHECKPOINT / name
    damage(path)
    result = call("resume", out, "steps=3")
    assert result.exit_code == 2, result.output
    assert str(path) in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("damage", [rot, gone])
@pytest.mark.parametrize("name", PLAYED)
def test_a_damaged_student_does_not_play(
    out: Path, name: str, damage: Callable[[Path], None]
) -> None:
    path = out / CHECKPOINT / name
    damage(path)
    assert str(path) in problem(call("eval", out, "--episodes", "2"))


def test_a_checkpoint_without_sums_is_taken_as_it_is(out: Path) -> None:
    """Those of earlier versions have none."""
    (out / CHECKPOINT / "sums.json").unlink()
    check_files(out / CHECKPOINT)
    assert call("resume", out, "steps=3").exit_code == 0


def test_no_wrong_byte_of_trajectories_is_a_wrong_number(out: Path) -> None:
    """One bit turned, here and there in the numbers: it is told, or it changes nothing."""
    path = out / "trajectories" / "step-00000.parquet"
    sound, told = load_trajectories(path), 0
    group = pq.read_metadata(path).row_group(0)
    columns = {group.column(n).path_in_schema: group.column(n) for n in range(group.num_columns)}
    column = columns["logprob.list.element"]
    start = column.dictionary_page_offset or column.data_page_offset
    data = path.read_bytes()
    for place in range(start, start + column.total_compressed_size, 11):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            found = load_trajectories(path)
        except ValueError as error:
            assert str(path) in str(error)
            told += 1
        else:
            for one, other in zip(sound, found, strict=True):
                np.testing.assert_array_equal(one.logprob, other.logprob)
    assert told > 5


def test_a_summary_of_another_version_is_named(out: Path) -> None:
    path = out / "summary.json"
    said = json.loads(path.read_text())
    assert ended(out, 2) == said and ended(out, 3) is None
    del said["student_tokens"]
    path.write_text(json.dumps(said))
    with pytest.raises(ValueError, match=r"summary\.json lacks student_tokens"):
        ended(out, 2)
    path.write_text("{}")
    assert ended(out, 2) is None, "a run that was cut off is measured again"


def test_metrics_of_another_version_are_named(out: Path) -> None:
    path = out / METRICS
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    del lines[2]["train"]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    result = call("resume", out, "steps=3")
    assert f"{path}, step 2 lacks train" in result.stderr.splitlines()[-1]


def _without_a_line(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def _in_latin(path: Path) -> None:
    path.write_bytes("Zoë".encode("latin-1"))


def _not_yaml(path: Path) -> None:
    path.write_text("a: [b\n")


def _of_other_kinds(path: Path) -> None:
    path.write_text('{"turns": [{"observation": 1}, 2]}')


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (METRICS, _without_a_line),
        (METRICS, _in_latin),
        ("config.yaml", _not_yaml),
        ("episode.json", _of_other_kinds),
    ],
)
def test_a_report_of_damaged_files_is_one_line(
    out: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damage(out / name)
    assert str(out / name) in problem(call("report", out))


def test_what_a_configuration_does_not_say_is_told(out: Path) -> None:
    path = out / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["learner"].pop("clip")
    config.pop("seed")
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    result = call("resume", out, "steps=3")
    assert result.exit_code == 0, result.output
    (warning,) = [line for line in result.stderr.splitlines() if str(path) in line]
    assert "lacks seed, learner.clip" in warning or "lacks learner.clip, seed" in warning
    assert "seed" in yaml.safe_load(path.read_text()), "the run goes on with a complete one"


@pytest.mark.parametrize("key", ["env", "evaluate", "rollout", "student"])
def test_whoever_acts_as_a_run_does_needs_its_settings(out: Path, key: str) -> None:
    path = out / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config.pop(key)
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    assert f"{path} lacks {key}" in problem(call("eval", out, "--episodes", "2"))


def test_a_study_does_not_sum_up_half_a_run(tiny_model: Path, tmp_path: Path) -> None:
    config = small(tiny_model, "study={seeds: [0], arms: {token: {}}}", "steps=1")
    out = tmp_path / "study"
    summary: dict[str, Any] = compare(config, out, workers=1)
    assert list(summary["arms"]) == ["token"]
    metrics = out / "arms/token/seed-0" / METRICS
    _without_a_line(metrics)
    with pytest.raises(ValueError, match=rf"{metrics} ends at step 0, and the run has ended"):
        compare(config, out, resume=True, workers=1)
    with pytest.raises(ValueError, match=f"{metrics} ends at step 0"):
        write_report(out)


def test_a_study_that_lacks_a_key_does_not_go_on_under_its_default(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Runs that have ended would otherwise stand beside runs of other settings."""
    config = small(tiny_model, "study={seeds: [0], arms: {token: {}}}", "steps=1")
    out = tmp_path / "study"
    compare(config, out, workers=1)
    own = yaml.safe_load((out / "config.yaml").read_text())
    del own["evaluate"]
    (out / "config.yaml").write_text(yaml.safe_dump(own))
    result = call("resume", out)
    assert result.exit_code == 2, result.output
    assert result.stderr.splitlines()[-1].startswith(f"error: {out / 'config.yaml'} and")
    assert "different evaluate" in result.stderr


def test_two_processes_do_not_write_to_one_run(out: Path) -> None:
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with held_alone(out):
        result = call("resume", out, "steps=3")
    assert result.exit_code == 2, result.output
    assert f"another process is at work in {out}" in result.stderr
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert call("resume", out, "steps=3").exit_code == 0


def test_two_processes_do_not_write_to_one_study(tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    out.mkdir()
    config = small(tiny_model, "study={seeds: [0], arms: {token: {}}}", "steps=1")
    with held_alone(out), pytest.raises(ValueError, match="another process is at work"):
        compare(config, out, workers=1)


def test_who_looks_on_is_shown_whole_lines_alone(tmp_path: Path) -> None:
    """What is wrong with the others is said by the run that they are of."""
    untrained = {"step": -1, "episodes": 0, "seconds": 0.0}
    of_a_step = {"loss": 0.1, "train": {}, "probes": {}, "stages": {}, "tokens": {}}
    whole = {**untrained, "step": 0, **of_a_step}
    damaged = [{k: v for k, v in whole.items() if k != key} for key in whole]
    lines = [json.dumps(line) for line in (untrained, *damaged, {"step": "0"}, [1], whole)]
    (tmp_path / METRICS).write_text("\n".join([*lines, "{torn", '{"step": 1']))
    shown: list[dict[str, Any]] = []
    seen = _pass_on(tmp_path, 0, "turn", 0, lambda _arm, _seed, line: shown.append(line))
    assert shown == [untrained, whole]
    assert seen == len(lines) + 1
