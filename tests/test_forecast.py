"""What a step will take of memory is what it takes, and is refused where it does not fit."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from live import Live
from rich.console import Console
from scenes import ENV, run_of, thawed

from agentopd.commands.progress import run_progress
from agentopd.learning.forecast import Forecast, forecast, memory_in_use, memory_room
from agentopd.learning.learner import Learner
from agentopd.models.model import LanguageModel, ModelSettings, load_model
from agentopd.models.recompute import recomputed_layers
from agentopd.running.reading import parse_config
from agentopd.teacher import Teacher
from agentopd.teachers.copies import FrozenTeacher, LiveTeacher

CPU = torch.device("cpu")
TOKENS = 512


@pytest.fixture(scope="module")
def student(tiny_model: Path) -> LanguageModel:
    return thawed(load_model(ModelSettings(path=str(tiny_model))))


def _forecast(student: LanguageModel, *overrides: str, teacher: Teacher | None = None) -> Forecast:
    config = parse_config(ENV, [f"learner.tokens_per_batch={TOKENS}", *overrides])
    chosen = teacher or FrozenTeacher()
    chosen.prepare(student)
    return forecast(Learner(student, chosen, config))


def _weights(student: LanguageModel) -> int:
    return sum(p.numel() for p in student.module.parameters())


def test_weights_moments_and_gradients_are_counted(student: LanguageModel) -> None:
    found, number = _forecast(student), _weights(student)
    assert found.student == pytest.approx(4 * number, rel=0.01)  # and the rotary table
    assert found.teacher == found.student
    assert (found.moments, found.gradients) == (8 * number, 4 * number)
    assert _forecast(student, teacher=LiveTeacher()).teacher == 0
    assert _forecast(student, "mix=rl", "rollout.group=4").teacher == 0


def test_of_weights_that_do_not_learn_nothing_is_kept(tiny_model: Path) -> None:
    frozen = load_model(ModelSettings(path=str(tiny_model)))
    frozen.module.requires_grad_(False)
    frozen.output.weight.requires_grad_(True)
    found = _forecast(frozen)
    assert found.gradients == 4 * frozen.output.weight.numel()
    assert found.moments == 2 * found.gradients


def test_activations_are_what_a_forward_pass_leaves(student: LanguageModel) -> None:
    ids_1T = torch.zeros(1, TOKENS, dtype=torch.long)
    with Live(student.module) as live:
        hidden = student.hidden(ids_1T)
        left = live.now
    assert hidden.requires_grad
    assert _forecast(student).activations == pytest.approx(left, rel=0.05)


def test_recomputed_layers_are_forecast_smaller(student: LanguageModel) -> None:
    """There is one layer here: its input is kept, and all of it while it is computed again."""
    ids_1T = torch.zeros(1, TOKENS, dtype=torch.long)
    with Live(student.module) as live, recomputed_layers(student.body):
        student.hidden(ids_1T).sum().backward()
    student.module.zero_grad(set_to_none=True)
    recomputed = _forecast(student, "learner.checkpoint_layers=true").activations
    assert recomputed == pytest.approx(live.peak, rel=0.35)


def test_logits_are_of_the_models_that_are_compared(student: LanguageModel) -> None:
    tile = 4 * TOKENS * student.vocabulary
    by_weight = 4 * student.vocabulary * student.output.weight.shape[1]
    assert _forecast(student).logits == 2 * tile + by_weight
    assert _forecast(student, "mix=rl", "rollout.group=4").logits == tile + by_weight


def test_what_does_not_fit_is_refused_with_what_to_change(student: LanguageModel) -> None:
    found = _forecast(student)
    found.check(None)
    found.check(found.peak)
    large = replace(found, moments=100 * 2**30)
    with pytest.raises(ValueError, match=r"needs about 1[0-9][0-9]") as refused:
        large.check(24 * 2**30)
    for told in ("there are 24.0", "moments 100.00", "learner.tokens_per_batch", "checkpoint_l"):
        assert told in str(refused.value)


def _machine(root: Path, **files: str) -> Path:
    for path, text in files.items():
        place = root / path.replace("__", "/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return root


def _room(root: Path) -> int:
    """Less what this process holds, which moves."""
    room = memory_room(CPU, root)
    assert room is not None
    return round((room - memory_in_use(CPU)) / 2**20)


FREE = {"proc__meminfo": "MemTotal: 9 kB\nMemAvailable:   8192000 kB\n"}


def test_room_is_what_the_machine_has_left(tmp_path: Path) -> None:
    assert memory_room(CPU, tmp_path) is None
    assert _room(_machine(tmp_path, **FREE)) == pytest.approx(8_000, abs=50)


def test_control_groups_of_version_2_bound_it_at_every_height(tmp_path: Path) -> None:
    outer, inner = "sys/fs/cgroup/a/", "sys/fs/cgroup/a/b/"
    files = {
        "proc/self/cgroup": "0::/a/b\n",
        inner + "memory.max": "max\n",
        inner + "memory.current": "5\n",
        outer + "memory.max": str(3_000 * 2**20),
        outer + "memory.current": str(2_500 * 2**20),
        outer + "memory.stat": f"anon 7\ninactive_file {300 * 2**20}\n",
    }
    assert _room(_machine(tmp_path, **FREE, **files)) == pytest.approx(800, abs=50)


def test_control_groups_of_version_1_bound_it(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory/job/"
    files = {
        "proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/job\n0::/\n",
        group + "memory.limit_in_bytes": str(2_000 * 2**20),
        group + "memory.usage_in_bytes": str(1_400 * 2**20),
        group + "memory.stat": "total_inactive_file 0\n",
    }
    assert _room(_machine(tmp_path, **FREE, **files)) == pytest.approx(600, abs=50)


def test_a_run_says_it_in_its_first_line_and_is_refused_before_it_leaves_a_folder(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, object]] = []
    run = run_of(tiny_model, tmp_path / "run", "evaluate.episodes=1", "rollout.max_turn_tokens=2")
    run.records.watch = seen.append
    run.begin()
    memory = seen[0]["memory"]
    assert isinstance(memory, dict)
    assert memory["peak"] == run.memory.peak
    assert "GiB at the peak" in memory["said"]
    monkeypatch.setattr("agentopd.running.run.memory_room", lambda _: 1)
    with pytest.raises(ValueError, match="a step needs about"):
        run_of(tiny_model, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_it_is_said_where_it_is_worth_a_thought() -> None:
    line = {"step": -1, "episodes": 0, "seconds": 0.0, "evaluation": {"success": 0.0}}
    for gibibytes, told in ((0.5, False), (1.5, True)):
        console = Console(file=StringIO(), width=40)
        with run_progress(steps=2, episodes=1, console=console) as watch:
            watch(line | {"memory": {"peak": gibibytes * 2**30, "said": "1.50 GiB, " * 9}})
        assert isinstance(console.file, StringIO)
        assert ("memory: about 1.50 GiB" in console.file.getvalue()) is told
