"""Mastermind: find a secret code by asking; every answer leaves fewer codes.

`gymnasium.make("agentopd/Mastermind-v0")` after `import agentopd`. The oracle does not look at the
secret: it makes the guess whose worst answer leaves the fewest codes (Knuth, "The computer as
master mind", 1977), so what a teacher is told there can be learnt by a student that sees only the
answers. The secret itself is the `reference`.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from agentopd.envs.puzzle import (
    Outcome,
    Puzzle,
    Rules,
    Split,
    Wording,
    check_choice,
    check_number,
)

# G guesses, C codes that agree with the answers, both in ascending order of the codes

_MOST = 4_096
"""Codes of the largest game."""
_STRIP = 1 << 20
"""Answers that are counted at once."""
_RULES = """You look for a secret code of {length} digits from 1 to {digits}{distinct}.
You guess a code and are told how many of its digits are exact, right at the right place, and how \
many more are misplaced, right at a wrong place."""
_BRIEF = "Mastermind: find the code of {length} digits from 1 to {digits}{distinct}."
_GUIDE = "Guess only codes that agree with every answer so far, and never the same one twice."


class Mastermind(Puzzle):
    """Find the secret code.

    Args:
        split: which codes `reset(seed=...)` draws; splits never share one.
        length: digits of the code.
        digits: how many different ones there are: 1 to this.
        repeats: whether a digit may stand in a code more than once.
        hints: random guesses, answered at the start; one at least makes every seed begin
            differently.
        max_turns: answers before the episode is truncated.
        prompt: the full rules, one line for models that were trained on the game, or the rules
            with some turns played well (`fewshot`).

    `reset(options={"task": "3416"})` plays a code of your own.

    Raises:
        ValueError: an option has no such value, or there are too few codes, or too many.
    """

    unread = {  # noqa: RUF012  (read only)
        "moves_closer": False, "consistent": False, "repeated": False, "best": False,
    }  # fmt: skip

    def __init__(
        self,
        *,
        split: Split = "train",
        length: int = 4,
        digits: int = 6,
        repeats: bool = True,
        hints: int = 1,
        max_turns: int = 8,
        prompt: Rules = "full",
    ) -> None:
        check_number("length", length, 2, 6)
        check_number("digits", digits, 2, 9)
        check_choice("repeats", repeats, (True, False))
        check_number("hints", hints, 0, 10)
        count = digits**length if repeats else len(list(_codes(length, digits, False)))
        if not 10 < count <= _MOST:
            raise ValueError(
                f"{length} digits from 1 to {digits} make {count} codes; the game takes 11 to "
                f"{_MOST}: change length, digits or repeats"
            )
        self.length, self.digits, self.repeats, self.hints = length, digits, repeats, hints
        self.book = codebook(length, digits, repeats)
        distinct = "" if repeats else ", all different"
        texts = {"length": length, "digits": digits, "distinct": distinct}
        wording = Wording(
            _RULES.format(**texts),
            _BRIEF.format(**texts),
            "code",
            "".join(str(1 + at % digits) for at in range(length)),
            _GUIDE,
        )
        label = f"length={length} digits={digits} repeats={repeats} hints={hints}"
        super().__init__(
            "mastermind", wording, split=split, max_turns=max_turns, prompt=prompt, label=label
        )

    @property
    def solved(self) -> bool:
        """Whether the last guess was the secret."""
        return bool(self.guesses) and self.guesses[-1] == self.secret

    def legal_actions(self) -> Sequence[str]:
        """Every code."""
        return self.book.codes

    def _choose(self, number: int, text: str | None) -> str:
        if text is None:
            self.secret = self._draw(number, self._propose, str, lambda code: True)
        elif (problem := self._problem(text)) != "":
            raise ValueError(problem)
        else:
            self.secret = text
        rng = random.Random(f"mastermind/hints/{self._label}/{self.secret}/{number}")
        others = [code for code in self.book.codes if code != self.secret]
        self._hinted = rng.sample(others, self.hints)
        # The name must tell tasks apart without giving the code away.
        named = " ".join((self._label, self.secret, *self._hinted))
        return hashlib.sha256(named.encode()).hexdigest()[:12]

    def _propose(self, rng: random.Random) -> str:
        return rng.choice(self.book.codes)

    def _restart(self) -> None:
        self.guesses: list[str] = []
        self._agreeing_C = self.book.everything
        self._planned: tuple[int, bool] | None = None
        for guess in self._hinted:
            self._narrow(guess)
        self._told = [self._answer(guess) for guess in self._hinted]

    def _narrow(self, guess: str) -> None:
        self._agreeing_C = self.book.agreeing(self._agreeing_C, guess, self.secret)
        self.guesses.append(guess)

    def _show(self) -> str:
        """The answers of the start, then the last one alone: the others stand further above."""
        if self.turns == 0:
            return "\n".join(self._told) or "Make a guess."
        return self._told[-1] if self._told else "Make a guess."

    def _answer(self, guess: str) -> str:
        exact, misplaced = self.book.answer(guess, self.secret)
        return f"{guess}: {exact} exact, {misplaced} misplaced."

    def _problem(self, text: str) -> str:
        if text in self.book.number:
            return ""
        distinct = "" if self.repeats else ", all different"
        return (
            f"{text[:20]!r} is not a code: give {self.length} digits from 1 to "
            f"{self.digits}{distinct}."
        )

    def _act(self, content: str) -> Outcome:
        guess = re.sub(r"[\s,]+", "", content)
        if problem := self._problem(guess):
            return Outcome(problem=problem)
        before = len(self._agreeing_C)
        _, best = self._best
        number = self.book.number[guess]
        consistent = number in self._agreeing_C
        worst = self.book.worst(self._agreeing_C, number)
        repeated = guess in self.guesses
        self._narrow(guess)
        self._told.append(self._answer(guess))
        left = len(self._agreeing_C)
        mistake = ""
        if repeated:
            mistake = "repeated guess"
        elif not consistent and worst > best:
            # Knuth's best guess is at times one that cannot be the code.
            mistake = "contradicts an answer"
        facts = {
            "moves_closer": left < before or self.solved,
            "consistent": consistent,
            "repeated": repeated,
            "best": worst <= best,
        }
        said = f"{mistake}, leaves" if mistake else "leaves"
        rest = "is the code." if self.solved else f"{said} {left} of {before} codes."
        return Outcome(mistake=mistake, feedback=f"{guess} {rest}", facts=facts)

    def _oracle(self) -> Sequence[str]:
        if self.solved:
            return ()
        # With one turn left only a guess that may be the code is of use.
        last = self.turn_limit - self.turns <= 1
        if self._planned != (len(self.guesses), last):
            self._planned = (len(self.guesses), last)
            self._best = self.book.best(self._agreeing_C, known_only=last)
        return (self._best[0],)

    def _reference(self) -> str:
        return self.secret

    def _facts(self) -> dict[str, Any]:
        exact, misplaced = (
            self.book.answer(self.guesses[-1], self.secret) if self.guesses else (0, 0)
        )
        return {"codes_left": len(self._agreeing_C), "exact": exact, "misplaced": misplaced}


class Codebook:
    """All codes of a game, in ascending order, and the answer to each guess for each secret."""

    def __init__(self, length: int, digits: int, repeats: bool) -> None:
        self.length = length
        self.codes = tuple(_codes(length, digits, repeats))
        self.number = {code: number for number, code in enumerate(self.codes)}
        self.everything = np.arange(len(self.codes))
        self._kinds = (length + 1) ** 2
        digit_GL = np.array([[int(digit) for digit in code] for code in self.codes], dtype=np.uint8)
        shape = (len(self.codes), len(self.codes))
        exact_GC, common_GC = np.zeros(shape, dtype=np.uint8), np.zeros(shape, dtype=np.uint8)
        for digit_G in digit_GL.T:
            exact_GC += digit_G[:, None] == digit_G
        for digit in range(1, digits + 1):
            count_G = (digit_GL == digit).sum(axis=1, dtype=np.uint8)
            common_GC += np.minimum(count_G[:, None], count_G)
        self._answer_GC = exact_GC * (length + 1) + (common_GC - exact_GC)

    def answer(self, guess: str, secret: str) -> tuple[int, int]:
        """How many digits are exact and how many more are misplaced."""
        kind = int(self._answer_GC[self.number[guess], self.number[secret]])
        return divmod(kind, self.length + 1)

    def agreeing(
        self, agreeing_C: npt.NDArray[np.int64], guess: str, secret: str
    ) -> npt.NDArray[np.int64]:
        """Those of the codes that would give the same answer to `guess` as `secret` does."""
        answer_C = self._answer_GC[self.number[guess]]
        return agreeing_C[answer_C[agreeing_C] == answer_C[self.number[secret]]]

    def worst(self, agreeing_C: npt.NDArray[np.int64], guess: int) -> int:
        """The most codes that an answer to code number `guess` leaves."""
        return int(np.bincount(self._answer_GC[guess][agreeing_C]).max())

    def best(self, agreeing_C: npt.NDArray[np.int64], known_only: bool) -> tuple[str, int]:
        """The guess whose worst answer leaves the fewest codes, and their number.

        Of equals one that may be the code, then the smallest.

        Args:
            agreeing_C: the codes that agree with the answers so far.
            known_only: guess only what may be the code.
        """
        if len(agreeing_C) <= 2:
            return self.codes[agreeing_C[0]], 1
        if len(agreeing_C) == len(self.codes):
            return self._opening
        return self._choose(agreeing_C, known_only)

    @cached_property
    def _opening(self) -> tuple[str, int]:
        """The best first guess, which takes the longest to find and every episode needs."""
        return self._choose(self.everything, known_only=False)

    def _choose(self, agreeing_C: npt.NDArray[np.int64], known_only: bool) -> tuple[str, int]:
        pool_G = agreeing_C if known_only else self.everything
        key_G = self._worst(agreeing_C, pool_G) * 2 + ~np.isin(pool_G, agreeing_C)
        best = int(key_G.argmin())
        return self.codes[pool_G[best]], int(key_G[best]) // 2

    def _worst(
        self, agreeing_C: npt.NDArray[np.int64], pool_G: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """`worst` of many guesses."""
        rows = max(_STRIP // len(agreeing_C), 1)
        found: list[npt.NDArray[np.int64]] = []
        for start in range(0, len(pool_G), rows):
            guess_G = pool_G[start : start + rows]
            offset_G = np.arange(len(guess_G))[:, None] * self._kinds
            kind_GC = self._answer_GC[guess_G[:, None], agreeing_C] + offset_G
            count = np.bincount(kind_GC.ravel(), minlength=len(guess_G) * self._kinds)
            found.append(count.reshape(len(guess_G), self._kinds).max(axis=1))
        return np.concatenate(found)


@lru_cache(maxsize=4)
def codebook(length: int, digits: int, repeats: bool) -> Codebook:
    """The codebook of a game, which never changes and takes far longer to make than an episode."""
    return Codebook(length, digits, repeats)


def _codes(length: int, digits: int, repeats: bool) -> list[str]:
    symbols = "123456789"[:digits]
    drawn = (
        itertools.product(symbols, repeat=length)
        if repeats
        else itertools.permutations(symbols, length)
    )
    return ["".join(code) for code in drawn]
