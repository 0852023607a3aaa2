"""Rows of several branches that meet."""

from __future__ import annotations

import pytest

from distilnb.errors import MissingValueError, SpecError
from distilnb.spec.check import takes_several
from distilnb.steps import CombineOutputs, GroupColumns


def test_grouping_keeps_the_order_of_the_branches() -> None:
    step = GroupColumns(columns=["g", "m"], output_columns=["gs", "ms"])
    [[row]] = step.process([{"i": 1, "g": "x", "m": "A"}], [{"i": 1, "g": None, "m": "B"}])
    assert row == {"i": 1, "gs": ["x", None], "ms": ["A", "B"]}


def test_flatten_joins_lists_of_lists() -> None:
    step = GroupColumns(columns=["g"], flatten=True)
    [[row]] = step.process([{"g": ["x", "y"]}], [{"g": "z"}])
    assert row == {"grouped_g": ["x", "y", "z"]}


def test_a_missing_partner_gives_none() -> None:
    [[row]] = GroupColumns(columns=["g"]).process([{"i": 1, "g": "x"}], [None])  # type: ignore[list-item]
    assert row == {"i": 1, "grouped_g": ["x", None]}


def test_a_branch_without_the_column_is_an_error_of_the_row() -> None:
    with pytest.raises(MissingValueError, match="'g' is absent"):
        [*GroupColumns(columns=["g"]).process([{"g": 1}], [{"h": 1}])]


def test_output_columns_must_be_as_many_as_columns() -> None:
    with pytest.raises(SpecError, match="groups 2 columns"):
        GroupColumns(columns=["a", "b"], output_columns=["c"])


def test_combining_keeps_the_last_branchs_value() -> None:
    [[row]] = CombineOutputs().process([{"a": 1, "b": 1}], [{"b": 2, "ç": "日本"}])
    assert row == {"a": 1, "b": 2, "ç": "日本"}


def test_both_take_the_rows_of_several_steps() -> None:
    assert takes_several(CombineOutputs())
    assert takes_several(GroupColumns(columns=["a"]))
