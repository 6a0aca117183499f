"""The commands that act in environments, list what there is, and build models."""

from __future__ import annotations

import json
import shlex
import sys
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import yaml
from command_line import SOKOBAN, call, problem
from gymnasium.envs.registration import EnvSpec

import agentopd
from agentopd.commands.acting import model_path, parse_options
from agentopd.environment.registry import PLUGINS, schemes
from agentopd.zoo.recipes import find_recipe

METHODS = sorted((Path(agentopd.__file__).parent / "configs" / "methods").glob("*.yaml"))


def test_eval_prints_one_json_object(tiny_model: Path) -> None:
    result = call(
        "eval", tiny_model, "--env", SOKOBAN, "-o", "max_turns=2", "--split", "test",
        "--episodes", "3", "--max-turn-tokens", "4", "--seed", "5", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["episodes"], found["turns"], found["errors"]) == (3, 2.0, 0)
    assert found["options"] == {"max_turns": 2, "split": "test"}
    assert (found["seed"], found["max_turn_tokens"]) == (5, 4)
    assert 0 < found["student_tokens"] <= 3 * 2 * 4


def test_eval_tells_the_environments_own_numbers(tiny_model: Path) -> None:
    words = ("eval", tiny_model, "--env", "agentopd/Desk-v0", "-o", "max_turns=2")
    words = (*words, "--episodes", "2", "--max-turn-tokens", "2", "--max-context", "99999")
    found = json.loads(call(*words, "--json").stdout)
    assert {"env/sgc": 0.0, "env/tgc": 0.0, "env/calls": 0.0}.items() <= found.items()
    assert "env/calls 0  " in call(*words).stdout


def test_eval_says_when_the_environment_fails(tiny_model: Path) -> None:
    result = call(
        "eval", tiny_model, "--env", "broken_envs:RaisesOnReset", "--seed", "12",
        "--episodes", "2", "--max-turns", "1", "--json",
    )  # fmt: skip
    assert json.loads(result.stdout)["errors"] == 1
    told = "1 of 2 episodes played ended in errors; the first: RuntimeError: no such level"
    assert told in result.stderr


OPTIONS = {"prompt": "brief", "max_turns": 12}
WRAPPERS = [{"kind": "history", "turns": 2}, {"kind": "parse", "tag": "answer"}]


