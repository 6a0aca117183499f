"""Countdown: reach a target from a few numbers, one sum a turn.

`gymnasium.make("agentopd/Countdown-v0")` after `import agentopd`. A sum can be taken back, so no
step loses the task, and an exact search says whether taking back is needed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

from agentopd.envs.puzzle import (
    Outcome,
    Puzzle,
    Rules,
    Split,
    Wording,
    check_band,
    check_choice,
    check_number,
)

Numbers = tuple[int, ...]
"""The numbers there are, in ascending order."""

UNDO = "undo"
_SUM = re.compile(
    r"([0-9]{1,9})\s*([-+*/x×÷:−])\s*([0-9]{1,9})(?:\s*=\s*([0-9]{1,18}))?", re.IGNORECASE
)
_SIGNS = {"x": "*", "X": "*", "×": "*", "÷": "/", ":": "/", "−": "-"}
_WORDING = Wording(
    rules="""You have some numbers and a target. {aim}
Each turn you take two of the numbers and replace them by their sum a+b, difference a-b, product \
a*b or quotient a/b. Only whole numbers above 0 may come out. undo takes the last step back.""",
    brief="Countdown: make the target from the numbers with a+b, a-b, a*b, a/b or undo.",
    action="step",
    example="3*8",
    guide="Look for two numbers whose result leaves an easy last step, and undo a dead end.",
)
_AIM = "Make the target."
_AIM_ALL = "Make the target, using up all the numbers."
_BRIEF_ALL = " Use all numbers."


class Countdown(Puzzle):
    """Make the target from the numbers.

    Args:
        split: which tasks `reset(seed=...)` draws; splits never share one.
        numbers: how many there are at the start.
        largest: the largest of them.
        max_target: the largest target.
        use_all: whether the target must be the only number left.
        min_steps: sums of the best solution.
        max_steps: the most of them.
        max_turns: answers before the episode is truncated.
        prompt: the full rules, one line for models that were trained on the puzzle, or the rules
            with some turns played well (`fewshot`).

    `reset(options={"task": "3 4 8 9 > 24"})` plays a task of your own.

    Raises:
        ValueError: an option has no such value, or no task can be what the options ask for.
    """

    unread = {"moves_closer": False, "legal": False, "undone": False}  # noqa: RUF012  (read only)

    def __init__(
        self,
        *,
        split: Split = "train",
        numbers: int = 4,
        largest: int = 10,
        max_target: int = 100,
        use_all: bool = False,
        min_steps: int = 2,
        max_steps: int = 3,
        max_turns: int = 8,
        prompt: Rules = "full",
    ) -> None:
        check_number("numbers", numbers, 2, 5)
        check_number("largest", largest, numbers, 1_000)
        check_number("max_target", max_target, 2, 100_000)
        check_choice("use_all", use_all, (True, False))
        check_band("steps", min_steps, max_steps, max_turns)
        if min_steps >= numbers or (use_all and max_steps < numbers - 1):
            raise ValueError(
                f"{numbers} numbers take {'exactly' if use_all else 'at most'} {numbers - 1} "
                f"steps, which is not in {min_steps}-{max_steps}: change min_steps, max_steps or "
                "numbers"
            )
        self.count, self.largest, self.max_target = numbers, largest, max_target
        self.use_all, self.band = use_all, (min_steps, max_steps)
        label = (
            f"numbers={numbers} to {largest} target={max_target} use_all={use_all} "
            f"steps={min_steps}-{max_steps}"
        )
        wording = Wording(
            _WORDING.rules.format(aim=_AIM_ALL if use_all else _AIM),
            _WORDING.brief + (_BRIEF_ALL if use_all else ""),
            _WORDING.action,
            _WORDING.example,
            _WORDING.guide,
        )
        super().__init__(
            "countdown", wording, split=split, max_turns=max_turns, prompt=prompt, label=label
        )

    @property
    def solved(self) -> bool:
        """Whether the target is there, alone where all numbers must be used."""
        return self.search.done(self.numbers)

    def legal_actions(self) -> Sequence[str]:
        """The sums that the rules allow, and taking back where there is something to take back."""
        undo = [UNDO] if self.history else []
        return [f"{left}{sign}{right}" for (left, sign, right), _ in sums(self.numbers)] + undo

    def _choose(self, number: int, text: str | None) -> str:
        if text is None:
            task = self._draw(number, self._propose, _spell, self._admits)
        else:
            task = _read_task(text)
        self.start, self.target = task
        self.search = Search(self.target, self.use_all)
        if not self.search.plan(self.start):
            raise ValueError(f"{text!r} is solved at its start or has no solution: change a number")
        return _spell(task)

    def _propose(self, rng: random.Random) -> tuple[Numbers, int]:
        """Numbers, and what some random sums of them come to."""
        start = numbers = tuple(sorted(rng.randint(1, self.largest) for _ in range(self.count)))
        value = 0
        for _ in range(self.count - 1 if self.use_all else rng.randint(*self._lengths)):
            step, numbers = rng.choice(list(sums(numbers)))
            value = result(*step) or 0
        return start, value

    @property
    def _lengths(self) -> tuple[int, int]:
        return self.band[0], min(self.band[1], self.count - 1)

    def _admits(self, task: tuple[Numbers, int]) -> bool:
        numbers, target = task
        if not 1 < target <= self.max_target:
            return False
        plan = Search(target, self.use_all).plan(numbers)
        return plan is not None and self.band[0] <= len(plan) <= self.band[1]

    def _restart(self) -> None:
        self.numbers = self.start
        self.history: list[Numbers] = []

    def _show(self) -> str:
        return f"Numbers: {' '.join(map(str, self.numbers))}. Target: {self.target}."

    def _act(self, content: str) -> Outcome:
        before = len(self._oracle())
        if content.lower() == UNDO:
            if not self.history:
                return self._refused("undo", "There is nothing to undo.", "illegal")
            self.numbers = self.history.pop()
            return self._judged(UNDO, "Undone.", before, undone=True)
        found = _SUM.fullmatch(content)
        if not found:
            return Outcome(problem=f"{content[:20]!r} is not a step: write a+b, a-b, a*b or a/b.")
        left, sign, right = int(found[1]), _SIGNS.get(found[2], found[2]), int(found[3])
        said = f"{left}{sign}{right}"
        rest = _without(self.numbers, left, right)
        if rest is None:
            return self._refused(said, f"{left} and {right} are not both there.", "missing number")
        value = result(left, sign, right)
        if value is None:
            return self._refused(said, f"{said} is no whole number above 0.", "no whole number")
        if found[4] and int(found[4]) != value:
            return self._refused(said, f"{said} is not {found[4]}.", "arithmetic")
        self.history.append(self.numbers)
        self.numbers = tuple(sorted((*rest, value)))
        return self._judged(said, f"{said} = {value}.", before, undone=False)

    def _refused(self, said: str, note: str, mistake: str) -> Outcome:
        feedback = f"{said} is not allowed ({mistake}), {len(self._oracle())} to go."
        return Outcome(note=note, mistake=mistake, feedback=feedback)

    def _judged(self, said: str, note: str, before: int, undone: bool) -> Outcome:
        """The outcome of a legal step, after which `before` steps were to go without it."""
        left = len(self._oracle())
        closer = left < before
        facts = {"moves_closer": closer, "legal": True, "undone": undone}
        if self.solved:
            return Outcome(note=note, feedback=f"{said} solves it.", facts=facts)
        if closer:
            return Outcome(note=note, feedback=f"{said} helps, {left} to go.", facts=facts)
        lost = self.search.plan(self.numbers) is None
        mistake = "dead end" if lost and not undone else "away"
        shown = "is a dead end" if mistake == "dead end" else "does not help"
        feedback = f"{said} {shown}, {left} to go."
        return Outcome(note=note, mistake=mistake, feedback=feedback, facts=facts)

    def _oracle(self) -> Sequence[str]:
        """The fewest steps from here, some of which may first take others back."""
        best: list[str] | None = None
        for undone, numbers in enumerate((self.numbers, *reversed(self.history))):
            plan = self.search.plan(numbers)
            if plan is not None and (best is None or undone + len(plan) < len(best)):
                best = [UNDO] * undone + list(plan)
        assert best is not None
        return best

    def _facts(self) -> dict[str, Any]:
        plan = self.search.plan(self.numbers)
        return {
            "solvable": plan is not None,
            "steps_left": len(self._oracle()),
            "numbers_left": len(self.numbers),
            "nearest": min(abs(number - self.target) for number in self.numbers),
        }


class Search:
    """Shortest plans to one target, each numbers' remembered."""

    def __init__(self, target: int, use_all: bool) -> None:
        self.target, self.use_all = target, use_all
        self._plans: dict[Numbers, tuple[str, ...] | None] = {}
        self._hopeless: set[tuple[Numbers, int]] = set()

    def done(self, numbers: Numbers) -> bool:
        """Whether the target is there, alone where all numbers must be used."""
        return numbers == (self.target,) if self.use_all else self.target in numbers

    def plan(self, numbers: Numbers) -> tuple[str, ...] | None:
        """The fewest sums that reach the target, or None where none do."""
        if numbers not in self._plans:
            found = (self._within(numbers, depth) for depth in range(len(numbers)))
            self._plans[numbers] = next((plan for plan in found if plan is not None), None)
        return self._plans[numbers]

    def _within(self, numbers: Numbers, depth: int) -> tuple[str, ...] | None:
        """A plan of at most `depth` sums."""
        if self.done(numbers):
            return ()
        if not depth or (numbers, depth) in self._hopeless:
            return None
        for (left, sign, right), after in sums(numbers):
            rest = self._within(after, depth - 1)
            if rest is not None:
                return (f"{left}{sign}{right}", *rest)
        self._hopeless.add((numbers, depth))
        return None


