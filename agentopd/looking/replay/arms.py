"""The arms of a replay: the run's own settings, and what changes in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentopd.base.parts import closest
from agentopd.learning.method import PLAYED
from agentopd.running.config import RunConfig, StudySettings
from agentopd.running.reading import arm_config, load_method, parse_override

OWN = "run"
"""The arm of the run's own settings."""
_REPLAYED = ("unit", "divergence", "weight", "mix", "schedule")
_RESCORED = ("privilege", "view", "teacher", "student")
_HEARD = ("privilege", "view", "teacher")
"""What matters only where a teacher is asked."""
_LABELS = ("method", "control")


def arm_configs(
    config: RunConfig, arms: Mapping[str, Sequence[str]], rescore: bool
) -> dict[str, RunConfig]:
    """The settings of every arm by its name, the run's own first.

    A method's row is taken without its rollout: the episodes are those that were played.

    Args:
        arms: `KEY=VALUE` overrides by name.
        rescore: whether the models are asked again.

    Raises:
        ConfigError: an override cannot be used; the message names the arm.
        ValueError: an arm changes what a replay cannot change.
    """
    if OWN in arms:
        raise ValueError(f"an arm cannot be called {OWN!r}: that is the run as it was")
    parsed = {name: dict(map(parse_override, overrides)) for name, overrides in arms.items()}
    changes = {name: _as_played(config, own) for name, own in parsed.items()}
    study = config.model_copy(update={"study": StudySettings(arms={OWN: {}, **changes})})
    found = {name: arm_config(study, name, config.seed) for name in (OWN, *arms)}
    for name, arm in found.items():
        _check_replayable(name, arm, found[OWN], rescore)
    return found


def _as_played(config: RunConfig, changes: dict[str, Any]) -> dict[str, Any]:
    """An arm's changes, the run's own rollout before them where a method's row would set one, and
    without the row's schedules of a rollout's numbers.
    """
    if "method" not in changes:
        return changes
    row = load_method(changes["method"]).get("schedule", {})
    schedule = {name: own for name, own in row.items() if name not in PLAYED}
    kept = {"schedule": schedule} if schedule != row else {}
    return {"rollout": config.rollout.model_dump(mode="json"), **kept, **changes}


def _check_replayable(name: str, arm: RunConfig, own: RunConfig, rescore: bool) -> None:
    before, after = _in_effect(own), _in_effect(arm)
    unheard = () if arm.mix.distil_coefficient else _HEARD
    for key in (key for key in before if before[key] != after[key]):
        if key in (*_LABELS, *unheard):
            continue
        if key in _RESCORED and not rescore:
            raise ValueError(
                f"arm {name}: another {key} says something else of the tokens than what was saved; "
                "ask it with --rescore"
            )
        if key not in (*_REPLAYED, *_RESCORED):
            can = closest(key, (*_REPLAYED, *_RESCORED))
            raise ValueError(
                f"arm {name}: {key} cannot be replayed, only what is made of the episodes that "
                f"were played; {can}"
            )


def _in_effect(config: RunConfig) -> dict[str, Any]:
    """All settings as they are written, but for the parts that a control has put in their place."""
    return config.model_dump(mode="json") | {
        "privilege": [source.model_dump(mode="json") for source in config.privilege],
        "teacher": config.teacher.model_dump(mode="json"),
    }
