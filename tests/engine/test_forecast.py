"""Totals of what is still to come: the truth lies in the interval as often as it says, even from few."""

from __future__ import annotations

import numpy as np
import pytest

from distilnb.engine.forecast import NOTHING, Interval, total_of_more

N_MORE = 300
N_TRIALS = 200


def share_held(kind: str, n_seen: int) -> float:
    """Return how often the total of `N_MORE` further values was in the interval made of `n_seen`."""
    draw = np.random.default_rng(n_seen)
    samplers = {
        "even": lambda n: draw.normal(100, 8, n),
        "lognormal": lambda n: draw.lognormal(4, 0.7, n),
        "heavy": lambda n: draw.lognormal(4, 1.2, n),
        "exponential": lambda n: draw.exponential(100, n) + 1,
    }
    n_held = 0
    for _ in range(N_TRIALS):
        seen = samplers[kind](n_seen)
        total = total_of_more([*map(float, seen)], N_MORE, zeros="none")
        assert total is not None
        n_held += total.low <= float(samplers[kind](N_MORE).sum()) <= total.high
    return n_held / N_TRIALS


@pytest.mark.parametrize("n_seen", [5, 10, 20])
@pytest.mark.parametrize("kind", ["even", "lognormal", "heavy", "exponential"])
def test_nine_in_ten_of_the_true_totals_are_in_the_interval(kind: str, n_seen: int) -> None:
    assert share_held(kind, n_seen) >= 0.9


def width(seen: list[float], n_more: float = N_MORE) -> float:
    total = total_of_more(seen, n_more, zeros="none")
    assert total is not None
    return total.high / total.low


def test_more_values_and_more_even_ones_make_it_narrower() -> None:
    even, uneven = [100.0, 90, 110, 95, 105], [20.0, 90, 400, 35, 105]
    assert width(even * 4) < width(even) < width(uneven)
    assert width(even) < 2.5
    assert width(even * 20) < 1.1


def test_a_sum_of_few_scatters_more_than_a_sum_of_many() -> None:
    seen = [20.0, 90, 400, 35, 105] * 4
    assert width(seen, 3) > width(seen, 3000)


def test_what_is_expected_is_the_mean_and_lies_within() -> None:
    for seen in ([5.0], [1.0, 1.0, 400.0], [0.0, 3.0], [7.0] * 30):
        total = total_of_more(seen, 10)
        assert total is not None
        assert total.expected == pytest.approx(10 * sum(seen) / len(seen))
        assert 0 <= total.low <= total.expected <= total.high


def test_zeros_seen_or_likely_pull_the_lower_end_down() -> None:
    ends = {zeros: total_of_more([100.0] * 5, 300, zeros=zeros) for zeros in ("none", "rare", "usual")}  # type: ignore[arg-type]
    lows = [end.low for end in ends.values() if end is not None]
    assert lows == sorted(lows, reverse=True)
    assert lows[0] > 1.3 * lows[2]
    half = total_of_more([100.0, 0, 100, 0, 100, 0, 100, 0], 300)
    assert half is not None
    assert half.low < 0.7 * half.expected
    assert half.high > 1.3 * half.expected


def test_nothing_more_is_nothing_and_nothing_seen_is_unknown() -> None:
    assert total_of_more([], 0) == NOTHING
    assert total_of_more([], 5) is None
    assert total_of_more([0.0, 0.0], 5) is None


def test_equal_values_without_a_usual_spread_are_exact() -> None:
    assert total_of_more([1.0] * 5, 300, usual_spread=0.0, zeros="none") == Interval.exactly(300.0)


def test_the_same_values_make_the_same_interval() -> None:
    assert total_of_more([1.0, 2.0, 9.0], 50) == total_of_more([1.0, 2.0, 9.0], 50)


def test_intervals_are_added_scaled_and_cut() -> None:
    one = Interval(1, 2, 4)
    assert one.plus(Interval(10, 20, 40)) == Interval(11, 22, 44)
    assert one.times(3) == Interval(3, 6, 12)
    assert one.at_most(3) == Interval(1, 2, 3)
    assert not one.is_exact
    assert Interval.exactly(3).is_exact
