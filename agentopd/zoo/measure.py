"""What an embedded model can do, alone and when told: the figures beside its recipe."""

from __future__ import annotations

from typing import Any

from agentopd.models.model import ModelSettings, load_model
from agentopd.rollout.transformers_sampler import TransformersSampler
from agentopd.running.evaluate import play_tasks, score, teacher_success
from agentopd.running.reading import parse_config
from agentopd.zoo.obedience import following, obedience
from agentopd.zoo.recipes import find_recipe

_TOLD = ("none", "skill_summary", "ground_truth")


def measure(name: str, episodes: int) -> dict[str, Any]:
    """Success on held-out tasks with each text in the system prompt, temperature 1.

    Returns:
        The levels; for each source of text the success, its interval and the episodes; and, as
        `reads`, whether it is what the text says that counts: see `obedience` and `following`.

    Raises:
        ValueError: no embedded model has that name.
    """
    recipe = find_recipe(name)
    options = recipe.options | recipe.levels
    found: dict[str, Any] = {"levels": recipe.levels, "split": "test"}
    for told in _TOLD:
        config = parse_config(
            {
                "student": {"path": f"zoo:{name}"},
                "env": {"id": recipe.env, "options": options},
                "rollout": {"kind": "student", "max_turn_tokens": recipe.turn_tokens},
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
    model = load_model(ModelSettings(path=f"zoo:{name}"))
    sokoban = recipe.player == "sokoban"
    reads = obedience(model, options, episodes) if sokoban else following(model, recipe, episodes)
    found["reads"] = reads
    return found | {"episodes": episodes}