@pytest.fixture(scope="module")
def wrapped_run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A run of one step in wrappers, whose test tasks are other ones and played greedily."""
    folder = tmp_path_factory.mktemp("wrapped")
    settings = {
        "steps": 1,
        "threads": 1,
        "student": {"path": str(tiny_model)},
        "env": {"id": SOKOBAN, "options": OPTIONS, "wrappers": WRAPPERS},
        "rollout": {"tasks": 1, "max_turn_tokens": 5, "max_turns": 2},
        "evaluate": {"episodes": 2, "temperature": 0, "options": {"split": "test"}},
    }
    (folder / "wrapped.yaml").write_text(yaml.safe_dump(settings))
    result = call("train", folder / "wrapped.yaml", "--out", folder / "run")
    assert result.exit_code == 0, result.output
    return folder / "run"


def test_a_run_is_evaluated_as_it_was_trained(wrapped_run: Path) -> None:
    found = json.loads(call("eval", wrapped_run, "--episodes", "2", "--json").stdout)
    measured = json.loads((wrapped_run / "summary.json").read_text())["evaluation"]
    assert {key: found[key] for key in measured} == measured
    assert found["env"] == SOKOBAN
    assert found["options"] == OPTIONS | {"split": "test"}
    assert [w["kind"] for w in found["wrappers"]] == ["history", "parse"]
    assert (found["temperature"], found["max_turn_tokens"], found["max_turns"]) == (0, 5, 2)


def test_what_is_said_stands_above_what_a_run_did(wrapped_run: Path) -> None:
    words = ("-o", "max_turns=1", "--wrapper", "invalid_limit", "--max-turn-tokens", "3")
    found = json.loads(call("eval", wrapped_run, "--episodes", "1", "--json", *words).stdout)
    assert found["options"] == OPTIONS | {"max_turns": 1, "split": "test"}
    assert [w["kind"] for w in found["wrappers"]] == ["invalid_limit"]
    assert (found["turns"], found["max_turn_tokens"], found["max_turns"]) == (1, 3, 2)
    other = ("--env", "broken_envs:Line", "--episodes", "1", "--json")
    found = json.loads(call("eval", wrapped_run, *other).stdout)
    assert (found["env"], found["options"], found["wrappers"]) == ("broken_envs:Line", {}, [])


def test_a_run_is_watched_and_checked_in_its_wrappers(wrapped_run: Path) -> None:
    watched = call("play", wrapped_run).stdout
    assert "You answered:" in watched and "No <answer></answer> in the answer." in watched
    checked = call("check-env", wrapped_run)
    assert checked.stdout == f"{wrapped_run} keeps the contract\n"


def test_a_person_plays_in_wrappers() -> None:
    env = agentopd.make(SOKOBAN)
    moves = env.reset(seed=4)[1]["oracle"].split()
    words = ("play", "human", "--env", SOKOBAN, "--seed", "4", "--wrapper", "{kind: parse, tag: a}")
    result = call(*words, typed="\n".join(moves))
    assert "<a>" in result.stdout and "<action>" not in result.stdout
    assert f"solved in {len(moves)} turns" in result.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("eval", "zoo:sokoban-easy"), "name an environment with --env"),
        (("play", "human"), "name an environment with --env"),
        (("check-env", "broken_envs:Line", "--wrapper", "prase"), "did you mean 'parse'?"),
        (("check-env", "broken_envs:Line", "--wrapper", "{kind: parse}"), "a tag or a pattern"),
        (("check-env", "broken_envs:Line", "--wrapper", "{"), "the wrapper '{' is not YAML"),
        (("check-env", "broken_envs:Line", "--wrapper", "{kind: history, turns: 0}"), "turns: "),
        (("eval", "zoo:sokoban-easy", "--env", SOKOBAN, "--sampler", "{"), "--sampler { is not"),
        (("eval", "zoo:sokoban-easy", "--env", SOKOBAN, "--sampler", "vlm"), "mean 'vllm'?"),
    ],
)
def test_where_to_act_is_told_or_refused(words: tuple[str, ...], told: str) -> None:
    assert told in problem(call(*words))


def broken_model(folder: Path, tiny: Path, name: str, content: bytes) -> Path:
    """A copy of the tiny model in which one file is damaged."""
    folder.mkdir()
    for path in tiny.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"{}"),
        ("config.json", b"not JSON"),
        ("tokenizer.json", b"{"),
        ("model.safetensors", b"cut off"),
    ],
)
def test_a_damaged_model_is_told_in_a_line(
    name: str, content: bytes, tiny_model: Path, tmp_path: Path
) -> None:
    folder = broken_model(tmp_path / "model", tiny_model, name, content)
    told = problem(call("eval", folder, "--env", SOKOBAN))
    assert told.startswith(f"{folder} cannot be loaded as a causal language model: ")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("nowhere", "--env", SOKOBAN), "'nowhere' is not a model folder"),
        (("zoo:nobody", "--env", SOKOBAN), "no embedded model is called 'zoo:nobody'"),
        (("zoo:nobody", "--env", "Sokoban"), "did you mean agentopd/Sokoban-v0?"),
        (("zoo:nobody", "--env", SOKOBAN, "--split", "tset"), "train, validation, test"),
        (("zoo:nobody", "--env", SOKOBAN, "-o", "min_move=7"), "did you mean 'min_moves'?"),
        (("zoo:nobody", "--env", SOKOBAN, "-o", "size"), "write key=value"),
    ],
)
@pytest.mark.parametrize("command", ["eval", "play"])
def test_who_or_what_is_not_there_cannot_act(
    command: str, words: tuple[str, ...], told: str
) -> None:
    if command == "play" and "--split" in words:
        words = tuple("-o" if w == "--split" else w.replace("tset", "split=tset") for w in words)
    assert told in problem(call(command, *words))


@pytest.mark.parametrize("option", ["--episodes", "--max-turns", "--temperature", "--seed"])
def test_a_negative_number_is_refused(option: str) -> None:
    result = call("eval", "zoo:any", "--env", SOKOBAN, option, "-1")
    assert result.exit_code == 2
    assert option in result.stderr and "greater than or equal" in " ".join(result.stderr.split())


def test_a_study_or_a_run_without_a_checkpoint_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("steps: 2\n")
    with pytest.raises(ValueError, match="holds no checkpoint"):
        model_path(str(tmp_path))


def test_options_are_yaml() -> None:
    assert parse_options(["a=1", "b=true", "c=x=y", "d="]) == {
        "a": 1, "b": True, "c": "x=y", "d": None,
    }  # fmt: skip


def test_a_model_is_watched_turn_by_turn(tiny_model: Path) -> None:
    result = call(
        "play", tiny_model, "--env", SOKOBAN, "-o", "max_turns=2", "--max-turn-tokens", "4"
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.count("######") >= 4
    assert "1> " in result.stdout and "2> " in result.stdout
    assert "not solved in 2 turns (truncated)" in result.stdout


def test_thoughts_are_shown_apart_from_actions(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "<think>[red]the box is near</think><action>up</action>"
    monkeypatch.setattr("agentopd.models.chat.Conversation.answer", lambda *_, **__: (said, 0))
    result = call("play", tiny_model, "--env", SOKOBAN, "-o", "max_turns=1")
    assert "[red]the box is near\n1> <action>up</action>\n" in result.stdout


def test_a_person_solves_what_the_oracle_would() -> None:
    env = agentopd.make(SOKOBAN)
    moves = env.reset(seed=4)[1]["oracle"].split()
    result = call("play", "human", "--env", SOKOBAN, "--seed", "4", typed="\n".join(moves))
    assert result.exit_code == 0
    assert f"solved in {len(moves)} turns" in result.stdout


def test_what_a_person_types_raw_is_sent_as_it_stands() -> None:
    words = ("play", "human", "--env", SOKOBAN, "--raw")
    assert "No <action></action> in the answer." in call(*words, typed="up\n").stdout
    assert "not understood" not in call(*words, typed="<action>up</action>\n").stdout


def test_the_end_of_the_input_ends_the_game() -> None:
    result = call("play", "human", "--env", SOKOBAN, "--episodes", "3", typed="up\n")
    assert result.exit_code == 0
    assert result.stdout.endswith("stopped\n")
    assert result.stdout.count("You play Sokoban") == 1


def test_environments_are_listed_with_what_they_are() -> None:
    (row,) = (line for line in call("envs").stdout.splitlines() if SOKOBAN in line)
    assert "Push every box onto a goal." in row
    assert "You play Sokoban: push every box onto a goal." in row


def test_schemes_are_listed_with_what_they_bring(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EnvSpec("broken:", entry_point="no_such_package.games:build")
    monkeypatch.setitem(gymnasium.registry, "broken:", broken)
    lines = call("envs").stdout.splitlines()
    rows = {name: line for line in lines if (name := line.strip().partition(" ")[0]).endswith(":")}
    assert set(rows) == {"gym:", *(f"{scheme}:" for scheme in schemes())}
    assert "TextArena's games for one player" in rows["textarena:"]
    assert "cannot be used: No module named 'no_such_package'" in rows["broken:"]


def test_environments_that_cannot_be_built_are_listed_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(**_: Any) -> Any:
        raise RuntimeError("no data; run download")

    points = [metadata.EntryPoint("a/b/c", "m:C", PLUGINS)]
    monkeypatch.setattr(metadata, "entry_points", lambda group: points)
    spec = EnvSpec("worse/Maze-v0", entry_point=broken)
    monkeypatch.setitem(gymnasium.registry, "worse/Maze-v0", spec)
    result = call("envs")
    assert result.exit_code == 0
    assert "broken entry point 'a/b/c'" in result.stderr
    (row,) = (line for line in result.stdout.splitlines() if "worse/Maze-v0" in line)
    assert "cannot be built: RuntimeError: no data; run download" in row
    assert SOKOBAN in result.stdout


def test_methods_are_listed_by_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    shown = [line.split() for line in call("methods").stdout.splitlines() if line.strip()]
    assert METHODS
    for path in METHODS:
        row = yaml.safe_load(path.read_text())
        (line,) = (words for words in shown if words[0] == path.stem)  # one line a method
        assert line[-1] == row.get("teacher", {"kind": "-"})["kind"]
    assert [x for x in shown if x in (["CLASSIC"], ["BASELINES"])] == [["CLASSIC"], ["BASELINES"]]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["broken_envs:Line"], 0, "broken_envs:Line keeps the contract"),
        (["broken_envs:NumpyBool"], 1, "error: step-result: "),
        (["broken_envs:NoOracle"], 0, "warning: "),
        (["broken_plays:WrongOnLateSeeds"], 0, "keeps the contract"),
        (["broken_plays:WrongOnLateSeeds", "--seeds", "27"], 1, "error: oracle: "),
    ],
)
def test_check_env_fails_on_errors_alone(words: list[str], code: int, told: str) -> None:
    result = call("check-env", *words)
    assert (result.exit_code, told in result.stdout) == (code, True), result.output


def test_check_env_of_nothing_is_a_mistake() -> None:
    assert "cannot be imported" in problem(call("check-env", "nowhere.to:Be"))
    told = problem(call("check-env", SOKOBAN, "-o", "min_move=7"))
    assert "did you mean 'min_moves'?" in told


def test_modules_of_the_current_folder_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "import agentopd, broken_envs\nagentopd.register('here/Line-v0', broken_envs.Line)\n"
    (tmp_path / "maze_here.py").write_text(text)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    monkeypatch.chdir(tmp_path)
    result = call("check-env", "maze_here:here/Line-v0")
    assert result.stdout == "maze_here:here/Line-v0 keeps the contract\n"
    assert sys.path[0] == str(tmp_path)
    call("--version")
    assert sys.path.count(str(tmp_path)) == 1
    del gymnasium.registry["here/Line-v0"], sys.modules["maze_here"]


def test_the_zoo_is_listed() -> None:
    shown = call("zoo", "list").stdout
    assert "zoo:sokoban-easy" in shown and "zoo:sokoban-expert" in shown
    commands = [shlex.split(line) for line in shown.splitlines() if line.startswith("agentopd ")]
    assert [words[2] for words in commands] == [
        "zoo:sokoban-easy", "zoo:sokoban-cliff", "zoo:sokoban-expert", "zoo:sokoban-any-text",
        "zoo:hanoi-easy", "zoo:number-easy", "zoo:number-any-text", "zoo:number-content",
        "zoo:number-blind", "zoo:number-disarmed", "zoo:number-blind-disarmed", "zoo:desk-easy",
    ]  # fmt: skip
    for _, command, model, *words in commands:
        recipe = find_recipe(model.removeprefix("zoo:"))
        given = [after for word, after in pairwise(words) if word == "-o"]
        assert command == "eval"
        assert parse_options(given) == recipe.options | recipe.levels | {"split": "test"}
        rest = [word for word in words if word not in ("-o", *given)]
        limit = str(recipe.turn_tokens)
        assert rest == ["--env", recipe.env, "--max-turn-tokens", limit]


def test_the_zoo_builds_only_what_it_knows_and_only_where_nothing_is(tmp_path: Path) -> None:
    told = problem(call("zoo", "build", "sokoban", "--out", tmp_path / "new"))
    assert "no embedded model is called 'sokoban'" in told
    (tmp_path / "kept").write_text("mine")
    told = problem(call("zoo", "build", "sokoban-base", "--out", tmp_path))
    assert "name another folder with --out" in told
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_text() == "mine"


def test_the_zoo_tells_how_far_each_model_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(name: str, out: Path, steps: int, report: Any) -> dict[str, Any]:
        report("sokoban-base", 1, steps, 3.5)
        report(name, 1, steps, 2.5)
        assert (name, out, steps) == ("sokoban-easy", tmp_path / "easy", 1)
        return {"loss": 2.5, "minutes": 0.1}

    monkeypatch.setattr("agentopd.zoo.build.build", build)
    result = call("zoo", "build", "sokoban-easy", "--out", tmp_path / "easy", "--steps", "1")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "sokoban-base  step 1/1  loss 3.5000",
        "sokoban-easy  step 1/1  loss 2.5000",
        f"{tmp_path / 'easy'}: loss 2.5000 after 0.1 minutes",
    ]
