"""How formulas are written."""

from __future__ import annotations


def times(coefficient: float, symbol: str) -> str:
    """A product: `0.1 T`, and `T` where the coefficient is 1."""
    return symbol if coefficient == 1 else f"{coefficient:g} {symbol}"
