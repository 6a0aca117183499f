"""What a study says of its arms: which is sick, healthy, a control; and each task's own outcome."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from trajectories import played

from agentopd.running.config import ConfigError, RunConfig
from agentopd.running.evaluate import measure
from agentopd.running.folder import changed_settings, open_folder
from agentopd.running.reading import parse_config

ARMS = {"token": {}, "turn": {"unit": "turn"}, "jsd": {"divergence": "jsd"}}


def read(**study: Any) -> RunConfig:
    written = {"env": {"id": "agentopd/Sokoban-v0"}, "study": {"arms": ARMS, **study}}
    return parse_config(written)


def test_arms_are_named_alone_or_several() -> None:
    found = read(sick="token", healthy="jsd", control=["turn"]).study
    assert found is not None
    assert found.roles == {"sick": ("token",), "healthy": ("jsd",), "control": ("turn",)}
    plain = read().study
    assert plain is not None and not any(plain.roles.values())


@pytest.mark.parametrize(
    ("study", "told"),
    [
        ({"sick": "tokn"}, "sick: no arm is called 'tokn', .* did you mean 'token'.*sick: null"),
        ({"control": ["jsd", "x"]}, r"control: no arm is called 'x', .*control: \[\]"),
        ({"sick": "jsd", "control": "jsd"}, "control: the arm 'jsd' is sick already"),
        ({"healthy": ["jsd", "jsd"]}, "healthy: the arm 'jsd' is healthy already"),
    ],
)
def test_what_names_no_arm_or_one_twice_is_refused(study: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read(**study)


def test_a_study_goes_on_where_only_what_its_arms_are_is_said_anew(tmp_path: Path) -> None:
    open_folder(read(), tmp_path, "study")
    assert changed_settings(read(sick="token", control="jsd"), tmp_path) == []
    assert changed_settings(read(seeds=[5]), tmp_path) == ["study"]


def test_outcomes_are_in_the_order_of_the_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    episodes = [played([2], infos=[{"success": solved}]) for solved in (True, False, False, True)]
    module = "agentopd.running.evaluate"
    monkeypatch.setattr(f"{module}.play_tasks", lambda *_: episodes)
    found = measure(read(), *(SimpleNamespace() for _ in range(2)), None, "here")  # type: ignore
    assert found["outcomes"] == "1001" and found["success"] == 0.5
