"""Students for one's own environment: what a recipe may say, how they are shown, who is kept."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from broken_envs import Line
from command_line import call, problem

from agentopd.base.written import ConfigError
from agentopd.environment.check import check_env
from agentopd.environment.contract import Info, TextEnv
from agentopd.models.model import ModelSettings, load_model
from agentopd.running.reading import load_config
from agentopd.running.train import train
from agentopd.zoo.demonstrations.episode import Form, Piece
from agentopd.zoo.demonstrations.own import Key, OwnDemonstrator
from agentopd.zoo.demonstrations.told import Player
from agentopd.zoo.own import build as building
from agentopd.zoo.own.build import Refused, build_own
from agentopd.zoo.own.judge import Judged, Success, judge
from agentopd.zoo.own.recipe import OwnRecipe, read_recipe


class Way(Line):
    """`Line` with advice and a list of what may be done; three steps to the goal."""

    system_prompt = "Go to the goal."
    guide = "Go right."

    def draw(self, seed: int | None) -> int:
        return 2 + (seed or 0) % 3

    def legal_actions(self) -> list[str] | None:
        return ["left", "right"]

    def tell(self) -> Info:
        return super().tell() | {"guide": self.guide}


class Endless(Way):
    """Nothing ends it but its goal, and it has no rules."""

    system_prompt = ""
    examples = (("You are at 0, the goal is at 1.", "<action>right</action>"),)
    limit = 10**9

    def legal_actions(self) -> list[str]:
        return ["left"]


class Unlisted(Way):
    """Does not say what may be done."""

    def legal_actions(self) -> None:
        return None


class Borrowed(Way):
    """Advises what is advised elsewhere."""

    guide = "Guess only codes that agree with every answer so far, and never the same one twice."


class Silent(TextEnv):
    """Says nothing that a teacher could be told."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, Info]:
        return "Go.", {"task_id": "go", "success": False}


