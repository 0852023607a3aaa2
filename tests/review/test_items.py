"""One row as an item of a review, or why it is none."""

from __future__ import annotations

from typing import Any

import pytest

from distilnb.review.columns import ReviewColumns
from distilnb.review.items import Item, read_item

COLUMNS = ReviewColumns(
    instruction="instruction", generations="generations", ratings="ratings", rationales="rationales",
    models="models", judge="judge", keep="keep", context="context",
)  # fmt: skip


def item(**row: Any) -> Item | str:
    return read_item({"instruction": "q", "generations": ["a", "b"], **row}, COLUMNS)


def test_lists_have_one_entry_a_generation() -> None:
    read = item(
        ratings=[4.6, None], rationales=["good", " "], models="m", judge=["j", "j", "k"], context="c", keep=0
    )
    assert read == Item(
        "q", ["a", "b"], [4.6, None], ["good", None], ["m", "m"], "j, k", keep=False, context={"context": "c"}
    )  # fmt: skip


def test_what_is_missing_is_no_verdict() -> None:
    assert item(ratings=[float("nan"), "3"]) == Item("q", ["a", "b"], [None, 3.0], [None, None], ["", ""])
    read = item(generations=["a", None])
    assert isinstance(read, Item)
    assert read.generations == ["a", None]


def test_messages_become_lines() -> None:
    read = item(instruction=[{"role": "system", "content": "Be terse."}, {"role": "user", "content": "Why?"}])
    assert isinstance(read, Item)
    assert read.instruction == "system: Be terse.\n\nuser: Why?"


@pytest.mark.parametrize(
    "row,reason",
    [
        ({"instruction": None}, "column 'instruction' is empty"),
        ({"instruction": "  "}, "column 'instruction' is empty"),
        ({"instruction": 3}, "column 'instruction' holds int 3, not text"),
        ({"generations": None}, "column 'generations' is None, not a list of texts"),
        ({"generations": "ab"}, "column 'generations' is str 'ab', not a list of texts"),
        ({"generations": [None, ""]}, "column 'generations' holds no text"),
        ({"generations": ["a", {"x": 1}]}, "column 'generations' holds dict {'x': 1}, not text"),
        ({"ratings": [1]}, "column 'ratings' has 1 entries for 2 generations"),
        ({"ratings": 4}, "column 'ratings' is int 4, not a list"),
        ({"ratings": ["high", 1]}, "column 'ratings' holds 'high', not a number"),
        ({"ratings": [True, 1]}, "column 'ratings' holds bool True, not a number"),
        ({"ratings": [float("inf"), 1]}, "column 'ratings' holds float inf, not a number"),
        ({"rationales": [1, "x"]}, "column 'rationales' holds int 1, not text"),
    ],
)
def test_an_unfit_row_says_why(row: dict[str, Any], reason: str) -> None:
    assert item(**row) == reason
