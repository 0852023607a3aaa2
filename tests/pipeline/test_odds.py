"""Win rates and sign tests are those of the textbook; scipy's binomial test is the measure."""

from __future__ import annotations

import pytest

from distilnb.pipeline.odds import holm, sign_test, too_few, verdict, win_rate

# wins, n, and what scipy 1.17 gives: the p of `binomtest(wins, n)`, and the ends of its `proportion_ci(0.95, "wilson")`
SCIPY = [
    (0, 1, 1.0, 0.0, 0.7934506856227626),
    (0, 5, 0.0625, 0.0, 0.43448246478317476),
    (0, 6, 0.03125, 0.0, 0.3903342879021653),
    (1, 7, 0.125, 0.02567962434474358, 0.5131278292743189),
    (9, 10, 0.021484375, 0.5958499732047615, 0.9821237869049271),
    (8, 23, 0.21003961563110352, 0.18811275938797734, 0.55109664622737),
    (28, 40, 0.01658900337497471, 0.5456998118185507, 0.8192515477025347),
    (61, 101, 0.046044066929342785, 0.5064566738465976, 0.6938457660108579),
    (230, 400, 0.0031290161268145177, 0.5260675370904097, 0.6225056187594457),
]


@pytest.mark.parametrize("wins, n, p, low, high", SCIPY)
def test_sign_test_and_interval_are_scipys(wins: int, n: int, p: float, low: float, high: float) -> None:
    assert sign_test(wins, n - wins) == pytest.approx(p, rel=1e-12)
    rate = win_rate(wins, n)
    assert rate is not None
    assert (rate.value, rate.low, rate.high) == pytest.approx((wins / n, low, high), abs=1e-12)


@pytest.mark.parametrize(
    "wins, losses, p", [(0, 0, 1.0), (5, 0, 0.0625), (6, 0, 0.03125), (9, 1, 0.021484375), (3, 3, 1.0)]
)
def test_the_sign_test_counts_every_outcome(wins: int, losses: int, p: float) -> None:
    """Of 2^n outcomes those that are as one-sided, on either side: 2 · 11 of 1,024 for nine to one."""
    assert sign_test(wins, losses) == sign_test(losses, wins) == p


def test_of_nothing_there_is_no_rate() -> None:
    assert win_rate(0, 0) is None


def test_several_pairs_must_be_clearer_to_count() -> None:
    assert holm([0.04]) == [0.04]
    assert holm([0.01, 0.02, 0.9]) == [0.03, 0.04, 0.9]
    assert holm([]) == []


def test_a_verdict_does_not_say_more_than_the_rows_can_tell() -> None:
    assert [too_few(n) for n in (0, 5, 6)] == [True, True, False]
    assert verdict(5, 0) == "5 rows: too few to tell"
    assert verdict(1, 0, 3) == "4 rows: too few to tell, 3 equal"
    assert verdict(6, 0).startswith("clear (sign test, p = 0.031)")
    assert verdict(6, 4).startswith("no clear difference")