class Advised(Silent):
    """Gives advice, and nobody can play it."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, Info]:
        return "Go.", {"task_id": "go", "success": False, "guide": "Go."}


class Thinker(Player):
    """Goes right, and says so."""

    def best(self, env: Any, info: Info) -> str:
        assert type(env) is Way, "itself, without its wrappers"
        return "right"

    def other(self, env: Any, info: Info, rng: Any) -> str:
        return "left"

    def thought(self, env: Any, info: Info, action: str) -> str:
        return f"to {env.goal}"


EXAMPLE = Path(__file__).parent.parent / "examples" / "own_student"
TINY: dict[str, Any] = {
    "steps": 2, "hidden": 32, "layers": 1, "episodes": 16, "vocabulary": 300,
}  # fmt: skip


def _recipe(name: str = "Way", **settings: Any) -> OwnRecipe:
    return OwnRecipe.model_validate({"env": f"{__name__}:{name}", **settings})


def _player(
    form: Form, name: str = "Way", share: float = 0.0, settings: dict[str, Any] | None = None
) -> OwnDemonstrator:
    recipe = _recipe(name, **(settings or {}))
    told: Key = "oracle" if form == "next" else recipe.told or "guide"
    shares: dict[Form, float] = {form: 1.0}
    plays, turns = recipe.plays(), recipe.max_turns
    return OwnDemonstrator(recipe.env, plays, told, shares, share, 0, turns)


def _answers(pieces: list[Piece]) -> list[str]:
    return [a for p in pieces if p.learnt for a in re.findall(r"<action>(\w+)</action>", p.text)]


def test_who_is_told_the_next_action_does_it_whatever_it_is() -> None:
    player = _player("next")
    said, made = list[str](), list[str]()
    for _ in range(40):
        asked = ""
        for piece in player.episode():
            if piece.learnt:
                said += re.findall(r"\n\nBest next: (\w+)<\|end\|>", asked)
                made += _answers([piece])
            asked = piece.text
    assert said == made
    assert 0.2 < made.count("left") / len(made) < 0.4, "half of what is told is anything, of two"


def test_who_is_told_the_solution_of_another_task_follows_it_to_the_letter() -> None:
    player = _player("solution", settings={"told": "reference"})
    told = []
    for _ in range(60):
        rules, asked, *_ = pieces = player.episode()
        plan = re.findall(r"Solution: ([a-z ]+)<", rules.text)[0].split()
        goal = int(re.findall(r"goal is at (\d)", asked.text)[0])
        made = [a for p in pieces for a in re.findall(r"<action>(\w+)</action>", p.text)]
        if set(plan) == {"right"} and len(made) >= min(len(plan), goal) and set(made) == {"right"}:
            told.append((len(plan), goal))
    assert {2, 3, 4} == {size for size, _ in told}
    assert sum(size != goal for size, goal in told) > 3


@pytest.mark.parametrize("form", ["none", "filler", "other_skill", "other_solution"])
def test_what_is_not_heeded_leaves_one_at_random(form: Form) -> None:
    fool, expert = (_player(form, share=share) for share in (1.0, 0.0))
    foolish = [a for _ in range(60) for a in _answers(fool.episode())]
    wise = [a for _ in range(20) for a in _answers(expert.episode())]
    assert 0.4 < foolish.count("left") / len(foolish) < 0.6
    assert set(wise) == {"right"}


def test_words_that_say_nothing_stand_where_the_next_action_would() -> None:
    player = _player("filler")
    player.told = "oracle"
    rules, asked, *_ = player.episode()
    assert rules.text == "<|system|>Go to the goal.<|end|>"
    assert re.fullmatch(
        r"<\|user\|>You are at .*\.\n\n[a-z .]+<\|end\|><\|assistant\|>", asked.text
    )


def test_advice_that_is_ones_own_is_never_called_anothers() -> None:
    player = _player("other_skill", "Borrowed")
    shown = {player.episode()[0].text for _ in range(60)}
    assert not any(Borrowed.guide in text for text in shown)


def test_an_episode_without_an_end_is_left() -> None:
    player = _player("none", "Endless", 1.0, {"max_turns": 5})
    pieces = player.episode()
    assert len(_answers(pieces)) == 5
    assert pieces[0].text.startswith("<|user|>You are at 0, the goal is at 1."), "the example"
    assert not pieces[0].learnt
    plan = _player("solution", "Endless", 0.0, {"told": "reference", "max_turns": 5}).episode()
    assert len(_answers(plan)) <= 5


def test_where_nothing_is_listed_what_oracles_have_named_is_tried() -> None:
    pieces = _player("none", "Unlisted", share=1.0).episode()
    assert set(_answers(pieces)) == {"right"}


def test_a_player_of_ones_own_thinks() -> None:
    env = {"id": f"{__name__}:Way", "wrappers": ["history"]}
    player = _player("skill", settings={"env": env, "player": f"{__name__}:Thinker"})
    replies = [p.text for p in player.episode() if p.learnt]
    assert re.fullmatch(r"<think>to \d</think><action>right</action><\|end\|>", replies[0])


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("env: x:X\nstep: 3", "unknown key 'step'; did you mean 'steps'?"),
        ("env: {id: x:X, option: 3}", "env: unknown key 'option'; did you mean 'options'?"),
        ("steps: 3", "env: Field required"),
        ("env: x:X\nhidden: 40", "hidden: Input should be a multiple of 32"),
        ("env: x:X\nshares: {feedback: 1}", "shares: feedback is played in the embedded models'"),
        ("env: x:X\nshares: {none: 1}", "shares: a student who heeds nothing"),
        ("env: x:X\nshares: {skill: -1}", "shares: give each form a number of at least 0"),
        ("env: x:X\npieces: ['(']", "pieces: '(' is no regular expression"),
    ],
)
def test_a_mistake_in_a_recipe_is_one_line(written: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(written)
    line = problem(call("zoo", "build", path))
    assert line.startswith(f"{path}: {told}")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.yaml"]


def test_a_recipe_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.yaml cannot be read"):
        read_recipe(tmp_path / "no.yaml")


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("Silent", {}, "says nothing in info that a teacher could be told"),
        ("Silent", {"told": "guide"}, "says no info\\['guide'\\] on reset"),
        ("Advised", {}, "names no next best action"),
        ("Advised", {"shares": {"solution": 1}}, "solution needs info\\['reference'\\]"),
        ("Way", {"player": "json:JSONDecoder"}, "JSONDecoder is no agentopd.zoo"),
        ("Way", {"length": 32, "max_turns": 9}, "tokens long in the middle, and a row 32"),
    ],
)
def test_what_cannot_be_made_is_refused_before_it_learns(
    name: str, settings: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=told):
        build_own(_recipe(name, **TINY | settings), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_is_told_first_has_most_of_the_episodes() -> None:
    recipe = _recipe()
    assert recipe.tells({"oracle": "up", "reference": "up"}) == "oracle"
    info = {"guide": "Go.", "oracle": "up", "reference": "up"}
    assert recipe.tells(info) == "guide"
    assert recipe.forms("guide", info) == pytest.approx(
        {"skill": 1 / 3, "solution": 1 / 6, "none": 0.25, "filler": 0.15, "other_skill": 0.1}
    )
    assert recipe.forms("oracle", {"oracle": "up"}) == {"next": 0.5, "none": 0.3, "filler": 0.2}
    assert _recipe(told="reference").tells(info) == "reference"
    alone = {"solution": 0.5, "none": 0.25, "filler": 0.15, "other_skill": 0.1}
    assert recipe.forms("reference", info) == alone, "advice would put the skill in its place"


def _judged(alone: int, told: int, filler: int, another: int) -> Judged:
    """Of a hundred tasks each."""

    def success(solved: int) -> Success:
        half = 0.1
        return Success(solved / 100, (solved / 100 - half, solved / 100 + half), 100)

    return Judged("guide", success(alone), success(told), success(filler), success(another))


@pytest.mark.parametrize(
    ("numbers", "useless", "misled"),
    [
        ((5, 90, 5, 5), "", ""),
        ((5, 24, 5, 5), "is not better than alone: 24 % (14–34 %) and 5 % (-5–15 %) of 100", ""),
        ((5, 85, 44, 5), "", ""),
        ((5, 85, 45, 5), "", "told words that say nothing 45 % (35–55 %)."),
        ((5, 85, 5, 45), "", "told another's text 45 % (35–55 %)."),
        ((5, 85, 85, 85), "", "nothing 85 % (75–95 %) and told another's text 85 % (75–95 %)."),
        ((80, 85, 85, 85), "is not better than alone", ""),
    ],
)
def test_who_is_refused(numbers: tuple[int, int, int, int], useless: str, misled: str) -> None:
    judged = _judged(*numbers)
    assert (useless in judged.useless) and bool(useless) == bool(judged.useless)
    assert (misled in judged.misled) and bool(misled) == bool(judged.misled)


def _judge(monkeypatch: pytest.MonkeyPatch, *numbers: int) -> None:
    monkeypatch.setattr(building, "judge", lambda *_: _judged(*numbers))


def test_a_student_who_is_not_better_when_told_is_left_aside(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="not better than alone") as told:
        build_own(_recipe(**TINY), tmp_path / "mine")
    aside = tmp_path / "mine-refused"
    assert str(aside) in str(told.value)
    assert [path.name for path in tmp_path.iterdir()] == ["mine-refused"]
    found = json.loads((aside / "measured.json").read_text())
    assert found["alone"]["episodes"] == 16
    assert not (aside / "recipe.json").exists()


def test_one_who_heeds_other_words_is_kept_where_that_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _judge(monkeypatch, 5, 85, 80, 5)
    (tmp_path / "mine.yaml").write_text(json.dumps({"env": f"{__name__}:Way", **TINY}))
    line = problem_of(call("zoo", "build", tmp_path / "mine.yaml"))
    assert "told words that say nothing 80 %" in line
    assert "unheeded: allow keeps it all the same" in line
    (tmp_path / "mine.yaml").write_text(
        json.dumps({"env": f"{__name__}:Way", **TINY, "unheeded": "allow"})
    )
    result = call("zoo", "build", tmp_path / "mine.yaml")
    assert result.exit_code == 0, result.output
    assert "warning: what the text says hardly counts" in result.stderr
    assert not (tmp_path / "mine-refused").exists(), "the earlier one's place was taken"
    record = json.loads((tmp_path / "mine" / "recipe.json").read_text())
    assert (record["name"], record["unheeded"], record["steps"]) == ("mine", "allow", 2)
    again = problem(call("zoo", "build", tmp_path / "mine.yaml"))
    assert "holds something already" in again


def problem_of(result: Any) -> str:
    """The last line of what a command that went on for a while was refused for."""
    assert result.exit_code == 2, result.output
    return result.stderr.splitlines()[-1]


def test_the_command_tells_what_was_measured_and_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _judge(monkeypatch, 5, 85, 6, 7)
    (tmp_path / "mine.yaml").write_text(json.dumps({"env": f"{__name__}:Way", **TINY}))
    result = call("zoo", "build", tmp_path / "mine.yaml", "--steps", "1", "--out", tmp_path / "s")
    assert result.exit_code == 0, result.output
    for name, percent in (("alone", 5), ("told its guide", 85), ("told another's text", 7)):
        assert re.search(rf"{name} +{percent} %", result.stdout)
    last = result.stdout.splitlines()[-1]
    assert f"student.path={tmp_path / 's'} " in last
    assert last.endswith("privilege=skill_summary")
    assert json.loads((tmp_path / "s" / "recipe.json").read_text())["steps"] == 1
    assert load_model(ModelSettings(path=str(tmp_path / "s")))


@pytest.mark.parametrize("told", ["guide", "reference", "oracle"])
def test_a_student_hears_what_it_is_judged_by(
    told: Key, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each text stands, in the environments in which it is measured."""
    heard: list[str] = []
    recipe = _recipe(episodes=16, told=told)

    def played(env: Any, *_: Any) -> list[Any]:
        built = env.build()
        observation, _ = built.reset(seed=10**9)
        heard.append(f"{built.get_wrapper_attr('system_prompt')}|{observation}")
        return [type("Episode", (), {"success": True, "error": ""})()] * 16

    monkeypatch.setattr("agentopd.zoo.own.judge.play_tasks", played)
    judge(load_model(ModelSettings(path=str(tiny_model))), recipe, told, 8)
    alone, right, filler, *others = heard
    assert alone == "Go to the goal.|You are at 0, the goal is at 3."
    text = {"guide": "Skill: Go right.", "reference": "Solution: right right right"}.get(
        told, "Best next: right"
    )
    place = (0, 1)[told == "oracle"]
    assert right.split("|")[place].endswith(f"\n\n{text}")
    assert right.split("|")[1 - place] == alone.split("|")[1 - place]
    assert text not in filler and len(filler) > len(alone)
    if told == "guide":
        assert len(others) == 1 and "Go towards the goal" in others[0]
    else:
        assert len(others) == 8
        assert {o.split("\n\n")[1].split("|")[0].split(":")[0] for o in others} == {
            text.split(":")[0]
        }


def test_the_example_keeps_the_contract_and_is_the_guides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    assert check_env("change:Change", seeds=5) == []
    guide = (EXAMPLE.parents[1] / "docs" / "environments.md").read_text(encoding="utf-8")
    for name in ("change.py", "student.yaml", "teach.yaml"):
        text = (EXAMPLE / name).read_text(encoding="utf-8")
        code = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
        assert f"\n{code}```\n" in guide, name


def test_the_example_goes_all_the_way_at_toy_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    recipe = read_recipe(EXAMPLE / "student.yaml").model_copy(update=TINY)
    _judge(monkeypatch, 5, 90, 5, 5)
    built = build_own(recipe, tmp_path / "student")
    changes = [f"student.path={built.folder}", "steps=1", "rollout.tasks=2", "evaluate.episodes=2"]
    changes.append(f"rollout.max_turn_tokens={built.turn_tokens}")
    summary = train(load_config(EXAMPLE / "teach.yaml", changes), tmp_path / "run")
    assert summary["steps"] == 1
    assert not summary["errors"] and not summary["notices"]
