"""One good environment, and variants of it that break one rule each."""

from __future__ import annotations

import random
import time
from typing import Any, ClassVar

import gymnasium
import numpy as np

from agentopd.environment.contract import Info, TextEnv, parse_action

Result = tuple[str, float, bool, bool, Info]


class Line(TextEnv):
    """Walk along a line to the goal; keeps the whole contract."""

    limit = 20
    max_turns = 20

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        super().reset(seed=seed)
        self.goal = self.draw(seed)
        self.place = 0
        self.turns = 0
        return self.look(), self.tell() | {"reference": self.tell()["oracle"], "skill": "line"}

    def step(self, action: str) -> Result:
        self.turns += 1
        move = self.read(action)
        self.place += {"left": -1, "right": 1}.get(move, 0)
        solved = self.place == self.goal
        told = {
            "action_valid": bool(move),
            "success": solved,
            "feedback": f"going {move} was {'right' if move == 'right' else 'wrong'}",
            "metrics": {"seconds": time.perf_counter()},
        }
        late = not solved and self.turns >= self.limit
        return self.look(), float(solved), solved, late, self.tell() | told

    def draw(self, seed: int | None) -> int:
        return int(self.np_random.integers(3, 9))

    def read(self, action: str) -> str:
        move = parse_action(action) or ""
        return move if move in ("left", "right") else ""

    def look(self) -> str:
        return f"You are at {self.place}, the goal is at {self.goal}."

    def tell(self) -> Info:
        plan = " ".join(["right"] * (self.goal - self.place))
        return {
            "task_id": f"line/{self.goal}",
            "success": False,
            "action_valid": True,
            "oracle": plan,
            "facts": {"left": self.goal - self.place},
        }


class AlphanumericSpace(Line):
    action_space = gymnasium.spaces.Text(100)


class ResetReturnsText(Line):
    def reset(self, **kwargs: Any) -> Any:
        return super().reset(**kwargs)[0]


class ObservesNumbers(Line):
    def reset(self, **kwargs: Any) -> Any:
        return 3, super().reset(**kwargs)[1]


class FourResults(Line):
    def step(self, action: str) -> Any:
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, info


class NumpyBool(Line):
    def step(self, action: str) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, np.bool_(terminated), truncated, info


class TextReward(Line):
    def step(self, action: str) -> Any:
        observation, _, *rest = super().step(action)
        return observation, "1.0", *rest


class EndsTwice(Line):
    def step(self, action: str) -> Result:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated or truncated, terminated or truncated, info


class NoTaskId(Line):
    def tell(self) -> Info:
        return {key: value for key, value in super().tell().items() if key != "task_id"}


class NestedFacts(Line):
    def tell(self) -> Info:
        return super().tell() | {"facts": {"place": {"row": 1}}}


class ArrayInInfo(Line):
    def tell(self) -> Info:
        return super().tell() | {"board": np.zeros(3)}


class OracleIsList(Line):
    def tell(self) -> Info:
        return super().tell() | {"oracle": ["right"]}


class OneInfo(Line):
    def reset(self, **kwargs: Any) -> tuple[str, Info]:
        observation, self.info = super().reset(**kwargs)
        return observation, self.info

    def step(self, action: str) -> Result:
        *rest, info = super().step(action)
        self.info.update(info)
        return *rest, self.info  # type: ignore[return-value]


class Unseeded(Line):
    def look(self) -> str:
        return f"{super().look()} {random.SystemRandom().random()}"


class CountsInClass(Line):
    played: ClassVar[list[int]] = []

    def draw(self, seed: int | None) -> int:
        self.played.append(0)
        return 3 + len(self.played) % 6


class ReadsGlobalRandom(Line):
    def draw(self, seed: int | None) -> int:
        return random.randrange(3, 9)


class SeedsGlobalRandom(Line):
    def draw(self, seed: int | None) -> int:
        random.seed(seed)
        return random.randrange(3, 9)


class SeedsGlobalNumpy(Line):
    def draw(self, seed: int | None) -> int:
        np.random.seed(seed)
        return int(np.random.randint(3, 9))


class CarriesTurnsOver(Line):
    def reset(self, **kwargs: Any) -> tuple[str, Info]:
        turns = getattr(self, "turns", 0)
        observation, info = super().reset(**kwargs)
        self.turns = turns
        return observation, info

    def look(self) -> str:
        return f"{super().look()} This is turn {self.turns}."


class SharesPlace(Line):
    """Its place is in the class: right alone and when played again, wrong side by side."""

    shared: ClassVar[dict[str, int]] = {}

    @property
    def place(self) -> int:
        return self.shared["place"]

    @place.setter
    def place(self, value: int) -> None:
        self.shared["place"] = value


class OneTask(Line):
    def draw(self, seed: int | None) -> int:
        return 5


class RaisesOnUnreadable(Line):
    def read(self, action: str) -> str:
        move = super().read(action)
        if not move:
            raise KeyError(action)
        return move


class RaisesOnReset(Line):
    def draw(self, seed: int | None) -> int:
        if seed == 13:
            raise RuntimeError("no such level")
        return super().draw(seed)


