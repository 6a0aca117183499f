"""Stand-ins of the packages that adapters play: the parts of their documented interfaces in use.

Each is small, plays one way to success, and can be told to break (`Broken`).
"""

from __future__ import annotations

import difflib
import random
from collections.abc import Mapping, Sequence
from enum import IntEnum
from types import ModuleType, SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import verifiers_stand_in
from broken import Broken
from gymnasium.envs.registration import EnvSpec

WAY = ("open door to kitchen", "go to kitchen", "focus on water", "activate stove")


def modules(**named: Mapping[str, Any]) -> dict[str, ModuleType]:
    """Modules by their names, `__` for a dot, each with what it holds."""
    made = {}
    for name, content in named.items():
        module = ModuleType(name.replace("__", "."))
        vars(module).update(content)
        made[module.__name__] = module
    return made


class _Way:
    """A game that is won by going one way; free commands change nothing."""

    def __init__(self, way: Sequence[str]) -> None:
        self.way, self.done, self.lost, self.moves = way, 0, False, 0

    def give(self, command: str) -> str:
        if command in ("look around", "inventory"):
            return "You are in the hall."
        if command == "eat poison":
            self.lost = True
        elif command == self.way[self.done]:
            self.done += 1
        elif not command.startswith(("open ", "go ", "focus ", "activate ", "wait", "take ")):
            return ""
        self.moves += 1
        return f"You do it: {self.done} done."

    @property
    def share(self) -> float:
        return self.done / len(self.way)

    @property
    def won(self) -> bool:
        return self.done == len(self.way)


class ScienceWorldEnv:
    """`scienceworld.ScienceWorldEnv`: the methods that its README describes, and its server."""

    def __init__(self, taskName: str = "", envStepLimit: int = 100) -> None:
        Broken.started += 1
        assert taskName == "" and envStepLimit > 1_000
        self.server = SimpleNamespace(
            step=self._step, getScore=self._score, getCompleted=self._completed
        )

    def load(
        self, task: str, variation: int, simplifications: str, generateGoldPath: bool = False
    ) -> None:
        self._task, self._variation, self._gold = task, variation, generateGoldPath
        self._way = _Way(WAY)

    def get_variations_train(self) -> list[int]:
        return [0, 1, 2]

    def get_variations_dev(self) -> list[int]:
        return [3, 4]

    def get_variations_test(self) -> list[int]:
        return [5, 6]

    def get_gold_action_sequence(self) -> list[str]:
        return [*self._way.way, "wait1"]

    def get_task_description(self) -> str:
        return f"Task Description:\nYour task is to {self._task} substance {self._variation}."

    def get_valid_action_object_combinations(self) -> list[str]:
        return ["look around", "open door to kitchen", "go to kitchen", "wait"]

    def get_num_moves(self) -> int:
        return self._way.moves

    def look(self) -> str:
        return Broken.hear("", "This room is called the hallway.")

    def _step(self, command: str) -> str:
        if command == "use thing":
            return "Ambiguous request: Please enter the number for the action you intended."
        return Broken.hear(
            command, self._way.give(command) or "No known action matches that input."
        )

    def _score(self) -> float:
        return -1.0 if self._way.lost else self._way.share

    def _completed(self) -> bool:
        return self._way.won or self._way.lost

    def close(self) -> None:
        Broken.closed += 1


class TextWorldExpressEnv:
    """`textworld_express.TextWorldExpressEnv`."""

    def __init__(self, envStepLimit: int = 100) -> None:
        Broken.started += 1

    def load(self, game: str, parameters: str) -> None:
        if "wibble" in parameters:
            raise ValueError("Unrecognized property name (wibble).")
        self._kind = game

    def getValidSeedsTrain(self) -> list[int]:
        return [0, 1, 2]

    def getValidSeedsDev(self) -> list[int]:
        return [10_000, 10_001]

    def getValidSeedsTest(self) -> list[int]:
        return [20_000, 20_001]

    def reset(self, seed: int, gameFold: str, generateGoldPath: bool) -> tuple[str, dict[str, Any]]:
        self._way, self._seed = _Way(WAY), seed
        return f"Room {seed}.", self._told()

    def getGoldActionSequence(self) -> list[str]:
        return ["look around", *WAY]

    def step(self, command: str) -> tuple[str, float, bool, dict[str, Any]]:
        text = self._way.give(command) or "Unknown action: I'm not sure what you mean."
        return Broken.hear(command, text), 0.0, False, self._told()

    def _told(self) -> dict[str, Any]:
        return {
            "taskDescription": f"Your task is to cook meal {self._seed}.",
            "validActions": {"look around", "go to kitchen", "eat poison"},
            "score": -1.0 if self._way.lost else self._way.share,
            "tasksuccess": self._way.won,
            "taskfailure": self._way.lost,
        }

    def close(self) -> None:
        Broken.closed += 1


