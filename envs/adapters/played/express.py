"""TextWorldExpress' games: `agentopd.make("express:coin")`.

What is mapped: the task stands in the first observation, because it is another one for each game;
the reward is what the score rose by, its highest is 1; success is the game's own flag. The step
limit is ours. The oracle is the game's own way, which may make detours and holds as long as it is
followed, commands that change nothing (`look around`, `inventory`, what the game cannot read)
aside: from elsewhere nobody knows the way.

Source: arXiv 2208.01174; the package `textworld-express`, 1.0 and later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentopd.envs.adapters import library
from agentopd.envs.adapters.played.base import SHOWN, Begun, Heard, Path, Played, judged
from agentopd.envs.adapters.played.jvm import METADATA, Machine
from agentopd.envs.puzzle import SPLITS, Outcome, Prompt, Split, check_choice, check_number

GAMES = (
    "cookingworld", "twc", "coin", "mapreader", "arithmetic", "sorting", "simonsays",
    "peckingorder",
)  # fmt: skip
_ENDLESS = 10**9
"""Steps that the package is to allow: the limit is ours."""
_FOLDS: dict[str, str] = dict(zip(SPLITS, ("train", "dev", "test"), strict=True))
_UNKNOWN = "Unknown action:"
_FREE = ("look around", "inventory", "task", "help")
"""Commands after which the game is as it was."""
_RULES = """You play a text game, one command a turn; the task is told first.
Commands are, as far as a game has them: look around, inventory, task, move north (or south, east, \
west), open THING, close THING, open door to north, take THING, put THING in PLACE, read THING, \
examine THING, eat THING, cook THING in PLACE, slice, dice or chop THING, prepare meal.
You may think first inside <think></think>. End your answer with one command inside \
<action></action>, for example
<action>move north</action>."""
_BRIEF = "Text game: one command inside <action></action>."
_GUIDES = {
    "cookingworld": "Read the cookbook, fetch the ingredients, cut and cook each as it says and "
    "only once, prepare the meal and eat it.",
    "twc": "Put each thing where such things belong.",
    "coin": "Explore one room after the other, opening doors, and do not go back.",
    "mapreader": "Read the map, go to the room by the shortest way, take the coin and bring it.",
    "arithmetic": "Take and read the problem, work it out, and put as many things as the result "
    "says into the box.",
    "sorting": "Put the things into the box, the least first; mind the units.",
    "simonsays": "Do what Simon says at once.",
    "peckingorder": "Read the instructions again after each step and do what they say.",
}


def build(name: str, **options: Any) -> Express:
    """The environment of `express:GAME`; see `Express`."""
    return Express(name, **options)


class Express(Played):
    """A game of TextWorldExpress, played in a Java machine.

    Args:
        name: of `GAMES`.
        split: the published fold of seeds (dev is `validation`); seed n plays the fold's seed n
            modulo their number.
        oracle: whether the way is told, which each start of the game draws anew (the task it does
            not): without it equal seeds give equal episodes to the last fact.
        max_turns: answers before the episode is truncated.
        prompt: the forms of commands, or one line.
        show_commands: whether each observation lists the commands that do something.
        shown: characters of an observation.
        memory: of the Java machine's heap at most, in megabytes.
        parameters: of the game, whole numbers: `numLocations=3` for example.

    Raises:
        ValueError: there is no such game, option or value, TextWorldExpress or Java is not
            installed.
    """

    metadata = METADATA

    def __init__(
        self,
        name: str,
        *,
        split: Split = "train",
        oracle: bool = True,
        max_turns: int = 50,
        prompt: Prompt = "full",
        show_commands: bool = False,
        shown: int = SHOWN,
        memory: int = 512,
        **parameters: int,
    ) -> None:
        rules: dict[Prompt, str] = {"full": _RULES, "brief": _BRIEF}
        super().__init__(
            f"TextWorldExpress' {name}",
            max_turns=max_turns,
            prompt=prompt,
            rules=rules,
            shown=shown,
        )
        check_choice("the game", name, GAMES)
        check_choice("split", split, SPLITS)
        check_number("memory", memory, 128)
        for key, value in parameters.items():
            check_number(key, value, 0)
        package = library("textworld_express", "express")
        self.split, self._kind, self._lists = split, name, show_commands
        self._tells = oracle
        self._parameters = ",".join(f"{key}={value}" for key, value in sorted(parameters.items()))
        self._machine = Machine(
            lambda: package.TextWorldExpressEnv(envStepLimit=_ENDLESS), memory, "TextWorldExpress"
        )
        self._seeds: Sequence[int] = ()
        self._path = Path(())
        self._said: Mapping[str, Any] = {}

    def _begin(self, number: int) -> Begun:
        game = self._machine.game
        game.load(self._kind, self._parameters)
        if not self._seeds:
            listed = {
                "train": game.getValidSeedsTrain,
                "validation": game.getValidSeedsDev,
                "test": game.getValidSeedsTest,
            }
            self._seeds = listed[self.split]()
        seed = int(self._seeds[number % len(self._seeds)])
        fold = _FOLDS[self.split]
        text, said = game.reset(seed=seed, gameFold=fold, generateGoldPath=self._tells)
        self._path, self._said = Path(game.getGoldActionSequence() if self._tells else ()), said
        named = "/".join(filter(None, (self._kind, self._parameters)))
        return Begun(
            task_id=f"express/{self.split}/{named}/{seed}",
            text=self._listing(f"{said['taskDescription']}\n{text}"),
            skill=self._kind,
            guide=_GUIDES[self._kind],
        )

    def _act(self, command: str) -> Heard:
        before, known = self._score, bool(self._path.left)
        text, _, _, self._said = self._machine.game.step(command)
        unknown = text.startswith(_UNKNOWN)
        on_path = self._path.follow(command, unknown or command in _FREE)
        won, lost = bool(self._said["tasksuccess"]), bool(self._said["taskfailure"])
        if unknown:
            outcome = Outcome(text, mistake="unknown command")
        elif won or lost:
            what, mistake = ("completes", "") if won else ("fails", "fails")
            outcome = Outcome(feedback=f"{command[:60]!r} {what} the task.", mistake=mistake)
        else:
            outcome = judged(command, on_path, len(self._path.left), known)
        return Heard(
            text if won or lost else self._listing(text),
            reward=self._score - before,
            over=won or lost,
            success=won,
            valid=not unknown,
            outcome=outcome,
        )

    def _listing(self, text: str) -> str:
        return f"{text}\nCommands: {', '.join(self._admissible())}." if self._lists else text

    def _admissible(self) -> Sequence[str]:
        # The package lists a set in any order.
        return sorted(self._said["validActions"])

    def drop(self) -> None:
        """End the Java machine."""
        self._machine.drop()

    def _plan(self) -> Sequence[str]:
        return self._path.left

    @property
    def _score(self) -> float:
        return max(float(self._said["score"]), 0.0)

    def _facts(self) -> dict[str, Any]:
        known = bool(self._path.left)
        facts: dict[str, Any] = {
            "score": self._score,
            "failed": bool(self._said["taskfailure"]),
            "way_known": known,
        }
        return facts | ({"steps_to_go": len(self._path.left)} if known else {})

    def _metrics(self) -> dict[str, float]:
        return {"score": self._score}
