"""Where a command acts: an environment named in words, or a run's, as the run was trained in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentopd.base.written import STORED, last_stage, read_part, read_stored

_ACTED = ("env", "evaluate", "rollout", "student")
"""What is asked of a run by whoever acts as it does."""

if TYPE_CHECKING:  # a command without an environment starts sooner
    from agentopd.environment.settings import EnvSettings


def place(
    named: str | None,
    options: Mapping[str, Any],
    wrappers: Sequence[str],
    *,
    run: str = "",
    held_out: bool = False,
) -> EnvSettings:
    """An environment with its options and wrappers.

    Args:
        named: an environment, or the folder of a run; None takes the environment of `run`.
        options: in place of the run's options of the same names.
        wrappers: as in a config, each as YAML; any of them take the place of all of the run's.
        held_out: a run's tasks are those on which it is evaluated.

    Raises:
        ValueError: no environment is named and `run` is no run's folder, or a wrapper is none.
    """
    from agentopd.environment.settings import EnvSettings
    from agentopd.environment.wrappers import Wrapper

    told = stored(named or run)
    if named is None and not told:
        raise ValueError("name an environment with --env: only a run's folder brings its own")
    env: dict[str, Any] = dict(told["env"]) if told else {"id": named}
    test = told["evaluate"].get("options", {}) if told and held_out else {}
    env["options"] = {**env.get("options", {}), **test, **options}
    if wrappers:
        env["wrappers"] = [read_part(Wrapper, one, f"the wrapper {one!r}") for one in wrappers]
    return EnvSettings.model_validate(env)


def stored(folder: str) -> dict[str, Any]:
    """The complete configuration in a run's folder; empty where `folder` is none.

    Raises:
        ValueError: it is damaged or lacks something; the message names the file.
    """
    path = last_stage(Path(folder)) / STORED
    if not folder or not path.is_file():
        return {}
    read = read_stored(path.parent)
    if missing := [key for key in _ACTED if key not in read]:
        raise ValueError(
            f"{path} lacks {', '.join(missing)}: another version of agentopd wrote it, or a hand "
            "has changed it; put a copy back"
        )
    return read
