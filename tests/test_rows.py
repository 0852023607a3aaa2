"""Rows, ids and batch files: everything comes back as it went."""

from __future__ import annotations

import datetime as dt
import decimal
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilnb.errors import InputError, StoreError
from distilnb.rows import (
    Batch,
    Gone,
    IdMaker,
    dump_json,
    load_json,
    read_batch,
    row_digest,
    write_batch,
    write_text,
)

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ROWS = st.lists(st.dictionaries(st.text(max_size=8), VALUES, max_size=4), max_size=6)


@given(ROWS)
def test_a_batch_file_restores_every_row(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    path = tmp_path_factory.mktemp("batch") / "batch.json"
    batch = Batch(rows, [f"id{i}" for i in range(len(rows))], [[i] for i in range(len(rows))])
    batch.gone.append(Gone("lost", [9, 1], "filter", "left out"))
    write_batch(path, batch)
    assert read_batch(path) == batch


@pytest.mark.parametrize(
    "value",
    [
        dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.timezone.utc),
        dt.date(2026, 1, 2),
        dt.time(3, 4),
        dt.timedelta(seconds=90),
        decimal.Decimal("1.50"),
        b"\x00\xff",
        "\ud800 a lone surrogate",
        "中文 and 🎉",
    ],
)
def test_values_that_json_lacks_come_back(value: Any) -> None:
    assert load_json(dump_json({"value": value})) == {"value": value}


def test_nan_comes_back_as_nan() -> None:
    assert math.isnan(load_json(dump_json({"value": math.nan}))["value"])


def test_a_live_object_is_refused_by_its_type() -> None:
    with pytest.raises(InputError, match="type 'object', which cannot be stored"):
        dump_json({"value": object()})


def test_ids_count_equal_rows_whatever_the_order_of_their_keys() -> None:
    ids = IdMaker("load")
    first, second = ids.make({"a": 1, "b": 2}), ids.make({"b": 2, "a": 1})
    digest = row_digest({"a": 1, "b": 2})
    assert [first, second] == [f"load:{digest}:0", f"load:{digest}:1"]


def test_ids_go_on_after_those_seen() -> None:
    first = IdMaker("load").make({"a": 1})
    assert IdMaker("load", [first]).make({"a": 1}) == first[:-1] + "1"


def test_selecting_tells_rows_from_lost_rows() -> None:
    batch = Batch([{"a": 1}, {"a": 2}], ["x", "y"], [[0], [1]], [Gone("z", [2], "s", "r")])
    chosen = batch.select([1, 2])
    assert (chosen.ids, chosen.gone) == (["y"], [Gone("z", [2], "s", "r")])


def test_order_compares_child_indices_as_numbers() -> None:
    batch = Batch([{}, {}, {}], ["b", "c", "a"], [[0, 10], [1], [0, 9]])
    assert batch.in_order().ids == ["a", "b", "c"]


def test_a_folder_that_is_missing_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be written: No such file or directory"):
        write_text(tmp_path / "absent" / "file", "text")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_batch_file_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "batch.json").write_text('{"ids": [', encoding="utf-8")
    with pytest.raises(StoreError, match="cannot be read"):
        read_batch(tmp_path / "batch.json")
