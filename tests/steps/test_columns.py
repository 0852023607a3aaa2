"""Choosing, renaming, merging and expanding columns."""

from __future__ import annotations

from typing import Any

import pytest

from distilnb.errors import MissingColumnError, MissingValueError, SpecError, StepRowError
from distilnb.spec.columns import Columns
from distilnb.spec.step import Step
from distilnb.steps import DropColumns, ExpandColumns, KeepColumns, MergeColumns, RenameColumns


def run(step: Step, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for batch in step.process(list(rows)) for row in batch]


def test_keeping_a_column_that_a_row_lacks_names_it_and_the_near_match() -> None:
    with pytest.raises(MissingValueError, match="'answr' is absent") as caught:
        run(KeepColumns(columns=["answr"]), {"answer": 1})
    assert caught.value.fix == "Did you mean 'answer'?"


def test_dropping_what_is_absent_already_is_no_error() -> None:
    assert run(DropColumns(columns=["a"]), {"b": None}) == [{"b": None}]


def test_columns_can_swap_names_in_place() -> None:
    assert list(run(RenameColumns(columns={"a": "b", "b": "a"}), {"a": 1, "x": 0, "b": 2})[0].items()) == [
        ("b", 1),
        ("x", 0),
        ("a", 2),
    ]


def test_two_columns_cannot_get_one_name() -> None:
    with pytest.raises(SpecError, match="both be named 'c'"):
        RenameColumns(columns={"a": "c", "b": "c"})


def test_a_name_that_exists_is_refused_before_the_run_where_columns_are_known() -> None:
    step = RenameColumns(name="tidy", columns={"a": "b"})
    with pytest.raises(SpecError, match="renames column 'a' to 'b', which exists already"):
        step.check_inputs([Columns(("a", "b"))])
    with pytest.raises(MissingColumnError):
        step.check_inputs([Columns(("c",))])
    with pytest.raises(StepRowError, match="which this row has already"):
        run(step, {"a": 1, "b": 2})


def test_merging_joins_lists_and_values_in_the_order_of_the_columns() -> None:
    step = MergeColumns(columns=["a", "b", "c"])
    assert run(step, {"a": 1, "b": [2, [3]], "c": None, "d": "é"}) == [
        {"d": "é", "combine_a_b_c": [1, 2, [3], None]}
    ]


def test_expanding_several_columns_goes_side_by_side() -> None:
    step = ExpandColumns(columns={"q": "question", "a": "a"})
    rows = run(step, {"id": 1, "q": ["x", "y"], "a": ["1", None]})
    assert rows == [{"id": 1, "question": "x", "a": "1"}, {"id": 1, "question": "y", "a": None}]
    assert step.by_row


def test_lists_of_different_length_are_an_error_that_names_the_lengths() -> None:
    with pytest.raises(StepRowError, match="'a' 1, 'b' 2"):
        run(ExpandColumns(columns=["a", "b"]), {"a": [1], "b": [1, 2]})


def test_an_empty_list_becomes_no_row() -> None:
    assert run(ExpandColumns(columns=["a"]), {"a": []}) == []


@pytest.mark.parametrize("value", ["text", None, 3, {"a": 1}])
def test_what_is_no_list_cannot_be_expanded(value: object) -> None:
    with pytest.raises(StepRowError, match="not a list"):
        run(ExpandColumns(columns=["a"]), {"a": value})


def test_encoded_lists_are_read_as_json() -> None:
    assert run(ExpandColumns(columns=["a"], encoded=True), {"a": '["ü", 2]'}) == [{"a": "ü"}, {"a": 2}]
    with pytest.raises(StepRowError, match="holds no JSON"):
        run(ExpandColumns(columns=["a"], encoded=["a"]), {"a": "[1"})