class AcceptsAnything(Line):
    def step(self, action: str) -> Result:
        *rest, info = super().step(action)
        return *rest, info | {"action_valid": True}  # type: ignore[return-value]


class DiesOfNonsense(Line):
    def step(self, action: str) -> Result:
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated or not info["action_valid"], False, info


class DiesOfRepeatedNonsense(Line):
    def step(self, action: str) -> Result:
        observation, reward, terminated, truncated, info = super().step(action)
        self.bad = 0 if info["action_valid"] or self.turns == 1 else getattr(self, "bad", 0) + 1
        dead = self.bad >= 2
        return observation, reward, terminated or dead, truncated and not dead, info


class NonsenseIsFree(Line):
    def step(self, action: str) -> Result:
        result = super().step(action)
        self.turns -= not result[4]["action_valid"]
        return *result[:3], not result[2] and self.turns >= self.limit, result[4]


class NoLimit(Line):
    limit = 10_000
    max_turns = None


class LateLimit(Line):
    def step(self, action: str) -> Result:
        result = super().step(action)
        return *result[:3], not result[2] and self.turns > self.limit, result[4]


class NoOracle(Line):
    def reset(self, **kwargs: Any) -> tuple[str, Info]:
        observation, info = super().reset(**kwargs)
        return observation, {key: info[key] for key in ("task_id", "success")}

    def step(self, action: str) -> Result:
        *rest, info = super().step(action)
        del info["oracle"]
        return *rest, info  # type: ignore[return-value]


class WrongOracle(Line):
    def tell(self) -> Info:
        return super().tell() | {"oracle": "left left left left"}


class LinedOracle(Line):
    """Its actions are of two words, and nothing declares what stands between two of them."""

    def tell(self) -> Info:
        told = super().tell()
        return told | {"oracle": told["oracle"].replace(" ", "\n").replace("right", "go right")}

    def read(self, action: str) -> str:
        return super().read(action.replace("go right", "right")) if "go " in action else ""


class DeclaredLines(LinedOracle):
    """The same, and it is declared."""

    action_between = "\n"


class OneWrongTask(OneTask, WrongOracle):
    """Its warning is found before its error."""


class StaleOracle(Line):
    def tell(self) -> Info:
        return super().tell() | {"oracle": "left right right" + " right" * (self.goal - 1)}


class ShortLimit(Line):
    limit = 4
    max_turns = 4


class TellsOracle(Line):
    def look(self) -> str:
        return f"{super().look()} Hint: {self.tell()['oracle']}"


class TellsReference(Line):
    def reset(self, **kwargs: Any) -> tuple[str, Info]:
        observation, info = super().reset(**kwargs)
        self.system_prompt = f"The answer is: {info['reference']}."
        return observation, info


class TellsFeedback(Line):
    def step(self, action: str) -> Result:
        observation, *rest = super().step(action)
        return f"{observation} {rest[-1]['feedback']}", *rest  # type: ignore[return-value]


class TellsFacts(Line):
    def tell(self) -> Info:
        return super().tell() | {"facts": {"secret": "the goal lies to the right"}}

    def look(self) -> str:
        return f"{super().look()} Note: the goal lies to the right."


class LongObservation(Line):
    def look(self) -> str:
        return super().look() + " So it goes." * 2_000


class SlowStep(Line):
    computed = 0.0
    """Seconds that all steps say they took; whoever tries it has them on the processor's clock."""

    def step(self, action: str) -> Result:
        SlowStep.computed += 0.06
        return super().step(action)


class Optional(Line):
    """Not broken: it takes an option."""

    def __init__(self, what: object = None) -> None:
        self.what = what


class HashSeeded(Line):
    def draw(self, seed: int | None) -> int:
        return 3 + hash(str(seed)) % 6


class PlaysThoughts(Line):
    def read(self, action: str) -> str:
        before, _, _ = action.rpartition("</action>")
        move = before.rpartition("<action>")[2]
        return move if move in ("left", "right") else ""


class HasOnePlace(Line):
    """Opens at its reset, as an environment on a server of one place does."""

    taken: ClassVar[list[Line]] = []

    def reset(self, **kwargs: Any) -> tuple[str, Info]:
        if self.taken not in ([], [self]):
            raise RuntimeError("all 1 places are taken")
        self.taken[:] = [self]
        return super().reset(**kwargs)

    def close(self) -> None:
        if self.taken == [self]:
            self.taken.clear()


class TellsTheTime(Line):
    def tell(self) -> Info:
        told = super().tell()
        late = {"at": time.perf_counter()} if getattr(self, "turns", 0) == 2 else {}
        return told | {"facts": told["facts"] | late}


class DriftsLater(Line):
    """Agrees with itself for a while, as where a clock moves on a second now and then."""

    every = 37
    resets: ClassVar[list[int]] = []

    def reset(self, **kwargs: Any) -> tuple[str, Info]:
        observation, info = super().reset(**kwargs)
        self.resets.append(1)
        return observation, info | {"clock": len(self.resets) // self.every}
