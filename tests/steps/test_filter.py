"""Leaving rows out."""

from __future__ import annotations

import pytest

from distilnb.errors import MissingColumnError, MissingValueError, SpecError, StepRowError, TemplateError
from distilnb.rows import Row
from distilnb.spec.columns import Columns
from distilnb.spec.registry import build
from distilnb.steps import ExactDedup, FilterRows, TakeRows


def test_kept_rows_are_the_same_objects() -> None:
    rows: list[Row] = [{"n": 1}, {"n": 2}, {"n": 3}]
    [kept] = FilterRows(condition="n != 2").process(rows)
    assert [id(row) for row in kept] == [id(rows[0]), id(rows[2])]


@pytest.mark.parametrize(
    "condition, row, holds",
    [
        ("result >= 4", {"result": 4}, True),  # the name of PrometheusEval's column is Jinja's own inside
        ("len(text) > 3", {"text": "日本語"}, False),
        ("topic in ['code', 'math'] and not done", {"topic": "math", "done": False}, True),
        ("score is not none and score > 1", {"score": None}, False),
        ("score == none", {"score": None}, True),
        ("row['rationales-for-ratings'] | length == 2", {"rationales-for-ratings": ["a", "b"]}, True),
        ("ratings[0] > ratings[1]", {"ratings": [5, 1]}, True),
    ],
)
def test_a_condition_reads_like_the_table_says(condition: str, row: Row, holds: bool) -> None:
    assert [*FilterRows(condition=condition).process([row])] == [[row] if holds else []]


@pytest.mark.parametrize("row, message", [({"n": None}, "'n' is None"), ({"m": 1}, "'n' is absent")])
def test_a_missing_value_is_an_error_of_the_row_not_a_false(row: Row, message: str) -> None:
    with pytest.raises(MissingValueError, match=message):
        [*FilterRows(condition="n > 3").process([row])]


def test_values_that_do_not_fit_are_told() -> None:
    with pytest.raises(StepRowError, match="'>' not supported"):
        [*FilterRows(condition="n > 3").process([{"n": "4"}])]


@pytest.mark.parametrize("condition", ["", "n >", "n ==== 3", "{{ n }}", "(" * 5000])
def test_an_expression_that_cannot_be_read_is_told_at_once(condition: str) -> None:
    with pytest.raises(TemplateError):
        FilterRows(condition=condition)


def test_the_sandbox_holds() -> None:
    with pytest.raises(StepRowError, match="SecurityError"):
        [*FilterRows(condition="n.__class__.__mro__").process([{"n": 1}])]


def test_a_function_reads_columns_by_its_parameters() -> None:
    step = FilterRows(name="keep", condition=lambda text, limit=3: len(text) > limit)
    assert step.needed() == ["text"]
    assert [*step.process([{"text": "four"}, {"text": "four", "limit": 9}])] == [[{"text": "four"}]]
    with pytest.raises(MissingColumnError, match="reads column 'text'") as caught:
        step.check_inputs([Columns(("txt",))])
    assert "one named 'row' takes the whole row" in caught.value.fix


def test_a_function_of_batches_is_no_condition() -> None:
    with pytest.raises(SpecError, match="takes whole batches"):
        FilterRows(condition=lambda rows: rows)


def test_a_filter_is_built_again_from_its_dump() -> None:
    step = FilterRows(condition="n > 3")
    assert build(step.dump()) == step


def test_an_untrusted_function_does_not_run_but_can_be_looked_at() -> None:
    step = build(FilterRows(condition=lambda n: n > 3).dump())
    assert isinstance(step, FilterRows)
    assert step.needed() == []
    with pytest.raises(SpecError, match="was not trusted"):
        [*step.process([{"n": 1}])]


def test_taking_more_rows_than_there_are_takes_all() -> None:
    rows: list[Row] = [{"n": 1}, {"n": 2}]
    assert [*TakeRows(n=9).process(rows)] == [rows]
    with pytest.raises(SpecError, match="greater than or equal to 1"):
        TakeRows(n=0)


def test_dedup_keeps_the_first_and_the_same_objects() -> None:
    rows: list[Row] = [{"q": None, "n": [1]}, {"n": [1], "q": None}, {"q": "x", "n": [1]}]
    [kept] = ExactDedup().process(rows)
    assert [id(row) for row in kept] == [id(rows[0]), id(rows[2])]
    assert [*ExactDedup(columns=["n"]).process(rows)] == [rows[:1]]
    with pytest.raises(MissingValueError):
        [*ExactDedup(columns=["m"]).process(rows)]
