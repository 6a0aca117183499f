"""A person at the keyboard: answers, questions beside the game, the end; on a terminal too."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import SOKOBAN, call, problem

import agentopd
from agentopd.environment.contract import legal_actions
from agentopd.models.model import ModelSettings, load_model
from agentopd.running.collecting.text import read_traces


def plan(seed: int = 0) -> list[str]:
    return agentopd.make(SOKOBAN).reset(seed=seed)[1]["oracle"].split()


def played(*typed: str, words: tuple[str, ...] = (), env: str = SOKOBAN) -> Any:
    return call("play", env, "--as-human", *words, typed="".join(f"{line}\n" for line in typed))


def told(result: Any) -> list[str]:
    """What was said beside the game."""
    return [line[3:] for line in result.stdout.splitlines() if line.startswith("   ")]


class Talking(agentopd.TextEnv):
    """Says all that may be said, and shows what it was handed."""

    system_prompt = "Say something."
    max_turns = 3

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        self.turns, self.seed = 0, seed
        about = {"guide": "Be kind.", "reference": "a b", "oracle": "a", "facts": {"left": 2}}
        return f"task {seed}", {"task_id": f"t{seed}", "success": False, **about}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if "crash" in action:
            raise RuntimeError("the game is broken")
        self.turns += 1
        info = {"task_id": f"t{self.seed}", "success": "good" in action, "action_valid": True,
                "feedback": "well said", "oracle": "b", "document": "", "mistake": "rude",
                "facts": {"left": 1, "words": ["x"]}}  # fmt: skip
        return repr(action), 0.5, "good" in action, self.turns == self.max_turns, info

    def close(self) -> None:
        CLOSED.append(self.seed)


CLOSED: list[int | None] = []
TALKING = f"{__name__}:Talking"


def test_a_person_solves_what_the_oracle_would() -> None:
    moves = plan()
    result = played(*moves)
    assert result.exit_code == 0
    assert f"solved in {len(moves)} turns" in result.stdout
    assert "moves closer" not in result.stdout  # nothing is told that was not asked for


def test_what_a_teacher_may_know_is_told_when_asked_for() -> None:
    result = played("?oracle", "?facts", "?feedback", "?guide", "hello", "?oracle", "?fa", "?fee",
                    "?mis", "?guide", "?ref", "?doc", "?legal", "?quit", env=TALKING)  # fmt: skip
    assert told(result) == [
        "a", "left: 2", "the environment tells no feedback here", "Be kind.",
        "reward 0.5",
        "b", "left: 1", 'words: ["x"]', "well said", "rude", "Be kind.", "a b",
        "the environment tells no document here", "no list of actions is told",
    ]  # fmt: skip
    assert result.stdout.endswith("> ?quit\nstopped\n")
    assert result.exit_code == 0


def test_every_question_is_in_the_help_and_answered() -> None:
    listed = [line.split()[0] for line in told(played("?help", "?quit"))][:-2]
    assert {"?oracle", "?facts", "?feedback", "?legal", "?restart", "?quit"} <= {*listed}
    for question in listed:
        result = played(question)
        assert "no question" not in result.stdout and result.exit_code == 0, question
    assert "?xyz is no question of one meaning: there are: again," in played("?xyz").stdout
    assert "of one meaning: ?reference, ?restart" in played("?re").stdout
    assert told(played("?"))[0].startswith("?oracle ")


def test_legal_actions_are_told() -> None:
    env = agentopd.make(SOKOBAN)
    env.reset(seed=0)
    assert told(played("?legal")) == [", ".join(legal_actions(env))]


def test_a_task_is_begun_again_or_left_for_the_next() -> None:
    CLOSED.clear()
    result = played("one", "?restart", "?next", "good", env=TALKING, words=("--seed", "4"))
    headings = [line.strip("─ ") for line in result.stdout.splitlines() if "─" in line]
    assert headings == ["t4", "t4", "t5"]
    assert result.stdout.count("Type an answer") == 1
    assert "solved in 1 turn" in result.stdout
    assert CLOSED == [4, 4, 5]
    assert result.stdout.splitlines()[-1] == "solved in 1 turn"


def test_several_tasks_are_counted() -> None:
    result = played("good", "a", "b", "c", env=TALKING, words=("--episodes", "2"))
    assert result.stdout.endswith("not solved in 3 turns (truncated)\n1 of 2 tasks solved\n")


def test_answers_of_several_lines_and_answers_that_begin_with_a_question_mark() -> None:
    result = played("a\\", "b\\", "c", "??why", env=TALKING, words=("--raw",))
    assert "'a\\nb\\nc'" in result.stdout and "'?why'" in result.stdout
    assert "'<action>up</action>'" in played("up", env=TALKING).stdout
    assert "'so <action>up</action>'" in played("so <action>up</action>", env=TALKING).stdout


def test_the_end_of_the_input_ends_the_game_politely() -> None:
    result = call("play", SOKOBAN, "--as-human", "--episodes", "3", typed="up\n")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.endswith("stopped\n")
    assert call("play", SOKOBAN, "--as-human", typed="").stdout.endswith("stopped\n")


def test_an_environment_that_raises_costs_its_episode_by_name() -> None:
    CLOSED.clear()
    result = played("crash", "good", env=TALKING, words=("--episodes", "2"))
    assert "RuntimeError: the game is broken (agentopd check-env may say more)" in result.stdout
    assert "solved in 1 turn" in result.stdout
    assert result.exit_code == 1
    assert CLOSED == [0, 1]


def test_what_was_played_can_be_learnt_from(tmp_path: Path, tiny_model: Path) -> None:
    file = tmp_path / "mine.jsonl"
    moves = plan()
    words = ("-o", "prompt=brief", "--save", str(file))
    played("?oracle", *moves, words=words)
    played("up", "?quit", words=words)  # has not ended: it is not kept
    (line,) = file.read_text().splitlines()
    kept = json.loads(line)
    assert kept["success"] is True and len(kept["turns"]) == len(moves)
    assert [turn["answer"] for turn in kept["turns"]] == [f"<action>{m}</action>" for m in moves]
    assert "#" in kept["turns"][0]["observation"]
    student = load_model(ModelSettings(path=str(tiny_model)))
    (trajectory,) = read_traces(file, student, SOKOBAN)
    assert trajectory.success and len(trajectory.turns) == len(moves)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((SOKOBAN, "--as-human", "--save", "mine.txt"), "let its name end in .jsonl"),
        ((SOKOBAN, "--as-human", "--env", "agentopd/Hanoi-v0"), "are two environments"),
        (("agentopd/Sokobn-v0", "--as-human"), "did you mean agentopd/Sokoban-v0?"),
        (("human",), "name an environment with --env"),
        (("zoo:sokoban-easy", "--env", SOKOBAN, "--save", "a.jsonl"), "say --as-human"),
    ],
)
def test_what_a_person_cannot_play(words: tuple[str, ...], message: str) -> None:
    assert message in problem(call("play", *words))


def test_no_model_is_loaded_for_a_person() -> None:
    program = f"""
