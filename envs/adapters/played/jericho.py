"""Interactive fiction: `agentopd.make("jericho:FOLDER/zork1.z5")`.

The story is a file of the user's own. What is mapped: the reward is what the score rose by, as a
share of the highest, and may fall; success is a victory, or the highest score. Commands that leave
the story (`quit`, `restart`, `save`, `undo` and the like) are refused before it hears them, since
what follows a `quit` never returns, and so are several commands in a line. Jericho knows the
score and a walkthrough of some sixty stories; of others the end and the score are read from what
the story says at its end.

Source: arXiv 1909.05398; the package `jericho`, 3.3.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path as File
from typing import Any

from agentopd.envs.adapters import library
from agentopd.envs.adapters.played.base import SHOWN, Begun, Heard, Path, Played, judged
from agentopd.envs.puzzle import Outcome, Prompt

_LEAVES = re.compile(
    r"\s*(quit|q|restart|restore|save|undo|script|unscript|transcript|record|replay|verify|"
    r"tw-|random|showobj|trace|tree|purloin|abstract|gonear)\b"
)
_SEVERAL = re.compile(r"[.;\n]\s*\w|\bthen\b")
_PLAIN = re.compile(r"[a-z0-9][a-z0-9 ,.'\"?!-]*")
"""What the interpreter is given: over other signs it may end the whole process."""
_ENDED = re.compile(r"^\s*\*\*\*\s*(.+?)\s*\*\*\*\s*$", re.MULTILINE)
_SCORED = re.compile(r"You scored (\d+) out of a possible (\d+)")
_LONGEST = 190
"""Characters of a command, which the interpreter would cut."""
_RULES = """You play interactive fiction, one command a turn, in plain imperative English.
Commands are, for example: look, inventory, examine THING, north, up, take THING, drop THING, open \
THING, put THING in THING, turn on THING, attack THING with THING, wait.
You may think first inside <think></think>. End your answer with one command inside \
<action></action>, for example
<action>open mailbox</action>."""
_BRIEF = "Interactive fiction: one command inside <action></action>."


def build(name: str, **options: Any) -> Jericho:
    """The environment of `jericho:FILE`; see `Jericho`."""
    return Jericho(name, **options)


class Jericho(Played):
    """A story for the Z-machine.

    Args:
        name: its file, `.z3`, `.z5` or `.z8`.
        varied: whether each seed plays with luck of its own; otherwise each episode is the same,
            and the walkthrough, which some stories have, wins.
        max_turns: answers before the episode is truncated.
        prompt: the forms of commands, or one line.
        admissible: whether `info` lists the commands that change something, which takes seconds;
            of supported stories alone.
        shown: characters of an observation.

    Raises:
        ValueError: there is no such file or value, or Jericho is not installed.
    """

    def __init__(
        self,
        name: str,
        *,
        varied: bool = False,
        max_turns: int = 400,
        prompt: Prompt = "full",
        admissible: bool = False,
        shown: int = SHOWN,
    ) -> None:
        rules: dict[Prompt, str] = {"full": _RULES, "brief": _BRIEF}
        super().__init__(name, max_turns=max_turns, prompt=prompt, rules=rules, shown=shown)
        self._package = library("jericho", "jericho")
        if not File(name).is_file():
            raise ValueError(f"there is no story {name}: name the file of one, .z3, .z5 or .z8")
        self._varied, self._lists = varied, admissible
        self._game: Any = None
        self._path = Path(())
        self._text = ""
        self._listed: Sequence[str] | None = None

    def _begin(self, number: int) -> Begun:
        self.drop()
        with _quiet():
            self._game = self._package.FrotzEnv(self.name, seed=number + 1 if self._varied else 1)
            if self._known and not self._varied:
                self._game.seed()  # the walkthrough's
            self._text, _ = self._game.reset()
            way = self._game.get_walkthrough() if self._known and not self._varied else ()
        self._path = Path([command.lower() for command in way])
        self._list()
        story = File(self.name).stem
        task = f"jericho/{story}/{number}" if self._varied else f"jericho/{story}"
        return Begun(task_id=task, text=_tidy(self._text), skill=story)

    @property
    def _known(self) -> bool:
        """Whether Jericho knows the story."""
        return bool(self._game.is_fully_supported)

    def _act(self, command: str) -> Heard:
        command = " ".join(command.lower().split())
        refused = _LEAVES.match(command) or _SEVERAL.search(command) or len(command) > _LONGEST
        if refused or not _PLAIN.fullmatch(command):
            problem = "Write one short command that is part of the story."
            return Heard(problem, valid=False, outcome=Outcome(problem, mistake="refused action"))
        before, known = self._score, bool(self._path.left)
        moves = self._game.get_moves() if self._known else 0
        self._text, *_ = self._game.step(command)
        unchanged = self._known and self._game.get_moves() == moves
        on_path = self._path.follow(command, unchanged)
        won, over = self._ending
        self._list(over)
        if won or over:
            ends = "wins" if won else "ends the story without winning"
            outcome = Outcome(feedback=f"{command!r} {ends}.", mistake="" if won else "loses")
        else:
            outcome = judged(command, on_path, len(self._path.left), known)
        return Heard(
            _tidy(self._text),
            reward=self._score - before,
            over=over or won,
            success=won,
            outcome=outcome,
        )

    @property
    def _ending(self) -> tuple[bool, bool]:
        """Whether the story is won, and whether it is over."""
        if self._known:
            won = bool(self._game.victory()) or self._score >= 1
            return won, won or bool(self._game.game_over())
        over = _ENDED.search(self._text)
        won = bool(over) and ("won" in over[1].lower() or self._score >= 1) if over else False
        return won, bool(over)

    @property
    def _score(self) -> float:
        """A share of the highest score."""
        if self._known:
            highest = int(self._game.get_max_score())
            return int(self._game.get_score()) / highest if highest > 0 else 0.0
        found = _SCORED.search(self._text)
        return int(found[1]) / max(int(found[2]), 1) if found else 0.0

    def _list(self, over: bool = False) -> None:
        self._listed = None
        if self._lists and self._known and not over:
            self._listed = sorted(self._game.get_valid_actions(use_parallel=False))

    def _admissible(self) -> Sequence[str] | None:
        return self._listed

    def drop(self) -> None:
        """Close the story."""
        game, self._game = self._game, None
        if game is not None:
            game.close()

    def _plan(self) -> Sequence[str]:
        return self._path.left

    def _facts(self) -> dict[str, Any]:
        known = bool(self._path.left)
        facts = {"score": self._score, "way_known": known}
        return facts | ({"steps_to_go": len(self._path.left)} if known else {})

    def _metrics(self) -> dict[str, float]:
        return {"score": self._score}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings that a story is unknown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _tidy(text: str) -> str:
    """What the story says, without its prompt, status line and blank lines."""
    said = text.rpartition("\n>")[0] or text
    return "\n".join(line.rstrip() for line in said.splitlines() if line.strip())
