"""Variants of the good environment whose faults show only when they are called and played on."""

from __future__ import annotations

import threading
from typing import Any, ClassVar, Literal

from broken_envs import Line, Result

from agentopd.environment.contract import Info
from agentopd.environment.splits import split_of


class Told(Line):
    """Not broken: its rules name both moves."""

    system_prompt = "Walk: <action>left</action> or <action>right</action>."


class Hides(Line):
    """Not broken: what differs between its tasks is not seen."""

    def look(self) -> str:
        return f"You are at {self.place}."


class MovesAreFree(Line):
    def step(self, action: str) -> Result:
        result = super().step(action)
        self.turns -= result[4]["action_valid"]
        return *result[:3], not result[2] and self.turns >= self.limit, result[4]


class EndlessMoves(MovesAreFree, Told):
    max_turns = None


class GoesOnWhenRead(Line):
    def step(self, action: str) -> Result:
        result = super().step(action)
        return *result[:3], result[3] and not result[4]["action_valid"], result[4]


class GoesOnAstray(Told):
    def step(self, action: str) -> Result:
        result = super().step(action)
        return *result[:3], result[3] and self.place >= 0, result[4]


class HalfCharacter(Line):
    def look(self) -> str:
        return f"{super().look()} \ud83d"


class HalfCharacterToTeacher(Line):
    def tell(self) -> Info:
        return super().tell() | {"facts": {"said": "\ude00"}}


class UnknownReward(Line):
    def step(self, action: str) -> Result:
        observation, _, *rest = super().step(action)
        return observation, float("nan"), *rest  # type: ignore[return-value]


class HashedStep(Line):
    def step(self, action: str) -> Result:
        observation, *rest = super().step(action)
        return f"{observation} {hash(action)}", *rest  # type: ignore[return-value]


class HashedInfo(Line):
    def tell(self) -> Info:
        return super().tell() | {"facts": {"hash": hash("right")}}


class OrderedByHash(Line):
    """Not broken: the order of names means nothing."""

    def tell(self) -> Info:
        return super().tell() | {"facts": dict.fromkeys({"one", "two", "three", "four", "five"}, 1)}


class NeedsNumber(Line):
    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[str, Info]:
        return super().reset(seed=int(seed))


class TakesNoOptions(Line):
    def reset(self, *, seed: int | None = None) -> tuple[str, Info]:  # type: ignore[override]
        return super().reset(seed=seed)


class NeedsTask(Line):
    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, Info]:
        return super().reset(seed=None if options is None else options["task"])


class TellsWhenUnread(Line):
    """Tells feedback too, as it may there."""

    def reset(self, **kwargs: Any) -> tuple[str, Info]:
        observation, info = super().reset(**kwargs)
        self.way = info["reference"]
        return observation, info

    def step(self, action: str) -> Result:
        observation, *rest, info = super().step(action)
        if not info["action_valid"]:
            observation += f" {info['feedback']}; go {self.way}"
        return observation, *rest, info  # type: ignore[return-value]


class SpeaksWhenUnread(Line):
    """Not broken: an unreadable answer's feedback is for the student too."""

    def step(self, action: str) -> Result:
        observation, *rest, info = super().step(action)
        said = "" if info["action_valid"] else info["feedback"]
        return f"{observation} {said}", *rest, info  # type: ignore[return-value]


class TellsSomeSeeds(Line):
    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, Info]:
        observation, info = super().reset(seed=seed)
        return f"{observation} {info['oracle']}" if (seed or 0) > 5 else observation, info


class WrongOnLateSeeds(Line):
    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, Info]:
        self.wrong = (seed or 0) >= 25
        return super().reset(seed=seed)

    def tell(self) -> Info:
        told = super().tell()
        return told | {"oracle": "left"} if self.wrong else told


class CountsInClassLate(Line):
    played: ClassVar[list[int]] = []

    def draw(self, seed: int | None) -> int:
        return 6 + super().draw(seed)

    def step(self, action: str) -> Result:
        observation, *rest = super().step(action)
        self.played.append(0)
        count = f" {len(self.played)}" if self.turns > 8 else ""
        return f"{observation}{count}", *rest  # type: ignore[return-value]


