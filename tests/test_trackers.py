"""Trackers beside a run: what they are told, and that none of them can end it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from command_line import SOKOBAN

from agentopd.base.trackers import Trackers, check_trackers
from agentopd.running.config import RunConfig
from agentopd.running.reading import parse_config
from agentopd.running.train import train

Heard = list[tuple[str, Any]]


@pytest.fixture
def fake() -> Iterator[Callable[..., Heard]]:
    """Registers a tracker by name; gives what it hears. It fails at what is named in `fails`."""
    known = dict(LOGGER_TYPE_TO_CLASS)

    def register(name: str, fails: str = "") -> Heard:
        heard: Heard = []

        class Fake(GeneralTracker):
            requires_logging_directory: ClassVar[bool] = True
            tracker = None

            def __init__(self, run_name: str, logging_dir: str) -> None:
                super().__init__()
                heard.append(("made", (run_name, Path(logging_dir).name)))

            def _hear(self, what: str, told: Any = None) -> None:
                heard.append((what, told))
                if what == fails:
                    raise ConnectionError("the server\nis gone")

            def start(self) -> None:
                self._hear("start")

            def store_init_configuration(self, values: dict[str, Any]) -> None:
                self._hear("settings", values)

            def log(self, values: dict[str, Any], step: int | None = None, **more: Any) -> None:
                self._hear("log", (step, values))

            def finish(self) -> None:
                self._hear("finish")

        Fake.name = name  # type: ignore[attr-defined]
        LOGGER_TYPE_TO_CLASS[name] = Fake
        return heard

    yield register
    LOGGER_TYPE_TO_CLASS.clear()
    LOGGER_TYPE_TO_CLASS.update(known)


def _config(tiny_model: Path, *track: str) -> RunConfig:
    return parse_config(
        {
            "steps": 2,
            "threads": 1,
            "student": {"path": str(tiny_model)},
            "env": {"id": SOKOBAN, "options": {"max_turns": 1}},
            "rollout": {"tasks": 1, "max_turn_tokens": 2},
            "evaluate": {"episodes": 1},
            "track": list(track),
        }
    )


def test_a_tracker_is_told_the_settings_and_the_numbers_of_every_line(
    fake: Callable[..., Heard], tiny_model: Path, tmp_path: Path
) -> None:
    heard = fake("fake")
    train(_config(tiny_model, "fake"), tmp_path / "run")
    assert [what for what, _ in heard] == [
        "made", "start", "settings", "log", "log", "log", "finish",
    ]  # fmt: skip
    assert heard[0][1] == ("run", "fake")
    settings = heard[2][1]
    assert (settings["rollout.tasks"], settings["env.id"]) == (1, SOKOBAN)
    assert settings["student.path"] == str(tiny_model)
    lines = [json.loads(ln) for ln in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for line, (_, (step, numbers)) in zip(lines, heard[3:6], strict=True):
        assert step == line["step"] + 1
        assert numbers["seconds"] == line["seconds"]
        assert "step" not in numbers
        for group in ("train", "stages", "evaluation"):
            for name, value in (line.get(group) or {}).items():
                if isinstance(value, int | float):
                    assert numbers[f"{group}/{name}"] == value
    assert all(isinstance(value, float) for _, (_, told) in heard[3:6] for value in told.values())


@pytest.mark.parametrize("fails", ["start", "settings", "log", "finish"])
def test_a_tracker_that_fails_is_told_of_once_and_ends_nothing(
    fake: Callable[..., Heard],
    fails: str,
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken, whole = fake("broken", fails), fake("whole")
    summary = train(_config(tiny_model, "broken", "whole"), tmp_path / "run")
    assert summary["steps"] == 2
    told = [line for line in capsys.readouterr().err.splitlines() if "track" in line]
    assert told == [
        "warning: track: broken failed and gets no more numbers: ConnectionError: the server"
    ]
    assert broken[-1][0] == fails
    assert [what for what, _ in whole][-2:] == ["log", "finish"]


def test_a_run_is_the_same_with_and_without(
    fake: Callable[..., Heard], tiny_model: Path, tmp_path: Path
) -> None:
    fake("fake")
    for name, track in (("with", ["fake"]), ("without", [])):
        train(_config(tiny_model, *track), tmp_path / name)
    weights = [
        next((tmp_path / name / "checkpoints").rglob("model.safetensors")).read_bytes()
        for name in ("with", "without")
    ]
    assert weights[0] == weights[1]


def test_what_is_not_installed_is_refused_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr("agentopd.base.trackers.find_spec", lambda name: None)
    for name in ("tensorboard", "wandb", "trackio"):
        with pytest.raises(ValueError, match=f"{name} is not installed.*pip install {name}"):
            check_trackers([name])
    with pytest.raises(ValueError, match="pip install wandb"):
        train(_config(tiny_model, "wandb"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no tracker 'tensorbord'"):
        check_trackers(["tensorbord"])


def test_without_trackers_nothing_is_opened(tmp_path: Path) -> None:
    with Trackers.start([], tmp_path, {}) as trackers:
        trackers.log({"step": 0, "loss": 1.0})
    assert [*tmp_path.iterdir()] == []
