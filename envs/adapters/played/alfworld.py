"""ALFWorld's households: `agentopd.make("alfworld:train", {"data": FOLDER})`.

The games are files of the user's own, as `alfworld-download` leaves them, and are played through
TextWorld; a folder of TextWorld's compiled games (`.z8`) is played in the same way.

What is mapped: the banner is cut off; the reward is 1 for a won game (of compiled games what the
score rose by, as a share of the highest); success is a won game. The oracle is TextWorld's plan
from the state as it is, made anew after each command. Commands that do nothing here are answered by
`Nothing happens.`, as ALFWorld's games do, without being given to the game: the interpreter of
compiled games ends the whole process over some texts.

Source: arXiv 2010.03768; the packages `alfworld`, 0.4, and `textworld`, 1.7.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

from agentopd.envs.adapters import library
from agentopd.envs.adapters.isolation import Isolation
from agentopd.envs.adapters.played.base import SHOWN, Begun, Heard, Played
from agentopd.envs.puzzle import Outcome, Prompt, check_choice

Published = Literal["train", "valid_seen", "valid_unseen"]

TYPES = (
    "pick_and_place_simple", "look_at_obj_in_light", "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep", "pick_cool_then_place_in_recep", "pick_two_obj_and_place",
)  # fmt: skip
"""The kinds of task; folders of games begin with theirs."""
_SPLITS: tuple[Published, ...] = ("train", "valid_seen", "valid_unseen")
_UNSOLVABLE = re.compile(r'"solvable":\s*false')
_LEFT_OUT = ("movable", "Sliced")
"""Parts of folders' names whose games ALFWorld leaves out too."""
_NOTHING = "Nothing happens."
_BANNER = re.compile(r"\s*-= Welcome to TextWorld, ALFRED! =-\s*")
_RULES = """You do a household task, one command a turn; the task is told first.
Commands are: look, inventory, go to PLACE, open PLACE, close PLACE, take THING from PLACE, move \
THING to PLACE (in some games: put THING in/on PLACE), use THING, examine THING, heat THING with \
PLACE, cool THING with PLACE, clean THING with PLACE, slice THING with THING. Things and places \
have numbers: drawer 1.
You may think first inside <think></think>. End your answer with one command inside \
<action></action>, for example
<action>go to desk 1</action>."""
_BRIEF = "Household: one command inside <action></action>."
_GUIDES: dict[str, str] = dict(
    zip(
        TYPES,
        (
            "Look for the thing where such things are, take it, go to the place and put it there.",
            "Take the thing, go to where a lamp is and use the lamp.",
            "Take the thing, clean it with the sink basin, go to the place and put it there.",
            "Take the thing, heat it with the microwave, go to the place and put it there.",
            "Take the thing, cool it with the fridge, go to the place and put it there.",
            "Take one thing to the place, then look for the other and take it there too.",
        ),
        strict=True,
    )
)


def build(name: str, **options: Any) -> AlfWorld:
    """The environment of `alfworld:SPLIT`; see `AlfWorld`."""
    check_choice("the split", name, _SPLITS)
    return AlfWorld(**{"split": name, **options})


