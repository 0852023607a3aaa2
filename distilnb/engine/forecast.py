"""How much is still to come, from the few of its kind that were seen: totals with an interval that says how sure.

A few replies tell little about the longest ones, so the intervals of small samples are wide, and lean upwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Draws: TypeAlias = npt.NDArray[np.float64]
Zeros: TypeAlias = Literal["none", "rare", "usual"]

N_DRAWS = 4000
SEED = 0
TAILS = (0.01, 0.99)
MOST_SPREAD = 1.5  # of logarithms: a limit of tokens, or of patience, ends what would be longer still
USUAL_SPREAD = 0.4  # what replies to one prompt differ by, before any was seen


class Interval(NamedTuple):
    """A total that is not known yet: where it is expected, and between which ends it will almost surely be."""

    low: float
    expected: float
    high: float

    @classmethod
    def exactly(cls, value: float) -> Interval:
        """Return the interval of what is known."""
        return cls(value, value, value)

    @property
    def is_exact(self) -> bool:
        """Whether it is known, or as good as known."""
        return self.low == self.high

    def plus(self, other: Interval) -> Interval:
        """Return the sum; the ends are added, for what belongs to one run errs in one direction as a rule."""
        return Interval(self.low + other.low, self.expected + other.expected, self.high + other.high)

    def times(self, factor: float) -> Interval:
        """Return the interval of so many times as much."""
        return Interval(self.low * factor, self.expected * factor, self.high * factor)

    def at_most(self, most: float) -> Interval:
        """Return the interval with everything above `most` cut off."""
        return Interval(min(self.low, most), min(self.expected, most), min(self.high, most))


NOTHING = Interval.exactly(0.0)


def total_of_more(
    seen: Sequence[float], n_more: float, *, usual_spread: float = USUAL_SPREAD, zeros: Zeros = "usual"
) -> Interval | None:
    """Return the total of `n_more` further values, like those seen; None when all that were seen are zero, or none was.

    Values are token counts, seconds or the like: none is below zero, some are far above the others. Those above zero
    are taken for lognormal; the spread of their logarithms counts as if one value more had shown `usual_spread`. Where
    no zero was seen, `zeros` says how likely they are: "usual" where steps leave rows out on purpose, "rare" where
    only failures do, or "none".

    It is a prediction interval at 98 %, so that with tails somewhat heavier than a lognormal's at least nine in ten of
    the true totals are still in it. A kind of value that was not seen at all (one reply in fifty is a whole book) it
    cannot know.

    Source: the generalised pivotal quantity of a lognormal mean, which keeps its level down to samples of five:
    Krishnamoorthy and Mathew, Inferences on the means of lognormal distributions using generalized p-values and
    generalized confidence intervals, Journal of Statistical Planning and Inference 115 (2003); the scatter of the
    sum itself is added by its variance, as in Fenton, IRE Transactions on Communications Systems 8 (1960).

    >>> total = total_of_more([90, 100, 110, 95, 105], 200, zeros="none")
    >>> total.expected, 14_000 < total.low < 18_000, 22_000 < total.high < 32_000
    (20000.0, True, True)
    """
    above = [value for value in seen if value > 0]
    if n_more <= 0:
        return NOTHING
    if not above:
        return None
    draw = np.random.default_rng(SEED)
    share = _shares(len(above), len(seen), zeros, draw)
    totals = n_more * share * _means(above, n_more, usual_spread, draw)
    low, high = np.quantile(totals, TAILS)
    expected = n_more * float(np.mean(seen))
    return Interval(min(float(low), expected), expected, max(float(high), expected))


def _shares(n_above: int, n_seen: int, zeros: Zeros, draw: np.random.Generator) -> Draws:
    """Draw which share of all is above zero, given how many of those seen are."""
    if n_above == n_seen and zeros == "none":
        return np.ones(N_DRAWS)
    if n_above == n_seen and zeros == "rare":
        before = (9.5, 0.5)  # as if of ten earlier rows half a one had failed
    else:
        before = (0.5, 0.5)  # Jeffreys: nothing is known
    return draw.beta(n_above + before[0], n_seen - n_above + before[1], N_DRAWS)


def _means(seen: Sequence[float], n_more: float, usual_spread: float, draw: np.random.Generator) -> Draws:
    """Draw what the mean of `n_more` further values may be."""
    logs = np.log(np.asarray(seen, dtype=np.float64))
    squares = float(((logs - logs.mean()) ** 2).sum()) + usual_spread**2  # both 0: all are equal, by nature
    variances = np.minimum(squares / draw.chisquare(len(logs), N_DRAWS), MOST_SPREAD**2)
    centres = logs.mean() + draw.standard_normal(N_DRAWS) * np.sqrt(variances / len(logs))
    own = np.log1p(np.expm1(variances) / n_more)  # of the mean of so many, itself about lognormal
    scatter = draw.standard_normal(N_DRAWS) * np.sqrt(own) - own / 2
    means: Draws = np.exp(centres + variances / 2 + scatter)
    return means
