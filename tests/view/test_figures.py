from __future__ import annotations

import pytest

from distilnb.view import figures


@pytest.mark.parametrize(
    "usd, shown",
    [
        (None, "price unknown"),
        (0, "$0"),
        (0.00001, "<$0.0001"),
        (0.00094, "$0.0009"),
        (0.005, "$0.005"),
        (0.00996, "$0.01"),
        (0.06, "$0.06"),
        (0.409, "$0.41"),
        (1.237, "$1.24"),
        (999.994, "$999.99"),
        (999.996, "$1,000"),
        (12345.6, "$12,346"),
        (-0.09, "-$0.09"),
    ],
)
def test_money(usd: float | None, shown: str) -> None:
    assert figures.money(usd) == shown


def test_money_is_free_only_where_the_caller_knows_it() -> None:
    assert figures.money(0, is_free=True) == "free"
    assert figures.money(0.5, is_free=True) == "$0.50"
    assert figures.money(None, is_free=True) == "price unknown"


@pytest.mark.parametrize("number, shown",
    [
        (0, "0"), (812, "812"), (999, "999"), (1000, "1k"), (1234, "1.23k"), (12_345, "12.3k"), (123_456, "123k"),
        (999_400, "999k"), (999_950, "1M"), (1_500_000, "1.5M"), (2_000_000_000, "2B"),
    ],
)  # fmt: skip
def test_tokens(number: int, shown: str) -> None:
    assert figures.tokens(number) == shown


@pytest.mark.parametrize("seconds, shown",
    [
        (None, "–"), (0, "0 s"), (0.002, "<0.01 s"), (0.25, "0.25 s"), (1.42, "1.4 s"), (9.96, "10 s"), (15, "15 s"),
        (59.6, "1 min"), (60, "1 min"), (125, "2 min 5 s"), (3780, "1 h 3 min"), (187_200, "2 d 4 h"),
    ],
)  # fmt: skip
def test_duration(seconds: float | None, shown: str) -> None:
    assert figures.duration(seconds) == shown


@pytest.mark.parametrize(
    "seconds, shown",
    [(None, "–"), (0, "0:00"), (52.9, "0:52"), (725, "12:05"), (3723, "1:02:03"), (-1, "0:00")],
)
def test_clock(seconds: float | None, shown: str) -> None:
    assert figures.clock(seconds) == shown


@pytest.mark.parametrize("per_s, shown",
    [
        (0, "–"), (0.001, "<0.1 rows/min"), (0.5, "30.0 rows/min"), (13.1, "13.1 rows/s"), (99.97, "100 rows/s"),
        (412, "412 rows/s"), (12_345, "12.3k rows/s"),
    ],
)  # fmt: skip
def test_rate(per_s: float, shown: str) -> None:
    assert figures.rate(per_s) == shown


@pytest.mark.parametrize("part, whole, shown",
    [(0, 10, "0%"), (1, 1000, "<1%"), (320, 1000, "32%"), (999, 1000, "99%"), (10, 10, "100%"), (3, None, "–"),
     (11, 10, "100%"), (0, 0, "–"), (29, 100, "29%")],
)  # fmt: skip
def test_percent_is_never_rounded_up_to_the_whole(part: int, whole: int | None, shown: str) -> None:
    assert figures.percent(part, whole) == shown


def test_plural() -> None:
    assert [figures.plural(n, "row") for n in (0, 1, 412, 12_000)] == [
        "0 rows",
        "1 row",
        "412 rows",
        "12,000 rows",
    ]
