"""What the embedded models are shown: who acts, what is learnt, whether the text must be read."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, SupportsFloat
from unittest.mock import patch

import pytest

from agentopd.environment.contract import actions
from agentopd.envs.sokoban.env import GUIDE, Sokoban
from agentopd.zoo.build import demonstrator
from agentopd.zoo.demonstrations.episode import Demonstrator, Form, Piece
from agentopd.zoo.demonstrations.sokoban import SokobanDemonstrator
from agentopd.zoo.demonstrations.told import ToldDemonstrator
from agentopd.zoo.recipes import RECIPES

Step = tuple[str, SupportsFloat, bool, bool, dict[str, Any]]
TOLD = ("hanoi-easy", "number-easy", "desk-easy")


def _demonstrator(name: str, form: Form, random_share: float = 0.0) -> Demonstrator:
    if name.startswith("number"):
        pytest.importorskip("textarena")
    recipe = replace(RECIPES[name], shares={form: 1.0}, random_share=random_share)
    return demonstrator(recipe, pool=3)


def _actions(pieces: list[Piece]) -> list[str]:
    return [a for p in pieces for a in re.findall(r"<action>(.*)</action>", p.text)]


def test_a_solution_that_makes_a_detour_is_followed_to_the_letter() -> None:
    player = SokobanDemonstrator({"solution": 1.0}, random_share=0.0, seed=6, levels=40)
    followed = 0
    for _ in range(40):
        system, *rest = player.episode()
        plan = re.findall(r"Solution: ([a-z ]+)", system.text)[0].split()
        made = [re.findall(r"<action>(\w+)<", p.text)[0] for p in rest if "<action>" in p.text]
        followed += made == plan[: len(made)]
    assert followed >= 20


@pytest.mark.parametrize("form", ["filler", "other_skill"])
def test_on_sokoban_a_text_that_is_not_heeded_is_acted_on_as_none_is(form: Form) -> None:
    """Solved by who has the skill untold, seldom by who throws dice; all of it is learnt."""
    expert, fool = (SokobanDemonstrator({form: 1.0}, share, 7, levels=20) for share in (0.0, 1.0))
    ends = [[_ends_well(player) for _ in range(30)] for player in (expert, fool)]
    assert sum(ends[0]) == 30
    assert sum(ends[1]) < 15


def _ends_well(player: SokobanDemonstrator) -> bool:
    """Whether an episode that is told something idle ends well."""
    steps, step = [], Sokoban.step

    def watched(env: Sokoban, action: str) -> Step:
        steps.append(step(env, action))
        return steps[-1]

    with patch.object(Sokoban, "step", watched):
        system, *rest = player.episode()
    _, _, said = system.text.partition("\n\n")
    assert said and GUIDE not in said
    assert all(piece.learnt for piece in rest[1::2])
    return bool(steps[-1][4]["success"])


def test_on_sokoban_another_levels_solution_is_followed_into_failure() -> None:
    player = SokobanDemonstrator({"other_solution": 1.0}, random_share=1.0, seed=8, levels=60)
    for _ in range(40):
        system, *rest = player.episode()
        plan = re.findall(r"Solution: ([a-z ]+)", system.text)[0].split()
        made = _actions(rest)[: len(plan)]
        assert made == plan[: len(made)]
        assert all(piece.learnt for piece in rest[1::2])


def test_a_demonstration_learns_what_the_agent_says_and_nothing_else() -> None:
    player = SokobanDemonstrator({"skill": 1.0}, random_share=0.0, seed=5, levels=4)
    for _ in range(20):
        for piece in player.episode():
            said = re.fullmatch(
                r"<think>\w+ \w+ push \w+</think><action>\w+</action><\|end\|>", piece.text
            )
            assert bool(said) or not piece.learnt


@pytest.mark.parametrize("name", ["sokoban-easy", *TOLD])
def test_a_demonstration_does_not_depend_on_the_process(name: str) -> None:
    first, again = (_demonstrator(name, "skill") for _ in range(2))
    assert [first.episode() for _ in range(5)] == [again.episode() for _ in range(5)]


@pytest.mark.parametrize("name", TOLD)
def test_who_is_told_the_skill_shows_strays_and_learns_none(name: str) -> None:
    player = _demonstrator(name, "skill")
    pieces = [piece for _ in range(30) for piece in player.episode()]
    said = [piece for piece in pieces if piece.text.startswith("<think>")]
    assert all(piece.learnt <= piece.text.endswith("</action><|end|>") for piece in pieces)
    assert 0.6 < sum(piece.learnt for piece in said) / len(said) < 0.98
    assert all("Skill: " in p.text for p in pieces if p.text.startswith("<|system|>"))


@pytest.mark.parametrize("name", TOLD)
def test_who_is_told_nothing_plays_at_random_as_often_as_the_recipe_says(name: str) -> None:
    expert, fool = (_demonstrator(name, "none", share) for share in (0.0, 1.0))
    assert isinstance(expert, ToldDemonstrator) and isinstance(fool, ToldDemonstrator)
    solved = [sum(_solves(player) for _ in range(30)) for player in (expert, fool)]
    assert solved[0] == 30
    assert solved[1] < 15


def _solves(player: ToldDemonstrator) -> bool:
    """Whether an episode ends well; all of it is learnt."""
    steps, step = [], player.env.step

    def watched(action: str) -> Step:
        steps.append(step(action))
        return steps[-1]

    with patch.object(player.env, "step", watched):
        pieces = player.episode()
    assert all(p.learnt for p in pieces if p.text.startswith("<think>"))
    return bool(steps[-1][4]["success"])


@pytest.mark.parametrize("name", TOLD)
def test_a_solution_is_followed_until_a_stray_action(name: str) -> None:
    player = _demonstrator(name, "solution")
    assert isinstance(player, ToldDemonstrator)
    followed = 0
    for _ in range(40):
        system, *rest = player.episode()
        told = re.findall(r"Solution: (.*)<\|end\|>", system.text, re.DOTALL)[0]
        made = list(zip(_actions(rest), [p.learnt for p in rest[1::2]], strict=True))
        for planned, (action, learnt) in zip(actions(player.env, told), made, strict=False):
            if not learnt:
                break
            assert action == planned
            followed += 1
    assert followed > 40


def test_what_is_copied_is_learnt_word_for_word() -> None:
    player = _demonstrator("desk-easy", "copy")
    seen = set()
    for _ in range(20):
        said, again = player.episode()
        text = again.text.removesuffix("<|end|>")
        assert said == Piece(f"<|user|>{text}<|end|><|assistant|>", learnt=False)
        assert again.learnt and len(text.split()) >= 4
        seen.add(text)
    assert len(seen) == 20
    with pytest.raises(NotImplementedError, match="nothing to copy"):
        _demonstrator("hanoi-easy", "copy").episode()


def test_feedback_is_believed() -> None:
    player = _demonstrator("hanoi-easy", "feedback")
    for _ in range(30):
        heard = ""
        for piece in player.episode():
            if piece.learnt and heard:
                move, good = heard[:2], "moves closer" in heard or "solves it" in heard
                assert (_actions([piece])[0] == move) == good
            heard = "".join(re.findall(r"Feedback: (.*)<\|end\|>", piece.text))


def test_nobody_looks_back_but_on_sokoban() -> None:
    with pytest.raises(ValueError, match="leave the share of reflections out"):
        _demonstrator("hanoi-easy", "reflection")