class OneName(Line):
    def tell(self) -> Info:
        return super().tell() | {"task_id": "line"}


class SolvedAtOnce(Line):
    def reset(self, **kwargs: Any) -> tuple[str, Info]:
        observation, info = super().reset(**kwargs)
        return observation, info | {"success": True}


class SolvedInPassing(Line):
    def step(self, action: str) -> Result:
        *rest, info = super().step(action)
        passing = self.place == 2 and info["action_valid"]
        return *rest, info | {"success": info["success"] or passing}  # type: ignore[return-value]


class SolvedByNonsense(Line):
    def step(self, action: str) -> Result:
        *rest, info = super().step(action)
        return *rest, info | {"success": True}  # type: ignore[return-value]


class PaidForLosing(Told):
    """Left of the start it is lost."""

    def step(self, action: str) -> Result:
        observation, _, solved, late, info = super().step(action)
        lost = self.place < 0
        return observation, float(lost), solved or lost, late and not lost, info


class Hangs(Line):
    free: ClassVar[threading.Event] = threading.Event()

    def step(self, action: str) -> Result:
        self.free.wait()
        return super().step(action)


class NoEnvironment:
    """Only looks like one."""

    reset = step = close = None


class RaisesOnBuild(Line):
    def __init__(self) -> None:
        raise RuntimeError("no data here")


class RaisesOnClose(Line):
    def close(self) -> None:
        raise OSError("no longer there")


class Exits(Line):
    def step(self, action: str) -> Result:
        raise SystemExit(3)


class ListedRules(Line):
    system_prompt: Any = ("walk", "to the goal")


class TurnsInWords(Line):
    max_turns: Any = "20"


class FormWithoutPlace(Line):
    action_form = "<action></action>"


class NumberBetween(Line):
    action_between: Any = 3


class Slips(Line):
    """Chance decides, and says so; the limit is too close to win always."""

    stochastic = True
    limit = 12
    max_turns = 12

    def read(self, action: str) -> str:
        move = super().read(action)
        return "left" if move and self.np_random.random() < 0.25 else move


class SlipsInSecret(Slips):
    stochastic = False


class NeverWins(Slips):
    def tell(self) -> Info:
        return super().tell() | {"oracle": "left left left left"}


class Question(Line):
    """Not broken: the answer is one action and stands in the text that is asked about."""

    action_between = None

    def look(self) -> str:
        return f"Who says that {self.tell()['oracle']} is the way? You are at {self.place}."

    def read(self, action: str) -> str:
        return "right" if "right" in action else ""

    def step(self, action: str) -> Result:
        _, *rest = super().step(action)
        return f"You are at {self.place}.", *rest  # type: ignore[return-value]


class OneSplit(Line):
    """Takes a split and leaves it at that."""

    def __init__(self, split: str = "train") -> None:
        self.split = split


class RenamedSplit(OneSplit):
    def tell(self) -> Info:
        told = super().tell()
        return told | {"task_id": f"{self.split}/{told['task_id']}"}


class SeenSplit(RenamedSplit):
    """What the teacher is told differs, what the student sees does not."""

    def tell(self) -> Info:
        return super().tell() | {"facts": {"split": self.split}}


class HiddenSplit(SeenSplit, Hides):
    """Not broken, as far as anybody can see: the tasks look all the same."""


class OwnSplits(OneSplit):
    """Not broken: splits of its own, each with tasks of its own, one of them by two names."""

    def __init__(self, *, split: Literal["low", "high", "top"] | None = "low") -> None:
        if split not in ("low", "high", "top"):
            raise RuntimeError("no such split")
        self.split = "high" if split == "top" else split

    def draw(self, seed: int | None) -> int:
        while True:
            goal = int(self.np_random.integers(3, 9))
            if split_of("line", str(goal), {"low": 1, "high": 1}) == self.split:
                return goal