def sums(numbers: Numbers) -> Iterator[tuple[tuple[int, str, int], Numbers]]:
    """Every step from `numbers` that the rules allow, larger number first, and what it leaves."""
    seen: set[tuple[int, int]] = set()
    for low, right in enumerate(numbers):
        for high in range(low + 1, len(numbers)):
            left = numbers[high]
            if (left, right) in seen:
                continue
            seen.add((left, right))
            rest = numbers[:low] + numbers[low + 1 : high] + numbers[high + 1 :]
            for sign in "+-*/":
                value = result(left, sign, right)
                if value is not None:
                    yield (left, sign, right), tuple(sorted((*rest, value)))


def result(left: int, sign: str, right: int) -> int | None:
    """What a sum comes to, or None where that is no whole number above 0."""
    if sign == "+":
        return left + right
    if sign == "-":
        return left - right if left > right else None
    if sign == "*":
        return left * right
    return left // right if right and left % right == 0 and left else None


def _without(numbers: Numbers, *taken: int) -> Numbers | None:
    """`numbers` without those taken, or None where one is not there."""
    rest = list(numbers)
    for number in taken:
        if number not in rest:
            return None
        rest.remove(number)
    return tuple(rest)


def _spell(task: tuple[Numbers, int]) -> str:
    return f"{' '.join(map(str, task[0]))} > {task[1]}"


def _read_task(text: str) -> tuple[Numbers, int]:
    numbers, _, target = text.partition(">")
    words = [*numbers.split(), target.strip()]
    fits = all(re.fullmatch(r"[1-9][0-9]{0,5}", word) for word in words)
    if not fits or not 2 <= len(words) - 1 <= 5:
        raise ValueError(f"a task is two to five numbers, >, and a target, not {text!r}")
    return tuple(sorted(map(int, words[:-1]))), int(words[-1])