class Household:
    """What `textworld.start` returns for a game of ALFWorld's."""

    def __init__(self, path: str) -> None:
        Broken.started += 1
        self._path = path

    def reset(self) -> dict[str, Any]:
        random.random()
        np.random.random()
        self._way = _Way(WAY)
        state = self._state(f"-= Welcome to TextWorld, ALFRED! =-\n\nRoom {len(self._path)}.")
        del state["score"]
        return state

    def step(self, command: str) -> tuple[dict[str, Any], float, bool]:
        known = command in (*WAY[: self._way.done + 1], "look around", "eat poison")
        text = self._way.give(command) if known else "Nothing happens."
        return self._state(Broken.hear(command, text)), 0.0, False

    def _state(self, text: str) -> dict[str, Any]:
        left = [] if self._way.lost else list(WAY[self._way.done :])
        return {
            "feedback": text,
            "won": self._way.won,
            "lost": self._way.lost,
            "score": 0,
            "admissible_commands": ["look around", "eat poison", *WAY[: self._way.done + 1]],
            "policy_commands": left,
        }

    def close(self) -> None:
        Broken.closed += 1


class GuessEnv:
    """A game as GEM's are: seeded globally, ended by what it cannot read."""

    max_turns = 8

    def __init__(self, **_: Any) -> None:
        self.reset()

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed)
        self._number, self._turns = random.randint(1, 9), 0
        return "Guess a number from 1 to 9.", {"suffix": f"Hint: {self._number % 3}."}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self._turns += 1
        said = action.rpartition("\\boxed{")[2].partition("}")[0]
        text = Broken.hear(said, "")
        if not said.isdecimal():
            return "You did not provide a valid guess.", -0.1, True, self._turns == 8, {}
        if int(said) == self._number:
            return text or "Right!", 1.0, True, False, {}
        late = self._turns == self.max_turns
        return text or "Another one.", 0.0, late, late, {"suffix": f"Turn {self._turns}."}


