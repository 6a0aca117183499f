"""What an embedded model can do, alone and when told: the figures beside its recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentopd.base.statistics import wilson
from agentopd.environment.registry import make
from agentopd.models.model import ModelSettings, load_model
from agentopd.privilege import writer
from agentopd.privilege.texts import without_slots
from agentopd.rollout.transformers_sampler import TransformersSampler
from agentopd.running.config import RunConfig
from agentopd.running.evaluate import play_tasks, score, teacher_success
from agentopd.running.preparation.mechanism import measure_mechanism
from agentopd.running.reading import parse_config
from agentopd.zoo.demonstrations.episode import UNSEEN
from agentopd.zoo.obedience import following, obedience
from agentopd.zoo.recipes import Recipe, find_recipe

_TOLD: dict[str, Any] = {
    "none": "none",
    "skill_summary": "skill_summary",
    "ground_truth": "ground_truth",
}
_UNHEEDED: dict[str, Any] = {
    "other_skill": {"kind": "text", "text": UNSEEN},
    "filler": {"kind": "filler", "of": {"kind": "skill_summary"}},
}
"""What students that were made with negative forms are told besides, and should not be better for.
"""
_OTHERS = 8
"""Tasks of the training whose solutions are told on other tasks."""
_NOTED: dict[str, Any] = {
    "none": "none",
    "skill_summary": {"kind": "skill_summary"},
    "other_skill": {"kind": "text", "text": UNSEEN},
    "other_solution": {"kind": "text", "text": "Solution: 25 38 31 28"},
    "filler": {"kind": "filler", "of": {"kind": "skill_summary"}},
}
"""What the wind tunnel's students are told, each with a note behind it; most is not to be heeded.
"""


def measure(name: str, episodes: int) -> dict[str, Any]:
    """Success on held-out tasks with each text in the system prompt, temperature 1.

    Returns:
        The levels; for each source of text, and where a recipe has negative forms for those that
        help nobody, the success, its interval and the episodes; as `reads`,
        whether it is what the text says that counts: see `obedience` and `following`; and of those
        that speak in two ways, in its place, as `mechanism`, how one who is told speaks and acts:
        see `agentopd.running.preparation.mechanism.Mechanism`.

    Raises:
        ValueError: no embedded model has that name.
    """
    recipe = find_recipe(name)
    found: dict[str, Any] = {"levels": recipe.levels, "split": "test"}
    beside = _UNHEEDED if "filler" in recipe.shares else {}
    if beside:
        found["other_solution"] = _misled(name, recipe, episodes)
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


def too_easily_stirred(measured: Mapping[str, Any]) -> list[str]:
    """What a student should be no better for and is: the texts that help nobody, told which it
    gains at least half of what the skill gains it.

    Args:
        measured: what `measure` returns.
    """
    alone, skill = measured["none"]["success"], measured["skill_summary"]["success"]
    idle = [told for told in ("filler", "other_skill", "other_solution") if told in measured]
    return [told for told in idle if measured[told]["success"] - alone >= (skill - alone) / 2]


def _misled(name: str, recipe: Recipe, episodes: int) -> dict[str, Any]:
    """Success told the solution of another task, of several in turn."""
    env = make(recipe.env, recipe.options | recipe.levels)
    solved, share = 0, max(episodes // _OTHERS, 1)
    for seed in range(_OTHERS):
        _, info = env.reset(seed=seed)
        told = without_slots(writer.solution(str(info["reference"])))
        privilege = {"kind": "text", "text": told}
        success = teacher_success(_config(name, recipe, privilege, share))
        assert success is not None
        solved += round(success["success"] * share)
    env.close()
    trials = share * _OTHERS
    return {"success": solved / trials, "interval": list(wilson(solved, trials))}


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
