"""Rows, ids and batch files: everything comes back as it went."""

from __future__ import annotations

import datetime as dt
import decimal
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
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

KEYS = st.text(max_size=5) | st.sampled_from(["$distilnb", "value"])  # those of a tagged value
WORDS = st.sampled_from(
    ["$distilnb", '"$distilnb":', "absent", "bytes", "date", "datetime", "dict", "unknown"]
)

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False)
    | st.text()
    | WORDS
    | st.dates()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
ROWS = st.lists(st.dictionaries(KEYS, VALUES, max_size=4), max_size=6)


@given(ROWS)
def test_a_batch_file_restores_every_row(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    path = tmp_path_factory.mktemp("batch") / "batch.json"
    batch = Batch(rows, [f"id{i}" for i in range(len(rows))], [[i] for i in range(len(rows))])
    batch.gone.append(Gone("lost", [9, 1], "filter", "left out"))
    write_batch(path, batch)
    assert read_batch(path) == batch


TAGGED = [
    {"$distilnb": "datetime", "value": "x"},
    {"$distilnb": "bytes", "value": "eA=="},
    {"$distilnb": "dict", "value": [{}, 1, {}]},
    {"$distilnb": "absent"},
    {"$distilnb": "unknown"},
    {"$distilnb": []},
    {"$distilnb": None},
    {"a": 1, "$distilnb": {"$distilnb": {"$distilnb": "absent"}}, "b": b"x", "value": 2},
    [{"deep": [{"$distilnb": "date", "value": dt.date(2026, 1, 2)}]}],
]


@given(VALUES)
def test_any_value_comes_back_with_its_keys_in_order(value: Any) -> None:
    assert repr(load_json(dump_json(value))) == repr(value)


@pytest.mark.parametrize("value", TAGGED, ids=str)
def test_a_users_dict_that_looks_tagged_comes_back(tmp_path: Path, value: Any) -> None:
    """As a cell beside absent cells, and as a row whose column has the tag's name."""
    rows = [{"a": value}, {"b": 1}, value if isinstance(value, dict) else {}, {"$distilnb": value}]
    batch = Batch(rows, ["w", "x", "y", "z"], [[0], [1], [2], [3]])
    write_batch(tmp_path / "batch.json", batch)
    assert read_batch(tmp_path / "batch.json") == batch


def test_a_users_dict_inside_an_array_comes_back() -> None:
    inner = {"$distilnb": "absent"}
    array = np.array([inner, None], dtype=object)
    assert load_json(dump_json({"a": array, "b": np.array(inner), "c": b"x"})) == {
        "a": [inner, None],
        "b": inner,
        "c": b"x",
    }


@pytest.mark.parametrize(
    "text",
    ['{"$distilnb":"date","value":"x"}', '{"$distilnb":"date"}', '{"$distilnb":"dict","value":[1]}'],
)
def test_a_tagged_value_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="A stored value is tagged as 'd"):
        load_json(text)
    file = f'{{"ids":["x"],"orders":[0],"names":["a"],"columns":[[{text}]],"tagged":[0],"gone":[]}}'
    (tmp_path / "batch.json").write_text(file, encoding="utf-8")
    with pytest.raises(StoreError, match="cannot be read: A stored value is tagged as 'd"):
        read_batch(tmp_path / "batch.json")


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


@pytest.mark.parametrize(
    "row, digest",
    [
        ({"b": [1, {"c": None}], "a": "中"}, "4763ca4728b21728"),
        ({"at": dt.date(2026, 1, 2), "raw": b"x"}, "ea50d3e46e5d23c9"),
        ({"text": '"$distilnb":'}, "6ee2129e06fa8816"),
    ],
)
def test_the_digest_of_a_row_is_for_ever(row: dict[str, Any], digest: str) -> None:
    """Ids in journals, caches and reviews hold it."""
    assert row_digest(row) == digest


def test_a_users_dict_that_looks_tagged_has_a_digest_of_its_own() -> None:
    looks_so = {"a": {"$distilnb": "bytes", "value": "eA=="}, "z": 1}
    turned = {"z": 1, "a": {"value": "eA==", "$distilnb": "bytes"}}
    assert row_digest(looks_so) == row_digest(turned) != row_digest({"a": b"x", "z": 1})


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


def test_threads_that_write_one_file_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has written its temporary file before any of them gives it its name."""
    path, n_threads = tmp_path / "file", 4
    barrier, replace = threading.Barrier(n_threads, timeout=10), Path.replace

    def replace_together(self: Path, target: Path) -> Path:
        barrier.wait()
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", replace_together)
    texts = [str(i) * 1000 for i in range(n_threads)]
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(write_text, [path] * n_threads, texts))
    assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_with_the_longest_name_is_written(tmp_path: Path) -> None:
    write_text(tmp_path / ("n" * 255), "text")
    assert (tmp_path / ("n" * 255)).read_text() == "text"


def test_a_damaged_batch_file_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "batch.json").write_text('{"ids": [', encoding="utf-8")
    with pytest.raises(StoreError, match="cannot be read"):
        read_batch(tmp_path / "batch.json")
