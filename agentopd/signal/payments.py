"""What a unit's verdicts paid, to keep and to show."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """One verdict and the tokens it paid.

    Attributes:
        criterion: the name of what was judged.
        text: what it asks for, in words.
        weight: of the criterion.
        turn: the turn it was judged in, counted from 0.
        verdict: 1 where the turn meets the criterion, 0 where it does not, between them in doubt.
        start, stop: the tokens that were paid, `start <= t < stop` of the trajectory's ids; none
            where the answer lacks the part that the criterion speaks of.
        paid: what each of them got for it, a weight or a reward, before `Unit.balance`.
    """

    criterion: str
    text: str
    weight: float
    turn: int
    verdict: float
    start: int
    stop: int
    paid: float
