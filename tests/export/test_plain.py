"""Rows that need no table are given back as a table would."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilnb.errors import SchemaConflictError
from distilnb.export.distiset import Distiset
from distilnb.export.plain import plain_rows
from distilnb.export.table import make_table

half = st.just("half \ud83d")
scalars = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=3) | half
)
of_one_kind = st.sampled_from(
    [st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=3), st.none()]
).flatmap(lambda kind: st.lists(kind | st.none(), min_size=4, max_size=4))
of_any = st.lists(
    scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.just("k"), scalars), min_size=4, max_size=4
)
of_lists = st.lists(of_one_kind | st.none(), min_size=4, max_size=4)
columns = st.dictionaries(st.sampled_from("abc"), of_one_kind | of_lists | of_any, max_size=3)


@settings(deadline=None)  # the first example imports Arrow
@given(columns, st.lists(st.sampled_from("cde"), max_size=2), st.booleans())
def test_plain_rows_are_those_of_the_table(
    columns: dict[str, list[Any]], known: list[str], ragged: bool
) -> None:
    rows = [{name: values[number] for name, values in columns.items()} for number in range(4)]
    if ragged and rows[-1]:
        rows[-1].popitem()
    found = plain_rows(rows, known)
    if found is None:
        return
    expected = list(make_table(rows, known).rows())
    made = list(found)
    assert made == expected
    assert shapes(made) == shapes(expected)


def shapes(rows: list[dict[str, Any]]) -> list[list[tuple[object, ...]]]:
    """Return names and types, of which an equal 1, 1.0 and True tell nothing."""
    return [
        [
            (name, type(value), *map(type, value if isinstance(value, list) else ()))
            for name, value in row.items()
        ]
        for row in rows
    ]


@pytest.mark.parametrize(
    "values",
    [
        [1, "a"],
        [1, 2.5],
        [True, 1],
        [[1], [2.5]],
        [["a"], "a"],
        [{}],
        [b""],
        ["\ud83d"],
        [["\ud83d"]],
        [[["a"]]],
    ],
)
def test_what_a_table_may_change_is_left_to_it(values: list[Any]) -> None:
    assert plain_rows([{"c": value} for value in values]) is None
    many = [{"c": values[0]}] * 1500 + [
        {"c": value} for value in values
    ]  # the kinds meet in different pieces
    assert plain_rows(many) is None


@pytest.mark.parametrize("values", [[1, None], ["é", None], [["a", None], [], None], [None], [10**30]])
def test_plain_values_need_no_table(values: list[Any]) -> None:
    rows = [{"c": value} for value in values]
    assert list(plain_rows(rows) or ()) == rows


def test_rows_that_were_given_out_may_be_changed() -> None:
    given = [{"a": ["x"], "b": 1}]
    before = copy.deepcopy(given)
    distiset = Distiset.from_rows({"leaf": given})
    for row in distiset.rows():
        row["a"].append("y")
        row["b"] = 2
    assert list(distiset.rows()) == before == given


def test_rows_in_conflict_are_told_by_the_table() -> None:
    with pytest.raises(SchemaConflictError):
        Distiset.from_rows({"leaf": [{"a": 1}, {"a": "x"}]}).rows()


def test_plain_rows_are_read_without_arrow() -> None:
    program = (
        "import sys; from distilnb.export.distiset import Distiset\n"
        "rows = [{'a': 1, 'b': ['x']}, {'a': None, 'b': None}]\n"
        "assert list(Distiset.from_rows({'leaf': rows}).rows()) == rows\n"
        "sys.exit('pyarrow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
