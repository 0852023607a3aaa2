"""What counts of wins can tell: win rates with their interval, and the exact sign test."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import comb, sqrt
from typing import NamedTuple

CERTAIN_BELOW = 0.05  # the p from which on a difference is called one
_Z = 1.959963984540054  # of a two-sided interval of 95 %


class Rate(NamedTuple):
    """A share with its 95 % interval."""

    value: float
    low: float
    high: float


def win_rate(wins: float, n: int) -> Rate | None:
    """Return the share of wins with Wilson's interval; None of nothing. A tie may count as half a win.

    >>> rate = win_rate(8, 10)
    >>> round(rate.value, 2), round(rate.low, 2), round(rate.high, 2)
    (0.8, 0.49, 0.94)
    """
    if n <= 0:
        return None
    share = wins / n
    middle = share + _Z**2 / (2 * n)
    half = _Z * sqrt(share * (1 - share) / n + _Z**2 / (4 * n * n))
    scale = 1 + _Z**2 / n
    return Rate(share, max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale))


def sign_test(wins: int, losses: int) -> float:
    """Return p of the two-sided exact sign test: how likely chance alone is as one-sided as that. Ties do not count.

    >>> sign_test(9, 1), sign_test(3, 3), sign_test(0, 0)
    (0.021484375, 1.0, 1.0)
    """
    n, fewer = wins + losses, min(wins, losses)
    tail = sum(comb(n, k) for k in range(fewer + 1))
    return float(min(Fraction(1), Fraction(2 * tail, 2**n)))


def too_few(n: int) -> bool:
    """Whether not even one-sided results of so many rows could tell a difference."""
    return sign_test(n, 0) >= CERTAIN_BELOW


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p adjusted for several comparisons (Holm), in the order given.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def verdict(wins: int, losses: int, ties: int = 0) -> str:
    """Return in words what wins, losses and ties of paired rows tell.

    >>> verdict(3, 1), verdict(5, 5), verdict(12, 1, 2)
    ('4 rows: too few to tell', 'no clear difference (sign test, p = 1)', 'clear (sign test, p = 0.0034)')
    """
    n = wins + losses
    if too_few(n):
        return f"{n + ties} row{'s' * (n + ties != 1)}: too few to tell" + f", {ties} equal" * bool(ties)
    p = sign_test(wins, losses)
    word = "clear" if p < CERTAIN_BELOW else "no clear difference"
    return f"{word} (sign test, p = {p:.2g})"