class AlfWorld(Played):
    """A household task of ALFWorld.

    Args:
        split: `train`, `valid_seen` or `valid_unseen`, as published; seed n plays the game n modulo
            their number.
        data: the folder that holds `json_2.1.1` or the splits' folders themselves; the variable
            ALFWORLD_DATA if not given.
        types: kinds of task, of `TYPES`; all of them if not given.
        oracle: whether commands that win are planned after each step, which takes longer than it.
        max_turns: answers before the episode is truncated; the papers take 50.
        prompt: the forms of commands, or one line.
        show_commands: whether each observation lists the commands that do something.
        shown: characters of an observation.

    Raises:
        ValueError: there is no such split, kind or folder, no game in it, or a package is missing.
    """

    def __init__(
        self,
        *,
        split: Published = "train",
        data: str | None = None,
        types: Sequence[str] = (),
        oracle: bool = True,
        max_turns: int = 50,
        prompt: Prompt = "full",
        show_commands: bool = False,
        shown: int = SHOWN,
    ) -> None:
        rules: dict[Prompt, str] = {"full": _RULES, "brief": _BRIEF}
        super().__init__(
            f"ALFWorld's {split}", max_turns=max_turns, prompt=prompt, rules=rules, shown=shown
        )
        check_choice("split", split, _SPLITS)
        for kind in types:
            check_choice("a kind of task", kind, TYPES)
        folder = data or os.environ.get("ALFWORLD_DATA")
        if not folder:
            raise ValueError(
                "ALFWorld's games are files of your own: set the option data to their folder, or "
                "the variable ALFWORLD_DATA; alfworld-download of the package alfworld fetches them"
            )
        self.split, self._lists, self._plans = split, show_commands, oracle
        self._textworld = library("textworld", "alfworld")
        self._folder = str(_folder_of(folder, split))
        self._games = found_games(self._folder, tuple(types))
        self._game: Any = None
        self._state: Any = None

    def _begin(self, number: int) -> Begun:
        path = self._games[number % len(self._games)]
        wanted = self._textworld.EnvInfos(
            admissible_commands=True, won=True, lost=True, score=True, max_score=True,
            policy_commands=self._plans,
        )  # fmt: skip
        self.drop()
        named = _names(os.path.dirname(self._folder)) if path.endswith(".tw-pddl") else []
        # Loading and starting draw from the global state; a step does not.
        with Isolation(0, numpy=True):
            self._game = self._textworld.start(path, wanted, wrappers=named)
            self._state = self._game.reset()
        place = Path(path).relative_to(self._folder).as_posix().removesuffix("/game.tw-pddl")
        task = place.partition("-")[0]
        skill = task if task in TYPES else "household"
        return Begun(
            task_id=f"alfworld/{self.split}/{place}",
            text=self._listing(_BANNER.sub("", _said(self._state))),
            skill=skill,
            guide=_GUIDES.get(skill, ""),
        )

    def _act(self, command: str) -> Heard:
        known = {given.lower(): given for given in self._admissible()}
        wanted = " ".join(command.lower().split())
        before, plan = self._score, self._plan()
        if wanted not in known:
            problem = f"{command[:60]!r} cannot be done here."
            outcome = Outcome(feedback=problem, mistake="impossible action")
            return Heard(self._listing(_NOTHING), valid=False, outcome=outcome)
        self._state, _, _ = self._game.step(known[wanted])
        won, lost = bool(self._state.get("won")), bool(self._state.get("lost"))
        text = _said(self._state)
        return Heard(
            text if won or lost else self._listing(text),
            reward=self._score - before,
            over=won or lost,
            success=won,
            outcome=self._judged(command[:60], plan),
        )

    def _judged(self, command: str, plan: Sequence[str]) -> Outcome:
        """What became of a command, by the plans before and after it."""
        if self._state.get("won"):
            return Outcome(feedback=f"{command!r} completes the task.", facts={"nearer": True})
        if self._state.get("lost"):
            return Outcome(feedback=f"{command!r} loses the game.", mistake="loses")
        if not plan:
            return Outcome()
        left = self._plan()
        if not left:
            return Outcome(feedback=f"After {command!r} no way is known.", mistake="leads away")
        nearer = len(left) < len(plan)
        mistake = "" if nearer else "no progress" if len(left) == len(plan) else "leads away"
        what = mistake.replace("no progress", "comes no nearer") or "comes nearer"
        feedback = f"{command!r} {what}; {len(left)} to go."
        return Outcome(mistake=mistake, feedback=feedback, facts={"nearer": nearer})

    def drop(self) -> None:
        """End the game."""
        game, self._game = self._game, None
        if game is not None:
            game.close()

    def _listing(self, text: str) -> str:
        return f"{text}\nCommands: {', '.join(self._admissible())}." if self._lists else text

    def _admissible(self) -> Sequence[str]:
        return list(self._state.get("admissible_commands") or ())

    def _plan(self) -> Sequence[str]:
        return list(self._state.get("policy_commands") or ())

    @property
    def _score(self) -> float:
        """From 0 to 1: a won game is 1."""
        if self._state.get("won"):
            return 1.0
        highest = self._state.get("max_score") or 0
        return float(self._state.get("score") or 0) / highest if highest else 0.0

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"won": bool(self._state.get("won"))}
        if plan := self._plan():
            facts["steps_to_go"] = len(plan)
        return facts

    def _metrics(self) -> dict[str, float]:
        return {"score": self._score}


def _said(state: Any) -> str:
    """What the game says, without blank lines, its prompt and its status line."""
    text = str(state["feedback"])
    said = text.rpartition("\n>")[0] or text
    return "\n".join(line.strip() for line in said.splitlines() if line.strip())


def _names(data: str) -> list[Any]:
    """ALFWorld's names of things, `apple 1`, as a wrapper of TextWorld's."""
    # The package makes a folder for data as it is imported, wherever nobody names one.
    os.environ.setdefault("ALFWORLD_DATA", data)
    module = library("alfworld.agents.environment.alfred_tw_env", "alfworld")
    return [partial(module.AlfredDemangler, shuffle=False)]


def _folder_of(data: str, split: str) -> Path:
    """The folder of a split's games.

    Raises:
        ValueError: there is none.
    """
    tried = [Path(data) / "json_2.1.1" / split, Path(data) / split]
    for folder in tried:
        if folder.is_dir():
            return folder
    raise ValueError(
        f"there are no games of ALFWorld's split {split!r} under {data}: neither {tried[0]} nor "
        f"{tried[1]} is a folder"
    )


@lru_cache(maxsize=16)
def found_games(folder: str, types: tuple[str, ...]) -> tuple[str, ...]:
    """The games under a folder, in order: those that ALFWorld itself would play.

    Each file is read once in a process, to learn whether it is marked as unsolvable.

    Args:
        folder: of a split.
        types: kinds of task; all if empty.

    Raises:
        ValueError: there is none.
    """
    found = []
    for path in sorted(Path(folder).rglob("*")):
        named = path.relative_to(folder).as_posix()
        if types and not named.startswith(types):
            continue
        if path.name == "game.tw-pddl" and not any(part in named for part in _LEFT_OUT):
            if not _UNSOLVABLE.search(path.read_text(encoding="utf-8", errors="replace")):
                found.append(str(path))
        elif path.suffix in (".z8", ".ulx"):
            found.append(str(path))
    if not found:
        kinds = f" of {', '.join(types)}" if types else ""
        raise ValueError(
            f"there is no game{kinds} under {folder}: ALFWorld's are called game.tw-pddl, "
            "TextWorld's end in .z8"
        )
    return tuple(found)
