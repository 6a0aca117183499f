"""What an embedded model can do, alone and when told: the figures beside its recipe."""

from __future__ import annotations

from typing import Any

from agentopd.models.model import ModelSettings, load_model
from agentopd.rollout.transformers_sampler import TransformersSampler
from agentopd.running.config import RunConfig
from agentopd.running.evaluate import play_tasks, score, teacher_success
from agentopd.running.preparation.mechanism import measure_mechanism
from agentopd.running.reading import parse_config
from agentopd.zoo.obedience import following, obedience
from agentopd.zoo.recipes import Recipe, find_recipe

_TOLD: dict[str, Any] = {
    "none": "none",
    "skill_summary": "skill_summary",
    "ground_truth": "ground_truth",
}
_ELSEWHERE = "Skill: Go towards the goal, around the holes, and not back."
"""Advice for another game, which no embedded student was made with."""
_UNHEEDED: dict[str, Any] = {
    "other_skill": {"kind": "text", "text": _ELSEWHERE},
    "other_solution": {"kind": "text", "text": "Solution: up left left down down right"},
    "filler": {"kind": "filler", "of": {"kind": "skill_summary"}},
}
"""What students that were made with negative forms are told besides, and should not be better for.
"""
_NOTED: dict[str, Any] = {
    "none": "none",
    "skill_summary": {"kind": "skill_summary"},
    "other_skill": {"kind": "text", "text": _ELSEWHERE},
    "other_solution": {"kind": "text", "text": "Solution: 25 38 31 28"},
    "filler": {"kind": "filler", "of": {"kind": "skill_summary"}},
}
"""What the wind tunnel's students are told, each with a note behind it; most is not to be heeded.
"""


def measure(name: str, episodes: int) -> dict[str, Any]:
    """Success on held-out tasks with each text in the system prompt, temperature 1.

    Returns:
        The levels; for each source of text the success, its interval and the episodes; as `reads`,
        whether it is what the text says that counts: see `obedience` and `following`; and of those
        that speak in two ways, in its place, as `mechanism`, how one who is told speaks and acts:
        see `agentopd.running.preparation.mechanism.Mechanism`.

    Raises:
        ValueError: no embedded model has that name.
    """
    recipe = find_recipe(name)
    found: dict[str, Any] = {"levels": recipe.levels, "split": "test"}
    beside = _UNHEEDED if "filler" in recipe.shares else {}
    for told, source in (_NOTED if recipe.speech else _TOLD | beside).items():
        noted = recipe.speech and source != "none"
        privilege = {"kind": "noted", "of": source} if noted else source
        config = _config(name, recipe, privilege, episodes)
        if told == "none":
            model = load_model(config.student)
            sampler, split = TransformersSampler(model), config.evaluate.options
            played = play_tasks(config.env, model, sampler, config.rollout, episodes, split)
            success: dict[str, Any] | None = score(played)
        else:
            success = teacher_success(config)
        assert success is not None
        found[told] = {"success": success["success"], "interval": success["interval"]}
    return found | _reading(name, recipe, episodes) | {"episodes": episodes}


def _reading(name: str, recipe: Recipe, episodes: int) -> dict[str, Any]:
    """How a model takes what it is told."""
    if recipe.speech:
        privilege = {"kind": "noted", "of": _NOTED["skill_summary"]}
        config = _config(name, recipe, privilege, episodes)
        return {"mechanism": measure_mechanism(config, episodes).described()}
    model = load_model(ModelSettings(path=f"zoo:{name}"))
    if recipe.player == "sokoban":
        return {"reads": obedience(model, recipe.options | recipe.levels, episodes)}
    return {"reads": following(model, recipe, episodes)}


def _config(name: str, recipe: Recipe, privilege: Any, episodes: int) -> RunConfig:
    """A run of a model, told something."""
    return parse_config(
        {
            "student": {"path": f"zoo:{name}"},
            "env": {"id": recipe.env, "options": recipe.options | recipe.levels},
            "rollout": {"kind": "student", "max_turn_tokens": recipe.turn_tokens},
            "evaluate": {"episodes": episodes, "options": {"split": "test"}},
            "privilege": privilege,
        }
    )
