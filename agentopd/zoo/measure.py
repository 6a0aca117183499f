"""What an embedded model can do, alone and when told: the figures beside its recipe."""

from __future__ import annotations

from typing import Any

from agentopd.config import parse_config
from agentopd.evaluate import play_tasks, score, teacher_success
from agentopd.model import ModelSettings, load_model
from agentopd.parts import closest
from agentopd.rollout.sampler import TransformersSampler
from agentopd.zoo.build import RECIPES
from agentopd.zoo.obedience import obedience

_TOLD = ("none", "skill_summary", "ground_truth")


def measure(name: str, episodes: int) -> dict[str, Any]:
    """Success on held-out Sokoban levels with each text in the system prompt, temperature 1.

    Returns:
        The levels; for each source of text the success, its interval and the episodes; and, as
        `reads`, whether it is what the text says that counts: see `obedience`.

    Raises:
        ValueError: no embedded model has that name.
    """
    if name not in RECIPES:
        raise ValueError(f"no embedded model is called {name!r}; {closest(name, RECIPES)}")
    levels = RECIPES[name].levels
    options: dict[str, Any] = {"prompt": "brief", "stop_when_stuck": True, **levels}
    found: dict[str, Any] = {"levels": levels, "split": "test"}
    for told in _TOLD:
        config = parse_config(
            {
                "student": {"path": f"zoo:{name}"},
                "env": {"id": "agentopd/Sokoban-v0", "options": options},
                "evaluate": {"episodes": episodes, "options": {"split": "test"}},
                "privilege": told,
            }
        )
        if told == "none":
            model = load_model(config.student)
            sampler, split = TransformersSampler(model), config.evaluate.options
            played = play_tasks(config.env, model, sampler, config.rollout, episodes, split)
            success: dict[str, Any] | None = score(played)
        else:
            success = teacher_success(config)
        assert success is not None
        found[told] = {"success": success["success"], "interval": success["interval"]}
    reads = obedience(load_model(ModelSettings(path=f"zoo:{name}")), options, episodes)
    return found | {"reads": reads, "episodes": episodes}