class SumEnv:
    """A question as GEM's data sets ask them, answered once."""

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        random.seed(seed)
        one, other = random.randint(1, 99), random.randint(1, 99)
        self.data = {"question": f"{one} + {other} =", "answer": str(one + other)}
        return self.data["question"], {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        right = f"\\boxed{{{self.data['answer']}}}" in action
        return "<|TERMINAL_STATE|>", float(right), True, True, {}


class SumsInTurns:
    """An environment of SkyRL-Gym: `init`, `step`, `close`, `get_metrics`."""

    def __init__(self, env_config: Any, extras: Mapping[str, Any]) -> None:
        self._right = extras["reward_spec"]["ground_truth"]
        self._turns, self._most = 0, extras["max_turns"]

    def init(self, prompt: Any) -> tuple[Any, dict[str, Any]]:
        return prompt, {}

    def step(self, action: str) -> dict[str, Any]:
        self._turns += 1
        reward = float(action.endswith(f"#### {self._right}"))
        done = bool(reward) or self._turns >= self._most
        text = Broken.hear(action.rpartition("#### ")[2], "Think again.")
        seen = [] if done else [{"role": "user", "content": text}]
        return {"observations": seen, "reward": reward, "done": done, "metadata": {}}

    def get_metrics(self) -> dict[str, Any]:
        return {"steps": self._turns}

    def close(self) -> None:
        Broken.closed += 1


class FrotzEnv:
    """`jericho.FrotzEnv` of a story that it knows, `known.z5`, or does not."""

    def __init__(self, path: str, seed: int | None = None) -> None:
        Broken.started += 1
        self.is_fully_supported = path.endswith("known.z5")
        self._seed = seed

    def seed(self, seed: int | None = None) -> None:
        self._seed = seed

    def reset(self) -> tuple[str, dict[str, Any]]:
        self._way = _Way(WAY)
        return f"\n\nWest of House {self._seed}\n>", {}

    def step(self, command: str) -> tuple[str, int, bool, dict[str, Any]]:
        assert command not in ("quit", "restart"), "what follows never returns"
        text = self._way.give(command) or "I don't know that word."
        if self._way.lost or self._way.won:
            ended = "You have won" if self._way.won else "You have died"
            text += f"\n   *** {ended} ***\nYou scored {self._way.done} out of a possible 4"
        return Broken.hear(command, f"\n{text}\n>   Hall  0/3"), 0, False, {}

    def get_walkthrough(self) -> list[str]:
        return [command.upper() for command in WAY]

    def get_moves(self) -> int:
        return self._way.moves

    def get_score(self) -> int:
        return self._way.done

    def get_max_score(self) -> int:
        return len(WAY)

    def victory(self) -> bool:
        return self._way.won

    def game_over(self) -> bool:
        return self._way.lost

    def get_valid_actions(self, use_parallel: bool = True) -> list[str]:
        return ["go to kitchen", "eat poison"]

    def close(self) -> None:
        Broken.closed += 1


class CompassDirection(IntEnum):
    """Some of NLE's actions, by the keys that they press."""

    N = ord("k")
    E = ord("l")


class CompassDirectionLonger(IntEnum):
    """Going on until something is of interest."""

    N = ord("K")


class Command(IntEnum):
    """Others."""

    EAT = ord("e")


class NetHackTask(gymnasium.Env[Any, Any]):
    """A task as NLE's are: seeded by `seed`, won by going north, then far north."""

    def __init__(self, **_: Any) -> None:
        self.actions = (*CompassDirection, *CompassDirectionLonger, *Command)

    def seed(self, core: int, disp: int, reseed: bool) -> None:
        assert core == disp and not reseed
        self._place = core

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        random.random()
        self._done: list[int] = []
        return self._screen(f"You are at {self._place}."), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        pressed = int(self.actions[action])
        text = Broken.hear(chr(pressed), f"You press {chr(pressed)}.")
        self._done.append(pressed)
        won = self._done[-2:] == [ord("k"), ord("K")]
        dead = self._done[-1] == ord("e")
        names = "TASK_SUCCESSFUL" if won else "DEATH" if dead else "RUNNING"
        told = {"end_status": SimpleNamespace(name=names), "is_ascended": False}
        return self._screen(text), float(won), won or dead, False, told

    def _screen(self, text: str) -> dict[str, Any]:
        rows = [text.ljust(80), " " * 80, "  |.@|".ljust(80)]
        drawn = [list(row.encode("latin-1", "replace")) for row in rows]
        return {"tty_chars": np.array(drawn, np.uint8)}


class BM25:
    """`bm25s.BM25`, scoring by the words that passages share with a query."""

    def index(self, corpus: Any, show_progress: bool = True) -> None:
        self._texts = [set(words) for words in corpus.ids]

    def retrieve(self, query: Any, k: int, **_: Any) -> tuple[Any, Any]:
        scores = [len(words & set(query.ids[0])) / len(words) for words in self._texts]
        order = sorted(range(len(scores)), key=lambda n: -scores[n])[:k]
        return np.array([order]), np.array([[scores[n] for n in order]])


def tokenize(texts: list[str], **_: Any) -> SimpleNamespace:
    """`bm25s.tokenize`, with words where it has numbers."""
    stop = {"the", "is", "of", "what", "in", "a", "on", "which"}
    cleaned = ["".join(c if c.isalnum() else " " for c in text.lower()) for text in texts]
    return SimpleNamespace(ids=[[w for w in text.split() if w not in stop] for text in cleaned])


def token_set_ratio(one: str, other: str, processor: Any = str.lower) -> float:
    """`rapidfuzz.fuzz.token_set_ratio`: of the words that are shared, with those of each side."""
    sides = [set(processor(text).split()) for text in (one, other)]
    shared = " ".join(sorted(sides[0] & sides[1]))
    if shared and not (sides[0] - sides[1] and sides[1] - sides[0]):
        return 100.0
    both = [f"{shared} {' '.join(sorted(a - b))}".strip() for a, b in (sides, sides[::-1])]
    pairs = [both, *([shared, text] for text in both if shared)]
    return max(100 * difflib.SequenceMatcher(None, a, b).ratio() for a, b in pairs)


def start(path: str, wanted: Any, wrappers: Sequence[Any] = ()) -> Household:
    """`textworld.start`."""
    return Household(path)


def installed() -> dict[str, ModuleType]:
    """All stand-ins, by the names of the modules that they stand for."""
    registry: dict[str, Any] = {"game:Guess-v0": GuessEnv, "rg:sum": SumEnv}
    envs = {"gsm8k": SumsInTurns, "gsm8k_multi_turn": SumsInTurns}
    return modules(
        scienceworld={"ScienceWorldEnv": ScienceWorldEnv},
        scienceworld__constants={"ID2TASK": {"1-1": "boil", "1-2": "melt"}},
        textworld_express={"TextWorldExpressEnv": TextWorldExpressEnv},
        textworld={"start": start, "EnvInfos": SimpleNamespace},
        alfworld={},
        alfworld__agents={},
        alfworld__agents__environment={},
        alfworld__agents__environment__alfred_tw_env={"AlfredDemangler": object},
        gem={"make": lambda name, **options: registry[name](**options)},
        gem__envs={},
        gem__envs__registration={"ENV_REGISTRY": registry},
        nltk={"download": None},
        skyrl_gym={"make": lambda name, **given: envs[name](**given)},
        skyrl_gym__envs={},
        skyrl_gym__envs__registration={"registry": envs, "register": None},
        omegaconf={"OmegaConf": SimpleNamespace(create=dict)},
        jericho={"FrotzEnv": FrotzEnv},
        nle={},
        nle__env={},
        verifiers={},
        verifiers__v1=verifiers_stand_in.contents(),
        rapidfuzz={},
        rapidfuzz__fuzz={"token_set_ratio": token_set_ratio},
        rapidfuzz__utils={"default_process": str.lower},
        bm25s={"BM25": BM25, "tokenize": tokenize, "__version__": "0"},
    )


def registered() -> dict[str, EnvSpec]:
    """What NLE registers with Gymnasium, as it stands in its registry."""
    name = "NetHackNorth-v0"
    return {name: EnvSpec(name, entry_point=NetHackTask, order_enforce=False)}
