"""What single adapters to games map, on stand-ins of their packages' interfaces."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from stand_ins import WAY, Broken, GuessEnv, ScienceWorldEnv

from agentopd.envs.adapters.played import jvm
from agentopd.envs.adapters.played.jvm import Machine


def act(env: Any, *commands: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
    """What is said to the last of the commands."""
    return [env.step(f"<action>{command}</action>") for command in commands][-1]


def tasks(env: Any, seeds: range) -> list[str]:
    return [env.reset(seed=seed)[1]["task_id"] for seed in seeds]


def test_science_plays_the_published_variations_in_turn(build: Any) -> None:
    assert tasks(build("science:boil"), range(4)) == [
        f"science/train/boil/{n}" for n in (0, 1, 2, 0)
    ]
    assert tasks(build("science:melt", split="validation"), range(2)) == [
        "science/validation/melt/3", "science/validation/melt/4",
    ]  # fmt: skip
    assert tasks(build("science:all", split="test"), range(4)) == [
        "science/test/boil/5", "science/test/melt/5", "science/test/boil/6", "science/test/melt/6",
    ]  # fmt: skip


def test_science_counts_as_its_papers_do(build: Any) -> None:
    env = build("science:boil")
    shown, info = env.reset(seed=1)
    assert shown == "Your task is to boil substance 1.\nThis room is called the hallway."
    assert info["reference"].splitlines() == [*WAY, "wait1"] and info["skill"] == "boil"
    _, reward, *_, info = act(env, *WAY[:2])
    assert reward == pytest.approx(0.25) and info["metrics"]["score"] == 50
    _, reward, terminated, _, info = act(env, "eat poison")
    assert reward == pytest.approx(-0.5), "what was earned is lost: the score's -100 counts as 0"
    assert terminated and not info["success"] and info["mistake"] == "fails"
    assert info["facts"]["score"] == -100 and info["metrics"]["score"] == 0


def test_science_is_asked_for_a_number_where_a_command_is_ambiguous(build: Any) -> None:
    env = build("science:boil")
    env.reset(seed=0)
    shown, *_, info = act(env, "use thing")
    assert shown.startswith("Ambiguous request") and info["action_valid"]
    assert "oracle" not in info, "the next command is read as a number"
    *_, info = act(env, "wibble")
    assert not info["action_valid"] and info["mistake"] == "unknown command"


def test_science_lists_commands_where_it_is_asked_to(build: Any) -> None:
    _, info = build("science:boil").reset(seed=0)
    assert "admissible" not in info
    env = build("science:boil", admissible=True)
    _, info = env.reset(seed=0)
    assert info["admissible"] == ["look around", "open door to kitchen", "go to kitchen", "wait"]
    act(env, *WAY[:2])
    assert env.legal_actions()[-1] == WAY[2], "the oracle's next is legal"


def test_express_plays_the_published_folds(build: Any) -> None:
    env = build("express:coin", split="test", numLocations=3)
    named = "express/test/coin/numLocations=3"
    assert tasks(env, range(3)) == [f"{named}/20000", f"{named}/20001", f"{named}/20000"]
    shown, info = env.reset(seed=1)
    assert shown == "Your task is to cook meal 20001.\nRoom 20001."
    assert info["admissible"] == ["eat poison", "go to kitchen", "look around"]
    with pytest.raises(ValueError, match="Unrecognized property name"):
        build("express:coin", wibble=1).reset(seed=0)


def test_express_shows_commands(build: Any) -> None:
    env = build("express:coin", show_commands=True)
    shown, _ = env.reset(seed=0)
    assert shown.endswith("\nCommands: eat poison, go to kitchen, look around.")
    assert "Commands" not in act(env, *WAY)[0]


def test_machines_are_bounded_started_once_and_dropped(build: Any) -> None:
    found: list[str] = []

    class Game(ScienceWorldEnv):
        def __init__(self) -> None:
            found.append(os.environ["JAVA_TOOL_OPTIONS"])
            super().__init__("", 10**9)

    before = os.environ.get("JAVA_TOOL_OPTIONS")
    machine = Machine(Game, 300, "A game")
    assert machine.game is machine.game and len(found) == 1
    assert found[0].startswith(before or "") and "-Xmx300m" in found[0]
    assert os.environ.get("JAVA_TOOL_OPTIONS") == before
    machine.drop()
    machine.drop()
    assert (Broken.started, Broken.closed) == (1, 1)
    assert isinstance(machine.game, Game) and Broken.started == 2


def test_without_java_it_is_said_what_to_install(
    build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = build("science:boil")
    monkeypatch.setattr(jvm.shutil, "which", lambda name: None)
    monkeypatch.setenv("JAVA_HOME", "nowhere")
    with pytest.raises(ValueError, match=r"ScienceWorld needs Java.*install a Java runtime"):
        env.reset(seed=0)


def test_one_machine_plays_many_episodes(build: Any) -> None:
    env = build("express:coin")
    for seed in range(5):
        env.reset(seed=seed)
        act(env, *WAY)
    assert Broken.started == 1 and env.metadata["reusable"] and env.metadata["blocking"]


def test_alfworld_plays_the_games_that_its_own_loader_would(build: Any, files: Path) -> None:
    train = files / "json_2.1.1" / "train"
    for name, content in (
        ("look_at_obj_in_light-movable-1/trial", "{}"),
        ("look_at_obj_in_light-MugSliced-1/trial", "{}"),
        ("look_at_obj_in_light-Pen-1/trial", '{"solvable":  false}'),
    ):
        (train / name).mkdir(parents=True)
        (train / name / "game.tw-pddl").write_text(content)
    (train / "made.z8").write_bytes(b"")
    env = build("alfworld:train", data="FILES")
    named = {task.removeprefix("alfworld/train/") for task in tasks(env, range(9))}
    kinds = ("pick_and_place_simple", "look_at_obj_in_light")
    assert named == {f"{kinds[n % 2]}-Mug-xxxxx-{n}/trial" for n in range(4)} | {"made.z8"}
    env = build("alfworld:train", data="FILES", types=["look_at_obj_in_light"])
    assert len(set(tasks(env, range(9)))) == 2
    assert (
        "valid_seen"
        in tasks(build("alfworld:train", split="valid_seen", data="FILES"), range(1))[0]
    )


def test_alfworld_takes_the_variable_of_its_own(
    build: Any, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALFWORLD_DATA", str(files))
    shown, info = build("alfworld:valid_unseen").reset(seed=1)
    assert shown.startswith("Room ") and "TextWorld" not in shown
    assert info["skill"] == "pick_and_place_simple" and info["guide"].startswith("Look for")


def test_alfworld_judges_by_the_plans_before_and_after(build: Any) -> None:
    env = build("alfworld:train", data="FILES")
    env.reset(seed=0)
    told = [
        ("look around", True, "no progress", "'look around' comes no nearer; 4 to go."),
        (WAY[0].upper(), True, "", f"{WAY[0].upper()!r} comes nearer; 3 to go."),
        ("open door to cellar", False, "impossible action", "cannot be done here."),
    ]
    for command, valid, mistake, feedback in told:
        *_, info = act(env, command)
        assert (info["action_valid"], info["mistake"]) == (valid, mistake)
        assert info["feedback"].endswith(feedback)
    _, info = build("alfworld:train", data="FILES", oracle=False).reset(seed=0)
    assert "oracle" in info, "the stand-in plans unasked"


def test_gem_puts_the_game_back_where_it_refuses_an_answer(build: Any) -> None:
    env = build("gem:game:Guess-v0")
    shown, info = env.reset(seed=3)
    assert shown.startswith("Guess a number from 1 to 9.\nHint: ") and env.max_turns == 8
    shown, reward, *ends, info = env.step("\\boxed{seven}")
    assert (reward, ends, info["action_valid"]) == (0.0, [False, False], False)
    assert shown == "You did not provide a valid guess." and info["mistake"] == "refused action"
    shown, *_, info = env.step("seven")
    assert shown == "No \\boxed{} in the answer." and info["mistake"] == "unreadable action"
    right = _number(env)
    shown, *_ = env.step(f"\\boxed{{{right % 9 + 1}}}")
    assert shown == "Another one.\nTurn 1.", "neither refused answer was counted by the game"
    _, reward, terminated, truncated, info = env.step(f"It is \\boxed{{{right}}}")
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)


def _number(env: Any) -> int:
    game = env._game
    assert isinstance(game, GuessEnv)
    return game._number


def test_gem_s_own_limit_is_a_truncation(build: Any) -> None:
    env = build("gem:game:Guess-v0")
    env.reset(seed=3)
    wrong = _number(env) % 9 + 1
    ends = [env.step(f"\\boxed{{{wrong}}}")[2:4] for _ in range(8)]
    assert ends == [(False, False)] * 7 + [(False, True)]


def test_jericho_refuses_what_leaves_the_story(build: Any) -> None:
    env = build("jericho:FILES/known.z5")
    shown, info = env.reset(seed=0)
    assert shown == "West of House None", "the walkthrough's own luck"
    for command in ("quit", "RESTART", "q", "save", "open door. look", "look then go", "x" * 200):
        shown, *_, info = act(env, command)
        assert shown.startswith("Write one short command") and not info["action_valid"]
    assert info["oracle"] == "\n".join(WAY)


def test_jericho_reads_ends_that_it_does_not_know(build: Any) -> None:
    env = build("jericho:FILES/unknown.z8", varied=True)
    _, info = env.reset(seed=7)
    assert info["task_id"] == "jericho/unknown/7" and "oracle" not in info
    shown, reward, terminated, _, info = act(env, *WAY)
    assert (reward, terminated, info["success"]) == (1.0, True, True)
    assert shown.splitlines()[1].strip() == "*** You have won ***" and ">" not in shown
    env.reset(seed=7)
    _, _, terminated, _, info = act(env, "eat poison")
    assert terminated and not info["success"]


def test_jericho_lists_commands_where_it_is_asked_to(build: Any) -> None:
    env = build("jericho:FILES/known.z5", admissible=True)
    _, info = env.reset(seed=0)
    assert info["admissible"] == ["eat poison", "go to kitchen"]
    assert env.legal_actions() == ["eat poison", "go to kitchen", WAY[0]]


def test_nethack_s_commands_are_words_or_keys(build: Any) -> None:
    env = build("nethack:NetHackNorth-v0", max_turns=9)
    assert "Commands are: north, east, far north, eat." in env.system_prompt
    shown, info = env.reset(seed=5)
    assert shown == "You are at 5.\n  |.@|" and info["task_id"] == "nethack/NetHackNorth-v0/5"
    assert env.legal_actions() == ["north", "east", "far north", "eat"]
    for command, pressed in (("North", "k"), ("k", "k"), ("l", "l"), ("K", "K")):
        assert act(env, command)[0].startswith(f"You press {pressed}.")
    shown, *_, info = act(env, "fly")
    assert shown.startswith("'fly' is no command of this game.\nYou press K.")
    assert not info["action_valid"]
    _, reward, terminated, _, info = act(env, "north", "far  north")
    assert (reward, terminated, info["success"]) == (1.0, True, True)
    env.reset(seed=5)
    _, _, terminated, _, info = act(env, "eat")
    assert terminated and not info["success"] and info["mistake"] == "dies"
