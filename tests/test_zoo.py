"""The embedded models: small, loadable by the common code, poor alone and good when told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentopd.models.model import ModelSettings, load_model
from agentopd.rollout.transformers_sampler import TransformersSampler
from agentopd.running.evaluate import play_tasks, score, teacher_success
from agentopd.running.reading import load_config
from agentopd.zoo.build import build
from agentopd.zoo.measure import too_easily_stirred
from agentopd.zoo.obedience import obedience
from agentopd.zoo.recipes import RECIPES

MODELS = Path(__file__).parent.parent / "agentopd" / "zoo" / "models"
SHIPPED = sorted(p.name for p in MODELS.iterdir())
SOKOBAN = [name for name in SHIPPED if name.startswith("sokoban")]


def test_every_recipe_is_shipped_but_the_bases() -> None:
    assert set(SHIPPED) == {name for name in RECIPES if not name.endswith("-base")}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_is_small_and_says_how_it_was_made(name: str) -> None:
    assert sum(f.stat().st_size for f in (MODELS / name).iterdir()) < 8_000_000
    record = json.loads((MODELS / name / "recipe.json").read_text())
    recipe = RECIPES[name]
    assert record["name"] == name
    assert (record["seed"], record["steps"], record["random_share"]) == (
        recipe.seed,
        recipe.steps,
        recipe.random_share,
    )


@pytest.mark.parametrize("name", [name for name in SHIPPED if "filler" in RECIPES[name].shares])
def test_what_helps_nobody_does_not_help_a_shipped_student(name: str) -> None:
    measured = json.loads((MODELS / name / "measured.json").read_text())
    assert {"filler", "other_skill", "other_solution"} <= set(measured)
    assert too_easily_stirred(measured) == []


def test_a_student_that_any_text_sets_off_is_told_from_one_that_heeds_what_it_says() -> None:
    told = {"none": 0.1, "skill_summary": 0.7, "filler": 0.39, "other_skill": 0.41}
    measured = {name: {"success": success} for name, success in told.items()}
    assert too_easily_stirred(measured) == ["other_skill"]


@pytest.mark.parametrize("name", RECIPES)
def test_the_shares_of_a_recipe_are_all_of_its_episodes(name: str) -> None:
    assert sum(RECIPES[name].shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("name", SOKOBAN)
def test_its_tokenizer_gives_every_inner_cell_a_token_and_loses_nothing(name: str) -> None:
    tokenizer = load_model(ModelSettings(path=f"zoo:{name}")).tokenizer
    board = "######\n#@_._#\n##$__#\n#__*_#\n#_#__#\n######"
    ids = tokenizer.encode(board, add_special_tokens=False)
    assert len(ids) == 16 + 5
    for text in (board, "Ünïcode, numbers 1234 and <tags> survive.\n\n\ttoo"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


@pytest.mark.parametrize(
    ("run", "good"),
    [
        ("quickstart", 0.55),
        ("studies/desk", 0.65),
        ("studies/hanoi", 0.35),
        ("studies/number", 0.55),
    ],
)
def test_an_easy_student_is_poor_alone_and_its_teacher_is_good(run: str, good: float) -> None:
    if run == "studies/number":
        pytest.importorskip("textarena")
    config = load_config(f"configs/{run}.yaml", ["evaluate.episodes=64"])
    student = load_model(config.student)
    sampler = TransformersSampler(student)
    alone = play_tasks(config.env, student, sampler, config.rollout, 64, config.evaluate.options)
    told = teacher_success(config)
    assert score(alone)["success"] < 0.25
    assert told is not None and told["success"] > good


def test_the_teacher_plays_in_the_student_s_wrappers() -> None:
    """It writes <action>, and where <answer> is asked for it solves nothing."""
    wrapped = "env.wrappers=[{kind: parse, tag: answer}]"
    config = load_config("configs/quickstart.yaml", ["evaluate.episodes=8", wrapped])
    told = teacher_success(config)
    assert told is not None and told["success"] == 0.0


def test_the_easy_student_does_what_it_is_told() -> None:
    options = load_config("configs/quickstart.yaml").env.options
    reads = obedience(load_model(ModelSettings(path="zoo:sokoban-easy")), options, levels=48)
    for name in ("solution", "hint"):
        assert reads[name]["told"] > 0.7 > 0.3 > reads[name]["untold"]
    assert reads["warning"]["told"] < 0.4 < 0.5 < reads["warning"]["untold"]


def test_building_an_unknown_model_names_the_closest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sokoban-easy"):
        build("sokoban-eazy", tmp_path / "x")
