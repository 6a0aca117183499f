"""ScienceWorld's experiments: `agentopd.make("science:boil")`, `science:all` for its 30 tasks.

What is mapped: the task stands in the first observation, because it is another one for each
variation; the reward is what the score rose by, in shares of its 100, a failed task's -100 counting
as 0, so that an episode's rewards add up to the score that its papers report; success is the full
score. The step limit is ours. The oracle is the simulator's own gold path and holds as long as it
is followed, free commands (`look around`, `inventory`, `task`, what the game cannot read) aside:
from elsewhere nobody knows the way.

Source: arXiv 2203.07540; the package `scienceworld`, 1.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentopd.envs.adapters import library
from agentopd.envs.adapters.played.base import SHOWN, Begun, Heard, Path, Played, judged
from agentopd.envs.adapters.played.jvm import METADATA, Machine
from agentopd.envs.puzzle import SPLITS, Outcome, Prompt, Split, check_choice, check_number

ALL = "all"
_ENDLESS = 10**9
"""Steps that the package is to allow: the limit is ours."""
_HIGHEST = 100
_UNKNOWN = "No known action matches that input."
_AMBIGUOUS = "Ambiguous request"
_RULES = """You do an experiment in a house with laboratories, one command a turn.
Commands are: look around, look at OBJ, look in OBJ, inventory, task, open OBJ, close OBJ, go to \
LOC, teleport to LOC, pick up OBJ, put down OBJ, move OBJ to OBJ, pour OBJ in OBJ, \
dunk OBJ in OBJ, mix OBJ, activate OBJ, deactivate OBJ, use OBJ on OBJ, read OBJ, eat OBJ, \
flush OBJ, connect OBJ to OBJ, disconnect OBJ, examine OBJ, focus on OBJ, wait, wait1; \
a number where one is asked for.
focus on OBJ says that OBJ is the thing the task asks for: a wrong one fails it. wait1 lets one \
moment pass, wait ten.
You may think first inside <think></think>. End your answer with one command inside \
<action></action>, for example
<action>open door to kitchen</action>."""
_BRIEF = "Experiment: one command inside <action></action>."
_GUIDE = (
    "Go to where the things are that the task names, opening doors on the way; focus on the thing "
    "exactly when the task says so, and on nothing else; then change it or carry it as is asked."
)


def build(name: str, **options: Any) -> Science:
    """The environment of `science:TASK`; see `Science`."""
    return Science(name, **options)


class Science(Played):
    """A task of ScienceWorld, played in a Java machine.

    Args:
        name: a task, `boil` for example, or `all`: then seeds go through the tasks in turn.
        split: the published split of a task's variations (dev is `validation`); seed n plays the
            variation n modulo their number.
        simplifications: of the simulator, with commas: `easy` for all of them, `teleportAction`,
            `openDoors`, `openContainers`, `selfWateringFlowerPots`, `noElectricalAction`; or none.
        oracle: whether the way is told.
        max_turns: answers before the episode is truncated.
        prompt: the forms of commands, or one line.
        admissible: whether `info` lists the commands that do something, hundreds of them, which
            takes longer than a step.
        shown: characters of an observation.
        memory: of the Java machine's heap at most, in megabytes.

    Raises:
        ValueError: there is no such task, option or value, ScienceWorld or Java is not installed.
    """

    metadata = METADATA

    def __init__(
        self,
        name: str,
        *,
        split: Split = "train",
        simplifications: str = "",
        oracle: bool = True,
        max_turns: int = 100,
        prompt: Prompt = "full",
        admissible: bool = False,
        shown: int = SHOWN,
        memory: int = 1_024,
    ) -> None:
        rules: dict[Prompt, str] = {"full": _RULES, "brief": _BRIEF}
        super().__init__(
            f"ScienceWorld's {name}", max_turns=max_turns, prompt=prompt, rules=rules, shown=shown
        )
        check_choice("split", split, SPLITS)
        check_number("memory", memory, 256)
        package = library("scienceworld", "science")
        tasks = sorted(set(library("scienceworld.constants", "science").ID2TASK.values()))
        check_choice("the task", name, (ALL, *tasks))
        self.split, self._lists, self._tells = split, admissible, oracle
        self._simplifications = simplifications
        self._tasks = tasks if name == ALL else [name]
        self._machine = Machine(
            lambda: package.ScienceWorldEnv("", envStepLimit=_ENDLESS), memory, "ScienceWorld"
        )
        self._known: dict[str, list[int]] = {}
        self._path = Path(())
        self._score = 0
        self._listed: Sequence[str] | None = None

    def _begin(self, number: int) -> Begun:
        game = self._machine.game
        task = self._tasks[number % len(self._tasks)]
        variations = self._variations(game, task)
        variation = variations[number // len(self._tasks) % len(variations)]
        game.load(task, variation, self._simplifications, generateGoldPath=self._tells)
        self._path = Path(game.get_gold_action_sequence() if self._tells else ())
        self._score = 0
        self._list(game)
        told = str(game.get_task_description()).removeprefix("Task Description:").strip()
        return Begun(
            task_id=f"science/{self.split}/{task}/{variation}",
            text=f"{told}\n{game.look()}",
            skill=task,
            guide=_GUIDE,
        )

    def _variations(self, game: Any, task: str) -> Sequence[int]:
        """The variations of a task in the split, as published."""
        if task not in self._known:
            game.load(task, 0, self._simplifications)
            listed = {
                "train": game.get_variations_train,
                "validation": game.get_variations_dev,
                "test": game.get_variations_test,
            }
            self._known[task] = [int(variation) for variation in listed[self.split]()]
        return self._known[task]

    def _act(self, command: str) -> Heard:
        game, known = self._machine.game, bool(self._path.left)
        moves = game.get_num_moves()
        # The package's own step also lists all commands, which takes several times as long.
        text = str(game.server.step(command))
        score = round(_HIGHEST * float(game.server.getScore()))
        over = bool(game.server.getCompleted()) or score < 0
        asked = text.startswith(_AMBIGUOUS)
        on_path = self._path.follow(command, game.get_num_moves() == moves and not asked)
        earned = (max(score, 0) - max(self._score, 0)) / _HIGHEST
        self._score = score
        self._list(game)
        return Heard(
            text,
            reward=earned,
            over=over,
            success=score >= _HIGHEST,
            valid=text.strip() != _UNKNOWN,
            outcome=self._judged(command, text.strip(), known, on_path),
        )

    def _judged(self, command: str, text: str, known: bool, on_path: bool) -> Outcome:
        if text == _UNKNOWN:
            return Outcome(_UNKNOWN, mistake="unknown command")
        if self._score < 0:
            return Outcome(feedback=f"{command[:60]!r} fails the task.", mistake="fails")
        if self._score >= _HIGHEST:
            return Outcome(feedback=f"{command[:60]!r} completes the task.")
        return judged(command, on_path, len(self._path.left), known)

    def _list(self, game: Any) -> None:
        self._listed = game.get_valid_action_object_combinations() if self._lists else None

    def _admissible(self) -> Sequence[str] | None:
        return self._listed

    def legal_actions(self) -> Sequence[str]:
        """The commands that do something here, the oracle's among them."""
        listed = self._machine.game.get_valid_action_object_combinations()
        return list(dict.fromkeys((*listed, *self._path.left[:1])))

    def drop(self) -> None:
        """End the Java machine."""
        self._machine.drop()

    def _plan(self) -> Sequence[str]:
        return self._path.left

    def _facts(self) -> dict[str, Any]:
        known = bool(self._path.left)
        facts = {"score": self._score, "failed": self._score < 0, "way_known": known}
        return facts | ({"steps_to_go": len(self._path.left)} if known else {})

    def _metrics(self) -> dict[str, float]:
        return {"score": float(max(self._score, 0))}
