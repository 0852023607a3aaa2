"""Rows as a table: one type a column, nothing lost, conflicts named by row and column."""

from __future__ import annotations

import datetime as dt
import decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilnb.errors import InputError, SchemaConflictError
from distilnb.export.table import make_table, to_frame


def column(*values: Any) -> tuple[str, list[Any], bool]:
    """Return the Arrow type, the values as read back, and whether they are JSON text."""
    table = make_table([{"c": value} for value in values])
    return (
        str(table.arrow.schema.field("c").type),
        [row["c"] for row in table.rows()],
        bool(table.json_columns),
    )


@pytest.mark.parametrize(
    "values,arrow_type",
    [
        ([None, 1], "int64"),
        ([True, None], "bool"),
        ([1, 2.5], "double"),
        (["a", None, "é🎉"], "string"),
        ([b"\x00", None], "binary"),
        ([None, None], "null"),
        ([[], [1, None]], "list<item: int64>"),
        ([[1], [2.5]], "list<item: double>"),
        ([[], []], "list<item: null>"),
        ([{"a": 1, "b": None}, {"b": "x", "a": None}], "struct<a: int64, b: string>"),
        ([[{"role": "user", "content": "hi"}], None], "list<item: struct<role: string, content: string>>"),
        ([dt.date(2020, 1, 2)], "date32[day]"),
        ([dt.datetime(2020, 1, 2, 3)], "timestamp[us]"),
        ([dt.time(1, 2)], "time64[us]"),
        ([dt.timedelta(seconds=2)], "duration[us]"),
        ([decimal.Decimal("1.5"), decimal.Decimal("2.25")], "decimal128(3, 2)"),
        ([float("inf"), None], "double"),
    ],
)
def test_a_column_gets_the_type_that_holds_all(values: list[Any], arrow_type: str) -> None:
    assert column(*values) == (arrow_type, values, False)


@pytest.mark.parametrize(
    "values",
    [
        [{"a": 1}, {"b": 2}],
        [{"a": 1}, {"a": "x"}],
        [{}, {}],
        [[1, "a"], None],
        [[1], {"a": 1}],
        [[["a"]], [[1]]],
        [2**70, 1],
        [{"x": b"\x00", "d": dt.date(2020, 1, 1)}, {}],
        [["\ud800"], ["é"]],
    ],
)
def test_values_of_differing_shape_are_json_text_and_come_back(values: list[Any]) -> None:
    assert column(*values) == ("string", values, True)


@pytest.mark.parametrize(
    "values,told",
    [
        ([None, "high", 3], "text in row 1 ('high') and int in row 2 (3)"),
        ([True, 1], "bool in row 0 (True) and int in row 1 (1)"),
        ([1, [1]], "int in row 0 (1) and list in row 1 ([1])"),
        ([b"x", "x"], "bytes in row 0 (b'x') and text in row 1 ('x')"),
    ],
)
def test_a_conflict_names_the_column_and_the_first_two_rows(values: list[Any], told: str) -> None:
    with pytest.raises(SchemaConflictError) as raised:
        column(*values)
    assert raised.value.what == f"Column 'c' holds {told}."


def test_a_missing_key_is_none_and_no_rows_keep_known_columns() -> None:
    table = make_table([{"a": 1}, {"b": "x"}])
    assert list(table.rows()) == [{"a": 1, "b": None}, {"a": None, "b": "x"}]
    empty = make_table([], columns=["a", "b"])
    assert empty.arrow.column_names == ["a", "b"]
    assert empty.arrow.num_rows == 0


def test_half_of_a_character_is_replaced_in_text() -> None:
    assert column("\ud800x", "\ud83c\udf89") == ("string", ["\ufffdx", "🎉"], False)


def test_times_with_and_without_a_zone_are_not_mixed_up() -> None:
    naive, aware = dt.datetime(2020, 1, 1), dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc)
    assert column(naive, aware) == ("string", [naive, aware], True)


def test_numpy_values_become_plain() -> None:
    assert column(np.int64(3), 4) == ("int64", [3, 4], False)
    assert column(np.array([1.0, 2.0])) == ("list<item: double>", [[1.0, 2.0]], False)


def test_a_live_object_is_refused_by_its_type() -> None:
    with pytest.raises(InputError, match="'object'"):
        column(object())


members = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.lists(members, max_size=3) | st.none(), max_size=5))
def test_any_lists_come_back_equal(values: list[Any]) -> None:
    table = make_table([{"c": value} for value in values])
    assert [row["c"] for row in table.rows()] == values


def test_a_frame_has_lists_whole_numbers_and_restored_values() -> None:
    rows = [{"n": 1, "ok": True, "l": [1], "m": [1, "a"]}, {"n": None, "ok": None, "l": None, "m": {}}]
    table = make_table(rows)
    frame = to_frame(table.arrow, table.json_columns)
    assert str(frame["n"].dtype) == "Int64"
    assert frame["n"][0] == 1
    assert frame["l"].tolist() == [[1], None]
    assert frame["m"].tolist() == [[1, "a"], {}]
    assert to_frame(pa.table({"a": pa.nulls(0)}), []).columns.tolist() == ["a"]
