"""Which columns a review is made of."""

from __future__ import annotations

from typing import Any

import pytest

from distilnb.errors import ReviewError
from distilnb.review.columns import ReviewColumns, find_columns


def found(row: dict[str, Any], **given: str) -> ReviewColumns:
    return find_columns([row], ReviewColumns(**given))  # type: ignore[arg-type]


def test_several_generations_are_a_preference_and_one_is_text_generation() -> None:
    assert found({"instruction": "q", "generations": ["a", "b"]}).template == "preference"
    assert found({"instruction": "q", "generations": ["a"]}).template == "text generation"
    assert found({"prompt": "q", "response": "a"}).template == "text generation"


def test_the_usual_names_are_found() -> None:
    row = {"instruction": "q", "generations": ["a", "b"], "generation_models": ["x", "y"]}
    columns = found({**row, "ratings": [1, 2], "rationales": ["", ""], "judge_model": "j"})
    assert (columns.ratings, columns.rationales, columns.models, columns.judge) == (
        "ratings", "rationales", "generation_models", "judge_model",
    )  # fmt: skip
    named = found({**row, "honesty_ratings": [1, 2], "honesty_rationales": ["", ""], "honesty_model": "j"})
    assert (named.ratings, named.rationales, named.judge) == (
        "honesty_ratings", "honesty_rationales", "honesty_model",
    )  # fmt: skip


def test_of_several_judges_none_is_guessed() -> None:
    row = {"instruction": "q", "generations": ["a", "b"], "x_ratings": [1, 2], "y_ratings": [1, 2]}
    assert found(row).ratings == ""
    assert found(row, ratings="y_ratings").ratings == "y_ratings"


def test_model_name_is_the_judges_where_there_are_ratings() -> None:
    judged = found({"instruction": "q", "generation": "a", "rating": 3, "model_name": "m"})
    assert (judged.models, judged.judge) == ("", "model_name")
    alone = found({"instruction": "q", "generation": "a", "model_name": "m"})
    assert (alone.models, alone.judge) == ("model_name", "")


@pytest.mark.parametrize(
    "row,given,told",
    [
        ({"text": "x"}, {}, "no instruction"),
        ({"instruction": "q"}, {}, "no generation"),
        ({"instruction": "q", "generation": "a"}, {"ratings": "ratingz"}, "'ratingz' as ratings"),
    ],
)
def test_what_is_missing_is_told_with_what_exists(
    row: dict[str, Any], given: dict[str, str], told: str
) -> None:
    with pytest.raises(ReviewError, match=told) as raised:
        found(row, **given)
    assert str(list(row)) in raised.value.what


def test_no_rows_are_told() -> None:
    with pytest.raises(ReviewError, match="no rows"):
        find_columns([], ReviewColumns())