import sys
from typer.testing import CliRunner
from agentopd.cli import app
result = CliRunner().invoke(app, ["play", "{SOKOBAN}", "--as-human"], input="up\\n?oracle\\n")
assert result.exit_code == 0, result.output
late = {{"torch", "transformers", "pyarrow"}} & set(sys.modules)
sys.exit(f"imported {{sorted(late)}}" if late else 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def on_a_terminal(*keys: bytes) -> tuple[int, str]:
    """The exit code and all that a terminal shows, keys pressed when it waits for an answer."""
    own, theirs = pty.openpty()
    command = [sys.executable, "-m", "agentopd", "play", SOKOBAN, "--as-human"]
    child = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        preexec_fn=_take_terminal, env={**os.environ, "TERM": "dumb"},
    )  # fmt: skip
    os.close(theirs)
    shown, waiting = b"", [*keys]
    while True:
        readable, _, _ = select.select([own], [], [], 60)
        if not readable:
            child.kill()
            raise AssertionError(f"nothing came for a minute: {shown!r}")
        try:
            part = os.read(own, 4096)
        except OSError:  # the other side has closed
            part = b""
        if not part:
            break
        shown += part
        if shown.endswith(b"> ") and waiting:
            os.write(own, waiting.pop(0))
    os.close(own)
    return child.wait(60), shown.decode().replace("\r\n", "\n")


def _take_terminal() -> None:
    """Let Ctrl-C on the terminal reach this process."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.mark.parametrize("key", [b"\x03", b"\x04"], ids=["ctrl-c", "ctrl-d"])
def test_on_a_terminal_both_ways_to_leave_are_polite(key: bytes) -> None:
    code, shown = on_a_terminal(b"?oracle\n", key)
    assert code == 0, shown
    assert f"   {' '.join(plan())}\n" in shown
    assert shown.rstrip().endswith("stopped")
    assert "Traceback" not in shown
